# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits of submission: floods, password guessing, and recipients per hour of an account."""

import contextlib
import json
import smtplib
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from testbed import containers, smtp
from testbed.containers import wait_for
from testbed.firewall import HOST, as_client, check_limits, clients

testinfra_hosts = ["docker://opensmtpd-debian12", "docker://opensmtpd-debian13"]
MX = "opensmtpd-mx"


@pytest.mark.parametrize(("port", "family"), [(465, "ipv6"), (587, "ipv4")])
def test_connections_of_an_address(container, port, family):
    with clients(container):
        check_limits(container, port, family)


# Segments with a wrong checksum, of 1440 octets with their IPv6 header: the kernel counts those that pass the firewall.
SEGMENTS = """
import socket, struct, sys
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
segment = struct.pack("!HHIIBBHHH", 2525, port, 1, 1, 5 << 4, 0x10, 1024, 0, 0) + bytes(1380)
with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
    raw.connect((host, 0))
    for _ in range(count):
        raw.send(segment)
"""


def test_what_comes_faster_than_the_rate_is_dropped(host, container):
    count = 4000  # twice as much as 2 MB, and more

    def counted():
        names, numbers = (line.split() for line in host.check_output("grep ^Tcp: /proc/net/snmp").splitlines())
        return int(numbers[names.index("InCsumErrors")])

    def passed(port):
        before = counted()
        as_client(container, SEGMENTS, HOST["ipv6"], str(port), str(count))
        return counted() - before

    with clients(container):
        assert passed(26) == count
        # All pass where the machine was slower than the rate.
        wait_for(lambda: passed(25) < count, what="port 25 takes less")


# Waits with a session on 465 until it is told to go on, and logs in; then names a recipient on port 25.
ELSEWHERE = """
import smtplib, ssl, sys
host, login, password = sys.argv[1:]
context = ssl._create_unverified_context()
with smtplib.SMTP_SSL(host, 465, context=context, timeout=60) as users, smtplib.SMTP(host, 25, timeout=60) as world:
    users.ehlo(), world.ehlo()
    print("ready", flush=True)
    sys.stdin.readline()
    print(users.login(login, password)[0], world.mail("bob@world.test")[0], world.rcpt(login)[0], flush=True)
"""


def test_who_guesses_waits_and_nobody_else(host, address):
    def guess(session):
        with pytest.raises(smtplib.SMTPAuthenticationError):
            session.login("bob@our.test", "wrong")

    with contextlib.ExitStack() as stack:
        sessions = [
            stack.enter_context(smtplib.SMTP_SSL(address, 465, context=smtp.tls(), timeout=containers.PATIENCE))
            for _ in range(9)
        ]
        for session in sessions:
            session.ehlo()
        command = ["docker", "exec", "-i", MX, "python3", "-c", ELSEWHERE, address, "bob@our.test", "bobs-password"]
        elsewhere = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        assert elsewhere.stdout.readline() == "ready\n"
        with ThreadPoolExecutor(len(sessions)) as pool:
            guesses = [pool.submit(guess, session) for session in sessions]
            wait_for(lambda: any(one.done() for one in guesses), what="the first guess is answered")
            elsewhere.stdin.write("\n")
            elsewhere.stdin.flush()
            assert elsewhere.stdout.readline() == "235 250 250\n"
            # One a second is checked of the address.
            assert not all(one.done() for one in guesses)
            for one in guesses:
                one.result()


# From another address: a message that fits into the remaining memory.
SMALL = """
import smtplib, sys
with smtplib.SMTP(sys.argv[1], 25, timeout=60) as session:
    session.ehlo()
    session.mail("bob@world.test")
    session.rcpt("alice@our.test")
    print(session.data(b"Subject: x\\r\\n\\r\\n" + b"y" * 70 + b"\\r\\n")[0])
"""


def begun(address):
    """A message under way on port 25."""
    session = smtplib.SMTP(address, 25, timeout=containers.PATIENCE, local_hostname=smtp.PEER)
    session.ehlo()
    session.mail("bob@world.test")
    assert session.rcpt("alice@our.test")[0] == 250
    assert session.docmd("DATA")[0] == 354
    session.send(b"Subject: x\r\n\r\n")
    return session


@pytest.mark.long
def test_what_is_on_its_way_has_bounds(address):
    """Short lines take the most memory for the least that is sent: one address may have 133 MB, of which each takes 112
    octets."""

    def answer(count):
        with begun(address) as session:
            session.send(b"\r\n" * count + b".\r\n")
            code, text = session.getreply()
            return code, text[:6]

    with begun(address) as session:
        session.send(b"\r\n" * 1_150_000)
        wait_for(lambda: answer(100_000) == (452, b"4.3.1 "), 2 * containers.PATIENCE, "there is no room")
        assert containers.run(MX, "python3", "-c", SMALL, address).strip() == "250"
        session.sock.shutdown(socket.SHUT_RDWR)
        session.close()
    # Aborted messages free their memory.
    assert answer(100_000)[1] != b"4.3.1 "


COUNTED = "/var/lib/selfhosted-mail/filter/recipients.json"


def restart(host, between="true"):
    """Once it listens again."""
    host.check_output(f"systemctl stop opensmtpd && {between} && systemctl start opensmtpd")
    wait_for(lambda: ":587 " in host.check_output("ss -Hltn"), what="OpenSMTPD listens")


@pytest.mark.disruptive
def test_recipients_of_an_account_in_an_hour(host, address):
    restart(host, f"rm -f {COUNTED}")
    begin = host.check_output("date +%s")

    def answers(*recipients, name="list"):
        """Codes, one recipient on each port in turn."""
        with contextlib.ExitStack() as stack:
            sessions = [
                stack.enter_context(smtp.login(address, port, f"{name}@our.test", f"{name}s-password"))
                for port in (465, 587)
            ]
            for session in sessions:
                session.mail(f"{name}@our.test")
            return [sessions[at % 2].rcpt(recipient)[0] for at, recipient in enumerate(recipients)]

    def kept(number, alarmed=()):
        """In a container systemd may not wait for all processes of a service, and what is not written is lost."""

        def written():
            counts, alarms = json.loads(host.file(COUNTED).content_string) if host.file(COUNTED).exists else ({}, {})
            return sum(counts.get("list@our.test", {}).values()) == number and set(alarms) == set(alarmed)

        wait_for(written, what=f"{number} recipients are in {COUNTED}")

    # Recipients that OpenSMTPD refuses do not count.
    assert answers("a@far.test", "nobody@our.test", "bob@our.test", "b@far.test") == [250, 550, 250, 250]
    kept(3)
    restart(host)
    assert answers("c@far.test", "d@far.test", "bob@our.test") == [250, 450, 450]
    assert answers(*["e@far.test"] * 6, name="bob") == [250] * 6
    kept(4, alarmed=["list@our.test"])
    restart(host)
    assert answers("f@far.test", "g@far.test") == [450, 450]
    journal = host.check_output(f"journalctl --sync; journalctl -u opensmtpd --no-pager --since=@{begin}")
    assert journal.count("selfhosted-mail alarm recipients/list@our.test: ") == 1
    assert "alarm recipients/bob" not in journal

    # If counts cannot be stored, mail is still accepted, and no login is blocked.
    restart(host, f"echo broken > {COUNTED}; mount -t tmpfs -o size=4k,ro none $(dirname {COUNTED})")
    try:
        assert answers(*["h@far.test"] * 6) == [250] * 4 + [450] * 2
    finally:
        restart(host, f"umount $(dirname {COUNTED})")
    assert answers("i@far.test") == [250]
