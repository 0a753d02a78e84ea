# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands of the managed host: their output, and the reason when they fail."""

from __future__ import annotations

import os
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


def test_the_language_is_not_roots_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "tr_TR.UTF-8")
    assert run(["printenv", "LC_ALL"]) == "C.UTF-8\n"


def test_roots_own_umask_is_not_a_commands(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        run(["touch", str(tmp_path / "compiled")])
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "compiled").stat().st_mode) == 0o644
