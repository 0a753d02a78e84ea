# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook check reports problems, and each named fix repairs its problem."""

from __future__ import annotations

import json
import os
import re
import smtplib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed import dns, playbook, provider, smtp
from testbed.containers import wait_for
from testbed.servers import RELAY, SERVERS, STRANGER, Login, Server, both

CHECK = playbook.CHECKOUT / "playbooks/check.yml"
FIELDS = {"host", "check", "subject", "status", "required", "text", "fix"}
PORTS = {"25", "465", "587", "993", "4190"}
TOKENS = "/run/selfhosted-mail-proofs"
FOLDER = "/var/lib/selfhosted-mail/proof"
WRONG = 2
KEPT = 262144  # maximum octets of a token's file

Finding = dict[str, Any]


class Checked:
    """A run of the playbook on both servers: its exit code and output, and what it found."""

    def __init__(
        self, folder: Path, *options: str, environment: Mapping[str, str] | None = None, **variables: object
    ) -> None:
        file = folder / "found.json"
        file.unlink(missing_ok=True)
        # The machine that runs the tests knows no name of theirs.
        given = {**variables, "mail_check_output": str(file), "addresses": {one.container: one.ip for one in SERVERS}}
        options = ("-e", "address={{ addresses[inventory_hostname] }}", *options)
        done = playbook.run(CHECK, *options, variables=given, fails=None, environment=environment)
        self.code, self.output, self.changed = done.code, done.output, done.changed
        assert file.exists(), done.output
        self.found: list[Finding] = json.loads(file.read_text())

    def of(self, server: Server, check: str) -> dict[str, Finding]:
        """Subject to finding."""
        found = [one for one in self.found if (one["host"], one["check"]) == (server.container, check)]
        return {one["subject"]: one for one in found}

    def not_ok(self) -> list[Finding]:
        """Without the warning that Debian 12 always has."""
        return [one for one in self.found if one["status"] != "ok" and one["check"] != "release"]


def status_login(server: Server) -> Login:
    return Login(*server.run("cat", "/etc/selfhosted-mail/status-login").split())


def tokens(server: Server) -> list[str]:
    """Addresses that accept a proof now."""
    return [line for line in server.run("cat", TOKENS).splitlines() if not line.startswith("#")]


def forget(server: Server) -> None:
    """Ends the hour."""
    timers = re.findall(r"run-\S+(?=\.timer)", server.run("systemctl", "list-units", "--type=timer", "run-*.timer"))
    for name in set(timers):
        server.run("systemctl", "start", f"{name}.service")
        wait_for(lambda name=name: server.main_pid(name) == 0, what="it is forgotten")
        server.run("systemctl", "stop", f"{name}.timer")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for server in SERVERS:
        forget(server)


def traces(server: Server) -> list[str]:
    """Everything that a proof could leave behind."""
    status = server.run("doveadm", "mailbox", "status", "-A", "messages", "*")
    return [server.queue(), status, server.run("find", FOLDER, "-type", "f")]


def test_all_is_well(folder: Path) -> None:
    """Lines and JSON say the same, worst first; exit code 0; nothing is changed on the hosts, and no proof stays."""
    for server in SERVERS:
        server.settle()
    before = {server.container: (server.state(), traces(server)) for server in SERVERS}
    checked = Checked(folder, environment=playbook.PLAIN)
    assert checked.not_ok() == []
    assert checked.code == 0
    assert set(checked.changed.values()) == {0}
    assert all(set(one) == FIELDS for one in checked.found)
    assert {server.container: (server.state(), traces(server)) for server in SERVERS} == before
    forget(SERVERS[0])
    assert tokens(SERVERS[0]) == []
    for server in SERVERS:
        assert set(checked.of(server, "proof")) == {server.domain, server.additional_domain, "null sender"}
        for check in ("port", "certificate", "tls"):
            assert {subject.split()[-1] for subject in checked.of(server, check)} - {"file"} == PORTS, check
        assert {"dns", "login", "smtp", "imap", "queue", "resolution"} <= {one["check"] for one in checked.found}
        text = checked.of(server, "proof")[server.domain]["text"]
        assert re.search(r"TLS 1\.[23] out and 1\.[23] in: our signature pass, SPF pass, DMARC pass$", text), text
    [release], _thirteen = ([*checked.of(server, "release").values()] for server in SERVERS)
    assert release["status"] == "warning" and "upgrade to Debian 13" in release["text"]
    for one in checked.found:
        shown = rf"{one['status']} +{one['check']} +{re.escape(one['subject'])} +"
        assert re.search(shown, checked.output), shown


def test_in_check_mode(folder: Path) -> None:
    """The same findings, without those that need a message."""
    checked = Checked(folder, "--check", mail_check_patience=1)
    assert checked.code == 0
    assert {one["check"] for one in checked.not_ok()} == {"login", "proof"}
    assert all(one["status"] == "unknown" and "check mode" in one["text"] for one in checked.not_ok())
    assert not [line for server in SERVERS for line in tokens(server)]


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A run less than an hour ago. The last of the tests that need it ends the hour."""
    Checked(tmp_path_factory.mktemp("proved"))


def refusal(server: Server, recipient: str) -> int:
    """The reply to an external server's RCPT."""
    with smtplib.SMTP(server.ip, 25, local_hostname="peer.world.test", timeout=60) as session:
        session.ehlo()
        session.mail(STRANGER)
        code, _text = session.rcpt(recipient)
        return code


AS_THE_LOGIN = """
import smtplib, ssl, sys
host, login, password, sender, recipient = sys.argv[1:]
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
with smtplib.SMTP(host, 587, timeout=60) as session:
    session.starttls(context=context)
    session.login(login, password)
    session.sendmail(sender, [recipient], f"From: <{sender}>\\r\\n\\r\\nHello.\\r\\n")
"""


@pytest.mark.usefixtures("proved")
@both
def test_the_login_that_hands_proofs_in_hands_in_nothing_else(server: Server) -> None:
    login, address = status_login(server), tokens(server)[0]
    ours = f"mail-proof@{address.rpartition('@')[2]}"
    for recipient in ("friend@far.test", server.alice.address, f"mail-proof@{server.domain}"):
        with pytest.raises(AssertionError, match="550"):
            server.python(AS_THE_LOGIN, "127.0.0.1", login.address, login.password, ours, recipient)
    # Nor from elsewhere, nor as somebody else.
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        smtp.submit(server.ip, login.address, login.password, ours, [address], smtp.compose(ours, [address]), 587)
    with pytest.raises(AssertionError, match="may not send mail"):
        server.python(AS_THE_LOGIN, "127.0.0.1", login.address, login.password, server.alice.address, address)


@pytest.mark.usefixtures("proved")
@both
def test_a_token_is_worth_little(server: Server) -> None:
    """No user can read a token; no account can use it; anybody who knows it can only fill one small file."""
    assert server.sh(f"stat -c '%U %G %a' {TOKENS} {FOLDER}") == "root opensmtpd 640\nvmail vmail 700"
    address = tokens(server)[0]
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        server.submit([address])
    for number in range(3):
        message = smtp.compose(STRANGER, [address], body=f"{number}{'x' * 70}\n" * 6000)
        smtp.deliver(server.ip, STRANGER, [address.upper()], message)
    server.settle()
    assert server.sh(f"find {FOLDER} -type f -printf '%s\\n'") == str(KEPT)


@pytest.mark.usefixtures("proved")
@both
def test_only_a_token_of_the_last_hour_is_taken(server: Server) -> None:
    """Refused at RCPT, even if the domain has a catch-all."""
    known = tokens(server)
    assert {address.rpartition("@")[2] for address in known} == {server.domain, server.additional_domain}
    for address in known:
        assert refusal(server, address) == 250
        local, _at, domain = address.partition("@")
        assert refusal(server, f"{local}1@{domain}") == 550
        assert refusal(server, f"mail-proof@{domain}") == 550
    forget(server)
    for address in known:
        assert refusal(server, address) == 550
    # And its file has been removed.
    assert server.run("find", FOLDER, "-type", "f") == ""


def paste(fix: str, tags: str) -> dict[str, Any]:
    """Run the playbook with the fix on both servers; returns its variables."""
    variables: dict[str, Any] = yaml.safe_load(fix)
    playbook.run_site("--tags", tags, variables=variables)
    return variables


def errors(checked: Checked) -> list[Finding]:
    return [one for one in checked.found if one["status"] == "error"]


@pytest.mark.disruptive
def test_fields_that_the_provider_rewrites(folder: Path) -> None:
    """Amazon SES: replaces Date and Message-ID, and adds a signature."""
    dns.publish(*own_zone())
    with provider.behaving(RELAY, provider.NEW_DATE, provider.NEW_MESSAGE_ID, provider.SIGNS):
        checked = Checked(folder)
        assert checked.code == WRONG
        broken = errors(checked)
        assert {one["check"] for one in broken} == {"proof"}
        assert {one["subject"] for one in broken} == {d for one in SERVERS for d in (one.domain, one.additional_domain)}
        for one in broken:
            assert re.search("our signature fail, SPF pass, DMARC pass;.* has changed date, message-id;", one["text"])
            assert "adds a signature of its own" in one["text"]
        [fix] = {one["fix"] for one in broken}
        assert re.fullmatch(r"mail_relay_unsigned_headers: \[date(, message-id)?\]", fix)
        try:
            mended = Checked(folder, **paste(fix, "dkimproxy"))
        finally:
            playbook.run_site("--tags", "dkimproxy")
        assert (mended.code, mended.not_ok()) == (0, [])
        assert "has changed date, message-id" in mended.of(SERVERS[0], "proof")[SERVERS[0].domain]["text"]


def own_zone() -> tuple[str, str]:
    name = provider.run(RELAY, "hostname").strip()
    return f"own._domainkey.{name}", f"@ TXT {provider.own_key(RELAY)}\n"


@pytest.mark.long
@pytest.mark.disruptive
def test_a_second_signature_is_refused(folder: Path) -> None:
    """Amazon SES, with its real reply."""
    fix = "dkimproxy_ed25519: false"  # as it was
    try:
        playbook.run_site("--tags", "dkimproxy,dns", variables={"dkimproxy_ed25519": True})
        for server in SERVERS:
            publish(server)
        with provider.behaving(RELAY, provider.ONE_SIGNATURE):
            checked = Checked(folder, dkimproxy_ed25519=True)
            assert checked.code == WRONG
            assert {one["fix"] for one in errors(checked)} == {fix}
            assert all("Duplicate header 'DKIM-Signature'" in one["text"] for one in errors(checked))
            mended = Checked(folder, **paste(fix, "dkimproxy,dns"))
            assert (mended.code, mended.not_ok()) == (0, [])
    except BaseException:
        paste(fix, "dkimproxy,dns")
        raise


def zone_file(domain: str) -> Path:
    return Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "dns" / f"{domain}.zone"


def publish(server: Server) -> None:
    for domain in (server.domain, server.additional_domain):
        dns.publish(domain, zone_file(domain).read_text())


def test_the_null_sender_is_refused(folder: Path) -> None:
    """SMTP2GO, with its real reply, after DATA. Other mail is sent, so it is a warning; the provider has a setting."""
    with provider.behaving(RELAY, provider.NO_NULL_SENDER):
        checked = Checked(folder)
        assert checked.code == 0
        assert {(one["subject"], one["status"]) for one in checked.not_ok()} == {("null sender", "warning")}
        for one in checked.not_ok():
            assert "blank sender" in one["text"]
            mends = {
                "proof": r"# at \S+: allow the null \(blank\) sender",
                "relay": r"# enable the null sender \(MAIL FROM:<>\) at the provider, .*",
            }
            assert re.fullmatch(mends[one["check"]], one["fix"])


@pytest.mark.long
def test_another_author(folder: Path) -> None:
    """Brevo, until the domain is authenticated there. After this fix and the previous one all is well."""
    with provider.behaving(RELAY, provider.NEW_FROM):
        checked = Checked(folder)
        assert checked.code == WRONG
        for one in errors(checked):
            assert "From is now <customer@brevosend.test>" in one["text"]
            assert f"authenticate (verify) {one['subject']}" in one["fix"]
    assert Checked(folder).not_ok() == []


def test_no_signature_of_ours(folder: Path) -> None:
    """Postmark assembles messages anew. Receivers accept them, as SPF is aligned."""
    with provider.behaving(RELAY, provider.NO_SIGNATURE, provider.NEW_MESSAGE_ID):
        checked = Checked(folder)
        assert checked.code == 0
        domains = {domain for server in SERVERS for domain in (server.domain, server.additional_domain)}
        assert {(one["subject"], one["status"]) for one in checked.not_ok()} == {(name, "warning") for name in domains}
        assert all("our signature was removed" in one["text"] for one in checked.not_ok())


@pytest.mark.long
def test_late(folder: Path) -> None:
    """A proof that is late is unknown, and the fix is to wait longer."""
    with provider.behaving(RELAY, provider.HOLDS):
        checked = Checked(folder, mail_check_patience=20)
        assert checked.code == 0
        late = checked.not_ok()
        assert {one["status"] for one in late} == {"unknown"}
        assert len(late) == 3 * len(SERVERS)
        assert all("queued as" in one["text"] for one in late)
        [fix] = {one["fix"] for one in late}
        provider.release(RELAY)
        patient = threading.Thread(
            target=lambda: (wait_for(lambda: provider.held(RELAY) == len(late), 120), provider.release(RELAY))
        )
        patient.start()
        again = Checked(folder, *fix.split())
        patient.join()
    assert (again.code, again.not_ok()) == (0, [])


def test_the_mx_is_elsewhere_yet(folder: Path) -> None:
    """No message is sent to an unknown server."""
    server = SERVERS[0]
    zone = zone_file(server.domain).read_text()
    try:
        dns.publish(server.domain, re.sub(r"(MX\s+\d+\s+)\S+", r"\1mx.far.test.", zone))
        checked = Checked(folder)
    finally:
        dns.publish(server.domain, zone)
        server.run("systemctl", "start", "selfhosted-mail-dns@1.service")
    assert checked.code == 2
    wrong, one = sorted(checked.not_ok(), key=lambda found: str(found["check"]))
    assert {wrong["host"], one["host"]} == {server.container}
    assert (wrong["check"], wrong["subject"], wrong["status"]) == ("dns", f"MX {server.domain}", "error")
    assert (one["check"], one["subject"], one["status"]) == ("proof", server.domain, "unknown")
    assert one["text"] == f"nothing is sent: its MX record points to mx.far.test, not {server.hostname}"
    assert server.domain not in {address.rpartition("@")[2] for address in tokens(server)}


def test_without_a_relay(folder: Path) -> None:
    checked = Checked(folder, mail_relay_host="")
    assert "no test message is needed" in checked.of(SERVERS[0], "proof")["all"]["text"]
    assert not checked.of(SERVERS[0], "login")


@pytest.mark.disruptive
def test_a_port_that_is_closed(folder: Path) -> None:
    server = SERVERS[-1]
    server.run("systemctl", "stop", "dovecot.service", "dovecot.socket")
    try:
        checked = Checked(folder)
    finally:
        server.run("systemctl", "start", "dovecot.service")
    assert checked.code == WRONG
    assert {one["host"] for one in checked.not_ok()} == {server.container}
    ports = checked.of(server, "port")
    assert {subject.split()[-1] for subject, one in ports.items() if one["status"] == "error"} == {"993", "4190"}
    assert checked.of(server, "imap")["993"]["status"] == "error"


@pytest.mark.disruptive
def test_a_server_that_cannot_be_asked(folder: Path) -> None:
    """It is still checked from outside, and the other hosts are checked."""
    server = SERVERS[-1]
    lost = {"ansible_connection": "ssh", "ansible_host": "198.51.100.99", "ansible_timeout": 3}
    inventory = folder / "lost"
    inventory.write_text(json.dumps({"mail": {"hosts": {server.container: lost}}}))
    checked = Checked(folder, "-i", str(inventory), environment=playbook.PLAIN)
    assert checked.code == 0
    [one] = checked.not_ok()
    assert (one["check"], one["subject"], one["status"]) == ("host", server.container, "unknown")
    assert len(checked.of(server, "port")) == len(PORTS)
