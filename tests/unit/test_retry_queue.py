# SPDX-License-Identifier: GPL-3.0-or-later
"""How often retry-queue contacts a hop, pass by pass. The scenarios test it with a real queue."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from testbed.smtp_provider import Provider, self_signed

START = 900_000  # of OpenSMTPD, seconds since the epoch
PASS = 15  # seconds, as its timer says
ENVELOPE = "00a1b2c3d4e5f601"
SIGNER, RELAY = "smtp+notls://127.0.0.1:10027", "smtps://relay.test:465"
HOPS = (f"SIGN={SIGNER}", f"SEND={RELAY}")


class Server:
    """A queue with one envelope that is never accepted, and hops that answer or not."""

    def __init__(self, program: ModuleType, action: str, error: str, addresses: str) -> None:
        self.program, self.error, self.addresses = program, error, addresses
        self.now, self.there, self.tries = 1_000_000.0, True, 0
        self.asked: list[tuple[str, str]] = []
        file = program.QUEUE / ENVELOPE[:2] / ENVELOPE[:8] / ENVELOPE
        file.parent.mkdir(parents=True)
        file.write_text(f"version: 3\ndispatcher: {action}\ntype: mta\n")
        self.file = file
        self.tried(START + 1)

    def tried(self, when: float) -> None:
        os.utime(self.file, (when, when))

    def smtpctl(self, *arguments: str) -> str:
        if arguments[0] == "schedule":
            self.tries += 1
            self.tried(self.now)
        rest = f"1|2|3|4|pending|400|{self.error}\n"
        return f"{ENVELOPE}|inet4|mta|auth|{self.addresses}|{rest}" if arguments == ("show", "queue") else ""

    def answers(self, hop: Any) -> bool:
        self.asked.append((hop.scheme, hop.host))
        return self.there

    def passes(self, seconds: int, hops: tuple[str, ...] = HOPS) -> int:
        """Run the timer for so long; the tries."""
        before = self.tries
        for _ in range(seconds // PASS):
            assert self.program.main(hops) == os.EX_OK
            self.now += PASS
        return self.tries - before


@pytest.fixture
def program(load_program: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_program("smtp_relay/files/usr/local/lib/selfhosted-mail/retry-queue")
    monkeypatch.setattr(module, "STATE", tmp_path / "run" / "state.json")
    monkeypatch.setattr(module, "QUEUE", tmp_path / "queue")
    monkeypatch.setattr(module, "CONTROL", tmp_path / "smtpd.sock")
    module.CONTROL.touch()
    os.utime(module.CONTROL, (START, START))
    return module


@pytest.fixture
def server(program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Server]:
    def make(
        action: str,
        error: str = "Network error on destination MXs",
        addresses: str = "a@our.test|b@far.test|b@far.test",
    ) -> Server:
        found = Server(program, action, error, addresses)
        monkeypatch.setattr(program, "smtpctl", found.smtpctl)
        monkeypatch.setattr(program, "answers", found.answers)
        monkeypatch.setattr(program.time, "time", lambda: found.now)
        return found

    return make


@pytest.mark.parametrize("level", [0, 1, 2])
def test_no_link_in_the_queue_is_followed(program: ModuleType, tmp_path: Path, level: int) -> None:
    """It is another user's."""
    names = [ENVELOPE[:2], ENVELOPE[:8], ENVELOPE]
    elsewhere = tmp_path / "elsewhere" / Path(*names)
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_text("dispatcher: SIGN\n")
    here = program.QUEUE / Path(*names[:level])
    here.mkdir(parents=True)
    (here / names[level]).symlink_to((tmp_path / "elsewhere") / Path(*names[: level + 1]))
    with pytest.raises(OSError, match=names[level]):
        program.last_try(ENVELOPE)


def test_no_pipe_in_the_queue_is_waited_for(program: ModuleType) -> None:
    folder = program.QUEUE / ENVELOPE[:2] / ENVELOPE[:8]
    folder.mkdir(parents=True)
    os.mkfifo(folder / ENVELOPE)
    assert program.last_try(ENVELOPE)[0] == ""


def test_a_relay_that_refuses_the_login_is_asked_less_and_less(server: Callable[..., Server]) -> None:
    relay = server("SEND")
    assert relay.passes(60) in (1, 2)
    assert relay.passes(3600) <= 9


def test_a_relay_that_was_away_is_asked_at_once(server: Callable[..., Server]) -> None:
    relay = server("SEND")
    relay.passes(3600)
    relay.there = False
    assert relay.passes(600) == 0
    relay.there = True
    assert relay.passes(PASS) == 1


def test_the_signing_proxy_is_asked_at_every_pass(server: Callable[..., Server]) -> None:
    assert server("SIGN", error="451 4.3.0 No key").passes(600) == 40


def test_an_answer_of_the_relay_is_respected(server: Callable[..., Server]) -> None:
    assert server("SEND", error="451 4.7.1 Later").passes(600) == 0


def test_a_relay_that_closes_the_connection_is_asked_again(server: Callable[..., Server]) -> None:
    """421 does not concern the message (RFC 5321 §3.8)."""
    assert server("SEND", error="421 4.7.0 Too many messages in this session").passes(PASS) == 1


def test_what_goes_to_mx_hosts_is_left_alone(server: Callable[..., Server]) -> None:
    far = server("FORWARD")
    assert far.passes(600) == 0
    assert far.passes(600, ()) == 0


@pytest.mark.parametrize("error", ["Network error on destination MXs", "451 4.7.1 The MX said it"])
@pytest.mark.parametrize("hops", [HOPS, HOPS[:1], ()], ids=["a relay", "MX hosts", "MX hosts of a satellite"])
def test_after_a_start_each_is_tried_once(server: Callable[..., Server], error: str, hops: tuple[str, ...]) -> None:
    """The relay may be a new one, or gone."""
    found = server("SEND", error)
    found.tried(START - 1)
    assert found.passes(PASS, hops) == 1
    again = found.passes(600, hops)
    assert (again == 0) is (len(hops) < 2 or error.startswith("451"))


def test_after_a_start_a_relay_that_is_away_is_waited_for(server: Callable[..., Server]) -> None:
    found = server("SEND", "451 4.7.1 Another relay said it")
    found.tried(START - 1)
    found.there = False
    assert found.passes(600) == 0
    found.there = True
    assert found.passes(PASS) == 1


def test_one_hop_of_two_actions_is_probed_once(server: Callable[..., Server]) -> None:
    relay = server("FORWARD")
    assert relay.passes(PASS, (f"SEND={RELAY}", f"FORWARD={RELAY}")) == 1
    assert relay.asked == [("smtps", "relay.test")]


@pytest.mark.parametrize(
    "addresses",
    [
        "@|b@far.test|b@far.test",
        "a|b@our.test|b@far.test|b@far.test",
        "a@our.test|b|1|2|3|4|pending|0|x@far.test|b|c@far.test",
        "||@our.test|||@far.test||@far.test",
    ],
)
@pytest.mark.parametrize("error", ["", "Network error | 1|2|3|4|pending|0|x@y"])
def test_addresses_and_errors_may_hold_the_separator(
    server: Callable[..., Server], program: ModuleType, addresses: str, error: str
) -> None:
    assert server("SIGN", error, addresses).passes(PASS) == 1
    assert program.waiting() == {ENVELOPE: error}


@pytest.mark.parametrize(
    "argument", ["SIGN", "=smtps://relay.test:465", "SEND=http://relay.test:465", "SEND=smtps://relay.test",
                 "SEND=smtps://relay.test:x", "RECV=lmtp:run/lmtp", "RECV=lmtp:", ""],
)  # fmt: skip
def test_wrong_usage(program: ModuleType, capsys: pytest.CaptureFixture[str], argument: str) -> None:
    assert program.main([HOPS[0], argument]) == os.EX_USAGE
    assert capsys.readouterr().err.startswith("usage: retry-queue ")


def test_without_opensmtpd_it_says_so(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert program.main(HOPS) == os.EX_OSERR
    assert capsys.readouterr().err == "<3>retry-queue: [Errno 2] No such file or directory: 'smtpctl'\n"


@pytest.mark.parametrize("smtps", [False, True])
def test_probes(program: ModuleType, tmp_path: Path, smtps: bool) -> None:
    """An untrusted certificate, a relay without STARTTLS: OpenSMTPD itself reports it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "lmtp"))
        listener.listen()
        assert program.answers(program.Hop("", "", "", str(tmp_path / "lmtp")))
    assert not program.answers(program.Hop("", "", "", str(tmp_path / "lmtp")))
    assert not program.answers(program.Hop("smtps", "127.0.0.1", "1", ""))
    assert not program.answers(program.Hop("smtp+notls", "a..b", "99999999", ""))
    pem, scheme = self_signed(tmp_path, "other"), "smtps" if smtps else "smtp+tls"
    for greeting, there in ("220 hello", True), ("421 busy", False):
        with Provider(pem, "", "", smtps=smtps, starttls="", greeting=greeting) as relay:
            assert program.answers(program.Hop(scheme, "localhost", str(relay.port), "")) is there
        assert set(relay.commands) <= {"QUIT"}
