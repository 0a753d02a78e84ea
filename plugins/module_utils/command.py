# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands on the managed host."""

from __future__ import annotations

import subprocess

from ansible_collections.selfhosted.mail.plugins.module_utils.safe_path import user_id


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


def make_user(name: str, home: str = "/nonexistent") -> None:
    """A system user without login, and a group of that name; a user who is there already stays.

    :raises CommandFailed: when that fails.
    """
    if user_id(name) is None:
        options = ["--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin"]
        run(["useradd", *options, "--home-dir", home, name])
