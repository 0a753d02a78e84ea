# SPDX-License-Identifier: GPL-3.0-or-later
"""What every unit test needs. pyproject.toml makes the collection importable."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

CHECKOUT = Path(__file__).resolve().parents[2]

# Machines of the suite are shared and slow at times; a failing example is in the log, not in a file beside the code.
hypothesis.settings.register_profile("suite", deadline=None, database=None)
hypothesis.settings.load_profile("suite")


@pytest.fixture(scope="session")
def checkout() -> Path:
    return CHECKOUT
