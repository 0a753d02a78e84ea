# SPDX-License-Identifier: GPL-3.0-or-later
"""Which jobs tools/test has to run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SCENARIO = "molecule-dkimproxy_upstream"


@pytest.fixture(scope="module")
def suite(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("test")


def test_a_scenario_is_skipped_without_its_tarball(suite: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DKIMPROXY_ARCHIVE", raising=False)
    assert {job.name: job.skip for job in suite.jobs() if job.skip} == {
        SCENARIO: "no tarball (DKIMPROXY_ARCHIVE is not set)"
    }


def test_a_tarball_that_is_not_there_is_an_error(suite: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKIMPROXY_ARCHIVE", "/nowhere/release.tar.gz")
    with pytest.raises(SystemExit, match=r"there is no file /nowhere/release\.tar\.gz"):
        suite.jobs()


def test_a_tarball_is_handed_on(suite: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "release").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DKIMPROXY_ARCHIVE", "release")
    [job] = (job for job in suite.jobs() if job.name == SCENARIO)
    assert (job.skip, job.environment["DKIMPROXY_ARCHIVE"]) == ("", str(tmp_path / "release"))


@pytest.mark.parametrize(
    ("log", "shown"),
    [
        ("E   x\nFAILED a.py::b - oh\nERROR c.py\nend\n", ["FAILED a.py::b - oh", "ERROR c.py", "E   x"]),
        ("    | ValueError: y\n    | other\nFAILED a\n", ["FAILED a", "    | ValueError: y"]),
        ("FAILED a\n" * 10, ["FAILED a"] * 8 + ["and 2 more"]),
        (
            "".join(f"E   {number}\n" for number in range(20)) + "FAILED a\n",
            ["FAILED a", *(f"E   {number}" if number != 8 else "..." for number in (*range(9), *range(12, 20)))],
        ),
        ("".join(f"{number}\n" for number in range(20)), [str(number) for number in range(12, 20)]),
    ],
)  # fmt: skip
def test_what_is_red_is_named(suite: ModuleType, tmp_path: Path, log: str, shown: list[str]) -> None:
    (tmp_path / "log").write_text(log)
    assert suite.red(tmp_path / "log") == shown
