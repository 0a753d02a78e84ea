# SPDX-License-Identifier: GPL-3.0-or-later
"""Bans of addresses after failed logins."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence

import pytest

from testbed.containers import wait_for
from testbed.firewall import HOST, as_client, clients
from testbed.servers import SERVERS, Server, both, on_both

FIREWALL = "selfhosted-mail-nftables"
LOG = "/var/log/fail2ban.log"
FAILURES = 10  # as shipped
CLOSED = [465, 587, 993, 4190]
# Clients; molecule.yml names the trusted ones.
GUESSER, OTHER, TRUSTED = "10.66.0.242", "10.66.0.243", "10.66.0.254"
SPREAD = [f"2001:db8:66:1::{number:x}" for number in range(2, 12)]
NEIGHBOUR, OTHER_NETWORK = "2001:db8:66:1:ffff::1", "2001:db8:66:2::1"
TRUSTED_SIX, NOT_TRUSTED = "2001:db8:66:f::1", "2001:db8:66:f:1::1"
LASTING, LASTING_SIX = "10.66.0.244", "2001:db8:66:3::1"
AGAIN, AGAIN_SIX = "10.66.0.245", "2001:db8:66:4::1"
ADDRESSES = [GUESSER, OTHER, TRUSTED, *SPREAD, NEIGHBOUR, OTHER_NETWORK, TRUSTED_SIX, NOT_TRUSTED]
ADDRESSES += [LASTING, LASTING_SIX, AGAIN, AGAIN_SIX]
_CLIENT = r"""
import base64, imaplib, json, smtplib, socket, ssl, sys, threading
from concurrent.futures import ThreadPoolExecutor
host, user = sys.argv[1:3]
tls = ssl._create_unverified_context()
connect = socket.create_connection

def plain():
    return base64.b64encode(f"\0{user}\0a guess".encode()).decode()

def smtp(port):
    if port == 465:
        session = smtplib.SMTP_SSL(host, port, local_hostname="x.test", context=tls, timeout=60)
    else:
        session = smtplib.SMTP(host, port, local_hostname="x.test", timeout=60)
        session.starttls(context=tls)
    session.ehlo()
    assert session.docmd("AUTH", f"PLAIN {plain()}")[0] == 535
    session.close()

def imap(port):
    session = imaplib.IMAP4_SSL(host, port, ssl_context=tls, timeout=60)
    try:
        session.login(user, "a-guess")
    except imaplib.IMAP4.error:
        session.shutdown()
        return
    raise AssertionError

def sieve(port):
    def answered(file):
        while not (line := file.readline()).startswith((b"OK", b"NO")):
            assert line
        return line
    with socket.create_connection((host, port), 60) as stream:
        answered(stream.makefile("rb"))
        stream.sendall(b"STARTTLS\r\n")
        assert stream.recv(100).startswith(b"OK")
        with tls.wrap_socket(stream) as stream:
            file = stream.makefile("rb")
            answered(file)
            stream.sendall(f'AUTHENTICATE "PLAIN" "{plain()}"\r\n'.encode())
            assert answered(file).startswith(b"NO")

def answered(step):
    source, port, _what = step
    try:
        connect((host, port), 4, (source, 0)).close()
    except TimeoutError:
        return False
    return True

def from_there(address, timeout=60, source_address=None, **options):
    return connect(address, timeout, (there.source, 0))

def guess(step):
    there.source, port, _what = step
    try:
        {465: smtp, 587: smtp, 993: imap, 4190: sieve}[port](port)
    except OSError:
        pass  # shut out

steps = json.loads(sys.argv[3])
there = threading.local()
socket.create_connection = from_there
# A wrong password is answered late.
with ThreadPoolExecutor(16) as pool:
    list(pool.map(guess, (step for step in steps if step[2] == "guess")))
with ThreadPoolExecutor(16) as pool:
    print(json.dumps(list(pool.map(answered, (step for step in steps if step[2] == "connect")))))
"""


@pytest.fixture(scope="module", autouse=True)
def _addresses() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for server in SERVERS:
            stack.enter_context(clients(server.container, ADDRESSES))
        yield
    on_both(lambda server: server.run("fail2ban-client", "unban", "--all"))


def tried(server: Server, steps: Sequence[tuple[str, int, str]]) -> list[bool]:
    """Run steps (client, port, whether it guesses or connects); whether connecting clients got an answer."""
    host = HOST["ipv6" if ":" in steps[0][0] else "ipv4"]
    answers: list[bool] = json.loads(
        as_client(server.container, _CLIENT, host, server.alice.address, json.dumps(steps))
    )
    return answers


def guess(server: Server, sources: Sequence[str], ports: Sequence[int] = (465, 993), times: int = FAILURES) -> None:
    """Wrong passwords at the same time, from each of the sources and at each of the ports in turn."""
    steps = [(sources[number % len(sources)], ports[number % len(ports)], "guess") for number in range(times)]
    tried(server, steps)


def open_to(server: Server, source: str, *ports: int) -> list[int]:
    """The ports on which a client gets an answer, by default of the mail server's five."""
    ports = ports or (25, *CLOSED)
    answers = tried(server, [(source, port, "connect") for port in ports])
    return [port for port, answer in zip(ports, answers, strict=True) if answer]


def counted(server: Server) -> int:
    """Failed logins that fail2ban has seen since it was started."""
    return int(re.findall(r"Total failed:\s*(\d+)", server.run("fail2ban-client", "status", "selfhosted-mail"))[0])


def shown(source: str) -> str:
    """The name of a banned client in fail2ban: a /64 network by its groups."""
    return source if "." in source else ":".join(source.split(":")[:4])


def banned(server: Server) -> list[str]:
    return server.run("fail2ban-client", "get", "selfhosted-mail", "banip").split()


def wait_banned(server: Server, source: str) -> None:
    client = shown(source)
    wait_for(lambda: client in banned(server), what=f"{client} is banned")
    # fail2ban knows it first, and has its command run then.
    wait_for(lambda: not open_to(server, source, 465), what=f"{client} is shut out")


@both
def test_an_address_is_shut_out(server: Server) -> None:
    """Failures at OpenSMTPD and at Dovecot count together."""
    guess(server, [GUESSER], [465, 587, 465, 993, 465, 4190], FAILURES - 1)
    assert GUESSER not in banned(server)
    guess(server, [GUESSER], [587], 1)
    wait_banned(server, GUESSER)
    assert open_to(server, GUESSER) == [25]
    assert open_to(server, OTHER) == [25, *CLOSED]


@both
def test_how_long_is_as_documented(server: Server) -> None:
    """README: in 10 minutes, for 10 minutes, twice as long each time, up to a day."""
    for name, seconds in (("findtime", 600), ("bantime", 600), ("bantime.maxtime", 86400)):
        assert server.run("fail2ban-client", "get", "selfhosted-mail", name).split()[-1] == str(seconds)


@both
def test_a_network_of_ipv6_is_counted_and_shut_out(server: Server) -> None:
    guess(server, SPREAD, [465, 993, 587])
    wait_banned(server, SPREAD[0])
    for address in SPREAD[0], NEIGHBOUR:
        assert open_to(server, address) == [25]
    assert open_to(server, OTHER_NETWORK) == [25, *CLOSED]


@both
def test_who_is_trusted_never_is(server: Server) -> None:
    """Not even if its network is banned."""
    guess(server, [TRUSTED], times=FAILURES + 2)
    guess(server, [TRUSTED_SIX], times=FAILURES + 2)
    # Behind all of these in the journal.
    before = counted(server)
    guess(server, [OTHER], times=1)
    wait_for(lambda: counted(server) > before, what="the last one is counted")
    assert not {TRUSTED, shown(TRUSTED_SIX)} & set(banned(server))
    for address in TRUSTED, TRUSTED_SIX, NOT_TRUSTED:
        assert open_to(server, address) == [25, *CLOSED]
    guess(server, [NOT_TRUSTED])
    wait_banned(server, NOT_TRUSTED)
    assert open_to(server, TRUSTED_SIX) == [25, *CLOSED]


@both
def test_mail_status_never_is(server: Server) -> None:
    """It fails to log in twice each time."""
    before = counted(server)
    for _look in range(FAILURES // 2 + 1):
        server.run("/usr/local/sbin/mail-status")
    guess(server, [OTHER], times=1)
    wait_for(lambda: counted(server) > before, what="the last one is counted")
    assert counted(server) == before + 1
    assert not [client for client in banned(server) if client.startswith("127.")]


@pytest.mark.disruptive
@both
def test_a_ban_stays_and_can_be_lifted(server: Server) -> None:
    """Bans survive changes of the rules, and end open connections."""
    for address in LASTING, LASTING_SIX:
        guess(server, [address])
        wait_banned(server, address)
    nft = "import nftables; assert not nftables.Nftables().cmd('flush ruleset')[0]"
    for disturb in (
        ["python3", "-c", nft],
        ["systemctl", "reload", FIREWALL],
        ["systemctl", "restart", FIREWALL],
        ["systemctl", "kill", "--signal=KILL", FIREWALL],
    ):
        server.run(*disturb)
        wait_for(lambda: server.main_pid(FIREWALL), what="the holder is there")
        for address in LASTING, LASTING_SIX:
            assert open_to(server, address) == [25], disturb
    for address in LASTING, LASTING_SIX:
        assert server.run("fail2ban-client", "unban", shown(address)).strip() == "1"
        assert open_to(server, address) == [25, *CLOSED]


@pytest.mark.disruptive
@both
def test_the_next_ban_is_longer_and_outlives_fail2ban(server: Server) -> None:
    def seconds() -> int:
        rows = server.run("fail2ban-client", "get", "selfhosted-mail", "banip", "--with-time").splitlines()
        return int(next((row for row in rows if row.startswith(f"{AGAIN} ")), " + 0 =").split(" + ")[1].split()[0])

    def times() -> int:
        return server.run("cat", LOG).count(f"] Ban {AGAIN}\n")

    before = times()
    # fail2ban skips a ban that would already have expired.
    server.run("fail2ban-client", "set", "selfhosted-mail", "bantime", "30")
    try:
        guess(server, [AGAIN])
        wait_for(lambda: times() > before, what="the first ban")
        wait_for(lambda: AGAIN not in banned(server), what="its end")
    finally:
        server.run("fail2ban-client", "set", "selfhosted-mail", "bantime", "600")
    guess(server, [AGAIN])
    wait_banned(server, AGAIN)
    wait_for(lambda: seconds() == 1200, what="the second one is twice as long as shipped")
    guess(server, [AGAIN_SIX])
    wait_banned(server, AGAIN_SIX)
    server.run("systemctl", "restart", "fail2ban")
    wait_for(lambda: AGAIN in server.sh("fail2ban-client banned || true"), what="fail2ban is there again")
    for address in AGAIN, AGAIN_SIX:
        wait_banned(server, address)
