# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands on the managed host."""

from __future__ import annotations

import subprocess


class CommandFailed(Exception):
    """A command ended with an error; ``str()`` is its output."""


def run(argv: list[str], *, stdin: str = "", umask: int = -1) -> str:
    """Run ``argv`` without a shell, return its standard output.

    :raises CommandFailed: with the program's own output, when it cannot be run or exits non-zero.
    """
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", input=stdin, umask=umask, check=False
        )
    except OSError as error:
        raise CommandFailed(f"{argv[0]}: {error.strerror}") from error
    if done.returncode:
        raise CommandFailed(done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}")
    return done.stdout
