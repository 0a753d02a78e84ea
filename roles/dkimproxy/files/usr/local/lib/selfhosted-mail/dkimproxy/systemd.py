# SPDX-License-Identifier: GPL-3.0-or-later
"""Log lines on standard error (sd-daemon(3)) and state notifications (sd_notify(3)) for systemd."""

import contextlib
import os
import socket

_PRIORITIES = {"err": 3, "warning": 4, "notice": 5, "info": 6}


def log(priority: str, text: str) -> None:
    """Write each line of `text` to standard error, with its priority if journald reads it."""
    prefix = f"<{_PRIORITIES[priority]}>" if "JOURNAL_STREAM" in os.environ else f"dkimproxy.out[{os.getpid()}]: "
    for line in text.splitlines():
        with contextlib.suppress(OSError):
            os.write(2, f"{prefix}{line}\n".encode(errors="replace"))


def notify(state: str) -> None:
    """Send a state such as `READY=1`; does nothing without NOTIFY_SOCKET."""
    if path := os.environ.get("NOTIFY_SOCKET"):
        address = "\0" + path[1:] if path.startswith("@") else path
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(state.encode(), address)


def watchdog_seconds() -> float | None:
    """Seconds between two WATCHDOG=1: a third of WatchdogSec, None without one."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 3e6 if microseconds.isdigit() else None
