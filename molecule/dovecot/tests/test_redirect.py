# SPDX-License-Identifier: GPL-3.0-or-later
"""Mail of Sieve scripts: redirected messages reach port 10026, and refused ones are not lost."""

from __future__ import annotations

import email
import json
import uuid
from collections.abc import Callable, Iterator
from email import policy
from email.message import EmailMessage

import pytest
from dovecot_host import ALICE, CAROL, lmtp
from testinfra.host import Host

from testbed import containers, imap, smtp
from testbed.containers import wait_for
from testbed.playbook import run_role

testinfra_hosts = ["docker://dovecot-debian12", "docker://dovecot-debian13"]

Redirected = Callable[[str], list[tuple[str, str, bytes]]]

# Instead of OpenSMTPD: accepts redirected mail, except for refused@, and for later@ while /root/closed exists.
PORT = r"""
import json, os, socketserver

class Session(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 here\r\n")
        for raw in self.rfile:
            line = raw.decode().strip()
            verb, answer = line[:4].upper(), "250 ok"
            if verb == "MAIL":
                sender = line.partition("<")[2].partition(">")[0]
            elif verb == "RCPT":
                recipient = line.partition("<")[2].partition(">")[0]
                if recipient.startswith("refused@"):
                    answer = "550 5.1.1 No such user"
                elif recipient.startswith("later@") and os.path.exists("/root/closed"):
                    answer = "451 4.3.0 Not now"
            elif verb == "DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = []
                while (line := self.rfile.readline()) != b".\r\n":
                    lines.append(line.removeprefix(b"."))
                with open("/root/redirected", "a") as kept:
                    print(json.dumps([sender, recipient, b"".join(lines).decode("latin-1")]), file=kept, flush=True)
            elif verb == "QUIT":
                answer = "221 bye"
            self.wfile.write(answer.encode() + b"\r\n")

socketserver.ThreadingTCPServer.allow_reuse_address = True
with socketserver.ThreadingTCPServer(("127.0.0.1", 10026), Session) as server:
    server.serve_forever()
"""


@pytest.fixture
def redirected(host: Host, container: str) -> Iterator[Redirected]:
    """`redirected(identity)`: sender, recipient and text of the received message with this Message-ID."""
    containers.write(container, "/root/port.py", PORT)
    host.check_output("touch /root/redirected; systemd-run --unit=redirects --quiet python3 /root/port.py")
    wait_for(lambda: "127.0.0.1:10026" in host.check_output("ss -Hltn"), what="the port for redirected mail")

    def redirected(identity: str) -> list[tuple[str, str, bytes]]:
        lines = host.check_output("cat /root/redirected").splitlines()
        kept = [(sender, recipient, text.encode("latin-1")) for sender, recipient, text in map(json.loads, lines)]
        return [one for one in kept if identity.encode() in one[2]]

    yield redirected
    host.check_output("systemctl stop redirects; rm -f /root/closed")


def compose(to: str = ALICE[0], **headers: str) -> EmailMessage:
    return smtp.compose("sender@world.test", [to], "Grüße \n", **headers)


def take(container: str, message: EmailMessage, to: str = ALICE[0], code: int = 250) -> str:
    answer = lmtp(container, smtp.wire(message), to)[to]
    assert answer[0] == code, answer
    return str(message["Message-ID"])


def copies(address: str, identity: str) -> int:
    """How many are in Alice's inbox."""
    return sum(identity.encode() in raw for raw in imap.messages(address, *ALICE))


@pytest.mark.parametrize("to", [ALICE[0], "alice+club@example.org"])
def test_redirected_as_it_came(
    container: str,
    address: str,
    redirected: Redirected,
    own_script: Callable[..., None],
    to: str,
) -> None:
    """In the account's envelope, under two lines of Pigeonhole's and those of the delivery."""
    own_script(ALICE, 'redirect "friend@far.test";\n')
    message = compose(to)
    [(envelope, recipient, raw)] = redirected(take(container, message, to))
    assert (envelope, recipient) == (to, "friend@far.test")
    assert raw.endswith(smtp.wire(message))
    first, second, *_rest = raw.splitlines()
    assert first.startswith(b"X-Sieve: Pigeonhole")
    assert second == f"X-Sieve-Redirected-From: {to}".encode()
    assert copies(address, str(message["Message-ID"])) == 0


def test_a_null_sender_stays_null(
    host: Host,
    container: str,
    redirected: Redirected,
    own_script: Callable[..., None],
) -> None:
    """So a report that cannot be redirected either causes no further one (RFC 5228 §4.2)."""
    own_script(ALICE, 'redirect "friend@far.test";\n')
    message = compose()
    containers.write(container, "/root/report", smtp.wire(message))
    host.check_output(
        "runuser -u vmail -- python3 -c 'import smtplib, sys; "
        'smtplib.LMTP("/run/dovecot/lmtp").sendmail("", [sys.argv[1]], sys.stdin.buffer.read())\' '
        f"{ALICE[0]} </root/report"
    )
    [(envelope, _recipient, _raw)] = redirected(str(message["Message-ID"]))
    assert envelope == ""


@pytest.mark.parametrize(("count", "sent", "kept"), [(4, 4, 0), (5, 0, 1)])
def test_four_at_most(
    container: str,
    address: str,
    redirected: Redirected,
    own_script: Callable[..., None],
    count: int,
    sent: int,
    kept: int,
) -> None:
    own_script(ALICE, "".join(f'redirect "friend{number}@far.test";\n' for number in range(count)))
    identity = take(container, compose())
    assert len(redirected(identity)) == sent
    assert copies(address, identity) == kept


def test_a_copy_stays(
    container: str,
    address: str,
    redirected: Redirected,
    own_script: Callable[..., None],
) -> None:
    own_script(ALICE, 'require "copy";\nredirect :copy "friend@far.test";\n')
    identity = take(container, compose())
    assert len(redirected(identity)) == 1
    assert copies(address, identity) == 1


def test_what_is_refused_stays(
    host: Host,
    container: str,
    address: str,
    redirected: Redirected,
    own_script: Callable[..., None],
) -> None:
    """Once, and at once."""
    own_script(ALICE, 'redirect "refused@example.org";\n')
    identity = take(container, compose())
    assert redirected(identity) == []
    assert copies(address, identity) == 1
    said = host.check_output("journalctl --sync; journalctl --no-pager --output=cat --identifier=submit-sieve-mail")
    assert "redirected message of alice@example.org to 'refused@example.org' refused: 550 5.1.1 No such user" in said


def test_what_waits_is_taken_later(
    host: Host,
    container: str,
    address: str,
    redirected: Redirected,
    own_script: Callable[..., None],
) -> None:
    """The MTA's queue keeps it meanwhile."""
    own_script(ALICE, 'redirect "later@far.test";\n')
    host.check_output("touch /root/closed")
    message = compose()
    take(container, message, code=451)
    host.check_output("systemctl stop redirects; rm /root/closed")
    take(container, message, code=451)
    host.check_output("systemd-run --unit=redirects --quiet python3 /root/port.py")
    wait_for(lambda: "127.0.0.1:10026" in host.check_output("ss -Hltn"), what="the port for redirected mail")
    assert len(redirected(take(container, message))) == 1
    assert copies(address, str(message["Message-ID"])) == 0


def test_what_comes_back_stays(
    container: str,
    address: str,
    redirected: Redirected,
    own_script: Callable[..., None],
) -> None:
    """Two accounts that redirect to each other cause no loop."""
    own_script(ALICE, 'redirect "friend@far.test";\n')
    identity = take(container, compose(X_Sieve_Redirected_From=ALICE[0]))
    assert redirected(identity) == []
    assert copies(address, identity) == 1


@pytest.fixture
def sendmail(host: Host, container: str) -> Iterator[None]:
    """Refuses all."""
    assert not host.file("/usr/sbin/sendmail").exists
    program = "#!/bin/sh\ncat >/dev/null\necho 'sendmail: alice may not send mail as bob' >&2\nexit 77\n"
    containers.write(container, "/usr/sbin/sendmail", program)
    host.check_output("chmod 755 /usr/sbin/sendmail")
    yield
    host.check_output("rm /usr/sbin/sendmail")


def test_the_owner_reads_why_an_answer_was_refused(
    container: str, address: str, sendmail: None, own_script: Callable[..., None]
) -> None:
    """Once for each sender who would have got an answer; the message itself is delivered."""
    # One of its own, as a run before may have answered.
    handle = uuid.uuid4().hex
    own_script(ALICE, f'require "vacation";\nvacation :handle "{handle}" :from "bob@example.net" "Away.";\n')
    before = copies(address, "Your automatic answer was refused")
    for _ in range(2):
        assert copies(address, take(container, compose())) == 1
    raw = [one for one in imap.messages(address, *ALICE) if b"Your automatic answer was refused" in one][-1]
    report = email.message_from_bytes(raw, policy=policy.default)
    assert report["From"].addresses[0].addr_spec == "postmaster@mail.example.org"
    assert "answered sender@world.test." in report.get_content()
    assert "sendmail: alice may not send mail as bob" in report.get_content()
    assert copies(address, "Your automatic answer was refused") == before + 1


def test_what_cannot_be_rejected_stays(
    container: str, address: str, sendmail: None, own_script: Callable[..., None]
) -> None:
    own_script(ALICE, 'require "reject";\nreject "No.";\n')
    identity = take(container, compose())
    assert copies(address, identity) == 1


def test_switched_off(
    host: Host,
    container: str,
    address: str,
    redirected: Redirected,
    own_script: Callable[..., None],
) -> None:
    """The message stays, and the user's log says why."""
    own_script(CAROL, 'redirect "friend@far.test";\n')
    run_role(container, variables={"dovecot_redirect": False})
    try:
        identity = take(container, compose(CAROL[0]), CAROL[0])
        imap.wait_message(address, *CAROL, identity)
        assert redirected(identity) == []
        log = host.check_output("cat /var/vmail/example.org/carol/.dovecot.sieve.log")
        assert "prohibits the use of a redirect" in log
    finally:
        run_role(container)
