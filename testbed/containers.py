# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers by name: address, commands, start and stop."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def docker(*words: str, data: bytes | None = None) -> bytes:
    """Standard output of `docker WORDS…`; AssertionError with its standard error if it fails."""
    done = subprocess.run(["docker", *words], input=data, capture_output=True, check=False)
    assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr.decode(errors='replace').strip()}"
    return done.stdout


def run(container: str, *command: str, user: str = "root") -> str:
    """Standard output of a command in the container; AssertionError if it fails."""
    return docker("exec", "--user", user, container, *command).decode(errors="replace")


def write(container: str, path: str, data: bytes | str) -> None:
    """Write a file in the container, as root."""
    docker("exec", "--interactive", container, "sh", "-c", 'cat > "$1"', "sh", path,
           data=data.encode() if isinstance(data, str) else data)  # fmt: skip


def address(container: str) -> str:
    """IPv4 address in the test bed's network."""
    networks = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    return docker("inspect", "-f", networks, container).decode().split()[0]


def reboot(container: str) -> None:
    """Shut down and start again."""
    docker("stop", "--time", "60", container)
    boot(container)


def boot(container: str) -> None:
    """Start the container and wait until systemd has started all units."""
    docker("start", container)
    ended = "until [ -S /run/dbus/system_bus_socket ]; do sleep 0.1; done; systemctl is-system-running --wait || true"
    docker("exec", container, "timeout", "300", "sh", "-c", ended)


def journal(container: str, *options: str) -> str:
    """Output of `journalctl OPTIONS…` in the container."""
    return run(container, "sh", "-c", 'journalctl --sync; exec journalctl --no-pager "$@"', "sh", *options)


# Seconds after which a test gives up, enough for a busy machine. Time limits that users are promised are in the tests.
PATIENCE = 120


def wait_for(check: Callable[[], T | None], timeout: float = PATIENCE, what: str = "") -> T:
    """The first true result of `check`; AssertionError after `timeout` seconds.

    It is called each tenth of the time that has passed, five times a second at first and each second at least: a look
    into a container takes processor time from what is waited for.
    """
    begun = time.monotonic()
    while True:
        answer = check()
        if answer:
            return answer
        waited = time.monotonic() - begun
        assert waited < timeout, f"not within {timeout:g} s: {what or check}"
        time.sleep(min(max(waited / 10, 0.2), 1))
