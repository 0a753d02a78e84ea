# SPDX-License-Identifier: GPL-3.0-or-later
"""A daemon's files as one set: compared, deployed, rolled back. tests/containers has real services."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.mail.plugins.modules import daemon_config

SECRET = "correct-horse-battery-staple"


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    return tmp_path / "etc"


@pytest.fixture
def config(run_module: Callable[..., dict[str, Any]], me: dict[str, str]) -> Callable[..., dict[str, Any]]:
    """Run the module with everything that it writes owned by this process."""

    def run(check: bool = False, **options: Any) -> dict[str, Any]:
        owned = {
            key: [{**me, **item} for item in items]
            for key, items in options.items()
            if key in ("files", "directories", "create")
        }
        return run_module(daemon_config.main, check, **{**options, **owned})

    return run


def test_a_set_is_written_once(config: Callable[..., dict[str, Any]], etc: Path) -> None:
    wanted: dict[str, Any] = {
        "directories": [{"path": str(etc / "d"), "mode": "0750"}],
        "create": [{"creates": str(etc / "key"), "argv": ["sh", "-c", 'date +%N > "$1"', "sh", "{path}"]}],
        "files": [
            {"dest": str(etc / "d" / "a.conf"), "content": "a\n"},
            {"dest": str(etc / "b.conf"), "content": "b\n", "mode": "0600"},
        ],
    }
    first = config(**wanted)
    key = (etc / "key").read_text()
    assert first["changed"]
    assert first["state"] == "unchanged", "no service reads them"
    assert first["changed_paths"] == [str(etc / name) for name in ("d", "key", "d/a.conf", "b.conf")]
    assert (etc / "d" / "a.conf").read_text() == "a\n"
    assert [stat.S_IMODE((etc / name).stat().st_mode) for name in ("d", "key", "b.conf")] == [0o750, 0o600, 0o600]
    second = config(**wanted)
    assert not second["changed"]
    assert second["changed_paths"] == second["diff"] == []
    assert (etc / "key").read_text() == key
    (etc / "key").chmod(0o644)
    assert config(**wanted)["changed_paths"] == [str(etc / "key")]
    assert stat.S_IMODE((etc / "key").stat().st_mode) == 0o600
    assert (etc / "key").read_text() == key


def test_check_mode_says_the_same_and_writes_nothing(config: Callable[..., dict[str, Any]], etc: Path) -> None:
    wanted: dict[str, Any] = {
        "directories": [{"path": str(etc / "d")}],
        "users": [{"name": "no-such-user-of-ours"}],
        "create": [{"creates": str(etc / "key"), "argv": ["touch", "{path}"]}],
        "files": [{"dest": str(etc / "d" / "a.conf"), "content": "a\n"}],
        "validate": [["false"]],
        "name": "no-such-unit.service",
    }
    result = config(check=True, **wanted)
    assert result["changed"]
    assert result["changed_paths"] == [str(etc / name) for name in ("d", "key", "d/a.conf")]
    assert result["state"] == "started"
    assert result["diff"][0]["after"] == "a\n"
    assert list(etc.iterdir()) == []


def test_a_set_that_the_checker_refuses_replaces_nothing(config: Callable[..., dict[str, Any]], etc: Path) -> None:
    (etc / "a.conf").write_text("good\n")
    before = (etc / "a.conf").stat()
    result = config(
        name="no-such-unit.service",
        files=[{"dest": str(etc / "a.conf"), "content": "bad\n"}, {"dest": str(etc / "b.conf"), "content": "bad\n"}],
        validate=[["sh", "-c", f"! grep -l bad {etc}/*.conf && exit 0; echo line 1: syntax error >&2; exit 1"]],
    )
    assert result["failed"]
    assert result["msg"] == "no-such-unit.service: line 1: syntax error"
    assert (etc / "a.conf").read_text() == "good\n"
    assert (etc / "a.conf").stat().st_mtime_ns == before.st_mtime_ns
    assert [path.name for path in etc.iterdir()] == ["a.conf"]


def test_checkers_see_the_whole_set(config: Callable[..., dict[str, Any]], etc: Path) -> None:
    result = config(
        files=[
            {"dest": str(etc / "a.conf"), "content": "include b.conf\n"},
            {"dest": str(etc / "b.conf"), "content": "included\n"},
        ],
        validate=[["test", "-s", str(etc / "a.conf")], ["test", "-s", str(etc / "b.conf")]],
    )
    assert not result.get("failed"), result


def test_commands_run_for_changed_files_and_again_for_the_old_ones_after_a_refusal(
    config: Callable[..., dict[str, Any]], etc: Path
) -> None:
    def wanted(text: str, check: str) -> dict[str, Any]:
        return {
            "files": [{"dest": str(etc / "a.sieve"), "content": text}, {"dest": str(etc / "b"), "content": "b\n"}],
            "commands": [
                {"argv": ["cp", str(etc / "a.sieve"), str(etc / "a.svbin")], "when_changed": [str(etc / "a.sieve")]},
                {"argv": ["touch", str(etc / "never")], "when_changed": [str(etc / "other")]},
            ],
            "validate": [[check]],
        }

    config(**wanted("old\n", "true"))
    assert (etc / "a.svbin").read_text() == "old\n"
    assert config(**wanted("new\n", "false"))["failed"]
    assert (etc / "a.sieve").read_text() == (etc / "a.svbin").read_text() == "old\n"
    (etc / "a.svbin").unlink()
    (etc / "b").unlink()
    config(**wanted("old\n", "true"))
    assert not (etc / "a.svbin").exists(), "its file had not changed"
    assert not (etc / "never").exists()


def test_a_command_that_fails_leaves_no_half_key(config: Callable[..., dict[str, Any]], etc: Path) -> None:
    result = config(
        create=[
            {
                "creates": str(etc / "key"),
                "argv": ["sh", "-c", 'echo half > "$1"; echo out of entropy >&2; exit 1', "sh", "{path}"],
            }
        ]
    )
    assert result["failed"]
    assert "out of entropy" in result["msg"]
    assert list(etc.iterdir()) == []


def test_a_key_is_never_readable_by_others_while_it_is_made(config: Callable[..., dict[str, Any]], etc: Path) -> None:
    config(
        create=[
            {
                "creates": str(etc / "key"),
                "mode": "0600",
                "argv": ["sh", "-c", 'echo k > "$1"; stat -c %a "$1" > "$1.mode"', "sh", "{path}"],
            }
        ]
    )
    assert (etc / "key.new.mode").read_text() == "600\n"


def test_files_of_a_user_that_the_host_does_not_have(config: Callable[..., dict[str, Any]], etc: Path) -> None:
    result = config(files=[{"dest": str(etc / "a.conf"), "content": "a\n", "owner": "no-such-user"}])
    assert result["failed"]
    assert "no user no-such-user" in result["msg"]
    assert list(etc.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="the files belong to root")
@pytest.mark.parametrize("fails", [False, True])
def test_the_result_has_no_text_of_a_secret_file(config: Callable[..., dict[str, Any]], etc: Path, fails: bool) -> None:
    (etc / "a").write_text(f"old {SECRET}")
    result = config(
        files=[{"dest": str(etc / "a"), "content": SECRET, "mode": "0600", "secret": True}],
        validate=[["false"]] if fails else [],
    )
    assert result.get("failed", False) is fails
    assert SECRET not in str(result)


@pytest.mark.skipif(os.geteuid() != 0, reason="the files belong to root")
@pytest.mark.parametrize("options", [[], ["--check"]])
def test_a_run_with_every_verbosity_and_diff_shows_no_secret(
    playbook: Callable[..., Any], etc: Path, me: dict[str, str], options: list[str]
) -> None:
    (etc / "old").write_text(f"old {SECRET}")
    done = playbook(
        [
            {
                "name": "Files are in place",
                "selfhosted.mail.daemon_config": {
                    "files": [
                        {"dest": str(etc / "old"), "content": f"{SECRET}\n", "mode": "0600", "secret": True, **me},
                        {"dest": str(etc / "new"), "content": f"{SECRET}\n", "mode": "0600", "secret": True, **me},
                        {"dest": str(etc / "plain"), "content": "shown in the diff\n", **me},
                    ]
                },
            }
        ],
        "-vvv",
        "--diff",
        *options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed=1" in done.stdout
    assert "+shown in the diff" in done.stdout
    assert SECRET not in done.stdout + done.stderr
    assert (etc / "new").exists() is not bool(options)


def test_files_that_match_and_are_none_of_the_set_are_removed(config: Callable[..., dict[str, Any]], etc: Path) -> None:
    for name in ("alice.sieve", "bob.sieve", "notes"):
        (etc / name).write_text("keep;\n")
    wanted: dict[str, Any] = {
        "files": [{"dest": str(etc / "alice.sieve"), "content": "stop;\n"}],
        "purge": [str(etc / "**/*.sieve")],
    }
    (etc / "deep" / "er").mkdir(parents=True)
    (etc / "deep" / "er" / "carol.sieve").touch()
    assert config(check=True, **wanted)["changed"]
    assert (etc / "bob.sieve").exists()
    failed = config(**wanted, validate=[["false"]])
    assert failed["failed"]
    assert (etc / "bob.sieve").read_text() == "keep;\n"
    result = config(**wanted)
    assert result["changed_paths"] == [str(etc / name) for name in ("alice.sieve", "bob.sieve", "deep/er/carol.sieve")]
    assert sorted(path.name for path in etc.rglob("*") if path.is_file()) == ["alice.sieve", "notes"]
    assert not config(**wanted)["changed"]


@pytest.fixture
def role(tmp_path: Path) -> Path:
    """A role with a template, a program and a file that lie where they will be on the host."""
    role = tmp_path / "roles" / "demo"
    here = str(tmp_path / "etc").lstrip("/")
    for name, text, mode in (
        (
            f"templates/{here}/a.conf.j2",
            "{{ ansible_managed | comment }}\n{% if true %}\nname {{ name }}\n{% endif %}\n",
            0o644,
        ),
        (f"files/{here}/program", "#!/bin/sh\n# {{ not a template }}\n", 0o755),
        ("templates/other.j2", "other {{ name }}\n", 0o644),
        ("files/plain", "plain\n", 0o644),
        *((f"files/{here}/package/{name}", f"{name}\n", 0o644) for name in ("one.py", "two.py", "notes")),
    ):
        (role / name).parent.mkdir(parents=True, exist_ok=True)
        (role / name).write_text(text)
        (role / name).chmod(mode)
    return role


def run_role(playbook: Callable[..., Any], role: Path, files: list[dict[str, Any]], *options: str) -> Any:
    tasks = [{"name": "Put files in place", "selfhosted.mail.daemon_config": {"files": files}}]
    (role / "tasks").mkdir(exist_ok=True)
    (role / "tasks" / "main.yml").write_text(json.dumps(tasks))
    include = {"name": "Run the role", "ansible.builtin.include_role": {"name": "demo"}, "vars": {"name": "a { b"}}
    return playbook([include], *options)


@pytest.mark.skipif(os.geteuid() != 0, reason="the files belong to root")
def test_a_files_place_in_the_role_is_its_place_on_the_host(
    playbook: Callable[..., Any], role: Path, etc: Path
) -> None:
    files: list[dict[str, Any]] = [
        {"dest": str(etc / "a.conf")},
        {"dest": str(etc / "program")},
        {"dest": str(etc / "b.conf"), "src": "other.j2", "mode": "0600"},
        {"dest": str(etc / "c"), "src": "plain"},
        {"dest": str(etc / "d"), "src": "/etc/hostname", "state": "link"},
    ]
    checked = run_role(playbook, role, files, "--check", "--diff")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "+name a { b" in checked.stdout
    assert list(etc.iterdir()) == []
    done = run_role(playbook, role, files)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (etc / "a.conf").read_text() == "#\n# Ansible managed\n#\nname a { b\n"
    assert (etc / "program").read_text() == (role / f"files{etc}" / "program").read_text()
    modes = [stat.S_IMODE((etc / name).stat().st_mode) for name in ("a.conf", "program", "b.conf", "c")]
    assert modes == [0o644, 0o755, 0o600, 0o644]
    assert (etc / "b.conf").read_text() == "other a { b\n"
    assert (etc / "d").readlink() == Path("/etc/hostname")
    assert "changed=0" in run_role(playbook, role, files).stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="the files belong to root")
def test_a_pattern_stands_for_the_files_of_the_role(playbook: Callable[..., Any], role: Path, etc: Path) -> None:
    (etc / "package").mkdir()
    done = run_role(playbook, role, [{"dest": str(etc / "package/*.py"), "mode": "0600"}])
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name: path.read_text() for path in (etc / "package").iterdir()} == {
        "one.py": "one.py\n",
        "two.py": "two.py\n",
    }
    assert stat.S_IMODE((etc / "package/one.py").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "file",
    [
        {"dest": "/etc/none"},
        {"dest": "/etc/none/*.py"},
        {"dest": "/etc/a", "src": "none.j2"},
        {"dest": "/etc/a", "src": "none"},
    ],
)
def test_a_file_that_the_role_does_not_have(playbook: Callable[..., Any], role: Path, file: dict[str, Any]) -> None:
    done = run_role(playbook, role, [file])
    assert done.returncode != 0
    assert "none" in done.stdout
