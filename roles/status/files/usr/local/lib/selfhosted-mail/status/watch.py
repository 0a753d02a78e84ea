# SPDX-License-Identifier: GPL-3.0-or-later
"""Restarts what hangs or breaks off, and tells of what is wrong.

A hung daemon is worse than a dead one, which systemd starts again at once: its clients wait without end.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .checks import OPENSMTPD, RSPAMD, SIGNER
from .finding import Answer, Finding

RESTARTS, WITHIN = 3, 900  # seconds
ALARMS_EVERY = 3600  # seconds, for one key
# What is looked at once a day is told once a day.
DAILY, DAY = "dns/", 86400
STOP_AND_START = 120  # seconds
CLOSED_AGAIN = 60  # seconds
SENDMAIL = "/usr/sbin/sendmail"
PAUSED = Path("/run/selfhosted-mail")
END_OF_DATA = "the end of DATA"


def hung(answers: Iterable[Answer]) -> dict[str, Answer]:
    """Unit to what it left unanswered, without those that only wait for another one."""
    silent: dict[str, Answer] = {}
    for answer in answers:
        if answer.silent and answer.check.unit:
            # What waits for Rspamd is silent at the end of a message alone.
            before = silent.get(answer.check.unit)
            if before is None or before.silent == END_OF_DATA:
                silent[answer.check.unit] = answer
    if RSPAMD in silent and OPENSMTPD in silent and silent[OPENSMTPD].silent == END_OF_DATA:
        del silent[OPENSMTPD]
    if OPENSMTPD in silent:
        silent.pop(SIGNER, None)
    return silent


class Watch:
    """``state`` is what the last look left: ``restarts``, ``alarms`` (since the epoch), ``seen``, ``closed``."""

    def __init__(self, hostname: str, state: dict[str, Any], seconds: float) -> None:
        self.hostname, self.state, self.seconds, self.now = hostname, state, seconds, time.time()

    def act(self, answers: list[Answer]) -> None:
        # A part of it may hang, and others give up. Once is no fault: somebody may restart it just now.
        closed = {answer.check.unit: answer for answer in answers if answer.closed and answer.check.unit}
        before = {unit: when for unit, when in self.state.get("closed", {}).items() if when >= self.now - CLOSED_AGAIN}
        again = {unit: answer for unit, answer in closed.items() if unit in before}
        self.state["closed"] = {
            unit: when for unit, when in (before | dict.fromkeys(closed, self.now)).items() if unit not in again
        }
        for line in self.state.pop("lines", ()):
            print(f"<4>{line}", flush=True)
        broken = again | hung(answers)
        for unit, answer in broken.items():
            self.restart(unit, f"{answer.check.name} {answer.check.subject}: {answer.findings[0].text}")
        self.tell([found for answer in answers if answer.check.unit not in broken for found in answer.findings])

    def restart(self, unit: str, text: str) -> None:
        # What is being started or stopped is in somebody's hands; what is dead is systemd's business.
        if command("systemctl", "is-active", unit).strip() != "active" or paused(unit):
            return
        recent = [when for when in self.state.get("restarts", {}).get(unit, []) if when > self.now - WITHIN]
        if len(recent) < RESTARTS:
            command("systemctl", "restart", unit)
            recent.append(self.now)
            self.alarm(unit, f"{text}; {unit} was restarted", always=True)
        else:
            self.alarm(f"{unit}/again", f"{text}; {unit} was restarted {RESTARTS} times in vain")
        self.state.setdefault("restarts", {})[unit] = recent

    def tell(self, findings: Iterable[Finding]) -> None:
        """Of errors that the last look found too: what is restarted is away for a moment. A relay has said it."""
        errors = {found.key: found for found in findings if found.status == "error" and found.required}
        for key in errors:
            if key not in self.state.get("seen", ()) and errors[key].check != "relay":
                continue
            self.alarm(key, f"{errors[key].text}" + (f" (try: {errors[key].fix})" if errors[key].fix else ""))
        self.state["seen"] = sorted(errors)

    def alarm(self, key: str, text: str, always: bool = False) -> None:
        """A line of the journal and a message to root."""
        alarms = {
            name: when
            for name, when in self.state.get("alarms", {}).items()
            if when > self.now - (DAY if name.startswith(DAILY) else ALARMS_EVERY)
        }
        if key not in alarms or always:
            print(f"<4>selfhosted-mail alarm {key}: {text}", flush=True)
        if key not in alarms:
            alarms[key] = self.now
            subject = f"{self.hostname}: {key}"
            body = f"{text}\n\nWhat mail-status says now:  ssh root@{self.hostname} mail-status\n"
            command(SENDMAIL, "root", stdin=f"To: root\nSubject: {subject}\nAuto-Submitted: auto-generated\n\n{body}")
        self.state["alarms"] = alarms


def paused(unit: str) -> bool:
    """Whether the role certificate's program waits for its sessions to end, before a restart."""
    with contextlib.suppress(FileNotFoundError):
        return time.time() - (PAUSED / f"{unit}.paused").stat().st_mtime < STOP_AND_START
    return False


def command(*words: str, stdin: str = "") -> str:
    """Standard output, whatever comes of it."""
    try:
        done = subprocess.run(
            words, input=stdin, capture_output=True, text=True, errors="replace", timeout=STOP_AND_START, check=False
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout
