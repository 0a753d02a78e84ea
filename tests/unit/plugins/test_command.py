# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands of the managed host: their output, and the reason when they fail."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from ansible_collections.selfhosted.mail.plugins.module_utils.command import CommandFailed, run


def test_run_gives_output_and_the_programs_own_words() -> None:
    assert run(["printf", "%s", "$HOME;x"]) == "$HOME;x"
    with pytest.raises(CommandFailed, match=r"^on stderr$"):
        run(["sh", "-c", "echo on stdout; echo on stderr >&2; exit 3"])
    with pytest.raises(CommandFailed, match=r"^on stdout$"):
        run(["sh", "-c", "echo on stdout; exit 3"])
    with pytest.raises(CommandFailed, match="exit code 3"):
        run(["sh", "-c", "exit 3"])
    with pytest.raises(CommandFailed, match="no-such-program: No such file"):
        run(["no-such-program"])


def test_run_with_umask(tmp_path: Path) -> None:
    run(["touch", str(tmp_path / "key")], umask=0o077)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
