# SPDX-License-Identifier: GPL-3.0-or-later
"""Early refusals on port 25: our own names in HELO, sizes and counts above the limits."""

from __future__ import annotations

import smtplib
import socket
import time

import pytest

from testbed import containers, smtp
from testbed.firewall import HOST, as_client, clients

testinfra_hosts = ["docker://opensmtpd-debian12", "docker://opensmtpd-debian13"]


def greeted(address: str) -> smtplib.SMTP:
    session = smtplib.SMTP(address, 25, timeout=60, local_hostname=smtp.PEER)
    session.ehlo()
    return session


@pytest.mark.parametrize("verb", ["HELO", "EHLO"])
def test_our_own_name_and_addresses_in_helo(host, address, verb):
    hostname = host.check_output("cat /etc/mailname")
    for name in (hostname, hostname.upper(), address, f"[{address}]"):
        with smtplib.SMTP(address, 25, timeout=60) as session:
            code, text = session.docmd(verb, name)
            assert code == 550 and text.startswith(b"5.7.1 "), f"{name}: {code} {text!r}"
    # The reply to the host itself names where to submit mail.
    program = f"import smtplib; print(smtplib.SMTP('127.0.0.1', 25).docmd('{verb}', '{hostname}')[0])"
    assert host.check_output("python3 -c %s", program) == "250"
    for name in (smtp.PEER, f"sub.{hostname}", "[198.51.100.1]"):
        with smtplib.SMTP(address, 25, timeout=60) as session:
            assert session.docmd(verb, name)[0] == 250, name


def test_size_is_offered_and_an_announced_one_looked_at(address):
    with greeted(address) as session:
        limit = int(session.esmtp_features["size"])
        assert limit == 50 * 1024**2 + 65536
        for words in (f"SIZE={limit + 1}", f"BODY=8BITMIME size={limit}0", "SIZE=999999999999999999999999"):
            code, text = session.docmd(f"MAIL FROM:<bob@world.test> {words}")
            assert code == 552 and text.startswith(b"5.3.4 "), f"{words}: {code} {text!r}"
        # The session continues, and the previous announcement is forgotten.
        for words in (f"SIZE={limit}", "SIZE=0", "", "BODY=8BITMIME"):
            assert session.docmd(f"MAIL FROM:<bob@world.test> {words}".strip())[0] == 250, words
            session.rset()
        assert session.docmd("MAIL FROM:<bob|SIZE=99999999999@world.test>")[0] == 250


def test_what_was_not_announced_is_cut_off(host, address):
    with greeted(address) as session:
        session.mail("bob@world.test")
        assert session.rcpt("alice@our.test")[0] == 250
        session.docmd("DATA")
        assert session.sock is not None
        session.sock.settimeout(300)
        line = b"x" * 998 + b"\r\n"
        for _megabyte in range(52):
            session.sock.sendall(line * 1049)
        code, text = session.docmd(".")
        assert code in (552, 554) and text.startswith(b"5.3.4 ")
        # And nothing of it stays: not in the queue, not for the next message.
        session.mail("bob@world.test")
        assert session.rcpt("alice@our.test")[0] == 250
        message = smtp.compose("bob@world.test", ["alice@our.test"], body="x|y\n..\n.\n")
        assert session.data(smtp.wire(message))[0] == 250


def test_nobody_is_asked_out(address):
    with greeted(address) as session:
        for command in ("VRFY alice@our.test", "VRFY alice", "EXPN info@our.test"):
            assert 500 <= session.docmd(command)[0] < 600, command


def test_loops_end(address):
    hop = "Received: from a.world.test by b.world.test; Sun, 22 Nov 2026 10:00:00 +0000\r\n"
    wire = smtp.wire(smtp.compose("bob@world.test", ["alice@our.test"]))
    for count, wanted in ((20, 250), (101, 500)):
        with greeted(address) as session:
            session.mail("bob@world.test")
            session.rcpt("alice@our.test")
            code, text = session.data(hop.encode() * count + wire)
            assert code == wanted, f"{count} hops: {code} {text!r}"


def test_recipients_of_a_message(address):
    with greeted(address) as session:
        session.mail("bob@world.test")
        codes = [session.rcpt("alice@our.test")[0] for _number in range(501)]
    assert codes[:500] == [250] * 500
    assert codes[500] == 451


# As many connections as are taken, which stay open.
OPEN = """
import socket, sys
held = []
try:
    while len(held) < 40:
        held.append(socket.create_connection((sys.argv[1], 25), timeout=60))
except ConnectionRefusedError:
    print(len(held))
"""


def test_connections_of_an_address(host, container, address):
    with clients(container):
        assert as_client(container, OPEN, HOST["ipv4"]).strip() == "10"
    held = []
    try:
        with pytest.raises(ConnectionRefusedError):
            while len(held) < 40:
                held.append(socket.create_connection((address, 25), timeout=60))
        assert 5 <= len(held) <= 10
        # The host itself, and other ports, are not counted.
        host.check_output("python3 -c %s", "import socket; socket.create_connection(('127.0.0.1', 25), 5)")
        socket.create_connection((address, 465), timeout=60).close()
    finally:
        for connection in held:
            connection.close()
    end = time.monotonic() + containers.PATIENCE
    while True:
        try:
            greeted(address).close()
            return
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.5)
