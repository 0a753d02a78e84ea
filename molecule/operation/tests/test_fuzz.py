# SPDX-License-Identifier: GPL-3.0-or-later
"""Thousands of dialogues with errors stop no daemon, and the next message is answered."""

from __future__ import annotations

import os
import re
import smtplib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from faults import DOVECOT, OPENSMTPD, RSPAMD, SIGNER
from fuzz import inputs

from testbed import imap, managesieve, report, smtp
from testbed.servers import STRANGER, Server, both

pytestmark = pytest.mark.disruptive

ROUND, AT_ONCE = 100, 4  # inputs
ANSWERED = 30  # seconds
SEED = os.environ.get("FUZZ_SEED", "")
DIED = re.compile(r"(?i)\b(panic|fatal|assertion|segfault|traceback)\b|(with|by) signal|core dump|lost processor")
# Dovecot 2.4.1, at a script's name or size that it refuses: it ends the user's own session, and nobody else's.
OWN_SESSION = re.compile(
    r"\(sieve_storage_save_finish\): assertion failed|service\(managesieve\): child \d+ killed with"
)
TABLE = report.Table("fuzz", "Fuzzing", ["release", "seed", "inputs", "minutes", "verdict"])


def check_answers(server: Server) -> None:
    """Check mail from outside, a user's mail program and ManageSieve."""
    message = smtp.compose(STRANGER, [server.alice.address], body=f"A small message.\n\n{smtp.GTUBE}\n\nEnd.\n")
    with smtplib.SMTP(server.ip, 25, timeout=ANSWERED, local_hostname=smtp.PEER) as session:
        session.ehlo()
        session.mail(STRANGER)
        session.rcpt(server.alice.address)
        code, text = session.data(smtp.wire(message))
    assert code == 550 and b"Gtube" in text, (code, text)
    smtp.login(server.ip, 465, server.quinn.address, server.quinn.password).quit()
    imap.session(server.ip, server.quinn.address, server.quinn.password, ANSWERED).logout()
    with managesieve.Session(server.ip, server.quinn.address, server.quinn.password):
        pass


def processes(server: Server) -> dict[str, int]:
    return {unit: server.main_pid(unit.removesuffix(".service")) for unit in (OPENSMTPD, DOVECOT, RSPAMD, SIGNER)}


def clean(server: Server) -> None:
    """Remove what the dialogues have left."""
    quinn = server.quinn.address
    with managesieve.Session(server.ip, quinn, server.quinn.password) as session:
        session.command('SETACTIVE ""')
        for name in re.findall(r'^"((?:[^"\\]|\\.)*)"', session.command("LISTSCRIPTS"), re.M):
            session.command(f'DELETESCRIPT "{name}"')
    for user in (quinn, server.alice.address):
        server.sh(f"doveadm expunge -u {user} mailbox '*' header Message-ID fuzz@world.test")
    server.sh("smtpctl remove all || true")


def fuzz(server: Server, seconds: float, of: str) -> None:
    before, begun, clock = processes(server), server.sh("date +%s"), time.monotonic()
    count, verdict = 0, "passed"
    try:
        while not count or time.monotonic() < clock + seconds:
            seed = f"{of} {server.container} {count}"
            with ThreadPoolExecutor(AT_ONCE) as pool:
                done = [pool.submit(one) for one in inputs(server, seed, ROUND)]
            count += ROUND
            for one in done:
                one.result()
            check_answers(server)
            assert processes(server) == before, f"FUZZ_SEED={of}: restarted within the inputs of {seed!r}"
            journal = server.journal(f"--since=@{begun}")
            said = [line for line in journal if DIED.search(line) and not OWN_SESSION.search(line)]
            assert not said, f"FUZZ_SEED={of}: within the inputs of {seed!r}: {said}"
            if seconds:
                report.progress(f"{server.container}: {count} inputs of seed {of}")
    except BaseException as error:
        verdict = f"{type(error).__name__}: {error}"[:300]
        raise
    finally:
        if seconds:
            release = server.sh(". /etc/os-release; echo $ID $VERSION_ID")
            TABLE.add([release, of, str(count), f"{(time.monotonic() - clock) / 60:.0f}", verdict])
        clean(server)


@pytest.mark.parametrize("minutes", [0, pytest.param(20, marks=pytest.mark.long)])
@both
def test_mistakes_stop_nobody(server: Server, minutes: int) -> None:
    fuzz(server, minutes * 60, SEED or (f"{time.time():.0f}" if minutes else "1"))
