# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter, and the tables that it reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from filter_helpers import TABLE, Inside, launch


@pytest.fixture(scope="module", autouse=True)
def senders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.getbasetemp() / "senders"
    path.write_text(TABLE)
    (path.parent / "limits").write_text("* 1000\n")
    return path


@pytest.fixture
def said(senders: Path) -> Callable[..., list[str]]:
    """Its answers to these lines, after its registration."""

    def run(
        *lines: str, size: int = 10**6, messages: int = 100, policy: str = "account", memory: int = 2**28
    ) -> list[str]:
        told = "\n".join(["config|smtpd-version|7.4.0", "config|ready", *lines, ""])
        done = launch(senders, told, size, messages, policy, memory)
        assert done.stderr == b""
        text = done.stdout.decode("latin-1").split("\n")
        assert text[-1] == ""
        assert "register|ready" in text
        return text[text.index("register|ready") + 1 : -1]

    return run


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The tables, alice having three recipients an hour, and a place for what is counted."""
    (tmp_path / "senders").write_text(TABLE)
    (tmp_path / "limits").write_text("* 0\nalice@our.test 3\n")
    return tmp_path / "senders"


@pytest.fixture
def inside(senders: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Inside]:
    def build(memory: int = 2**28) -> Inside:
        return Inside(senders, monkeypatch, bytes=10**9, memory=memory)

    return build
