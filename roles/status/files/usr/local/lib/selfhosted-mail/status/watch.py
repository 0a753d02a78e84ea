# SPDX-License-Identifier: GPL-3.0-or-later
"""Restarts daemons that hang or close connections, and reports errors.

A hung daemon is worse than a dead one, which systemd restarts at once: its clients wait forever.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .checks import OPENSMTPD, RSPAMD, SIGNER
from .dialogues import END_OF_DATA
from .finding import Answer, Finding

RESTARTS, WITHIN = 3, 900  # seconds
ALARMS_EVERY = 3600  # seconds, for one key
# What runs once a day is reported once a day.
DAILY, DAY = ("backup/", "dns/"), 86400
STOP_AND_START = 120  # seconds
CLOSED_AGAIN = 60  # seconds
SENDMAIL = "/usr/sbin/sendmail"
PAUSED = Path("/run/selfhosted-mail")


def hung(answers: Iterable[Answer]) -> dict[str, Answer]:
    """Unit to the check that it left unanswered, without units that only wait for another one."""
    silent: dict[str, Answer] = {}
    for answer in answers:
        if answer.silent and answer.check.unit:
            # OpenSMTPD waits for Rspamd only at the end of a message, so silence at another step takes precedence.
            before = silent.get(answer.check.unit)
            if before is None or before.silent == END_OF_DATA:
                silent[answer.check.unit] = answer
    if RSPAMD in silent and OPENSMTPD in silent and silent[OPENSMTPD].silent == END_OF_DATA:
        del silent[OPENSMTPD]
    if OPENSMTPD in silent:
        silent.pop(SIGNER, None)
    return silent


class Watch:
    """``state`` of the last run: times (since the epoch) of ``restarts``, ``alarms``, ``closed``; errors ``seen``."""

    def __init__(self, hostname: str, state: dict[str, Any]) -> None:
        self.hostname, self.state, self.now = hostname, state, time.time()

    def act(self, answers: list[Answer]) -> None:
        # A part of the daemon may hang. Once is no fault: the daemon may be restarting.
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
        # Somebody is starting or stopping a unit that is not active, or systemd restarts it.
        if command("systemctl", "is-active", unit).strip() != "active" or paused(unit):
            return
        recent = [when for when in self.state.get("restarts", {}).get(unit, []) if when > self.now - WITHIN]
        if len(recent) < RESTARTS:
            command("systemctl", "restart", unit)
            recent.append(self.now)
            self.alarm(unit, f"{text}; {unit} was restarted", always=True)
        else:
            self.alarm(f"{unit}/again", f"{text}; {unit} was restarted {RESTARTS} times without success")
        self.state.setdefault("restarts", {})[unit] = recent

    def tell(self, findings: Iterable[Finding]) -> None:
        """Report errors that the last run found too, as restarts cause short ones; those of the relay at once."""
        errors = {found.key: found for found in findings if found.status == "error" and found.required}
        for key in errors:
            if key not in self.state.get("seen", ()) and errors[key].check != "relay":
                continue
            self.alarm(key, f"{errors[key].text}" + (f" (try: {errors[key].fix})" if errors[key].fix else ""))
        self.state["seen"] = sorted(errors)

    def alarm(self, key: str, text: str, always: bool = False) -> None:
        """Log an alarm and mail it to root, once an interval; with ``always`` it is logged each time."""
        alarms = {
            name: when
            for name, when in self.state.get("alarms", {}).items()
            if when > self.now - (DAY if name.startswith(DAILY) else ALARMS_EVERY)
        }
        if key not in alarms or always:
            line = text.replace("\n", "; ")
            print(f"<4>selfhosted-mail alarm {key}: {line}", flush=True)
        if key not in alarms:
            alarms[key] = self.now
            subject = f"{self.hostname}: {key}"
            body = f"{text}\n\nCurrent state:  ssh root@{self.hostname} mail-status\n"
            command(SENDMAIL, "root", stdin=f"To: root\nSubject: {subject}\nAuto-Submitted: auto-generated\n\n{body}")
        self.state["alarms"] = alarms


def paused(unit: str) -> bool:
    """Whether the program of the role certificate waits for the unit's sessions to end, before a restart."""
    with contextlib.suppress(FileNotFoundError):
        return time.time() - (PAUSED / f"{unit}.paused").stat().st_mtime < STOP_AND_START
    return False


def command(*words: str, stdin: str = "") -> str:
    """Standard output of a command, whatever its exit code; empty after STOP_AND_START seconds."""
    try:
        done = subprocess.run(
            words, input=stdin, capture_output=True, text=True, errors="replace", timeout=STOP_AND_START, check=False
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout
