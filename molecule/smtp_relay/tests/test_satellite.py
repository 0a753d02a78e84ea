# SPDX-License-Identifier: GPL-3.0-or-later
"""The role smtp_relay alone on a host, a satellite."""

import re
import smtplib
import uuid

import pytest

from testbed import containers, provider, units
from testbed.playbook import run_role

RELAY = "smtp_relay-provider"
testinfra_hosts = ["docker://smtp_relay-debian12", "docker://smtp_relay-debian13"]


def write(container: str, user: str = "root") -> str:
    """Send a message with sendmail(8) as cron does; its marker."""
    marker = uuid.uuid4().hex
    message = f"Subject: {marker}\n\nFrom cron.\n".encode()
    containers.docker("exec", "-i", "-u", user, container, "/usr/sbin/sendmail", "carol@far.test", data=message)
    return marker


def test_local_mail_leaves_through_the_provider_with_login_and_tls(container):
    kept = provider.wait_kept(RELAY, write(container))
    assert kept.auth_user.partition("@")[0] == "satellite"
    assert kept.tls.startswith("TLSv1.")
    hostname = containers.run(container, "hostname").strip()
    assert kept.sender == f"root@{hostname}"
    assert kept.client_helo == hostname
    assert kept.recipients == ("carol@far.test",)


# A client that disconnects without reading the answer makes OpenSMTPD end (CVE-2025-62875).
ASK_AND_GO = """
import select, socket, struct
for path in "/run/smtpd.sock", "/run/opensmtpd/smtpd.sock":
    try:
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(path)
            control.sendall(struct.pack("=IHHII", 0, 16, 0, 0, 0))
            select.select([control], [], [])
            print("answered")
    except OSError as error:
        print(type(error).__name__)
"""


def test_no_user_ends_it_by_its_own_socket(host, container):
    """All users can still send mail."""
    pid = host.check_output("systemctl show --value -p MainPID opensmtpd")
    said = containers.run(container, "python3", "-c", ASK_AND_GO, user="nobody").split()
    hostname = containers.run(container, "hostname").strip()
    assert provider.wait_kept(RELAY, write(container, "nobody")).sender == f"nobody@{hostname}"
    assert host.check_output("systemctl show --value -p MainPID opensmtpd") == pid
    assert said == ["PermissionError", "PermissionError"]


def test_what_users_write_while_it_is_away_leaves_later(container):
    containers.run(container, "systemctl", "stop", "opensmtpd")
    marker = uuid.uuid4().hex
    try:
        # It still ends with EX_TEMPFAIL.
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


@pytest.mark.alone
@pytest.mark.parametrize("certificate", ["untrusted", "wrong_name", "expired"])
def test_a_certificate_that_does_not_verify_gets_neither_mail_nor_login(container, certificate):
    def talks(since):
        """What the relay counted in each session of this host that has ended since then."""
        lines = provider.sessions(RELAY)[since:].splitlines()
        return [line for line in lines if "disconnect from" in line and f"[{containers.address(container)}]" in line]

    provider.show_certificate(RELAY, certificate)
    try:
        logins, since = provider.sessions(RELAY).count("sasl_username="), len(provider.sessions(RELAY))
        marker = write(container)
        containers.wait_for(
            lambda: "|pending|" in containers.run(container, "smtpctl", "show", "queue"), what="a deferred message"
        )
        done = containers.wait_for(lambda: talks(since), what="a try")
        assert not [line for line in done if re.search(r"\b(auth|mail|data)=", line)]
        assert not provider.find(RELAY, marker)
        assert provider.sessions(RELAY).count("sasl_username=") == logins
        since = len(provider.sessions(RELAY))
    finally:
        provider.show_certificate(RELAY, "trusted")
    # By then the next try may be two minutes away.
    provider.wait_kept(RELAY, marker, timeout=300)
    # What is looked for above is there when mail goes through. OpenSMTPD ends that session seconds later.
    if certificate == "expired":
        containers.wait_for(lambda: [line for line in talks(since) if " auth=1 mail=1 " in line], what="a login")


@pytest.mark.alone
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
    provider.wait_kept(RELAY, marker, timeout=300)


@pytest.mark.alone
@pytest.mark.parametrize("most", [5, 100])
def test_a_relay_that_takes_few_messages_in_a_connection_gets_all(container, most):
    """The provider accepts 5, the default is 100. OpenSMTPD itself would retry after a 421 only in 400 seconds."""
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


def test_an_empty_queue_starts_no_program(host, container):
    containers.wait_for(lambda: host.check_output("smtpctl show queue") == "", what="an empty queue")
    result = "systemctl show -P Result selfhosted-mail-retry.service"
    containers.wait_for(lambda: host.check_output(result) == "exec-condition", what="the timer's next look")


def test_opensmtpd_comes_back(host, container):
    host.run_test("pkill -KILL smtpd")
    containers.wait_for(lambda: host.run("smtpctl show stats").rc == 0, what="OpenSMTPD after a kill")
    provider.wait_kept(RELAY, write(container))


def test_the_journal_has_no_password(host):
    assert host.run("journalctl --no-pager --output=export | grep -aF '#@ %{}'").rc != 0


def test_the_run_says_in_one_line_what_the_provider_answers(container):
    run = run_role(container)
    assert re.search(r"relay satellite\.provider\.test:\d+ accepts the login: 235 ", run.output)
    run.check_unchanged()


def test_a_refused_login_is_an_error_or_a_warning(container):
    wrong = {"mail_relay_password": "wr0ng-passw0rd"}
    try:
        run = run_role(container, variables=wrong, fails=True)
        assert re.search(r"cannot be used for outgoing mail: AUTH: 535 ", run.output)
        run = run_role(container, variables={**wrong, "smtp_relay_probe": "warn"})
        assert re.search(r"\[WARNING\].*cannot be used for outgoing mail", run.output.replace("\n", " "))
        assert "wr0ng" not in run.output
    finally:
        run_role(container)
