# SPDX-License-Identifier: GPL-3.0-or-later
"""How often retry-queue asks a hop, pass by pass; what it does with a real queue is the scenarios' business."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "roles/opensmtpd_base/files/usr/local/lib/selfhosted-mail/retry-queue"
PASS = 15  # seconds, as its timer says


class Server:
    """A queue with one envelope that no try helps, and a hop that is there or not."""

    def __init__(self, program: ModuleType, action: str, reason: str = "Network error on destination MXs") -> None:
        self.program, self.action, self.reason = program, action, reason
        self.now, self.there, self.tries = 1_000_000.0, True, 0

    def smtpctl(self, *arguments: str) -> str:
        if arguments == ("show", "queue"):
            return f"e1|inet4|mta||a@our.test|b@far.test|b@far.test|1|2|3|4|pending|400|{self.reason}\n"
        if arguments[0] == "schedule":
            self.tries += 1
        return f"dispatcher: {self.action}\n" if arguments[1] == "envelope" else ""

    def ask(self) -> None:
        if not self.there:
            raise ConnectionRefusedError

    def passes(self, seconds: int) -> int:
        """Run the timer for so long; the tries."""
        before = self.tries
        for _ in range(seconds // PASS):
            self.program.main()
            self.now += PASS
        return self.tries - before


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    loader = SourceFileLoader("retry_queue", str(PROGRAM))
    spec = spec_from_loader(loader.name, loader)
    assert spec
    module = module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, loader.name, module)
    loader.exec_module(module)
    module.STATE = tmp_path / "run" / "state.json"  # type: ignore[attr-defined]
    return module


def server(program: ModuleType, monkeypatch: pytest.MonkeyPatch, action: str, **more: str) -> Server:
    found = Server(program, action, **more)
    monkeypatch.setattr(program, "smtpctl", found.smtpctl)
    monkeypatch.setattr(program, "hops", lambda: {
        "SIGN": program.Hop(found.ask, signs=True), "SEND": program.Hop(found.ask)})
    monkeypatch.setattr(program.time, "time", lambda: found.now)
    return found


def test_a_relay_that_refuses_the_login_is_asked_less_and_less(program, monkeypatch):
    relay = server(program, monkeypatch, "SEND")
    assert relay.passes(60) in (1, 2)
    assert relay.passes(3600) <= 9


def test_a_relay_that_was_away_is_asked_at_once(program, monkeypatch):
    relay = server(program, monkeypatch, "SEND")
    relay.passes(3600)
    relay.there = False
    assert relay.passes(600) == 0
    relay.there = True
    assert relay.passes(PASS) == 1


def test_the_signing_proxy_is_asked_at_every_pass(program, monkeypatch):
    assert server(program, monkeypatch, "SIGN", reason="451 4.3.0 No key").passes(600) == 40


def test_an_answer_of_the_relay_is_respected(program, monkeypatch):
    assert server(program, monkeypatch, "SEND", reason="451 4.7.1 Later").passes(600) == 0


def test_what_goes_to_mx_hosts_is_left_alone(program, monkeypatch):
    assert server(program, monkeypatch, "FORWARD").passes(600) == 0
