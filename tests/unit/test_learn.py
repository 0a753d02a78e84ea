# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of moved messages are learned or dropped. The scenarios test it with Rspamd."""

from __future__ import annotations

import http.server
import io
import os
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest


class Rspamd(http.server.BaseHTTPRequestHandler):
    """A controller with preset answers; ``asked``: path, account and message."""

    status = 200
    asked: list[tuple[str, str, bytes]]

    def do_POST(self) -> None:
        message = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Rcpt"] == self.headers["Deliver-To"]
        Rspamd.asked.append((self.path, self.headers["Rcpt"], message))
        self.send_response(Rspamd.status)
        self.end_headers()
        if Rspamd.status != 204:
            self.wfile.write(b'{"error": "said"}\n')

    def log_message(self, *_words: object) -> None:
        """Nothing."""

    def address_string(self) -> str:
        return "unix"


@pytest.fixture
def program(load_program: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_program("dovecot/files/usr/local/lib/selfhosted-mail/sieve/learn")
    monkeypatch.setattr(module, "SPOOL", str(tmp_path / "spool"))
    (tmp_path / "spool").mkdir()
    return module


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[str]:
    Rspamd.status, Rspamd.asked = 200, []
    path = str(tmp_path / "controller.sock")
    with socketserver.ThreadingUnixStreamServer(path, Rspamd) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield path
        server.shutdown()


@pytest.fixture
def move(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """As Dovecot does when a message has been moved."""

    def moved(verdict: str = "spam", account: str = "alice@example.org", message: bytes = b"Subject: x\n\n") -> None:
        stdin = SimpleNamespace(buffer=io.BytesIO(message))
        monkeypatch.setattr("sys.stdin", stdin)
        assert program.main([verdict, account]) == os.EX_OK

    return moved


def waiting(program: ModuleType) -> list[str]:
    return sorted(path.name.split(".", 3)[3] for path in Path(program.SPOOL).iterdir())


def test_learned_in_their_order(program: ModuleType, controller: str, move: Callable[..., None]) -> None:
    move("spam", "alice@example.org", b"one")
    move("ham", "al.ice+b@example.org", b"two")
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in Path(program.SPOOL).iterdir())
    assert program.main([controller]) == os.EX_OK
    assert Rspamd.asked == [("/learnspam", "alice@example.org", b"one"), ("/learnham", "al.ice+b@example.org", b"two")]
    assert waiting(program) == []


def test_while_rspamd_is_away_they_wait(
    program: ModuleType, tmp_path: Path, move: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    move()
    assert program.main([str(tmp_path / "none")]) == os.EX_OK
    assert waiting(program) == ["alice@example.org"]
    assert capsys.readouterr().err.startswith("<6>moved messages wait to be learned: ")


@pytest.mark.parametrize(
    ("status", "age", "left", "told"),
    [(200, 0, 0, 0), (204, 0, 0, 0), (208, 0, 0, 0), (400, 0, 0, 1), (500, 0, 1, 0), (503, 90_000, 0, 1)],
)
def test_answers(
    program: ModuleType, controller: str, move: Callable[..., None], capsys: pytest.CaptureFixture[str],
    status: int, age: int, left: int, told: int,
) -> None:  # fmt: skip
    Rspamd.status = status
    move()
    for path in Path(program.SPOOL).iterdir():
        os.utime(path, (time.time() - age,) * 2)
    assert program.main([controller]) == os.EX_OK
    assert len(waiting(program)) == left
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == told
    assert all(line.startswith("<4>not learned: ") and 'said"}' in line for line in lines)


@pytest.mark.parametrize("name", ["1.2.spam.a\nX: y@example.org", "1.2.spam.€@example.org", "1.2.spam", "x"])
def test_a_name_that_cannot_be_a_header_does_not_stop_the_others(
    program: ModuleType, controller: str, move: Callable[..., None], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (Path(program.SPOOL) / name).write_bytes(b"odd")
    move()
    assert program.main([controller]) == os.EX_OK
    assert [account for _path, account, _message in Rspamd.asked] == ["alice@example.org"]
    assert list(Path(program.SPOOL).iterdir()) == []
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_half_written_copies_are_left_alone_and_go_some_day(program: ModuleType, controller: str) -> None:
    for name, age in (("now", 0), ("long ago", 4000)):
        path = Path(program.SPOOL) / f".1.2.spam.{name}"
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
    assert program.main([controller]) == os.EX_OK
    assert Rspamd.asked == []
    assert [path.name for path in Path(program.SPOOL).iterdir()] == [".1.2.spam.now"]


def test_a_copy_that_is_completed_meanwhile_does_not_stop_the_others(
    program: ModuleType, controller: str, move: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    move()
    names = [".1.2.spam.gone", *(path.name for path in Path(program.SPOOL).iterdir())]
    monkeypatch.setattr(
        program.os, "scandir", lambda _path: [SimpleNamespace(name=n, is_file=lambda: True) for n in names]
    )
    assert program.main([controller]) == os.EX_OK
    assert len(Rspamd.asked) == 1


def test_directories_are_not_copies(program: ModuleType, controller: str, move: Callable[..., None]) -> None:
    (Path(program.SPOOL) / "new").mkdir()
    move()
    assert program.main([controller]) == os.EX_OK
    assert [path.name for path in Path(program.SPOOL).iterdir()] == ["new"]


def test_the_disk_is_not_filled(
    program: ModuleType, move: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "COPIES", 2)
    monkeypatch.setattr(program, "BYTES", 100)
    move(message=b"x" * 101)
    assert waiting(program) == []
    for _ in range(3):
        move(message=b"x" * 100)
    assert len(waiting(program)) == 2
    monkeypatch.setattr(program, "COPIES", 10)
    monkeypatch.setattr(program, "ALL_BYTES", 250)
    for size in (51, 50, 1):
        move(message=b"x" * size)
    assert len(waiting(program)) == 3
    assert program.sizes() and sum(program.sizes()) == 250


@pytest.mark.parametrize("arguments", [[], ["eggs", "alice@example.org"], ["spam", "alice@example.org", "x"]])
def test_wrong_usage(program: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert program.main(arguments) == os.EX_USAGE
    assert capsys.readouterr().err == f"{program.USAGE}\n"


def test_without_its_directory(program: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    Path(program.SPOOL).rmdir()
    assert program.main(["/none"]) == os.EX_OSERR
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("<3>learn: ")
