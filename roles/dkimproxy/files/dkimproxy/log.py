# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines on standard error, with journald's priority prefix where it reads them (sd-daemon(3))."""

import contextlib
import os
import syslog

_PRIORITIES = {"err": 3, "warning": 4, "notice": 5, "info": 6}
_PREFIX = "JOURNAL_STREAM" in os.environ
_to_syslog = False


def log_to_syslog() -> None:
    """From now on to syslog, for a daemon without a standard error."""
    global _to_syslog
    syslog.openlog("dkimproxy.out", syslog.LOG_PID, syslog.LOG_MAIL)
    _to_syslog = True


def log(priority: str, text: str) -> None:
    """Write one line for each line of `text`."""
    for line in text.splitlines():
        if _to_syslog:
            syslog.syslog(_PRIORITIES[priority], line)
            continue
        prefix = f"<{_PRIORITIES[priority]}>" if _PREFIX else f"dkimproxy.out[{os.getpid()}]: "
        with contextlib.suppress(OSError):
            os.write(2, f"{prefix}{line}\n".encode(errors="replace"))
