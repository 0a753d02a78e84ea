# SPDX-License-Identifier: GPL-3.0-or-later
"""Findings, and checks that run in parallel."""

from __future__ import annotations

import smtplib
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

WORST_FIRST = ("error", "warning", "unknown", "ok")
# Raised by Python's libraries when the peer closes the connection during a dialogue.
CLOSED = (EOFError, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError, smtplib.SMTPServerDisconnected)


class Failed(Exception):
    """A check got a wrong answer. ``args``: the problem in one line."""


def printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


@dataclass
class Finding:
    """``fix``: a text to paste; ``required``: whether an error stops mail."""

    check: str
    subject: str
    status: str
    required: bool
    text: str
    fix: str = ""

    def __post_init__(self) -> None:
        # Servers elsewhere and DNS have a say in these texts, and root's terminal shows them.
        self.subject, self.text = printable(self.subject), printable(self.text)
        self.fix = "\n".join(map(printable, self.fix.split("\n")))

    @property
    def key(self) -> str:
        """Key of its alarm."""
        return f"{self.check}/{self.subject}"

    @property
    def rank(self) -> tuple[int, bool]:
        return WORST_FIRST.index(self.status), not self.required


@dataclass
class Check:
    """``ask`` returns the text of an ok finding, or findings of its own.

    It raises Failed, OSError, ValueError, TimeoutError, and EOFError if the connection is closed too early.

    ``unit``: the service that hangs if there is no answer.
    """

    name: str
    subject: str
    ask: Callable[[Talk], str | list[Finding]]
    unit: str = ""
    fix: str = ""
    required: bool = True


class Talk:
    """A running check, and the step that it waits for. ``seconds``: its time limit."""

    def __init__(self, check: Check, seconds: float) -> None:
        self.check, self.seconds = check, seconds
        self.step = "a connection"

    def waits_for(self, step: str) -> None:
        self.step = step

    def found(self, status: str, text: str) -> Finding:
        check = self.check
        fix = check.fix or (f"journalctl -u {check.unit} -n 50" if check.unit else "")
        return Finding(check.name, check.subject, status, check.required, text, "" if status == "ok" else fix)

    def command(self, *words: str) -> str:
        """Standard output of a command, whatever its exit code. Raises TimeoutError."""
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, errors="replace", timeout=self.seconds, check=False
            )
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        return done.stdout


@dataclass
class Answer:
    """``silent``: the step without an answer, else empty; ``closed``: whether the peer closed the connection."""

    check: Check
    findings: list[Finding]
    silent: str = ""
    closed: bool = False


def answered(talk: Talk) -> Answer:
    try:
        found = talk.check.ask(talk)
    except TimeoutError:
        return unanswered(talk)
    except Failed as error:
        return Answer(talk.check, [talk.found("error", str(error))])
    except CLOSED:
        return Answer(talk.check, [talk.found("error", f"{talk.step}: the connection was closed")], closed=True)
    except (OSError, ValueError) as error:
        return Answer(talk.check, [talk.found("error", f"{talk.step}: {error or type(error).__name__}")])
    return Answer(talk.check, [talk.found("ok", found)] if isinstance(found, str) else found)


def unanswered(talk: Talk) -> Answer:
    return Answer(
        talk.check, [talk.found("unknown", f"no answer to {talk.step} within {talk.seconds:.0f} s")], talk.step
    )


def run(checks: Iterable[Check], seconds: float) -> list[Answer]:
    """Run all checks in parallel, for ``seconds`` at most."""
    answers: dict[Talk, Answer] = {}
    talks = [Talk(check, seconds) for check in checks]
    # Daemon threads, since a hung check must not keep the program from exiting.
    threads = [
        threading.Thread(target=lambda talk=talk: answers.update({talk: answered(talk)}), daemon=True) for talk in talks
    ]
    for thread in threads:
        thread.start()
    until = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0, until - time.monotonic()))
    return [answers.get(talk) or unanswered(talk) for talk in talks]
