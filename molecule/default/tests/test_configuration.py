# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on a server in use: a broken configuration changes nothing, secrets stay out of the output."""

from __future__ import annotations

import re

from playbook import run_site, state
from servers import FRIEND, SERVERS, Server, on_both
from signatures import check_relayed


def changes(output: str) -> list[int]:
    """How many tasks changed something, by host."""
    return [int(number) for number in re.findall(r"changed=(\d+)", output[output.index("PLAY RECAP") :])]


def test_broken_configuration_never_replaces_a_running_one() -> None:
    """The run fails with the daemon's own words, mail keeps flowing, and the next good run has nothing to mend."""
    before = [state(server) for server in SERVERS]
    done = run_site("--tags", "opensmtpd", variables={"opensmtpd_queue_ttl": "nonsense"})
    assert done.returncode != 0
    assert "smtpd.conf:" in done.stdout and "invalid ttl delay: nonsense" in done.stdout, done.stdout[-2000:]
    assert [state(server) for server in SERVERS] == before

    def flows(server: Server) -> None:
        inbound = server.receive(server.alice.address)
        check_relayed(server, server.relayed(server.submit([FRIEND])))
        server.mailbox(server.alice, str(inbound["Message-ID"]))

    on_both(flows)
    again = run_site("--tags", "opensmtpd")
    assert again.returncode == 0, again.stdout[-2000:]
    assert set(changes(again.stdout)) == {0}


def test_output_shows_no_secret() -> None:
    """New secrets in a run that says all it can: neither the old nor the new ones are in the output."""
    new = {
        "mail_relay_password": "nEw-relay-seCret",
        "mail_accounts": [
            {"address": "alice@{{ mail_domain }}", "password_hash": "$6$lookingglass$" + "y" * 86},
            {"address": "bob@{{ mail_domain }}", "password": "nEw-bob-seCret"},
        ],
        "mail_aliases": {},
    }
    done = run_site("--check", "--diff", "-vvv", variables=new)
    assert done.returncode == 0, done.stdout[-2000:]
    assert min(changes(done.stdout)) > 0
    secrets = ["$6$wonderland$", SERVERS[0].bob.password]
    secrets += [server.relay_password for server in SERVERS]
    text = done.stdout.replace("\\", "")
    assert not [secret for secret in secrets if secret in text]
    # The new ones were given on the command line, which Ansible repeats nowhere but in what modules print.
    assert not [secret for secret in ("nEw-relay-seCret", "nEw-bob-seCret", "$6$lookingglass$") if secret in text]


def test_a_run_without_changes() -> None:
    """It ends with what to publish, where the files are, how to read mail, and the relay's answer to the login."""
    done = run_site()
    assert done.returncode == 0
    assert set(changes(done.stdout)) == {0}
    for server in SERVERS:
        for word in (f"{server.domain}.zone", f"{server.additional_domain}.zone", server.hostname, "993", "465"):
            assert word in done.stdout
    assert len(re.findall(r"235 \S+ ", done.stdout)) >= len(SERVERS)
