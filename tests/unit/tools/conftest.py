# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs in tools, as modules."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def load_tool(checkout: Path) -> Callable[[str], ModuleType]:
    """Load a program by its name."""

    def load(name: str) -> ModuleType:
        loader = SourceFileLoader(f"tools_{name}", str(checkout / "tools" / name))
        spec = importlib.util.spec_from_loader(loader.name, loader)
        assert spec
        module = importlib.util.module_from_spec(spec)
        # dataclasses looks it up.
        sys.modules[loader.name] = module
        loader.exec_module(module)
        return module

    return load
