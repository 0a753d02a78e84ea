# SPDX-License-Identifier: GPL-3.0-or-later
"""The command that delivers to a mailbox: only Dovecot's own refusal is permanent."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
REFUSED, LATER = (
    os.EX_UNAVAILABLE,
    os.EX_TEMPFAIL,
)  # of mail.lmtp; OpenSMTPD takes all but LATER and EX_OSERR for permanent


def deliver(folder: Path, lmtp: str, locks: str = "") -> int:
    """Exit code of the command in smtpd.conf, with this shell command in the place of mail.lmtp."""
    program = folder / "mail.lmtp"
    program.write_text(f"#!/bin/sh\n{lmtp}\n")
    program.chmod(0o755)
    text = (CHECKOUT / "roles/opensmtpd/templates/etc/smtpd.conf.j2").read_text()
    [command] = re.findall(r'(?m)^action "RECV" mda "(.*)" user ', text)
    command = command.replace("/usr/libexec/opensmtpd/mail.lmtp", str(program)).replace(r"\$", "$")
    command = re.sub(r"/tmp/%{[^}]*}", locks or str(folder / "lock"), command)
    return subprocess.run(["sh", "-c", command], check=False, capture_output=True).returncode


@pytest.mark.parametrize(
    ("lmtp", "code"),
    [
        ("exit 0", 0),
        (f"exit {REFUSED}", REFUSED),
        (f"exit {LATER}", LATER),
        ("exit 1", LATER),
        ("exit 66", LATER),
        ("kill -9 $$", LATER),
        ("rm $0; exec $0", LATER),
    ],
)
def test_what_is_no_refusal_of_dovecots_is_temporary(tmp_path: Path, lmtp: str, code: int) -> None:
    assert deliver(tmp_path, lmtp) == code


def test_a_lock_that_cannot_be_made_is_temporary(tmp_path: Path) -> None:
    """As on a full disk, or one without inodes."""
    assert deliver(tmp_path, "exit 0", locks="/nonexistent/lock") == LATER
