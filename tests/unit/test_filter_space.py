# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers of filter-space to OpenSMTPD. The scenario operation tests a full disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

COMMIT = "filter|0.7|1576147242.200225|smtp-in|commit|7641df9771b4ed00|1ef1c203cc576e5d|\n"


@pytest.fixture
def program(load_program: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_program("smtp_relay/files/usr/local/lib/selfhosted-mail/filter-space")
    monkeypatch.setattr(module, "QUEUE", str(tmp_path))
    return module


def test_it_wants_the_end_of_messages_alone(program: ModuleType) -> None:
    assert program.answer("config|smtpd-version|7.6.0\n") == ""
    assert program.answer("config|ready\n") == "register|filter|smtp-in|commit\nregister|ready"


def test_there_is_room(program: ModuleType) -> None:
    assert program.answer(COMMIT) == "filter-result|7641df9771b4ed00|1ef1c203cc576e5d|proceed"


@pytest.mark.parametrize("octets", [0, (16 << 20) - 1])
def test_there_is_none(program: ModuleType, monkeypatch: pytest.MonkeyPatch, octets: int) -> None:
    # Blocks, their size in octets, blocks that are free, also for others than root; files.
    disk = os.statvfs_result((4096, 1, 1 << 30, 1 << 30, octets, 9, 9, 9, 0, 255))
    monkeypatch.setattr(program.os, "statvfs", lambda _path: disk)
    session_and_token = "7641df9771b4ed00|1ef1c203cc576e5d"
    assert program.answer(COMMIT).startswith(f"filter-result|{session_and_token}|reject|452 4.3.1 ")


def test_without_a_queue_nothing_is_accepted(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "QUEUE", "/nowhere")
    assert "|reject|452 " in program.answer(COMMIT)
    assert capsys.readouterr().err == "/nowhere: No such file or directory\n"
