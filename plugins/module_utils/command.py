# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands on the managed host."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

from ansible_collections.selfhosted.mail.plugins.module_utils.safe_path import user_id


class CommandFailed(Exception):
    """A command ended with an error; ``str()`` is its output."""


def run(argv: list[str], *, stdin: str = "", umask: int = 0o022) -> str:
    """Run ``argv`` without a shell, with a fixed umask and locale; returns its standard output.

    :raises CommandFailed: with the program's output, if it cannot be run or exits non-zero.
    """
    try:
        done = subprocess.run(  # pylint: disable=ansible-bad-function
            argv,
            capture_output=True,
            text=True,
            errors="replace",
            input=stdin,
            umask=umask,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            check=False,
        )
    except OSError as error:
        raise CommandFailed(f"{argv[0]}: {error.strerror}") from error
    if done.returncode:
        raise CommandFailed(done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}")
    return done.stdout


def output_lines(argv: list[str]) -> Iterator[str]:
    """The lines of a command's standard output while it runs, for output that is too much for the memory of a host.

    :raises OSError: if it cannot be run.
    :raises CommandFailed: after the last line, if it exits non-zero.
    """
    with subprocess.Popen(  # pylint: disable=ansible-bad-function
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as running:
        yield from running.stdout or ()
    if running.returncode:
        raise CommandFailed(f"{' '.join(argv)}: exit code {running.returncode}")


def make_user(name: str, home: str = "/nonexistent") -> None:
    """Create a system user without login, and a group of the same name. An existing user is left alone.

    :raises CommandFailed: if that fails.
    """
    if user_id(name) is None:
        options = ["--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin"]
        run(["useradd", *options, "--home-dir", home, name])
