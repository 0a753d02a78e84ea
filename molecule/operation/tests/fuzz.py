# SPDX-License-Identifier: GPL-3.0-or-later
"""Generates thousands of real dialogues with errors from a seed."""

from __future__ import annotations

import random
import socket
import subprocess
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from testbed import smtp
from testbed.servers import FRIEND, STRANGER, Login, Server

SILENCE = 0.3  # seconds after which the next part is sent, answered or not
HANGS = 60  # seconds for a command of the host
TOKENS = [
    b"\0", b"\r", b"\n", b"\r\n", b"\r\n.\r\n", b"\n.\n", b"|", b"'", b'"', b"\\", b"<", b">", b"@", b":", b",",
    b"+", b"%s%n", b"{", b"}", b"{5+}\r\n", b"{99999999999}\r\n", b"(", b")", b"*", b"\t", b" ", b"..",
    b"../../etc/passwd", b"$(id)", b"`id`", b"\x1b[2J", b"\x7f", b"\xff\xfe", b"\xc0\x80",
    "\u00e9\u202e".encode(), b"=?utf-8?b?AA==?=", b"xn--", b"-1", b"4294967296", b" SIZE=18446744073709551616",
    b" AUTH=<>", b"RSET\r\n", b"STARTTLS\r\n", b"AUTH PLAIN AGEKYgB4\r\n", b"BDAT 5 LAST\r\nabcde",
    b"Content-Type: multipart/mixed; boundary=\"\"\r\n", b"Received: x\r\n", b"From: a@b\r\n", b"A" * 1000,
    b"A" * 65_000, b"a@" * 500,
]  # fmt: skip
MESSAGE = """\
From: Somebody <{sender}>
To: {recipient}
Subject: =?utf-8?q?Fuzz=C3=A9?= and more
Date: Sat, 28 Nov 2026 12:00:00 +0000
Message-ID: <fuzz@world.test>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="x y"

--x y
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

Hello=20there
..
--x y
Content-Type: application/octet-stream; name="a.bin"
Content-Transfer-Encoding: base64

AAECAwQ=
--x y--
.
"""


@dataclass(frozen=True)
class Dialogue:
    """A client's dialogue with a port, in the parts that get an answer. ``starttls``: the parts before TLS."""

    port: int
    said: tuple[bytes, ...]
    starttls: bytes = b""
    tls: bool = False


def _plain(login: Login) -> bytes:
    return b64encode("\0".join(["", login.address, login.password]).encode())


def _message(sender: str, recipient: str) -> bytes:
    return MESSAGE.format(sender=sender, recipient=recipient).replace("\n", "\r\n").encode()


def dialogues(server: Server) -> list[Dialogue]:
    """Valid dialogues; ``quinn`` is the login."""
    quinn, alice = server.quinn, server.alice.address
    user, password = quinn.address.encode(), quinn.password.encode()
    world = (
        f"MAIL FROM:<{STRANGER}> SIZE=900 BODY=8BITMIME\r\n".encode(),
        f"RCPT TO:<{alice}>\r\n".encode(),
        b"RCPT TO:<away@%s> NOTIFY=NEVER\r\n" % server.domain.encode(),
        b"DATA\r\n",
        _message(STRANGER, alice),
        b"RSET\r\n", b"NOOP x\r\n", b"VRFY root\r\n", b"HELP\r\n", b"QUIT\r\n",
    )  # fmt: skip
    mine = (
        b"MAIL FROM:<%s>\r\n" % user,
        f"RCPT TO:<{FRIEND}>\r\n".encode(),
        b"DATA\r\n",
        _message(quinn.address, FRIEND),
        b"QUIT\r\n",
    )
    hello, auth = b"EHLO client.world.test\r\n", b"AUTH PLAIN %s\r\n" % _plain(quinn)
    words = (b"AUTH LOGIN\r\n", b64encode(user) + b"\r\n", b64encode(password) + b"\r\n")
    append = _message(STRANGER, alice)
    script = (
        b'require ["fileinto", "vacation"];\r\nvacation "away";\r\nif header :contains "Subject" "x" {fileinto "X";}'
    )
    return [
        Dialogue(25, (b"HELO peer.world.test\r\n", *world)),
        Dialogue(25, (hello, *world), starttls=b"EHLO x.test\r\nSTARTTLS\r\n"),
        Dialogue(465, (hello, auth, *mine), tls=True),
        Dialogue(465, (hello, *words, *mine), tls=True),
        Dialogue(993, (
            b"a LOGIN {%d+}\r\n%s {%d+}\r\n%s\r\n" % (len(user), user, len(password), password),
            b"b SELECT INBOX\r\n", b"c APPEND Fuzz (\\Seen) {%d+}\r\n%s\r\n" % (len(append), append),
            b'd LIST "" "*"\r\n',
            b"e FETCH 1:* (FLAGS ENVELOPE BODYSTRUCTURE BODY.PEEK[HEADER])\r\n",
            b'f SEARCH OR SUBJECT "x" BODY "y"\r\n',
            b"g UID STORE 1:* +FLAGS (\\Flagged x)\r\n", b"h IDLE\r\n", b"DONE\r\n", b"i LOGOUT\r\n",
        ), tls=True),
        Dialogue(993, (b"a AUTHENTICATE PLAIN\r\n", _plain(quinn) + b"\r\n", b"b NOOP\r\n", b"c LOGOUT\r\n"), tls=True),
        Dialogue(4190, (
            b'AUTHENTICATE "PLAIN" "%s"\r\n' % _plain(quinn), b"LISTSCRIPTS\r\n",
            b'PUTSCRIPT "fuzz" {%d+}\r\n%s\r\n' % (len(script), script),
            b"CHECKSCRIPT {5+}\r\nkeep;\r\n", b'HAVESPACE "x" 99\r\n',
            b'GETSCRIPT "fuzz"\r\n', b"LOGOUT\r\n",
        ), starttls=b"STARTTLS\r\n"),
    ]  # fmt: skip


def _wrong(chance: random.Random, text: bytes) -> bytes:
    """The text with one error."""
    at, end = sorted(chance.choices(range(len(text) + 1), k=2))
    match chance.randrange(6):
        case 0:
            return text[:at] + chance.choice(TOKENS) + text[at:]
        case 1:
            return text[:at] + chance.choice(TOKENS) + text[end:]
        case 2:
            return text[:at] + text[end:]
        case 3:
            return text[:at] + text[at:end] * chance.choice([2, 3, 100]) + text[end:]
        case 4:
            return text[:at] + bytes([chance.randrange(256)]) + text[at + 1 :]
        case _:
            return text.swapcase()


def mutated(chance: random.Random, said: Sequence[bytes]) -> list[bytes]:
    """The dialogue with one to four errors, in its parts or their order."""
    left = list(said)
    for _mistake in range(chance.randint(1, 4)):
        at = chance.randrange(len(left))
        match chance.randrange(10):
            case 0 if len(left) > 1:
                del left[at]
            case 1:
                left.insert(at, chance.choice(left))
            case 2:
                left[at : at + 2] = [b"".join(left[at : at + 2])]
            case 3:
                left = left[: at + 1]
            case _:
                left[at] = _wrong(chance, left[at])
    return left


def _answer(connection: socket.socket) -> bytes | None:
    """None when it is closed."""
    try:
        return connection.recv(1 << 16) or None
    except TimeoutError:
        return b""


def play(server: Server, dialogue: Dialogue, said: Sequence[bytes]) -> None:
    """Send it until the server closes the connection. Raises OSError if there is no server."""
    connection = socket.create_connection((server.ip, dialogue.port), timeout=HANGS)
    try:
        if dialogue.starttls:
            for line in dialogue.starttls.splitlines(keepends=True):
                connection.recv(1 << 16)
                connection.sendall(line)
            connection.recv(1 << 16)
        if dialogue.tls or dialogue.starttls:
            connection = smtp.tls().wrap_socket(connection)
        connection.settimeout(SILENCE)
        for one in said:
            if _answer(connection) is None:
                return
            connection.sendall(one)
        _answer(connection)
    except OSError:
        pass  # it has the right to go
    finally:
        connection.close()


def call_sendmail(server: Server, chance: random.Random) -> None:
    """Run it as a user of the host. AssertionError if it does not end."""
    me, to = f"nobody@{server.hostname}", server.alice.address
    right = [b"-i", b"-f", me.encode(), b"-F", b"No Body", b"--", to.encode()]
    arguments = [word.replace(b"\0", b"")[:9000] for word in mutated(chance, right)]
    text = b"".join(mutated(chance, [_message(me, FRIEND)]))
    command = [*f"docker exec -i -u nobody {server.container} /usr/sbin/sendmail".split(), *arguments]
    try:
        subprocess.run(command, input=text, capture_output=True, timeout=HANGS, check=False)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"sendmail hangs: {arguments}") from None


def inputs(server: Server, seed: str, count: int) -> list[Callable[[], None]]:
    """This many functions, each to be called once."""
    chance = random.Random(seed)
    right = dialogues(server)

    def one() -> Callable[[], None]:
        own = random.Random(chance.random())
        if own.random() < 0.1:
            return lambda: call_sendmail(server, own)
        dialogue = own.choice(right)
        said = mutated(own, dialogue.said)
        return lambda: play(server, dialogue, said)

    return [one() for _number in range(count)]
