# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody relies on who runs the role smtp_relay alone on a host, which becomes a satellite."""

import re
import smtplib
import uuid

import pytest

from testbed import containers, provider, units
from testbed.playbook import run_role

RELAY = "smtp_relay-provider"
testinfra_hosts = ["docker://smtp_relay-debian12", "docker://smtp_relay-debian13"]


def write(container: str) -> str:
    """Send a message with sendmail(8) as cron does; its marker."""
    marker = uuid.uuid4().hex
    message = f"Subject: {marker}\n\nFrom cron.\n".encode()
    containers.docker("exec", "-i", container, "/usr/sbin/sendmail", "carol@far.test", data=message)
    return marker


def test_local_mail_leaves_through_the_provider_with_login_and_tls(container):
    kept = provider.wait_kept(RELAY, write(container))
    assert kept.auth_user.partition("@")[0] == "satellite"
    assert kept.tls.startswith("TLSv1.")
    hostname = containers.run(container, "hostname").strip()
    assert kept.sender == f"root@{hostname}"
    assert kept.client_helo == hostname
    assert kept.recipients == ("carol@far.test",)


def test_what_users_write_while_it_is_away_leaves_later(container):
    containers.run(container, "systemctl", "stop", "opensmtpd")
    marker = uuid.uuid4().hex
    try:
        # It ends with EX_TEMPFAIL all the same.
        command = f"printf 'Subject: {marker}\\n\\n.\\n' | /usr/sbin/sendmail carol@far.test || test $? -eq 75"
        containers.run(container, "sh", "-c", command, user="nobody")
    finally:
        containers.run(container, "systemctl", "start", "opensmtpd")
    hostname = containers.run(container, "hostname").strip()
    assert provider.wait_kept(RELAY, marker).sender == f"nobody@{hostname}"


def test_services_may_do_little(container):
    assert units.too_exposed(container, {"opensmtpd.service": 3.0}) == {}


def test_nothing_is_taken_from_outside(host, container):
    listening = host.check_output("ss -Hltn")
    assert not [line for line in listening.splitlines() if ":25 " in line or ":587 " in line or ":465 " in line]
    with pytest.raises(OSError):
        smtplib.SMTP(containers.address(container), 25, timeout=60)


def test_credentials_can_be_read_by_root_and_opensmtpd_alone(host):
    table = host.file("/etc/opensmtpd/relay_credentials")
    assert (table.user, table.group, table.mode) == ("root", "opensmtpd", 0o640)
    assert host.file("/etc/opensmtpd/srs.conf").mode == 0o600
    assert host.run("runuser -u nobody -- cat /etc/opensmtpd/relay_credentials").rc != 0


@pytest.mark.parametrize("certificate", ["untrusted", "wrong_name", "expired"])
def test_a_certificate_that_does_not_verify_gets_neither_mail_nor_login(container, certificate):
    provider.show_certificate(RELAY, certificate)
    try:
        logins = provider.sessions(RELAY).count("sasl_username=")
        marker = write(container)
        containers.wait_for(
            lambda: "|pending|" in containers.run(container, "smtpctl", "show", "queue"), 40, "a deferred message"
        )
        assert not provider.find(RELAY, marker)
        assert provider.sessions(RELAY).count("sasl_username=") == logins
    finally:
        provider.show_certificate(RELAY, "trusted")
    provider.wait_kept(RELAY, marker, timeout=120)


def test_tls_below_1_2_is_refused(host, container):
    weak = "ALL:@SECLEVEL=0"
    old = ("smtpd_tls_protocols=TLSv1.1", "smtpd_tls_mandatory_protocols=TLSv1.1", f"tls_medium_cipherlist={weak}")
    with provider.changed(RELAY, *old, "smtpd_tls_mandatory_ciphers=medium"):
        client = f"openssl s_client -tls1_1 -cipher {weak} -connect satellite.provider.test:465 </dev/null"
        assert "Protocol  : TLSv1.1" in host.check_output(client)
        refused = provider.sessions(RELAY).count("SSL_accept error")
        marker = write(container)
        containers.wait_for(lambda: provider.sessions(RELAY).count("SSL_accept error") > refused, what="a refusal")
        assert not provider.find(RELAY, marker)
    provider.wait_kept(RELAY, marker)


@pytest.mark.parametrize("most", [5, 100])
def test_a_relay_that_takes_few_messages_in_a_connection_gets_all(container, most):
    """5 is what it takes, 100 the default. OpenSMTPD's own next try of what met the 421 is 400 seconds away."""
    marker = uuid.uuid4().hex
    message = f"Subject: {marker}\n\nOne of sixty.\n"
    send = "for _ in $(seq 60); do printf '%s' \"$0\" | sendmail carol@far.test; done"
    few = "smtpd_sender_restrictions=check_policy_service unix:private/few-messages"
    run_role(container, variables={"mail_relay_max_messages": most})
    with provider.changed(RELAY, few, "smtpd_delay_reject=no"):
        closed = provider.sessions(RELAY).count("Too many messages")
        containers.run(container, "sh", "-c", f"smtpctl pause mta; {send}; smtpctl resume mta", message)
        containers.wait_for(lambda: len(provider.find(RELAY, marker)) == 60, 200, "sixty messages")
        assert (provider.sessions(RELAY).count("Too many messages") > closed) == (most > 5)
    run_role(container)


def test_the_timer_looks_after_waiting_mail(host):
    assert host.service("selfhosted-mail-retry.timer").is_enabled
    assert host.service("selfhosted-mail-retry.timer").is_running


def test_opensmtpd_comes_back(host, container):
    host.run_test("pkill -KILL smtpd")
    containers.wait_for(lambda: host.run("smtpctl show stats").rc == 0, what="OpenSMTPD after a kill")
    provider.wait_kept(RELAY, write(container))


def test_the_journal_has_no_password(host):
    assert host.run("journalctl --no-pager --output=export | grep -aF '#@ %{}'").rc != 0


def test_the_run_says_in_one_line_what_the_provider_answers(container):
    run = run_role(container)
    assert re.search(r"relay satellite\.provider\.test:\d+ takes the login: 235 ", run.output)
    run.check_unchanged()


def test_a_refused_login_is_an_error_or_a_warning(container):
    wrong = {"mail_relay_password": "wr0ng-passw0rd"}
    try:
        run = run_role(container, variables=wrong, fails=True)
        assert re.search(r"does NOT take outgoing mail: AUTH: 535 ", run.output)
        run = run_role(container, variables={**wrong, "smtp_relay_probe": "warn"})
        assert re.search(r"\[WARNING\].*does NOT take outgoing mail", run.output.replace("\n", " "))
        assert "wr0ng" not in run.output
    finally:
        run_role(container)
