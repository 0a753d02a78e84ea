# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines on standard error, with journald's priority prefix where it reads them (sd-daemon(3))."""

import os

_PRIORITIES = {"err": 3, "warning": 4, "notice": 5, "info": 6}
_PREFIX = "JOURNAL_STREAM" in os.environ


def log(priority: str, text: str) -> None:
    """Write one line for each line of `text`."""
    for line in text.splitlines():
        prefix = f"<{_PRIORITIES[priority]}>" if _PREFIX else f"dkimproxy.out[{os.getpid()}]: "
        try:
            os.write(2, f"{prefix}{line}\n".encode(errors="replace"))
        except OSError:
            pass
