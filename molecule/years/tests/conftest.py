# SPDX-License-Identifier: GPL-3.0-or-later
"""Gives the server mail in every state before any test."""

from __future__ import annotations

from typing import Any

import pytest
from years import OLD, Server


@pytest.fixture(scope="session")
def filled() -> Server:
    """It is kept if the scenario is verified again."""
    if not OLD.sh("find /var/vmail -name '.Work*' -print -quit"):
        OLD.fill()
        OLD.learn()
    return OLD


@pytest.fixture(autouse=True)
def of_one_host(host: Any) -> None:
    """The tests of `testinfra_hosts` follow each other, beside those of another one: testbed/pytest_plugin.py."""
