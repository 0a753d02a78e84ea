# SPDX-License-Identifier: GPL-3.0-or-later
"""Zone files are written on the controller by a real run of Ansible."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

Playbook = Callable[..., subprocess.CompletedProcess[str]]


def task(directory: Path | str, **zones: str) -> list[dict[str, Any]]:
    return [
        {"name": "Zone files are written", "selfhosted.mail.zone_files": {"directory": str(directory), "zones": zones}}
    ]


def test_written_once_with_diff(playbook: Playbook, tmp_path: Path) -> None:
    wanted = task(
        tmp_path / "new" / "dns", **{"example.org": "@ IN MX 10 mail.example.org.\n", "example.net": "; none\n"}
    )
    first = playbook(wanted, "--diff")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "changed=1" in first.stdout
    assert "+@ IN MX 10 mail.example.org." in first.stdout
    assert (tmp_path / "new/dns/example.org.zone").read_text() == "@ IN MX 10 mail.example.org.\n"
    assert (tmp_path / "new/dns/example.net.zone").read_text() == "; none\n"
    second = playbook(wanted)
    assert "changed=0" in second.stdout


def test_check_mode_writes_nothing(playbook: Playbook, tmp_path: Path) -> None:
    done = playbook(task(tmp_path / "dns", **{"example.org": "; text\n"}), "--check", "--diff")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "+; text" in done.stdout
    assert not (tmp_path / "dns").exists()


def test_a_relative_directory_is_where_the_command_is_called(playbook: Playbook, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    done = playbook(task("dns", **{"example.org": "; text\n"}), cwd=tmp_path / "here")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "here/dns/example.org.zone").exists()


def test_a_directory_that_cannot_be_made_names_the_variable(playbook: Playbook, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = playbook(task(tmp_path / "file", **{"example.org": "; text\n"}))
    assert done.returncode != 0
    assert "mail_dns_output_dir: " in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
