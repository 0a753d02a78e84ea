# SPDX-License-Identifier: GPL-3.0-or-later
"""Stages killed, stopped, hung, reloaded or full: all mail arrives, and none of it unsigned."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from pipeline import FRIEND, RELAY, SERVERS, Batch, Server, both

from testbed import dns, provider, relays
from testbed.containers import run, wait_for, write
from testbed.playbook import run_role

NOBODY = "198.51.100.126"
NAME = "relay.pipeline.test"
SOON = 60  # seconds within which queued mail is sent once the stage is back
PROCESSES = "main=$(systemctl show -P MainPID dkimproxy); echo $main $(pgrep -P $main)"
WATCHDOG = "systemctl show -P WatchdogTimestampMonotonic dkimproxy"  # microseconds
CHILDREN = "$(pgrep -P $(systemctl show -P MainPID dkimproxy))"


def killed_under_load(server: Server, load: int) -> None:
    """Twice at most, as SMTP allows: killed between the next hop's 250 and its own, the signer cannot say so."""
    server.settle()
    begin, batch = server.now(), Batch(server)
    kills = [
        f"kill -KILL {CHILDREN}",
        f"kill -KILL $(echo {CHILDREN} | cut -d' ' -f1)",
        "kill -KILL $(systemctl show -P MainPID dkimproxy)",
        "systemctl kill --signal=KILL dkimproxy",
    ]
    main = 0
    with batch.submitting(load, 4):
        for number, kill in enumerate(kills):
            # Each while the consequences of the previous one are not over.
            wait_for(lambda number=number: batch.arrived() > load * number // 8, 240, "more mail")  # type: ignore[misc]
            # Not the one that the last kill ended, of which systemd may not know yet.
            wait_for(lambda main=main: server.main_pid("dkimproxy") not in (0, main), what="the signer is back")  # type: ignore[misc]
            main = server.main_pid("dkimproxy") if number >= 2 else 0
            server.sh(kill)
    batch.wait(load, 600)
    wait_for(lambda: server.main_pid("dkimproxy") not in (0, main), what="the signer is back")
    server.settle()
    log = server.journal(begin)
    assert sum("ended with signal 9" in line for line in log) >= 3
    assert int(server.sh("systemctl show -P NRestarts dkimproxy")) >= 2
    batch.check(load, copies=2)
    assert len(batch.kept()) < load + 100, "more than what was under way just then came twice"


@both
def test_killed_under_load(server: Server) -> None:
    killed_under_load(server, 300)


@pytest.mark.long
@both
def test_killed_under_a_long_load(server: Server) -> None:
    killed_under_load(server, 2000)


@both
def test_reloaded_under_load(server: Server) -> None:
    """No connection is dropped, so no mail waits or is duplicated; an invalid configuration changes nothing."""
    server.settle()
    begin, batch, processes = server.now(), Batch(server), server.sh(PROCESSES)
    conf = "/etc/dkimproxy/dkimproxy_out.conf"
    server.sh(f"cp -p {conf} /root/dkimproxy_out.conf")
    try:
        with batch.trickling() as numbers:
            wait_for(lambda: batch.arrived() > 10, 60, "the load has begun")

            def said(end: str) -> int:
                return sum(line.endswith(end) for line in server.journal(begin))

            for number in range(6):
                bad = number % 3 == 2
                words = "stays in force" if bad else "reloaded"
                before = said(words)
                if bad:
                    assert server.sh(f"echo nonsense 1 >>{conf}; systemctl reload dkimproxy 2>&1 || echo refused")
                    # `reload` checks the configuration first, a HUP does not.
                    server.sh("systemctl kill --kill-whom=main --signal=HUP dkimproxy")
                else:
                    server.sh("systemctl reload dkimproxy")
                wait_for(lambda words=words, before=before: said(words) > before, what=words)  # type: ignore[misc]
                if bad:
                    server.sh(f"cp -p /root/dkimproxy_out.conf {conf}")
        batch.wait(len(numbers), SOON)
    finally:
        server.sh(f"cp -p /root/dkimproxy_out.conf {conf}; systemctl reload dkimproxy")
    batch.check(len(numbers))
    log = server.journal(begin)
    assert server.sh(PROCESSES) == processes and server.sh("systemctl is-active dkimproxy") == "active"
    assert sum(line.endswith("reloaded") for line in log) >= 4
    assert any("unknown key 'nonsense'" in line and conf in line for line in log)
    assert any("stays in force" in line for line in log)
    assert not [line for line in log if "session ended" in line or "session failed" in line]
    assert not [line for line in server.journal(begin, "opensmtpd") if " mta " in line and "result=TempFail" in line]


@pytest.mark.long
def test_thousands_wait_for_the_signer() -> None:
    """They are sent within three minutes, and none of our daemons defers one."""
    for server in SERVERS:
        server.settle()
        batch = Batch(server, writers=[f"user{number}@{server.domain}" for number in range(20)])
        accounts = [{"address": writer, "password": "alices-password"} for writer in (server.alice, *batch.writers)]
        run_role(server.container, variables={"mail_accounts": accounts})
        server.sh("systemctl stop dkimproxy")
        try:
            batch.submit(5000, 20)
            assert batch.arrived() == 0 and len(server.queue().splitlines()) == 5000
        finally:
            begin = server.now()
            server.sh("systemctl start dkimproxy")
        batch.wait(5000, 180)
        batch.check(5000)
        log = server.journal(begin, "opensmtpd")
        assert not [line for line in log if " mta " in line and "result=TempFail" in line and 'stat="4' in line]


def was_tried(server: Server, count: int = 30) -> bool:
    """Whether all messages are queued after a failed try."""
    rows = [line.split("|", 13) for line in server.queue().splitlines()]
    return len(rows) == count and any(row[13] for row in rows)


def check_patience(server: Server) -> None:
    """OpenSMTPD connects at most a few times a second to a hop that refuses connections."""
    retried = "systemctl show -P ExecMainStartTimestampMonotonic selfhosted-mail-retry.service"
    connections = "awk '/^Tcp: [0-9]/ { print $6 }' /proc/net/snmp"
    before, begun, last = int(server.sh(connections)), time.monotonic(), server.sh(retried)
    wait_for(lambda: server.sh(retried) != last, what="the timer's next look")
    assert (int(server.sh(connections)) - before) / (time.monotonic() - begun) < 30


def test_the_relay_is_away_and_then_hangs() -> None:
    """One provider for both servers. Messages that it had not acknowledged may arrive twice."""

    @both
    def submit(server: Server) -> None:
        server.settle()
        batches[server] = Batch(server)
        batches[server].submit(30, 2)

    @both
    def arrives(server: Server) -> None:
        batches[server].wait(30, SOON)
        server.settle()
        batches[server].check(30, copies=2)

    @both
    def known_to_be_there(server: Server) -> None:
        batch = Batch(server)
        batch.submit(1, 1)
        batch.wait(1, SOON)

    batches: dict[Server, Batch] = {}
    known_to_be_there()
    run(RELAY, "systemctl", "stop", "postfix")
    try:
        submit()
        for server in batches:
            wait_for(lambda server=server: was_tried(server), what="a try")  # type: ignore[misc]
            check_patience(server)
        assert [batch.arrived() for batch in batches.values()] == [0, 0]
    finally:
        run(RELAY, "systemctl", "start", "postfix")
    arrives()

    stop = "pkill -{} -x 'master|smtpd|cleanup|qmgr' || true"
    run(RELAY, "sh", "-c", stop.format("STOP"))
    try:
        submit()
        # The kernel accepts the connections, and no process answers.
        wait_for(lambda: run(RELAY, "ss", "-Htn", "state", "established", "( sport = :587 )"), what="a connection")
        assert [batch.arrived() for batch in batches.values()] == [0, 0]
    finally:
        run(RELAY, "sh", "-c", stop.format("CONT"))
    arrives()


def test_a_relay_is_taken_away_and_comes_back(tmp_path: Path) -> None:
    """With 20 queued messages. OpenSMTPD accepts its certificate, unlike Python's defaults."""
    relay = relays.Relay("", True, "without key usage", f"/CN={NAME}", (f"subjectAltName=DNS:{NAME}",))
    trusted, file = relays.authorities(tmp_path), "/usr/local/share/ca-certificates/relays.crt"
    write(RELAY, "/etc/postfix/tls/another.pem", relays.identity(tmp_path, relay).read_text())
    dns.publish("away.test", f"@ MX 10 mx\nmx A {NOBODY}\n")
    begun: dict[Server, tuple[str, Batch]] = {}
    run(RELAY, "systemctl", "stop", "postfix")

    @both
    def go_and_come(server: Server) -> None:
        server.settle()
        write(server.container, file, trusted)
        server.run("update-ca-certificates")
        begun[server] = server.now(), Batch(server, recipient="friend@away.test")
        begun[server][1].submit(20, 2)
        wait_for(lambda: was_tried(server, 20), what="a try")
        run_role(server.container, variables={"mail_relay_host": ""})
        # A try that fails writes the file in the queue; of its lines the journal has suppressed some.
        newer = "find -H /var/spool/smtpd/queue -type f ! -name message -newer /run/smtpd.sock"
        tried = f"{newer} -exec grep -lF 'dest: friend@away.test' {{}} + | wc -l"
        wait_for(lambda: int(server.sh(tried)) == 20 and was_tried(server, 20), what="tries without the relay")
        run_role(server.container)

    @both
    def arrives(server: Server) -> None:
        cursor, batch = begun[server]
        batch.wait(20, SOON)
        batch.check(20)
        assert not [line for line in server.journal(cursor, "opensmtpd") if "unknown dispatcher" in line]

    @both
    def trust_no_more(server: Server) -> None:
        server.sh(f"rm -f {file}; update-ca-certificates --fresh")

    try:
        go_and_come()
        provider.show_certificate(RELAY, "another")
        arrives()
    finally:
        provider.show_certificate(RELAY, "trusted")
        trust_no_more()


@both
def test_a_hung_next_hop(server: Server) -> None:
    """OpenSMTPD itself hangs for a while during its sessions with the signer."""
    server.settle()
    batch, main = Batch(server), server.main_pid("dkimproxy")
    with batch.trickling() as numbers:
        wait_for(lambda: batch.arrived() > 20, 60, "the load has begun")
        try:
            # At a moment when there is something under way.
            server.sh("""for i in $(seq 200); do
                pkill -STOP -x smtpd; ss -Htn state established '( dport = :10028 )' | grep -q . && exit
                pkill -CONT -x smtpd; sleep 0.05
                done; exit 1""")
            # The signer keeps notifying systemd's watchdog.
            told = server.sh(WATCHDOG)
            wait_for(lambda: int(server.sh(WATCHDOG)) > int(told) + 10_000_000, what="ten seconds of the signer's")
            assert server.main_pid("dkimproxy") == main
        finally:
            server.sh("pkill -CONT -x smtpd")
    batch.wait(len(numbers), SOON)
    server.settle()
    batch.check(len(numbers), copies=2)


@both
def test_a_full_disk(server: Server) -> None:
    """452 4.3.1 for messages that need the spool; small ones pass; with space again the others are sent."""
    server.settle()
    begin, small, large = server.now(), Batch(server), Batch(server)
    spool = "/var/cache/dkimproxy"
    server.sh(f"systemctl stop dkimproxy; mount -t tmpfs -o size=64k,mode=0700 none {spool}; chown dkimproxy: {spool}")
    server.sh("systemctl start dkimproxy")
    try:
        large.submit(3, 1, b"Many words of a line that fills the disk in the end, as it seems.\r\n" * 30000)
        small.submit(3)
        small.wait(3, SOON)
        wait_for(lambda: sum("452 4.3.1" in line for line in server.journal(begin, "opensmtpd")) >= 3, what="452 4.3.1")
        assert large.arrived() == 0
        assert any("reason=spool code=452" in line for line in server.journal(begin))
        assert server.sh(f"df --output=iused {spool} | tail -n1; find {spool} -type f").split()[1:] == []
    finally:
        server.sh(f"systemctl stop dkimproxy; umount {spool}; systemctl start dkimproxy")
    large.wait(3, SOON)
    large.check(3)
    small.check(3)


ODD_BODIES = {
    "empty": b"",
    "blank lines at the end": b"x\r\n\r\n \r\n\r\n\r\n",
    "blank lines alone": b"\r\n\r\n\r\n",
    "spaces": b"a  b\t c \t \r\n \t\r\n",
    "dots": b".\r\n..\r\n...\r\n.x\r\n\r\n.",
    "long lines": b"x" * 997 + b"\r\n" + b"y" * 998 + b"\r\n",
    "8-bit": "Grüße".encode() + b" \xff\xfe\x80\r\n",
    "bare CR": b"a\rb\r\rc\r\r\nd\r\n",
    "control characters": bytes(range(1, 10)) + b"\x0b\x0c\x0e\x1b[0m\x7f\r\n",
    "From at the beginning": b"From alice\r\n>From bob\r\n",
    "multipart": b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--\r\n",
    "no end of line": b"x",
    "large": b"0123456789abcde.\r\n" * 200000,
}
ODD_FIELDS = {
    "8-bit": "X-Name: Grüße".encode() + b" \xff",
    "long": b"References: " + b" ".join(b"<%050d@far.test>" % number for number in range(40)),
    "a long word": b"X-Long: " + b"y" * 1500,
    "folded": b"X-Folded: a\r\n b\r\n\tc  \r\n   d",
    "empty": b"X-Empty:",
    "repeated": b"To: a@far.test\r\nTo: b@far.test",
    "bare CR": b"X-CR: a\rb",
    "encoded": b"Reply-To: =?utf-8?B?w7w=?= <bob@far.test>",
    "multipart": b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n boundary="b"',
    "signed before": b"DKIM-Signature: v=1; a=rsa-sha256; d=far.test; s=x; h=from; bh=aGk=; b=aGk=",
    "many": b"\r\n".join(b"X-Many-%d: z" % number for number in range(300)),
    "Bcc": b"Bcc: secret@far.test",
    "malformed": b"this is no field",
    "NUL": b"X-NUL: a\0b",
    "two Froms": b"From: bob@far.test",
}


@both
def test_odd_messages_verify_behind_opensmtpd_or_are_refused(server: Server) -> None:
    server.settle()
    begin, batch = server.now(), Batch(server)
    odd = [(b"", body, "") for body in ODD_BODIES.values()]
    # Fields that the signer adds if they are missing.
    for without in ("", "Date", "Message-ID", "To"):
        odd += [(field + b"\r\n", b"Hello.\r\n", without) for field in ODD_FIELDS.values()]
    refused = 0
    with server.login() as session:
        for number, (field, body, without) in enumerate(odd):
            header = batch.message(number).partition(b"\r\n\r\n")[0] + b"\r\n"
            if without:
                header = re.sub(rb"(?m)^%s:.*\r\n" % without.encode(), b"", header)
            message = header + field + b"\r\n" + body
            session.mail(server.alice)
            session.rcpt(FRIEND)
            session.docmd("DATA")
            # As it is: smtplib would mend it.
            session.send((b"\r\n" + message).replace(b"\r\n.", b"\r\n..")[2:])
            session.send(b".\r\n" if message.endswith(b"\r\n") else b"\r\n.\r\n")
            refused += session.getreply()[0] >= 500
            session.rset()

    def answered() -> int:
        return batch.arrived() + sum("verdict=refused" in line for line in server.journal(begin))

    wait_for(lambda: answered() >= len(odd) - refused, SOON, "every message has arrived or was refused")
    kept = batch.kept()
    # Malformed, NUL, two Froms, a word longer than a line, and no more.
    assert len(kept) >= len(odd) - 4 * 4, f"only {len(kept)} of {len(odd)} were good enough"
    for message in kept:
        server.check_own(message, others=True)


@both
def test_memory_of_an_idle_signer(server: Server) -> None:
    """What its processes have for themselves and share, in kB."""
    server.sh("systemctl restart dkimproxy")
    wait_for(lambda: "127.0.0.1:10027" in server.sh("ss -Hltn"), what="the signer listens")
    main = "$(systemctl show -P MainPID dkimproxy)"
    files = server.sh(f"for p in {main} $(pgrep -P {main}); do cat /proc/$p/smaps_rollup; done")
    assert sum(map(int, re.findall(r"(?m)^Pss: +(\d+) kB", files))) < 60_000


@both
def test_nothing_came_to_light_that_nobody_looked_for(server: Server) -> None:
    """After all tests the signer had no exception, and its spool and the queue are empty."""
    assert "Traceback" not in server.sh("journalctl --no-pager --unit=dkimproxy")
    assert server.sh("ls -A /var/cache/dkimproxy") == ""
    server.settle()
