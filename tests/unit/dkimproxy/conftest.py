# SPDX-License-Identifier: GPL-3.0-or-later
"""The signer's package, the judge's and the tests' helpers can be imported; keys and a running proxy are fixtures."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIBRARIES = [
    HERE.parents[2] / f"roles/{role}/files/usr/local/lib/selfhosted-mail" for role in ("dkimproxy", "accounts")
]
sys.path[:0] = [*map(str, LIBRARIES), str(HERE)]

import dkimproxy_helpers  # noqa: E402
import pytest  # noqa: E402
from dkimproxy_helpers import QUICK, Keys, NextHop, Proxy  # noqa: E402


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
