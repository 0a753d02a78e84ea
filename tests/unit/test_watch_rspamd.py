# SPDX-License-Identifier: GPL-3.0-or-later
"""Who says nothing and does nothing hangs; who says nothing and computes is slow. Restarts are the scenarios' part."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

COMPUTES = "while True: pass"
SLEEPS = "import time; time.sleep(600)"


@pytest.fixture
def program(load_program: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The program, with somebody at Rspamd's port who takes connections and says nothing."""
    module = load_program("rspamd/files/usr/local/lib/selfhosted-mail/watch-rspamd")
    with socket.create_server(("127.0.0.1", 0), backlog=50) as silent:
        monkeypatch.setattr(module, "RSPAMD", silent.getsockname())
        monkeypatch.setattr(module, "PATIENCE", 2)
        yield module


@pytest.mark.parametrize(("does", "tries"), [(SLEEPS, 2), (COMPUTES, 6)])
def test_one_that_computes_is_asked_more_often(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, does: str, tries: int
) -> None:
    asked = []
    answers = program.rspamd_answers

    def count() -> bool:
        asked.append(1)
        return bool(answers())

    with subprocess.Popen([sys.executable, "-c", f"print(flush=True)\n{does}"], stdout=subprocess.PIPE) as rspamd:
        assert rspamd.stdout
        rspamd.stdout.readline()
        monkeypatch.setattr(program, "processes", lambda *_who: [rspamd.pid])
        monkeypatch.setattr(program, "rspamd_answers", count)
        try:
            assert program.rspamd_hangs()
        finally:
            rspamd.kill()
    assert len(asked) == tries


def test_an_answer_at_last_is_an_answer(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, False, False, True])
    work = iter(range(100))
    monkeypatch.setattr(program, "processor_time", lambda: next(work))
    monkeypatch.setattr(program, "rspamd_answers", lambda: next(answers))
    assert not program.rspamd_hangs()


def test_a_refused_connection_is_systemds_business(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    monkeypatch.setattr(program, "RSPAMD", address)
    assert not program.rspamd_hangs()
