# SPDX-License-Identifier: GPL-3.0-or-later
"""The program backup: a repository's answers, and restic's errors."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def backup(load_program: Callable[[str], ModuleType]) -> ModuleType:
    return load_program("backup/files/usr/local/lib/selfhosted-mail/backup")


class Repository(HTTPServer):
    """Answers each request with a code, and remembers it."""

    code = 404

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            server: Repository

            def do_DELETE(self) -> None:
                self.server.asked.append((self.command, self.path, self.headers.get("Authorization", "")))
                self.send_response(self.server.code)
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def repository() -> Iterator[Repository]:
    with Repository() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(("code", "removable"), [(403, False), (404, True), (401, True), (200, True), (500, True)])
def test_append_only(backup: ModuleType, repository: Repository, code: int, removable: bool) -> None:
    repository.code = code
    url = f"rest:http://mail:p%40ss@127.0.0.1:{repository.server_port}/box/"
    assert backup.removable({"RESTIC_REPOSITORY": url}) is removable
    [(method, path, authorization)] = repository.asked
    assert (method, path) == ("DELETE", f"/box/snapshots/{'0' * 64}"), "which no snapshot has"
    assert authorization == f"Basic {base64.b64encode(b'mail:p@ss').decode()}"


def test_login_of_the_environment(backup: ModuleType, repository: Repository) -> None:
    environment = {"RESTIC_REST_USERNAME": "mail", "RESTIC_REST_PASSWORD": "word"}
    backup.removable({"RESTIC_REPOSITORY": f"rest:http://127.0.0.1:{repository.server_port}", **environment})
    assert repository.asked[0][2] == f"Basic {base64.b64encode(b'mail:word').decode()}"


@pytest.mark.parametrize("repository", ["/srv/x", "sftp:u@h:x", "rest:http://127.0.0.1:9/", "rest:http://[x/", "rest:"])
def test_who_cannot_be_asked(backup: ModuleType, repository: str) -> None:
    """restic itself says what is wrong there."""
    assert backup.removable({"RESTIC_REPOSITORY": repository}) is True


def test_what_has_moved_is_no_error(backup: ModuleType, tmp_path: Path) -> None:
    """As restic 0.14 and 0.18 say it."""
    moved = tmp_path / "moved:2,S"
    moved.write_text("there again")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/zero")
    others = [str(tmp_path / name) for name in ("gone", "fifo", "link")]
    items = [*others, str(tmp_path), str(moved), "/proc/self/mem", "/proc/self/mem"]
    errors: list[object] = [
        {},
        {"Op": "open", "Err": 2},
        {"message": "open: no such file or directory"},
        {},
        {},
        {},
        {"Err": 5},
    ]
    lines = [
        json.dumps({"message_type": "error", "error": error, "during": "archival", "item": item})
        for item, error in zip(items, errors, strict=True)
    ]
    assert backup.unread("\n".join([*lines, "Warning: at least one source file could not be read"])) == [
        "/proc/self/mem"
    ]


def test_the_reason_is_one_line(backup: ModuleType) -> None:
    said = "a\nFatal: wrong password or no key found\nIs there a repository?\n\n"
    assert backup.ended(said) == "Fatal: wrong password or no key found"
    assert backup.ended(b"x\nretrying\n\n") == "retrying"
    assert backup.ended(None) == "no word"
