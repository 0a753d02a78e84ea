# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/tested.md after a run of `make long`: only results that were seen."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PASSED = {"name": "unit", "result": "passed", "counts": "2 passed, 1 skipped", "seconds": 63.4}
RUN = {"date": "2026-11-28", "commit": "e336c4d01234", "changed": False, "seconds": 5400, "only": [], "jobs": [PASSED]}


@pytest.fixture(scope="module")
def tested(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("tested")


def test_a_run_that_passed(tested: ModuleType) -> None:
    assert tested.markdown(RUN, ["### Faults\n\n| a |\n|---|\n", "### Others\n"]) == (
        "The last run of `make long`: 2026-11-28, commit `e336c4d01234`, 90 min: **passed**.\n\n"
        "| job | result | tests | time |\n|---|---|---|---|\n| unit | passed | 2 passed, 1 skipped | 63 s |\n\n"
        "### Faults\n\n| a |\n|---|\n\n### Others"
    )


FAILED, SKIPPED, UNENDED = ({**PASSED, "name": word or "x", "result": word} for word in ("FAILED", "skipped", ""))


@pytest.mark.parametrize(
    ("differs", "says"),
    [
        ({"jobs": [PASSED, FAILED, SKIPPED, UNENDED]}, "**failed, 1 of 4 jobs**"),
        ({"jobs": [PASSED, SKIPPED]}, "**not everything was run**"),
        ({"jobs": [PASSED, UNENDED]}, "**not everything was run**"),
        ({"jobs": []}, "**not everything was run**"),
        ({"only": ["un*", "lint"]}, "**passed, but only un*, lint was run**"),
        ({"only": ["un*"], "jobs": [FAILED]}, "**failed, 1 of 1 jobs**"),
        ({"seconds": None, "jobs": [PASSED]}, "**has not ended**"),
        ({"seconds": None, "jobs": [FAILED]}, "**has not ended**"),
        ({"changed": True}, "commit `e336c4d01234` **with changes that it does not have**"),
        ({"commit": ""}, "no commit"),
    ],
)
def test_no_other_run_counts_as_one_that_passed(tested: ModuleType, differs: dict[str, Any], says: str) -> None:
    [first, *_table] = tested.markdown({**RUN, **differs}, []).splitlines()
    assert says in first
    assert ("**passed**" in first) == (set(differs) < {"changed", "commit"})


def test_a_job_that_has_not_ended_took_no_time(tested: ModuleType) -> None:
    assert "| x | has not ended |  |  |" in tested.markdown({**RUN, "jobs": [{**UNENDED, "counts": ""}]}, [])


def test_what_was_tried_again_has_its_commit(tested: ModuleType) -> None:
    part = tested.markdown(
        RUN, ["### Faults\n\n| a | b | c |\n|---|---|---|\n| 1 | 2 | bad |\n| 1 | 3 | bad |\n", "### Others\n"]
    )
    new = [
        "### Faults\n\n| a | b | c |\n|---|---|---|\n| 1 | 3 | good |\n| 4 | 5 | new |\n",
        "### More\n\n| a |\n|---|\n| 1 |\n",
    ]
    assert tested.tried_again(part, new, {**RUN, "commit": "abc"}).partition("### Faults")[2] == (
        "\n\n| a | b | c |\n|---|---|---|\n| 1 | 2 | bad |\n| 1 | 3 | good (`abc`) |\n| 4 | 5 | new (`abc`) |\n\n"
        "### Others\n\n### More\n\n| a |\n|---|\n| 1 (`abc`) |"
    )
    assert "(`abc` with changes) |" in tested.tried_again(part, new, {**RUN, "commit": "abc", "changed": True})


def test_the_rest_of_the_document_stays(tested: ModuleType) -> None:
    text = f"before\n{tested.BEGIN}\nold\n{tested.END}\nafter\n"
    assert tested.document(text, "new") == f"before\n{tested.BEGIN}\nnew\n{tested.END}\nafter\n"
    with pytest.raises(SystemExit, match="has no lines"):
        tested.document("before\n", "new")


def test_the_document_has_its_place(tested: ModuleType) -> None:
    assert tested.document(tested.DOCUMENT.read_text(), "new")


class Clone:
    """A repository with the document and the writer; tools/test thinks that it is its own."""

    def __init__(self, folder: Path, checkout: Path, suite: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.suite = folder, suite
        for name in ("tools/tested", "docs/tested.md"):
            (folder / name).parent.mkdir()
            shutil.copy(checkout / name, folder / name)
        (folder / ".gitignore").write_text(".cache/\n")
        self.git("init", "--quiet")
        self.commit()
        for name, path in (("ROOT", folder), ("LOGS", folder / ".cache/logs"), ("LONG", folder / ".cache/long")):
            monkeypatch.setattr(suite, name, path)
        (folder / ".cache/logs").mkdir(parents=True)

    def git(self, *words: str) -> None:
        identity = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *words], cwd=self.folder, check=True)

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message=a change")

    def says(self) -> str:
        """The document's part about the last run."""
        text = (self.folder / "docs/tested.md").read_text()
        return text.partition("<!-- make long -->\n")[2].partition("\n<!-- /make long -->")[0]

    def run(self, script: str, meanwhile: Callable[[], None] = lambda: None) -> str:
        """The document's part after a job with this script."""
        job = self.suite.Job("unit", ["sh", "-c", script])
        record, progress = self.suite.Record([job], []), self.suite.Progress()
        record.write(progress, ended=False)
        assert "**has not ended**" in self.says()
        progress.run(job)
        meanwhile()
        record.write(progress, ended=True)
        return self.says()


@pytest.fixture
def clone(
    tmp_path: Path, checkout: Path, load_tool: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> Clone:
    return Clone(tmp_path, checkout, load_tool("test"), monkeypatch)


TABLE = "printf '### Faults\\n\\n| a |\\n|---|\\n| x |\\n' >.cache/long/faults.md"
END = "echo '=== 2 passed, 1 skipped, 40 deselected in 1.20s ==='"


def test_a_run_leaves_what_was_seen(clone: Clone) -> None:
    (clone.folder / ".cache/long").mkdir()
    (clone.folder / ".cache/long/old.md").write_text("of an earlier run")
    said = clone.run(f"{TABLE}; {END}")
    assert "**passed**" in said and "changes" not in said and "| unit | passed | 2 passed, 1 skipped | 0 s |" in said
    assert said.endswith("### Faults\n\n| a |\n|---|\n| x |") and "earlier" not in said
    # The document itself is no change.
    assert "**passed**" in (again := clone.run(END)) and "changes" not in again and "Faults" not in again


def test_a_failure_keeps_its_table(clone: Clone) -> None:
    said = clone.run(f"{TABLE}; echo '1 failed, 1 passed in 3.00s (0:00:03)'; exit 1")
    assert "**failed, 1 of 1 jobs**" in said and "| unit | FAILED | 1 failed, 1 passed |" in said and "| x |" in said


def test_what_the_commit_does_not_have(clone: Clone) -> None:
    def edit() -> None:
        (clone.folder / "file").write_text("new")

    assert "with changes" in clone.run(END, edit)
    assert "with changes" in clone.run(END)
    clone.commit()
    assert "with changes" not in clone.run(END)
    assert "with changes" in clone.run(END, clone.commit), "another commit came meanwhile"
