# SPDX-License-Identifier: GPL-3.0-or-later
"""Mail servers under test, and a way to run a test on all servers of a scenario at the same time."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from testbed import containers, dns
from testbed.containers import PATIENCE, docker, wait_for


@dataclass(frozen=True)
class Server:
    """A server with its container and its primary domain."""

    container: str
    domain: str

    @functools.cached_property
    def ip(self) -> str:
        """Its IPv4 address."""
        return containers.address(self.container)

    @property
    def hostname(self) -> str:
        """Name in MX and EHLO."""
        return f"mail.{self.domain}"

    @property
    def selectors(self) -> dict[str, str]:
        """The selector of each domain that it signs for."""
        return {self.domain: "mail", self.hostname: "mail"}

    def key(self, name: bytes, timeout: int = 5) -> bytes | None:
        """The DKIM record of a name, from the name server."""
        return dns.dkim_record(name, timeout)

    def run(self, *command: str, user: str = "root") -> str:
        """Standard output of a command on the server; AssertionError if it fails."""
        return containers.run(self.container, *command, user=user)

    def sh(self, script: str) -> str:
        """Stripped standard output of a script; AssertionError if it fails."""
        return self.run("sh", "-c", script).strip()

    def python(self, program: str, *arguments: str, user: str = "nobody") -> str:
        """Standard output of a Python program; AssertionError if it fails."""
        words = ["exec", "--interactive", "--user", user, self.container, "python3", "-", *arguments]
        return docker(*words, data=program.encode()).decode()

    def sendmail(self, text: str, *arguments: str, user: str = "root") -> None:
        """Submit a message by the host's sendmail command. AssertionError if it is refused."""
        words = ["exec", "--interactive", "--user", user, self.container, "/usr/sbin/sendmail", *arguments]
        docker(*words, data=text.encode())

    def main_pid(self, unit: str) -> int:
        """PID of the service's main process; 0 unless it is active."""
        shown = self.run("systemctl", "show", "-p", "MainPID", "-p", "ActiveState", f"{unit}.service").split()
        values = dict(line.split("=") for line in shown)
        return int(values["MainPID"]) if values["ActiveState"] == "active" else 0

    def queue(self) -> str:
        """OpenSMTPD's queue, a line for each recipient."""
        return self.run("smtpctl", "show", "queue")

    def settle(self, timeout: float = PATIENCE) -> None:
        """Wait until the queue is empty."""
        wait_for(lambda: not self.queue(), timeout, f"{self.container}'s queue is empty")


S = TypeVar("S", bound=Server)


def on_all(servers: Sequence[S], check: Callable[[S], object]) -> None:
    """Call `check` for all servers at the same time. Raises its error, or a group of errors."""
    with ThreadPoolExecutor() as pool:
        answers = [(server, pool.submit(check, server)) for server in servers]
    errors = []
    for server, answer in answers:
        if (error := answer.exception()) is not None:
            error.add_note(f"server: {server.container}")
            errors.append(error)
    if errors:
        raise errors[0] if len(errors) == 1 else BaseExceptionGroup("several servers", errors)


def for_all(servers: Sequence[S]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: run the test for all servers at the same time. Its parameter ``server`` is the server."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run_test(**parameters: object) -> None:
            on_all(servers, lambda server: test(server, **parameters))

        signature = inspect.signature(test)
        fixtures = [one for name, one in signature.parameters.items() if name != "server"]
        run_test.__signature__ = signature.replace(parameters=fixtures)  # type: ignore[attr-defined]
        return run_test

    return decorate
