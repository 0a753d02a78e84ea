# SPDX-License-Identifier: GPL-3.0-or-later
"""What every unit test needs. pyproject.toml makes the collection importable."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
# The packages of the roles' programs can be imported, and the tests' own helpers.
LIBRARIES = sorted(CHECKOUT.glob("roles/*/files/usr/local/lib/selfhosted-mail"))
sys.path[:0] = map(str, [*LIBRARIES, *(path.parent for path in Path(__file__).parent.glob("*/conftest.py"))])

# Machines of the suite are shared and slow at times; a failing example is in the log, not in a file beside the code.
hypothesis.settings.register_profile("suite", deadline=None, database=None)
hypothesis.settings.load_profile("suite")


@pytest.fixture(scope="session")
def checkout() -> Path:
    return CHECKOUT


@pytest.fixture(scope="session")
def load_program(checkout: Path) -> Callable[[str], ModuleType]:
    """Load a program that a role puts on hosts, by its path below ``roles/``; a module of its own each time."""

    def load(path: str) -> ModuleType:
        program = checkout / "roles" / path
        module = ModuleType(program.name.replace("-", "_"))
        # Dataclasses look for their module there.
        sys.modules[module.__name__] = module
        exec(compile(program.read_text(), program, "exec"), module.__dict__)
        return module

    return load
