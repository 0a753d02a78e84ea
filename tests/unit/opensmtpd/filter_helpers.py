# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the filter with sessions of smtpd-filters(7): all at once, line by line, or in this process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from message_filter.protocol import Filter
from message_filter.session import Settings

ROLES = Path(__file__).parents[3] / "roles"
LIBRARIES = [ROLES / f"{role}/files/usr/local/lib/selfhosted-mail" for role in ("opensmtpd", "accounts")]
PROGRAM = LIBRARIES[0] / "filter-message"
HOST = "mail.our.test"
TOLD = "0.7|1700000000.000000|smtp-in"
TRACE = [
    "Received: ",
    f"\tby {HOST} (OpenSMTPD) with ESMTPSA id 0a1b2c3d (TLSv1.3:TLS_AES_256_GCM_SHA384:256:NO)",
    "\tfor <friend@far.test>;",
    "\tSat, 28 Nov 2026 10:00:00 +0000 (UTC)",
]
TABLE = "alice@our.test alice@our.test, info@our.test\nbob@our.test bob@our.test\n"
KEPT = 112  # octets in memory beside each line


def command(
    senders: Path, size: int = 10**6, messages: int = 100, policy: str = "account", memory: int = 2**28
) -> list[str]:
    files = ["--senders", str(senders), "--limits", str(senders.parent / "limits")]
    files += ["--recipients", str(senders.parent / "recipients.json")]
    limits = ["--bytes", str(size), "--memory", str(memory), "--messages", str(messages), "--from-policy", policy]
    return [sys.executable, str(PROGRAM), "--hostname", HOST, *files, *limits]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": ":".join([*map(str, LIBRARIES), os.environ.get("PYTHONPATH", "")])}


def launch(
    senders: Path,
    told: str,
    size: int = 10**6,
    messages: int = 100,
    policy: str = "account",
    memory: int = 2**28,
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(senders, size, messages, policy, memory),
        input=told.encode("latin-1"),
        capture_output=True,
        check=True,
        env=environment(),
    )


def connected(session: str = "s", port: int = 25, source: str = "198.51.100.1:1") -> str:
    return f"report|{TOLD}|link-connect|{session}|peer|pass|{source}|198.51.100.2:{port}"


def logged_in(login: str = "alice@our.test", session: str = "s", port: int = 465) -> list[str]:
    return [connected(session, port), f"report|{TOLD}|link-auth|{session}|pass|{login}"]


def client(command: str, session: str = "s") -> str:
    return f"report|{TOLD}|protocol-client|{session}|{command}"


def asked(event: str, rest: str = "", session: str = "s") -> str:
    return f"filter|{TOLD}|{event}|{session}|t|{rest}"


def mail(address: str = "alice@our.test", session: str = "s", rest: str = "") -> list[str]:
    return [client(f"MAIL FROM:<{address}>{rest}", session), asked("mail-from", address.partition(">")[0], session)]


def message(*lines: str, session: str = "s", trace: bool = True) -> list[str]:
    lines = (*(TRACE if trace else ()), *lines, ".")
    return [*(asked("data-line", line, session) for line in lines), asked("commit", "", session)]


def results(answers: list[str]) -> list[str]:
    return [answer.split("|", 3)[3] for answer in answers if answer.startswith("filter-result")]


def lines(answers: list[str], session: str = "s") -> list[str]:
    start = f"filter-dataline|{session}|t|"
    return [answer.removeprefix(start) for answer in answers if answer.startswith(start)]


def built(senders: Path, **given: Any) -> Filter:
    files = {name: str(senders.parent / name) for name in ("senders", "limits")}
    settings = {"bytes": 10**6, "memory": 2**28, "messages": 100, "from_policy": "account", **given}
    return Filter(Settings(HOST, recipients=str(senders.parent / "none"), **files, **settings))


class Inside:
    """The filter in this process, with a clock that the test sets."""

    def __init__(self, senders: Path, patch: pytest.MonkeyPatch, **given: Any) -> None:
        self.filter = built(senders, **given)
        self.now, self.written = 1000.0, b""
        patch.setattr(time, "monotonic", lambda: self.now)
        patch.setattr(self.filter, "write", self._write)

    def _write(self, answers: bytes) -> None:
        self.written += answers

    def tell(self, *told: str, after: float = 0.0) -> list[str]:
        """Its answers to these lines, after this many seconds."""
        self.now += after
        for line in told:
            words = line.encode("latin-1").split(b"|", 7)
            session = self.filter.sessions.get(words[5])
            if session and words[4] == b"data-line":
                session.received += len(words[7]) + 1
                session.memory += len(words[7]) + KEPT
            self.filter.told(words)
        self.filter.give_turns()
        said, self.written = self.written + b"".join(self.filter.answers), b""
        self.filter.answers.clear()
        return said.decode("latin-1").splitlines()

    def fills(self, session: str, megabytes: int = 100) -> int:
        """Megabytes that the session's message may use, in lines of 1000 octets; `megabytes` at most."""
        line = asked("data-line", "x" * 1000, session)
        sent = 0
        while sent < megabytes << 20 and lines(self.tell(line), session):
            sent += 1000 + KEPT
        return round(sent / (1 << 20))

    def ends(self, session: str) -> str:
        return results(self.tell(asked("data-line", ".", session), asked("commit", "", session)))[0]


class Running:
    """The filter as a running process, which answers input at once. It ends with its input."""

    def __init__(self, senders: Path) -> None:
        self.said = senders.parent / "stderr"
        with self.said.open("w") as stderr:
            self.process = subprocess.Popen(
                command(senders), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment()
            )
        assert self.process.stdin and self.process.stdout
        self.told, self.heard = self.process.stdin, self.process.stdout
        self.tell("config|ready")
        for line in self.heard:
            if line == b"register|ready\n":
                break

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_error: object) -> None:
        self.told.close()
        assert self.process.wait(60) == 0
        self.heard.close()

    def errors(self) -> list[str]:
        return self.said.read_text().splitlines()

    def tell(self, *lines: str) -> None:
        self.told.write("".join(line + "\n" for line in lines).encode("latin-1"))
        self.told.flush()

    def says(self, *lines: str) -> list[str]:
        """The result of each question among the lines."""
        self.tell(*lines)
        questions = sum(line.startswith("filter|") and "|data-line|" not in line for line in lines)
        found: list[str] = []
        while len(found) < questions:
            line = self.heard.readline().decode("latin-1")
            assert line, "it has ended"
            found += results([line.rstrip("\n")])
        return found

    def until(self, wanted: str, *lines: str) -> bool:
        """Repeat the lines until it gives this answer; whether it did."""
        return any(self.says(*lines)[-1].startswith(wanted) for _try in range(100_000))
