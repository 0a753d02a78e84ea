# SPDX-License-Identifier: GPL-3.0-or-later
"""Hostile clients do not stop the server: lines of any length, login names of any octets."""

from __future__ import annotations

import smtplib
from base64 import b64encode

import pytest

from testbed import smtp
from testbed.servers import STRANGER, Server, both

ANSWERED = 30  # seconds within which the server answers
# Around the limits of our filter (60 000), of filter-rspamd (a line and 81 octets in 65 535) and of OpenSMTPD (65 533).
EDGES = [60_000, 60_001, 65_000, 65_400, 65_454, 65_455, 65_460, 65_485, 65_486, 65_533, 65_534, 65_535, 65_600, 70_000]


def bring(server: Server, message: bytes, starttls: bool = False) -> tuple[int, bytes]:
    """The answer to a stranger's message at its end."""
    with smtplib.SMTP(server.ip, 25, timeout=ANSWERED, local_hostname=smtp.PEER) as session:
        session.ehlo()
        if starttls:
            session.starttls(context=smtp.tls())
            session.ehlo()
        session.mail(STRANGER)
        session.rcpt(server.alice.address)
        return session.data(message)


def check_long_line(server: Server, length: int, starttls: bool) -> None:
    """A line up to the filters' limit passes, a longer one is refused; the next sender is answered."""
    message = smtp.wire(smtp.compose(STRANGER, [server.alice.address]))
    answer = bring(server, message + b"x" * length + b"\r\n", starttls)
    if length <= 60_000:
        assert answer[0] == 250, (length, answer)
    elif length < 65_534:
        assert answer[0] == 554 and b"A line of the message is longer than" in answer[1], (length, answer)
    else:
        assert answer[0] == 500 and b"Line too long" in answer[1], (length, answer)
    # Rspamd refuses this one, so that it does not stay.
    spam = smtp.compose(STRANGER, [server.alice.address], body=f"A small message.\n\n{smtp.GTUBE}\n\nEnd.\n")
    code, text = bring(server, smtp.wire(spam))
    assert code == 550 and b"Gtube" in text, (length, code, text)


def check_long_lines(server: Server, lengths: list[int]) -> None:
    before = server.main_pid("opensmtpd")
    for starttls in (False, True):
        for length in lengths:
            check_long_line(server, length, starttls)
    assert server.main_pid("opensmtpd") == before, "OpenSMTPD was not restarted"


@both
def test_a_long_line_stops_nobody(server: Server) -> None:
    check_long_lines(server, EDGES)


@pytest.mark.long
@both
def test_every_length_of_a_line_around_the_limits(server: Server) -> None:
    check_long_lines(server, list(range(65_400, 65_601)))


@both
def test_lines_of_users_are_held_to_the_limit_of_a_message(server: Server) -> None:
    message = smtp.wire(smtp.compose(server.alice.address, [server.bob.address]))
    with smtp.login(server.ip, 465, server.alice.address, server.alice.password) as session:
        for length, wanted in ((65_500, 554), (998, 250), (999, 554)):
            session.mail(server.alice.address)
            session.rcpt(server.bob.address)
            assert session.data(message + b"x" * length + b"\r\n")[0] == wanted, length


@pytest.mark.parametrize("port", [465, 587])
@both
def test_a_login_name_of_any_octets_is_only_refused(server: Server, port: int) -> None:
    before = server.main_pid("opensmtpd")
    names = [
        b"a\nb",
        b"\n",
        b"a\r\nb",
        b"\r",
        b"a\tb",
        b"a b",
        b"a:b",
        b"a|b",
        b"\x01\x1b[2J\x7f",
        b"\xff\xfe",
        b"%s%n",
        b"0123456789abcdef|found|x\nsecond|line",
        b"n" * 200,
        server.alice.address.encode() + b"\n",
    ]
    session: smtplib.SMTP
    if port == 465:
        session = smtplib.SMTP_SSL(server.ip, port, timeout=ANSWERED, context=smtp.tls())
    else:
        session = smtplib.SMTP(server.ip, port, timeout=ANSWERED)
        session.starttls(context=smtp.tls())
    with session:
        session.ehlo()
        for name in names:
            code, text = session.docmd("AUTH PLAIN", b64encode(b"\0%b\0wrong" % name).decode())
            assert code == 535, (name, code, text)
        assert session.docmd("AUTH LOGIN", b64encode(b"a\nb").decode())[0] == 334
        assert session.docmd(b64encode(b"x\ny").decode())[0] == 535
    # Twice: a table program would have ended at the first of these.
    for _time in range(2):
        smtp.login(server.ip, port, server.alice.address, server.alice.password).quit()
    assert server.main_pid("opensmtpd") == before, "OpenSMTPD was not restarted"
