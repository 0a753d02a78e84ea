# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard on the ports between OpenSMTPD and the signing proxy, on a host of testinfra's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from testbed.containers import wait_for

GUARD = "selfhosted-mail-nftables.service"
_RULES = "/etc/selfhosted-mail/nftables/zz.nft"


@contextlib.contextmanager
def wrong_rules(host: Any) -> Iterator[None]:
    """Rules that nftables refuses lie beside the right ones; the guard that runs has not read them yet."""
    host.run_test(f"echo nonsense > {_RULES}")
    try:
        yield
    finally:
        host.run_test(f"rm {_RULES}")


def check_needs_the_guard(host: Any, daemon: str, port: int) -> None:
    """The daemon does not listen on the port while the guard cannot come up, and does by itself once it can."""
    host.run_test(f"systemctl stop {daemon} {GUARD}")
    with wrong_rules(host):
        assert host.run(f"systemctl start {daemon}").rc != 0
        assert f":{port} " not in host.check_output("ss -Hltn")
    wait_for(lambda: f":{port} " in host.check_output("ss -Hltn"), what=f"{daemon} comes by itself")
