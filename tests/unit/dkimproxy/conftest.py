# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys, a next hop and a running proxy."""

import dkimproxy_helpers
import pytest
from dkimproxy_helpers import QUICK, Keys, NextHop, Proxy


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def quick(monkeypatch):
    """Timeouts that a test can see pass."""
    monkeypatch.setattr(dkimproxy_helpers, "TIMEOUTS", QUICK)


@pytest.fixture
def next_hop():
    with NextHop() as server:
        yield server


@pytest.fixture
def proxy(keys, next_hop, tmp_path):
    with Proxy(keys, next_hop, tmp_path) as running:
        yield running
