# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes while it runs, accidents, and a clean journal."""

from __future__ import annotations

import imaplib
import re
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from dovecot_host import ALICE, CAROL, lmtp
from testinfra.host import Host

from testbed import containers, imap, smtp
from testbed.containers import wait_for
from testbed.firewall import check_needs_the_firewall
from testbed.playbook import PLAIN, run_role

testinfra_hosts = ["docker://dovecot-debian12", "docker://dovecot-debian13"]

# Looks at the journal of all the others, and then breaks things.
pytestmark = pytest.mark.disruptive

CONVERGE = Path(__file__).parents[1] / "converge.yml"


def accepted(address: str, user: str, password: str) -> bool:
    try:
        imap.session(address, user, password).logout()
    except imaplib.IMAP4.error as refusal:
        assert "AUTHENTICATIONFAILED" in str(refusal)
        return False
    return True


# Dovecot may end sessions that have said nothing for 10 seconds.
@pytest.mark.parametrize("silence", [0, pytest.param(12, marks=pytest.mark.long)])
def test_changed_configuration_keeps_sessions(host: Host, container: str, address: str, silence: float) -> None:
    before = host.service("dovecot").systemd_properties["MainPID"]
    with imap.session(address, *ALICE) as box:
        since = time.monotonic()
        run_role(container, variables={"dovecot_imap_sessions_per_user": 2})
        time.sleep(max(0, since + silence - time.monotonic()))
        box.noop()
        with imap.session(address, *ALICE), pytest.raises(imaplib.IMAP4.error, match="LIMIT"):
            imap.session(address, *ALICE)
        run_role(container)
        box.noop()
    assert host.service("dovecot").systemd_properties["MainPID"] == before


def test_renewed_certificate_is_taken_in(host: Host, container: str, address: str) -> None:
    def renew() -> str:
        host.check_output(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj /CN=own "
            "-keyout /etc/ssl/private/own.key -out /etc/ssl/own.pem"
        )
        files = {
            "mail_tls_certificate_file": "/etc/ssl/own.pem",
            "mail_tls_private_key_file": "/etc/ssl/private/own.key",
        }
        run_role(container, variables={"mail_tls_mode": "files", **files})
        return str(host.file("/etc/ssl/own.pem").content_string)

    try:
        own = renew()
        wait_for(lambda: ssl.get_server_certificate((address, 993)) == own, what="the certificate")
        with imap.session(address, *ALICE) as box:
            renewed = renew()
            assert renewed != own
            wait_for(lambda: ssl.get_server_certificate((address, 993)) == renewed, what="the renewed one")
            box.noop()
    finally:
        run_role(container)


@pytest.mark.parametrize("place", ["/home/box", "/srv/linked"])
def test_mailboxes_may_be_anywhere(host: Host, container: str, address: str, place: str) -> None:
    """Among home directories, on a file system of their own, behind a link of root's."""
    host.check_output("mkdir -p /home/box /srv/box; ln -sfn box /srv/linked; mount -t tmpfs tmpfs /home/box")
    try:
        run_role(container, variables={"dovecot_mail_dir": place})
        message = smtp.compose("sender@world.test", [CAROL[0]])
        assert lmtp(container, smtp.wire(message), CAROL[0])[CAROL[0]][0] == 250
        imap.wait_message(address, *CAROL, str(message["Message-ID"]))
        assert host.check_output(f"find {place}/ -path '*/carol/Maildir/*' -type f -name '*,S=*'")
        # The table of full mailboxes is told of, too.
        host.check_output("systemctl start selfhosted-mail-full; rm /var/lib/selfhosted-mail/full-seen")
        host.check_output("systemctl start selfhosted-mail-full")
        assert host.file("/var/lib/selfhosted-mail/full-seen").exists
    finally:
        run_role(container)
        host.check_output("umount /home/box")


def test_refused_configuration_leaves_the_old_one(host: Host, container: str, address: str) -> None:
    path = "/etc/dovecot/dovecot.conf"
    before = host.check_output(f"sha256sum {path}")
    with imap.session(address, *ALICE) as box:
        # A script that Dovecot's compiler refuses is in one set with a file that would change.
        [play] = yaml.safe_load(CONVERGE.read_text())
        accounts = [{**account, "sieve": "fileinto Junk\n"} for account in play["vars"]["mail_accounts"]]
        variables = {"mail_accounts": accounts, "dovecot_imap_sessions_per_user": 3}
        done = run_role(container, variables=variables, fails=True)
        assert re.search(r"alice@example\.org: line \d: error", done.output), done.output
        box.noop()
    assert host.check_output(f"sha256sum {path}") == before
    imap.session(address, *ALICE).logout()
    run_role(container).check_unchanged()


def test_bad_values_are_refused_by_name(container: str) -> None:
    bad = {
        "dovecot_mail_dir": "vmail",
        "dovecot_junk_header": "X Spam",
        "dovecot_imap_sessions_per_user": 0,
        "dovecot_max_connections": -1,
        "dovecot_connections_per_minute": -1,
        "mail_hostname": "mail",
        "mail_admin_address": "nobody@example.org",
        "dovecot_quota": "plenty",
        "dovecot_quota_grace": "10%",
    }
    done = run_role(container, variables=bad, fails=True)
    for name in bad:
        assert f"{name}: " in done.output
    done.check_unchanged()


def test_output_shows_no_secret(host: Host, container: str) -> None:
    # It would ask a Dovecot without configuration.
    host.check_output("systemctl stop selfhosted-mail-full.timer")
    host.check_output("rm /etc/selfhosted-mail/passwd /etc/dovecot/dovecot.conf")
    done = run_role(container, "--diff", "-vvv", environment=PLAIN)
    shown = done.output + host.check_output("journalctl --no-pager")
    assert "+ssl_min_protocol" in shown
    for secret in ("bättery", r"b\u00e4ttery", r"b\xe4ttery", "staple", "$6$"):
        assert secret not in shown
    key = host.file("/etc/selfhosted-mail/tls/privkey.pem").content_string.splitlines()[1]
    assert key not in shown


def test_changed_password_takes_effect_without_a_reload(host: Host, address: str) -> None:
    passwd = "/etc/selfhosted-mail/passwd"
    host.check_output(f"cp -p {passwd} {passwd}.before")
    assert accepted(address, *CAROL)
    try:
        changed = host.check_output("openssl passwd -6 second")
        host.check_output(
            f"cp -p {passwd} {passwd}.new && sed 's|^{CAROL[0]}:[^:]*:|{CAROL[0]}:{changed}:|' {passwd} "
            f"> {passwd}.new && mv {passwd}.new {passwd}"
        )
        # Dovecot looks once a second.
        wait_for(lambda: accepted(address, CAROL[0], "second"), what="the new password")
        assert not accepted(address, *CAROL)
        host.check_output(f"sed -i '/^{CAROL[0]}:/d' {passwd} && chown dovecot {passwd}")
        wait_for(lambda: not accepted(address, CAROL[0], "second"), what="the account has gone")
    finally:
        host.check_output(f"mv {passwd}.before {passwd}")


def test_wrong_logins_are_refused(address: str) -> None:
    wrong = [
        (ALICE[0], "wrong"),
        (ALICE[0], ""),
        (ALICE[0], CAROL[1]),
        ("nobody@example.org", ALICE[1]),
        ("alice", ALICE[1]),
        ("root", ""),
    ]
    # At once: Dovecot makes an address that guesses wait longer each time.
    with ThreadPoolExecutor(len(wrong)) as threads:
        assert not any(threads.map(lambda login: accepted(address, *login), wrong))


def test_journal_has_no_errors_of_ours(host: Host) -> None:
    lines = host.check_output(
        "journalctl --no-pager --output=cat --identifier=dovecot --identifier=sievec "
        "--identifier=full-mailboxes --identifier=learn-moved"
    )
    assert "stored mail into mailbox" in lines
    # Tests were in OpenSMTPD's place, and refused.
    expected = re.compile(r"submit-sieve-mail: |Sendmail program returned error|aborted due to temporary failure")
    errors = [line for line in lines.splitlines() if re.search(r"\b(Error|Fatal|Panic)\b", line)]
    assert not [line for line in errors if not expected.search(line)]
    failed = host.check_output("systemctl --failed --plain --no-legend")
    assert "dovecot" not in failed


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_comes_back_when_killed(host: Host, address: str, signal: str) -> None:
    assert host.service("dovecot").is_enabled
    before = host.service("dovecot").systemd_properties["MainPID"]
    host.check_output(f"kill -{signal} {before}")

    def back() -> bool:
        try:
            imap.session(address, *ALICE).logout()
        except (OSError, imaplib.IMAP4.error):
            return False
        return bool(host.service("dovecot").systemd_properties["MainPID"] != before)

    wait_for(back, what="Dovecot back")


def test_without_the_firewall_dovecot_does_not_start(host: Host) -> None:
    check_needs_the_firewall(host, "dovecot", 993)


def test_acknowledged_mail_survives_a_power_cut(container: str) -> None:
    """Dovecot, and then the whole machine, are gone right after LMTP's 250."""

    def kill_dovecot() -> None:
        containers.run(container, "systemctl", "kill", "--signal=KILL", "dovecot")

    def cut_the_power() -> None:
        containers.docker("kill", container)
        containers.docker("start", container)

    for end in (kill_dovecot, kill_dovecot, cut_the_power, cut_the_power):
        message = smtp.compose("sender@world.test", [CAROL[0]])
        assert lmtp(container, smtp.wire(message), CAROL[0])[CAROL[0]][0] == 250
        end()
        wait_for(lambda: reachable(containers.address(container)) or None, what="Dovecot is back")
        imap.wait_message(containers.address(container), *CAROL, str(message["Message-ID"]))
        # Who was killed a moment later than others may have complained of them; who came back has no reason to.
        now = containers.run(container, "systemctl", "show", "-P", "InvocationID", "dovecot").strip()
        assert containers.journal(container, f"_SYSTEMD_INVOCATION_ID={now}", "--priority=err", "--quiet") == ""


def reachable(address: str) -> bool:
    try:
        imap.session(address, *CAROL).logout()
    except (OSError, imaplib.IMAP4.error):
        return False
    return True
