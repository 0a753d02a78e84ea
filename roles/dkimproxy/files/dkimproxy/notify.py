# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages to systemd (sd_notify(3)): a datagram, no library."""

import os
import socket


def notify(state: str) -> None:
    """Send `READY=1` and the like; without NOTIFY_SOCKET nothing happens."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(state.encode(), address)
    except OSError:
        pass


def watchdog_seconds() -> float | None:
    """How often systemd wants to hear WATCHDOG=1: a third of WatchdogSec, None without one."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 3e6 if microseconds.isdigit() else None
