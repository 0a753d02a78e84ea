# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports of long tests: their progress, and tables for docs/tested.md. `tools/test --long` reads both."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from testbed.playbook import CHECKOUT

FOLDER = CHECKOUT / ".cache/long"
_LOCK = threading.Lock()


def progress(text: str) -> None:
    """Report a line of progress."""
    with _LOCK:
        FOLDER.mkdir(parents=True, exist_ok=True)
        with (FOLDER / "progress").open("a") as file:
            print(text, file=file)


class Table:
    """A table in Markdown, `.cache/long/NAME.md`. Each row is written as soon as it is added."""

    def __init__(self, name: str, title: str, columns: Sequence[str]) -> None:
        self._file = FOLDER / f"{name}.md"
        self._begin = f"### {title}\n\n{_row(columns)}{_row(['---'] * len(columns))}"
        self._begun = False

    def add(self, cells: Sequence[str]) -> None:
        """Add a row; the first one replaces the table of an earlier run."""
        with _LOCK:
            FOLDER.mkdir(parents=True, exist_ok=True)
            if not self._begun:
                self._file.write_text(self._begin)
                self._begun = True
            with self._file.open("a") as file:
                file.write(_row(cells))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", r"\|").split()) for cell in cells) + " |\n"
