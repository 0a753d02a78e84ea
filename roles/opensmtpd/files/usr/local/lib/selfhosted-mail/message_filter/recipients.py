# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits and counts of recipients per login and hour."""

import json
import os
import time
from pathlib import Path

from .replies import log, unjudged

HOUR = 60  # minutes
STATE = 1 << 24  # octets


class Limits:
    """A file of `LOGIN NUMBER` lines, with `* NUMBER` for all others; re-read when it changes."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._version = (0, 0, 0)
        self._limits: dict[str, int] = {}

    def of(self, login: str) -> int:
        """Recipients per hour; 0 is no limit. Raises Refusal if the file could never be read; later old limits stay."""
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
    """Whether it is at most an hour away, also in the future, as a wrong clock may have counted there."""
    return abs(now - minute) <= HOUR


class Recipients:
    """Recipients of each login per minute, for the last hour.

    `path` keeps the counts over restarts; a killed process loses the last seconds. If it cannot be read or written,
    mail is still accepted.
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
        """Count one more and return its minute, or 0 if the login has had `most`."""
        now = int(time.time()) // 60
        counts = self.minutes.setdefault(login, {})
        for minute in [minute for minute in counts if not recent(minute, now)]:
            del counts[minute]
        if sum(counts.values()) < most:
            counts[now] = counts.get(now, 0) + 1
            return now
        if not recent(self.alarms.get(login, 0), now):
            self.alarms[login] = now
            text = f"{login} has had {most} recipients within an hour; "
            text += "further ones get a temporary failure (450) until the count falls below the limit"
            log("err", f"selfhosted-mail alarm recipients/{login}: {text}")
        return 0

    def take_back(self, login: str, minute: int) -> None:
        counts = self.minutes.get(login, {})
        if counts.get(minute):
            counts[minute] -= 1

    def keep(self) -> None:
        """Write the counts if they have changed."""
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
