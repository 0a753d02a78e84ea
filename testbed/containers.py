# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers by name: address, commands, power."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def docker(*words: str, data: bytes | None = None) -> bytes:
    """Standard output of `docker WORDS…`; AssertionError with its standard error when it fails."""
    done = subprocess.run(["docker", *words], input=data, capture_output=True, check=False)
    assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr.decode(errors='replace').strip()}"
    return done.stdout


def run(container: str, *command: str, user: str = "root") -> str:
    """Standard output of a command inside; AssertionError when it fails."""
    return docker("exec", "--user", user, container, *command).decode(errors="replace")


def write(container: str, path: str, data: bytes | str) -> None:
    """A file inside, of root's."""
    docker("exec", "--interactive", container, "sh", "-c", 'cat > "$1"', "sh", path,
           data=data.encode() if isinstance(data, str) else data)  # fmt: skip


def address(container: str) -> str:
    """Its IPv4 address in the test bed's network."""
    networks = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    return docker("inspect", "-f", networks, container).decode().split()[0]


def reboot(container: str) -> None:
    """Shut down, start again, and wait until systemd has started everything it was told to."""
    docker("restart", "--time", "60", container)
    ended = "until [ -S /run/dbus/system_bus_socket ]; do sleep 0.1; done; systemctl is-system-running --wait || true"
    docker("exec", container, "timeout", "120", "sh", "-c", ended)


def journal(container: str, *options: str) -> str:
    """`journalctl OPTIONS…` inside."""
    return run(container, "journalctl", "--no-pager", *options)


# Seconds after which a test gives up: nothing that works takes so long on a machine with other work, and what is ready
# earlier is seen at once. Limits that are promises to users stand in the tests.
PATIENCE = 120


def wait_for(check: Callable[[], T | None], timeout: float = PATIENCE, what: str = "") -> T:
    """The first true answer of `check`, asked twice a second; AssertionError after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        answer = check()
        if answer:
            return answer
        assert time.monotonic() < end, f"not within {timeout:g} s: {what or check}"
        time.sleep(0.5)
