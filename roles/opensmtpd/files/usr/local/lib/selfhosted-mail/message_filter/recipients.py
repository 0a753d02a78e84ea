# SPDX-License-Identifier: GPL-3.0-or-later
"""How many recipients a login may have in an hour, and how many it has had."""

import json
import os
import time
from pathlib import Path

from .replies import log, unjudged

HOUR = 60  # minutes
STATE = 1 << 24  # octets


class Limits:
    """Lines of `LOGIN NUMBER`, and of `* NUMBER` for all others; read again when they have changed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._version = (0, 0, 0)
        self._limits: dict[str, int] = {}

    def of(self, login: str) -> int:
        """Recipients in an hour; 0 is no limit. What cannot be read changes nothing. Raises Refusal before it could."""
        try:
            status = os.stat(self.path)
            version = status.st_ino, status.st_size, status.st_mtime_ns
            if version != self._version:
                self._version = version
                with open(self.path, encoding="ascii") as file:
                    rows = [line.split() for line in file]
                self._limits = {name: int(number) for name, number in rows}
        except (OSError, ValueError) as error:
            log("err", f"{self.path}: {getattr(error, 'strerror', None) or 'no table of logins and numbers'}")
        if "*" not in self._limits:
            raise unjudged()
        return self._limits.get(login, self._limits["*"])


def recent(minute: int, now: int) -> bool:
    """Nor does the future count for ever, into which a clock that was wrong has written."""
    return abs(now - minute) <= HOUR


class Recipients:
    """How many each login has had, minute by minute; what is older than an hour is forgotten.

    `path` keeps it over restarts, but for the last seconds where the process was killed. Where it cannot be read or
    written, mail goes on without.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._kept, self._complained = "", False
        self.minutes: dict[str, dict[int, int]] = {}
        self.alarms: dict[str, int] = {}
        try:
            with open(path, encoding="ascii") as file:
                minutes, alarms = json.loads(file.read(STATE))
            self.minutes = {
                str(login): {int(minute): max(0, int(number)) for minute, number in counts.items()}
                for login, counts in minutes.items()
            }
            self.alarms = {str(login): int(minute) for login, minute in alarms.items()}
        except FileNotFoundError:
            pass
        except Exception as error:
            log("err", f"{path}: {type(error).__name__}; the recipients of the last hour are not known")

    def add(self, login: str, most: int) -> int:
        """Count one more and return its minute, or 0 when there are as many as there may be."""
        now = int(time.time()) // 60
        counts = self.minutes.setdefault(login, {})
        for minute in [minute for minute in counts if not recent(minute, now)]:
            del counts[minute]
        if sum(counts.values()) < most:
            counts[now] = counts.get(now, 0) + 1
            return now
        if not recent(self.alarms.get(login, 0), now):
            self.alarms[login] = now
            text = f"{login} has had {most} recipients within an hour; further ones are put off until it has had less"
            log("err", f"selfhosted-mail alarm recipients/{login}: {text}")
        return 0

    def take_back(self, login: str, minute: int) -> None:
        counts = self.minutes.get(login, {})
        if counts.get(minute):
            counts[minute] -= 1

    def keep(self) -> None:
        """Write what has changed."""
        now = int(time.time()) // 60
        self.minutes = {login: counts for login, counts in self.minutes.items() if any(recent(m, now) for m in counts)}
        self.alarms = {login: minute for login, minute in self.alarms.items() if recent(minute, now)}
        text = json.dumps([self.minutes, self.alarms])
        if text == self._kept:
            return
        try:
            Path(f"{self.path}.new").write_text(text)
            os.replace(f"{self.path}.new", self.path)
            self._kept, self._complained = text, False
        except OSError as error:
            if not self._complained:
                log("err", f"{self.path}: {error.strerror}; a restart forgets the recipients of the last hour")
            self._complained = True
