# SPDX-License-Identifier: GPL-3.0-or-later
"""Endless input neither exhausts the server's memory nor blocks other mail."""

from __future__ import annotations

import subprocess
import time

import pytest

from testbed import report, smtp
from testbed.containers import wait_for
from testbed.firewall import HOST, as_client, clients
from testbed.servers import STRANGER, Server, both

FLOODERS, OTHER = ["10.66.0.2", "10.66.0.3", "10.66.0.4"], "10.66.0.5"
MEMORY = 300 << 10  # kB
SOON = 60  # seconds
# Ten connections from each address, each with a message of 50 MB that never ends, at so many octets a second. Prints
# what they have sent so far, and ends with its input.
_FLOOD = r"""
import contextlib, os, smtplib, socket, sys, threading, time
host, recipient, speed, *sources = sys.argv[1:]
line = b"x" * 76 + b"\r\n"

def begun(source):
    session = smtplib.SMTP(host, 25, "flood.world.test", 60, (source, 0))
    session.ehlo()
    session.mail("flood@world.test")
    session.rcpt(recipient)
    assert session.docmd("DATA")[0] == 354
    session.send(b"Subject: flood\r\n\r\n")
    # Data in transit when this ends.
    session.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    session.sock.setblocking(False)
    return session.sock

sent = {begun(source): 0 for source in sources for _ in range(10)}
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
start, told = time.monotonic(), 0
while True:
    due = min(50_000_000, int(speed) * (time.monotonic() - start))
    for sender in sent:
        with contextlib.suppress(BlockingIOError):
            while sent[sender] < due:
                sent[sender] += sender.send((line * 200)[sent[sender] % len(line):])
    if sum(sent.values()) >= told + 10_000_000:
        told = sum(sent.values())
        print(told, flush=True)
    time.sleep(0.05)
"""
# A message, brought again and again until it is taken.
_OTHER = """
import smtplib, sys, time
host, source, sender, recipient, message = sys.argv[1:]
while True:
    try:
        with smtplib.SMTP(host, 25, "mx.world.test", 60, (source, 0)) as session:
            session.sendmail(sender, recipient, message)
            break
    except (OSError, smtplib.SMTPException) as error:
        print(error, flush=True)
        time.sleep(2)
"""


def memory(server: Server) -> int:
    """What the processes of OpenSMTPD and Rspamd have, in kB."""
    return int(server.sh("ps -eo unit:64=,rss= | awk '/^(opensmtpd|rspamd)/ {sum += $2} END {print sum}'"))


@pytest.mark.long
@pytest.mark.parametrize("speed", [200_000, 10**9], ids=["200 kB a second", "full speed"])
@both
def test_messages_that_never_end(server: Server, speed: int) -> None:
    server.run("systemctl", "restart", "opensmtpd")
    wait_for(lambda: server.sh("ss -Hltn 'sport = :25'"), what="OpenSMTPD listens")
    message, most = smtp.compose(STRANGER, [server.bob.address]), 0
    other = [HOST["ipv4"], OTHER, STRANGER, server.bob.address, smtp.wire(message).decode()]
    command = ["docker", "exec", "--interactive", server.container, "ip", "netns", "exec", "clients", "python3", "-c"]
    command += [_FLOOD, HOST["ipv4"], server.bob.address, str(speed), *FLOODERS]
    with clients(server.container, [*FLOODERS, OTHER]):
        before = memory(server)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as flood:
            assert flood.stdout
            for line in flood.stdout:
                most = max(most, memory(server) - before)
                # Twice as much as there is room for.
                if int(line) > 200_000_000:
                    break
            else:
                raise AssertionError("it has ended")
            begun = time.monotonic()
            as_client(server.container, _OTHER, *other)
            # Rspamd adds to the score of clients without a reverse name, so it may be in Junk.
            found = ["doveadm", "search", "-u", server.bob.address, "mailbox", "*", "header", "Message-ID"]
            found += [message["Message-ID"]]
            wait_for(lambda: server.run(*found), begun + SOON - time.monotonic(), "other mail has arrived")
        report.progress(f"{server.domain}, {speed} octets a second: {most >> 10} MB")
        # If they did not end, the server would wait for them.
        gone = "ss -Hnt 'sport = :25 and dst 10.66.0.0/24'"
        wait_for(lambda: not server.sh(gone), what="their connections have ended")
    assert most <= MEMORY, f"{most} kB"
