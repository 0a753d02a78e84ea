# SPDX-License-Identifier: GPL-3.0-or-later
"""Authors: on every route a message has an address of its author in From, or is refused at once."""

from __future__ import annotations

import imaplib
import random
import re
import smtplib
import uuid
from email import message_from_bytes, policy
from email.utils import parseaddr

import pytest

from testbed import imap, provider, smtp
from testbed.containers import PATIENCE, docker, wait_for
from testbed.servers import FRIEND, RELAY, Login, Server, both, check_relayed, on_both
from testbed.signatures import author, fields


def hand_in(server: Server, login: Login, head: str, sender: str | None = None, to: str = FRIEND) -> str:
    """Submit a message with this header on 465; returns its marker. Raises smtplib's errors."""
    marker = f"{uuid.uuid4()}@test"
    text = f"{head}Subject: x\r\nMessage-ID: <{marker}>\r\n\r\nHello.\r\n"
    envelope = login.address if sender is None else sender
    smtp.submit(server.ip, login.address, login.password, envelope, [to], text.encode(), 465)
    return marker


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("From: {bob}", "{alice} may not send mail as {bob}. Choose one of your own addresses"),
        ("From: ceo@bank.test", "{alice} may not send mail as ceo@bank.test"),
        ("From: {alice}, {bob}", "{alice} may not send mail as {bob}"),
        ("From: {alice}, ceo@bank.test", "names authors of several domains"),
        ("From: {alice}\r\nFrom: {alice}", "several From lines"),
        ("X: y", "no From line"),
        ("From: alice", "cannot be read"),
        ("From: alice@fa\u00df.{domain}", "may not send mail as alice@xn--fa-hia."),
        ("From: <{alice}\u200b>", "cannot be read"),
        ("From: al\u0131ce@{domain}", "cannot be read"),
        ('From: "{bob}" <{alice}>', "shows {bob}"),
        ("From: =?utf-8?b?PGNlbz4=?= =?utf-8?q?{quoted}?= <{alice}>", "shows {bob}"),
        ("From: =?utf-8?q?a=0D=0Ab?= <{alice}>", "control characters"),
        ("From: {alice}\r\nSender: {bob}", "shows {bob}"),
        ("From: root@{host}", "{alice} may not send mail as root@{host}"),
    ],
)
@both
def test_an_author_who_is_not_the_logins_is_refused_at_once(server: Server, field: str, words: str) -> None:
    names = {
        "alice": server.alice.address,
        "bob": server.bob.address,
        "domain": server.domain,
        "host": server.hostname,
        "quoted": server.bob.address.replace("@", "=40"),
    }
    for sender in (None, ""):
        with pytest.raises(smtplib.SMTPDataError) as refused:
            hand_in(server, server.alice, field.format(**names) + "\r\n", sender)
        code, text = refused.value.smtp_code, bytes(refused.value.smtp_error).decode()
        assert 550 <= code < 560 and words.format(**names) in text, text


@both
def test_a_sender_who_is_not_the_logins_is_refused_at_once(server: Server) -> None:
    with smtp.login(server.ip, 465, server.alice.address, server.alice.password) as session:
        for sender in (server.bob.address, "ceo@bank.test", f"root@{server.hostname}"):
            code, text = session.mail(sender)
            assert code == 550 and f"{server.alice.address} may not send mail as {sender}" in text.decode()


@both
def test_a_read_receipt_has_the_null_sender(server: Server) -> None:
    """RFC 8098 section 3."""
    marker = hand_in(server, server.alice, f"From: {server.alice.address}\r\nTo: {FRIEND}\r\n", "")
    kept = provider.wait_kept(RELAY, marker)
    assert kept.sender == ""
    check_relayed(server, kept)
    assert not re.search(rb"auth=yes|user=alice", kept.raw)


SPELLINGS = {
    "{a} <{a}>": "{a}",
    '"{a}" <{a}>': "{a}",
    "Dr. A. B. <{a}>": "Dr. A. B.",
    "Last, First <{a}>": "Last, First",
    "[Shop] A <{a}>": "[Shop] A",
    "A; Sales <{a}>": "A; Sales",
    "A < {a} >": "A",
    "=?utf-8?q?B=C3=BCro=2C?= A <{a}>": "Büro, A",
    "A <{upper}>": "A",
    "{a} (A)": "",
    "<{a}>": "",
    "=?iso-8859-1?Q?Doe,_Alice;_B=FCro?= <{a}>": "Doe, Alice; Büro",
    "Alice: Sales <{a}>": "Alice: Sales",
    '"Alice \\\\ \\"A\\"" <{a}>': 'Alice \\ "A"',
}


@both
def test_spellings_of_from_leave_signed(server: Server) -> None:
    address = server.alice.address
    wanted = {}
    for spelling, name in SPELLINGS.items():
        words = {"a": address, "upper": address.upper()}
        wanted[hand_in(server, server.alice, f"From: {spelling.format(**words)}\r\nTo: {FRIEND}\r\n")] = name.format(
            **words
        )
    for marker, name in wanted.items():
        kept = provider.wait_kept(RELAY, marker)
        check_relayed(server, kept)
        [mailbox] = kept.message["From"].addresses
        assert (mailbox.display_name, mailbox.addr_spec.lower()) == (name, address), kept.raw


@both
def test_a_recipient_with_a_comma_stays_one(server: Server) -> None:
    head = (
        f"From: {server.alice.address}\r\nTo: Doe, Jane <{FRIEND}>\r\nCc: [Shop] B <b@far.test>\r\nSubject : spaced\r\n"
    )
    kept = provider.wait_kept(RELAY, hand_in(server, server.alice, head))
    check_relayed(server, kept)
    assert [str(mailbox) for mailbox in kept.message["To"].addresses] == [f'"Doe, Jane" <{FRIEND}>']
    assert [str(mailbox) for mailbox in kept.message["Cc"].addresses] == ['"[Shop] B" <b@far.test>']
    assert "spaced" in fields(kept.raw, "Subject")


@pytest.fixture(scope="module")
def mallory() -> None:
    """A user of the hosts without rights."""
    on_both(lambda server: server.run("sh", "-c", "id mallory || useradd --no-create-home mallory"))


@pytest.mark.parametrize("user", ["mallory", "nobody", "www-data"])
@both
def test_users_of_the_host_are_no_accounts(server: Server, mallory: None, user: str) -> None:
    """Not by an option of MAIL in the sender, nor by a header that two programs read differently."""
    ceo, markers = server.alice.address, []
    own = f"{user}@{server.hostname}"
    for sender, head in [
        (f"{user}+:{ceo}> SIZE=1@{server.hostname}", f"X-Note: a\rb\nFrom: The CEO <{ceo}>\n"),
        (f"{user}+:root@{server.hostname}", f"From: {ceo}\n"),
        (own, f"X-Note: a\rb\nFrom: The CEO <{ceo}>\n"),
        (own, f"From: {own}\nFrom: {ceo}\n"),
        (own, f'From: "{ceo}" <{own}>\n'),
        (own, f"From: {own}, {ceo}\n"),
        (ceo, f"From: {ceo}\n"),
        ("", f"From: {ceo}\n"),
        (f"{ceo}\r\nMAIL FROM:<{ceo}", f"From: {ceo}\n"),
    ]:
        markers.append(f"invoice {uuid.uuid4()}")
        words = [
            "exec",
            "--interactive",
            "--user",
            user,
            server.container,
            "/usr/sbin/sendmail",
            "-i",
            "-f",
            sender,
            FRIEND,
        ]
        with pytest.raises(AssertionError, match="sendmail: "):
            docker(*words, data=f"{head}To: {FRIEND}\nSubject: invoice\n\n{markers[-1]}\n".encode())
    server.settle()
    assert [kept for kept in provider.kept(RELAY) if any(marker.encode() in kept.raw for marker in markers)] == []


@both
def test_who_is_the_systems_user(server: Server, mallory: None) -> None:
    """Uids below 1000, without nobody and systemd's dynamic users, may send as root at the host."""
    root = f"root@{server.hostname}"
    message = f"From: {root}\nTo: {FRIEND}\nSubject: x\n\n{{}}\n"
    marker = f"by the system {uuid.uuid4()}"
    server.sendmail(message.format(marker), "-t", user="www-data")
    check_relayed(server, provider.wait_kept(RELAY, marker))
    for user in ("mallory", "nobody"):
        with pytest.raises(AssertionError, match=f"{user} may not send mail as {root}"):
            server.sendmail(message.format("x"), "-t", user=user)
    dynamic = "systemd-run --quiet --pipe --wait --collect -p DynamicUser=yes -p User=made-up"
    program = f'{dynamic} sh -c \'printf "%b" "$0" | sendmail -t\''
    text = message.format("x").replace("\n", "\\n")
    with pytest.raises(AssertionError, match=r"may not send mail as|has no user name"):
        server.run("sh", "-c", f"{program} '{text}'")


# Sends commands to port 10025 that sendmail would not; prints the last reply.
CLIENT = r"""
import smtplib, sys
port, sender, recipient, author, marker = sys.argv[1:]
with smtplib.SMTP("127.0.0.1", int(port), timeout=20) as session:
    session.ehlo()
    try:
        session.sendmail(sender, [recipient], f"From: {author}\r\nTo: {recipient}\r\nSubject: x\r\n\r\n{marker}\r\n")
        print("taken")
    except smtplib.SMTPException as error:
        print("refused", error)
"""


@both
def test_without_sendmail_the_same_holds(server: Server, mallory: None) -> None:
    own, ceo = f"mallory@{server.hostname}", server.alice.address
    marker = f"by hand {uuid.uuid4()}"
    assert server.python(CLIENT, "10025", own, FRIEND, own, marker, user="mallory").startswith("taken")
    check_relayed(server, provider.wait_kept(RELAY, marker))
    for sender, written in [(ceo, ceo), (own, ceo), ("", ceo), (f"root@{server.hostname}", own)]:
        answer = server.python(CLIENT, "10025", sender, FRIEND, written, "x", user="mallory")
        assert answer.startswith("refused"), (sender, written, answer)
    with pytest.raises(AssertionError):
        server.python(CLIENT, "10026", ceo, FRIEND, ceo, "x", user="mallory")


@both
def test_the_signing_proxy_judges_again(server: Server) -> None:
    """Mail on this port has not passed OpenSMTPD's filters."""
    alice, bob = server.alice.address, server.bob.address
    for sender, written in [
        (alice, bob),
        (alice, f"root@{server.hostname}"),
        ("", alice),
        (f"root@{server.hostname}", bob),
    ]:
        answer = server.python(CLIENT, "10027", sender, FRIEND, written, "x", user="root")
        assert answer.startswith("refused") and "550" in answer, (sender, written, answer)
    assert server.python(CLIENT, "10027", alice, FRIEND, alice, "x", user="root") == "taken\n"


@both
def test_filters_have_no_rights_of_the_mail_server(server: Server) -> None:
    for name in ("filter-message", "filter-rspamd", "filter-space"):
        pids = server.run("pgrep", "-f", name).split()
        users = {server.run("ps", "-o", "user=", "-p", pid).strip() for pid in pids}
        assert users == {"mailfilter"}, (name, users)
        # It has users' mail in its memory, which is not for the others.
        if name == "filter-message":
            with pytest.raises(AssertionError, match="Permission denied"):
                server.run("head", "-c", "1", f"/proc/{pids[0]}/environ", user="mailfilter")
    for path in ("/etc/selfhosted-mail/credentials", "/etc/selfhosted-mail/passwd", "/etc/opensmtpd/relay_credentials"):
        with pytest.raises(AssertionError, match="Permission denied"):
            server.run("cat", path, user="mailfilter")
    for port in (10027, 10028):
        with pytest.raises(AssertionError, match="refused"):
            server.python(f"import socket; socket.create_connection(('127.0.0.1', {port}), 20)", user="mailfilter")


@both
def test_who_reads_passwords_cannot_write_them(server: Server) -> None:
    for path in ("/etc/selfhosted-mail/credentials", "/etc/selfhosted-mail/passwd"):
        assert server.run("stat", "-c", "%U %a", path).split() == ["root", "440"]


@both
def test_root_alone_runs_smtpctl(server: Server, mallory: None) -> None:
    """Its group may write to OpenSMTPD's offline queue."""
    assert server.run("stat", "-c", "%U %a", "/usr/sbin/smtpctl").split() == ["root", "2750"]
    with pytest.raises(AssertionError, match="ermission denied"):
        server.run("sh", "-c", "/usr/sbin/smtpctl show queue", user="mallory")


ATOMS = [
    "{alice}", "{bob}", "alice", "<{alice}>", "<{bob}>", "< {alice} >", "Doe", "Jane", '"Doe, Jane"', '"{bob}"',
    "({bob})", "=?utf-8?q?B=C3=BCro?=", "=?utf-8?q?{bob_q}?=", "=?utf-8?b?PGNlb0B4Pg==?=", "[Shop]", "Team:", ";", ",",
    ",", ".", "\\", '"', "(", ")", "A.", "@", "<", ">", "{alias}", "Ä", "ceo@bank.test", "{alice_upper}", "\t", "\r\n ",
]  # fmt: skip


def shown(raw: bytes) -> set[str]:
    """The authors whom Python's parser shows."""
    [field] = message_from_bytes(raw, policy=policy.default).get_all("From") or [None]
    return {mailbox.addr_spec.lower() for mailbox in field.addresses} if field else set()


def envelope(server: Server, login: Login, marker: str) -> set[str]:
    """The authors whom Dovecot's ENVELOPE shows (RFC 3501 section 7.4.2)."""
    with imap.session(server.ip, login.address, login.password) as box:
        [data] = box.fetch(find(box, marker).split()[-1], "(ENVELOPE)")[1]
    text = data if isinstance(data, bytes) else b"".join(data)
    # Date and subject, then From: a list of (name route mailbox host).
    after = re.sub(rb'^.*?ENVELOPE \((?:NIL|"(?:[^"\\]|\\.)*") (?:NIL|"(?:[^"\\]|\\.)*") ', b"", text, flags=re.DOTALL)
    quoted = rb'(?:NIL|"(?:[^"\\]|\\.)*"|\{\d+\}\r\n.*?)'
    boxes = re.match(rb"\((\(%b %b %b %b\))+\)" % ((quoted,) * 4), after, re.DOTALL)
    assert boxes, text
    pairs = re.findall(rb'"((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)"\)', boxes[0])
    return {b"@".join(pair).decode().lower() for pair in pairs}


def find(box: imaplib.IMAP4, marker: str) -> bytes:
    """Numbers of the messages of INBOX with this Message-ID."""
    box.select("INBOX", readonly=True)
    found: bytes = box.search(None, "HEADER", "Message-ID", marker)[1][0]
    return found


@both
def test_what_is_signed_shows_one_author_to_all(server: Server) -> None:
    """Random fields: two independent parsers show only the login's own addresses."""
    chance = random.Random(f"{server.domain} 1")
    alice, own = server.alice, {server.alice.address, f"a.liddell@{server.domain}", f"alice@{server.additional_domain}"}
    names = {
        "alice": alice.address,
        "alias": f"a.liddell@{server.domain}",
        "alice_upper": alice.address.upper(),
        "bob": server.bob.address,
        "bob_q": server.bob.address.replace("@", "=40"),
    }
    taken, refused = [], 0
    with smtp.login(server.ip, 465, alice.address, alice.password) as session:
        for number in range(90):
            words = [chance.choice(ATOMS).format(**names) for _ in range(chance.randint(1, 5))]
            field = " ".join(words) if chance.random() < 0.8 else "".join(words)
            if chance.random() < 0.5:
                field += f" <{alice.address}>"
            sender = chance.choice(["", alice.address, names["alias"]])
            marker = f"{uuid.uuid4()}-{number}@test"
            text = f"From: {field}\r\nMessage-ID: <{marker}>\r\nSubject: x\r\n\r\nx\r\n"
            try:
                session.sendmail(sender, [server.bob.address], text.encode())
                taken.append((marker, field))
            except smtplib.SMTPDataError as error:
                assert 550 <= error.smtp_code < 560, (field, error)
                refused += 1
    assert len(taken) > 10 and refused > 10, (len(taken), refused)
    server.settle(PATIENCE)
    with imap.session(server.ip, server.bob.address, server.bob.password) as box:
        for marker, field in taken:
            wait_for(
                lambda marker=marker: (
                    (box.select("INBOX"), box.search(None, "HEADER", "Message-ID", marker)[1][0])[1] or None
                ),
                what=f"{field!r} is delivered",
            )
            number = find(box, marker).split()[-1]
            [(_head, raw), *_rest] = box.fetch(number, "(BODY.PEEK[HEADER])")[1]
            assert shown(raw) <= own and shown(raw), (field, raw)
            assert envelope(server, server.bob, marker) <= own, (field, raw)
            assert parseaddr(fields(raw, "From")[0])[1].lower() in own or len(shown(raw)) > 1, (field, raw)
            assert fields(raw, "DKIM-Signature"), (field, raw)
    assert author(raw)
