# SPDX-License-Identifier: GPL-3.0-or-later
"""Relays that OpenSMTPD can and cannot use: the login at the end of a run gives the same result."""

import socket
from pathlib import Path

import pytest

from testbed import containers, dns, relays
from testbed.playbook import run_role
from testbed.smtp_provider import Provider

GATEWAY = "198.51.100.1"  # this machine, as containers see it
USERNAME, PASSWORD = "customer", "of-this-test"
TRUSTED = "/usr/local/share/ca-certificates/relays.crt"
# A stop takes five seconds.
RESTART = "systemctl kill --signal=KILL opensmtpd; rm -rf /var/spool/smtpd/queue/*; systemctl restart opensmtpd"
testinfra_hosts = ["docker://smtp_relay-debian12", "docker://smtp_relay-debian13"]


def used(container: str, provider: Provider) -> bool:
    """Whether OpenSMTPD begins a message there; false when it has given up."""
    containers.run(container, "sh", "-c", RESTART)
    begun = containers.run(container, "date", "+%s.%N").strip()
    containers.docker("exec", "-i", container, "/usr/sbin/sendmail", "carol@far.test", data=b"Subject: x\n\n.\n")

    def over() -> bool:
        said = containers.journal(container, "--unit=opensmtpd", "--output=cat", f"--since=@{begun}")
        return "MAIL" in provider.commands or " mta error reason=" in said

    containers.wait_for(over, what=f"a try at {provider}")
    return "MAIL" in provider.commands


@pytest.mark.long
def test_opensmtpd_uses_the_relays_that_the_login_takes_and_no_others(container: str, tmp_path: Path) -> None:
    with socket.create_server((GATEWAY, 0)) as free:
        port = free.getsockname()[1]
    dns.publish("relays.test", f"smtp A {GATEWAY}\n")
    containers.write(container, TRUSTED, relays.authorities(tmp_path))
    containers.run(container, "update-ca-certificates")
    relay = {"mail_relay_host": relays.NAME, "mail_relay_port": port, "mail_relay_tls": "starttls"}
    login = {"mail_relay_username": USERNAME, "mail_relay_password": PASSWORD}
    run_role(container, variables={**relay, **login, "smtp_relay_probe": "off"})
    containers.run(container, "systemctl", "stop", "selfhosted-mail-retry.timer")
    found = {}
    try:
        for one in relays.RELAYS:
            where = {"address": GATEWAY, "port": port}
            with Provider(relays.identity(tmp_path, one), USERNAME, PASSWORD, **where, **one.provider) as provider:
                found[one.what] = used(container, provider)
    finally:
        containers.run(container, "sh", "-c", f"{RESTART}; rm {TRUSTED}; update-ca-certificates --fresh")
        containers.run(container, "systemctl", "start", "selfhosted-mail-retry.timer")
        run_role(container)
    assert found == {one.what: one.usable for one in relays.RELAYS}
