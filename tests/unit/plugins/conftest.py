# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules and playbooks can be run in tests."""

from __future__ import annotations

import contextlib
import grp
import io
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Run = Callable[..., dict[str, Any]]
Playbook = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_module() -> Run:
    """``run_module(main, check=False, **options)`` runs a module's ``main`` in this process and returns its result."""
    from ansible.module_utils.testing import patch_module_args

    def run(main: Callable[[], None], check: bool = False, **options: Any) -> dict[str, Any]:
        output = io.StringIO()
        arguments = {**options, "_ansible_check_mode": check, "_ansible_diff": True}
        with patch_module_args(arguments), contextlib.redirect_stdout(output), pytest.raises(SystemExit):
            main()
        result: dict[str, Any] = json.loads(output.getvalue())
        return result

    return run


@pytest.fixture
def playbook(tmp_path: Path, checkout: Path) -> Playbook:
    """``playbook(tasks, *options)`` runs tasks on this machine with the ``ansible-playbook`` beside this Python."""

    def run(tasks: list[dict[str, Any]], *options: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        (tmp_path / "ansible.cfg").touch()
        file = tmp_path / "playbook.yml"
        file.write_text(
            yaml.safe_dump(
                [
                    {
                        "hosts": "localhost",
                        "gather_facts": False,
                        "tasks": tasks,
                        "vars": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable},
                    }
                ]
            )
        )
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(checkout / "playbooks" / "collections"),
            "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
            "ANSIBLE_HOME": str(tmp_path / "ansible"),
            "ANSIBLE_REMOTE_TMP": str(tmp_path / "remote"),
            "ANSIBLE_NOCOLOR": "1",
        }
        return subprocess.run(
            [Path(sys.executable).parent / "ansible-playbook", "-i", "localhost,", *options, file],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    return run


@pytest.fixture(autouse=True)
def state_in_temporary_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the modules' state out of this machine's ``/var`` and ``/run``."""
    from ansible_collections.selfhosted.mail.plugins.module_utils import fileset, systemd_unit

    monkeypatch.setattr(fileset, "PREVIOUS", tmp_path / "kept" / "previous")
    monkeypatch.setattr(systemd_unit, "STAMPS", tmp_path / "stamps")


@pytest.fixture(scope="session")
def me() -> dict[str, str]:
    """Owner and group that this process may give files to."""
    return {"owner": pwd.getpwuid(os.geteuid()).pw_name, "group": grp.getgrgid(os.getegid()).gr_name}
