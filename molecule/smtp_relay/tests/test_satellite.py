# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody relies on who runs the role smtp_relay alone on a host, which becomes a satellite."""

import json
import os
import re
import smtplib
import subprocess
import uuid
from pathlib import Path

import pytest
from testbed import containers, provider

RELAY = "smtp_relay-provider"
testinfra_hosts = ["docker://smtp_relay-debian12", "docker://smtp_relay-debian13"]


@pytest.fixture
def name(host):
    return host.backend.name


def write(name: str) -> str:
    """Send a message with sendmail(8) as cron does; its marker."""
    marker = uuid.uuid4().hex
    message = f"Subject: {marker}\n\nFrom cron.\n".encode()
    containers.docker("exec", "-i", name, "/usr/sbin/sendmail", "carol@far.test", data=message)
    return marker


def test_local_mail_leaves_through_the_provider_with_login_and_tls(name):
    kept = provider.wait_kept(RELAY, write(name))
    assert kept.auth_user.partition("@")[0] == "satellite"
    assert kept.tls.startswith("TLSv1.")
    hostname = containers.run(name, "hostname").strip()
    assert kept.sender == f"root@{hostname}"
    assert kept.client_helo == hostname
    assert kept.recipients == ("carol@far.test",)


def test_nothing_is_taken_from_outside(host, name):
    listening = host.check_output("ss -Hltn")
    assert not [line for line in listening.splitlines() if ":25 " in line or ":587 " in line or ":465 " in line]
    with pytest.raises(OSError):
        smtplib.SMTP(containers.address(name), 25, timeout=60)


def test_credentials_can_be_read_by_root_and_opensmtpd_alone(host):
    table = host.file("/etc/opensmtpd/relay_credentials")
    assert (table.user, table.group, table.mode) == ("root", "opensmtpd", 0o640)
    assert host.file("/etc/opensmtpd/srs.conf").mode == 0o600
    assert host.run("runuser -u nobody -- cat /etc/opensmtpd/relay_credentials").rc != 0


@pytest.mark.parametrize("certificate", ["untrusted", "wrong_name", "expired"])
def test_a_certificate_that_does_not_verify_gets_neither_mail_nor_login(name, certificate):
    provider.show_certificate(RELAY, certificate)
    try:
        logins = provider.sessions(RELAY).count("sasl_username=")
        marker = write(name)
        containers.wait_for(
            lambda: "|pending|" in containers.run(name, "smtpctl", "show", "queue"), 40, "a deferred message"
        )
        assert not provider.find(RELAY, marker)
        assert provider.sessions(RELAY).count("sasl_username=") == logins
    finally:
        provider.show_certificate(RELAY, "trusted")
    provider.wait_kept(RELAY, marker, timeout=120)


def test_the_timer_looks_after_waiting_mail(host):
    assert host.service("selfhosted-mail-retry.timer").is_enabled
    assert host.service("selfhosted-mail-retry.timer").is_running


def test_opensmtpd_comes_back(host, name):
    host.run_test("pkill -KILL smtpd")
    containers.wait_for(lambda: host.run("smtpctl show stats").rc == 0, what="OpenSMTPD after a kill")
    provider.wait_kept(RELAY, write(name))


def test_the_journal_has_no_password(host):
    assert host.run("journalctl --no-pager --output=export | grep -aF '#@ %{}'").rc != 0


def converge(name: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The play once more on one host, with other variables."""
    play = Path(__file__).parent.parent / "converge.yml"
    command = ["ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], "--limit", name, str(play)]
    command += ["--extra-vars", json.dumps(variables)]
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_run_says_in_one_line_what_the_provider_answers(name):
    run = converge(name)
    assert run.returncode == 0, run.stdout
    assert re.search(r"relay satellite\.provider\.test:\d+ takes the login: 235 ", run.stdout)
    assert "changed=0" in run.stdout


def test_a_refused_login_is_an_error_or_a_warning(name):
    try:
        run = converge(name, smtp_relay_password="wr0ng-passw0rd")
        assert run.returncode != 0
        assert re.search(r"does NOT take outgoing mail: AUTH: 535 ", run.stdout + run.stderr)
        run = converge(name, smtp_relay_password="wr0ng-passw0rd", smtp_relay_probe="warn")
        assert run.returncode == 0, run.stdout
        assert re.search(r"\[WARNING\].*does NOT take outgoing mail", (run.stdout + run.stderr).replace("\n", " "))
        assert "wr0ng" not in run.stdout + run.stderr
    finally:
        assert converge(name).returncode == 0
