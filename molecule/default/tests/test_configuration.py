# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on a server in use: a broken configuration changes nothing, secrets stay out of the output."""

from __future__ import annotations

import re

import pytest

from testbed.playbook import PLAIN, run_site
from testbed.servers import FRIEND, SERVERS, Server, check_relayed, on_both

pytestmark = pytest.mark.disruptive


def test_broken_configuration_never_replaces_a_running_one() -> None:
    """The run fails with the daemon's own output, mail keeps flowing, and the next good run repairs nothing."""
    before = [server.state() for server in SERVERS]
    # More seconds than OpenSMTPD can count.
    done = run_site("--tags", "opensmtpd", variables={"opensmtpd_queue_ttl": "999999d"}, fails=True)
    assert "smtpd.conf:" in done.output and "invalid ttl delay: 999999" in done.output, done.output[-2000:]
    assert [server.state() for server in SERVERS] == before

    def flows(server: Server) -> None:
        inbound = server.receive(server.alice.address)
        check_relayed(server, server.relayed(server.submit([FRIEND])))
        server.mailbox(server.alice, str(inbound["Message-ID"]))

    on_both(flows)
    run_site("--tags", "opensmtpd").check_unchanged()


def test_output_shows_no_secret() -> None:
    """New secrets in a run with full output: it contains neither the old nor the new ones."""
    new = {
        "mail_relay_password": "nEw-relay-seCret",
        "mail_accounts": [
            {"address": "alice@{{ mail_domain }}", "password_hash": "$6$lookingglass$" + "y" * 86},
            {"address": "bob@{{ mail_domain }}", "password": "nEw-bob-seCret"},
        ],
        "mail_aliases": {},
    }
    done = run_site("--check", "--diff", "-vvv", variables=new, environment=PLAIN)
    assert min(done.changed.values()) > 0
    secrets = ["$6$wonderland$", SERVERS[0].bob.password]
    secrets += [server.relay_password for server in SERVERS]
    text = done.output.replace("\\", "")
    assert not [secret for secret in secrets if secret in text]
    # The new ones were given on the command line, which Ansible repeats nowhere but in what modules print.
    assert not [secret for secret in ("nEw-relay-seCret", "nEw-bob-seCret", "$6$lookingglass$") if secret in text]


def test_a_run_without_changes() -> None:
    """It ends with what to publish, where the files are, how to read mail, and the relay's answer to the login."""
    done = run_site(environment=PLAIN)
    done.check_unchanged()
    for server in SERVERS:
        for word in (f"{server.domain}.zone", f"{server.additional_domain}.zone", server.hostname, "993", "465"):
            assert word in done.output
    assert len(re.findall(r"235 \S+ ", done.output)) >= len(SERVERS)
    assert done.output.count("OpenSMTPD of Debian 12 gets no more fixes") == 1
