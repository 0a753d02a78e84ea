# SPDX-License-Identifier: GPL-3.0-or-later
"""The defaults on a host without internet: Rspamd starts without downloads."""

from __future__ import annotations

from typing import Any

import pytest
from rspamd_host import message, scan

testinfra_hosts = ["docker://rspamd-away12", "docker://rspamd-away13"]


def test_it_judges(host: Any) -> None:
    assert host.service("rspamd").is_running
    added = scan(host, message())["milter"]["add_headers"]
    assert added["Authentication-Results"]["value"].startswith("mail.our.test;")


def test_third_parties_will_be_asked(host: Any) -> None:
    assert "rbls {" in host.check_output("runuser -u _rspamd -- rspamadm configdump rbl")


def test_its_resolver_trusts_the_root_key(host: Any) -> None:
    assert host.service("selfhosted-mail-resolver").is_running
    key = host.file("/var/lib/unbound/selfhosted-mail.key")
    assert key.user == "unbound" and key.contains("DNSKEY")
    assert "validator" in host.check_output("unbound-checkconf -o module-config /etc/unbound/selfhosted-mail.conf")
    nameservers = host.check_output("runuser -u _rspamd -- rspamadm configdump options")
    assert "127.0.0.1:5335" in nameservers


@pytest.mark.parametrize("name", ["redis-server", "unbound"])
def test_debians_own_instances_are_off(host: Any, name: str) -> None:
    assert not host.service(name).is_enabled
    assert not host.service(name).is_running


def test_nothing_failed(host: Any) -> None:
    assert host.check_output("systemctl list-units --failed --no-legend --plain") == ""
