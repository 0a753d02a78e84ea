# SPDX-License-Identifier: GPL-3.0-or-later
"""free-port: which sockets block a port, and which processes it kills. The scenarios test whole hosts."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

HOLD = """
import socket, time
held = socket.socket()
held.bind(("127.0.0.1", 0))
print(held.getsockname()[1], flush=True)
time.sleep(600)
"""
US = os.getuid()


@pytest.fixture
def program(load_program: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_program("firewall/files/usr/local/lib/selfhosted-mail/free-port")
    monkeypatch.setattr(module, "STAMPS", tmp_path / "stamps")
    monkeypatch.setattr(module, "end_all", lambda uid: pytest.fail(f"all of {uid}"))
    return module


@pytest.fixture
def squatter() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process of ours, and the port that it has bound and does not listen on."""
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process, f"127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


@pytest.mark.parametrize("word", ["127.0.0.1:25x", "127.0.0.1:", "127.0.0.1:25/sctp", "nowhere.invalid:25", "::1"])
def test_wrong_usage(program: ModuleType, capsys: pytest.CaptureFixture[str], word: str) -> None:
    assert program.main([word, "nobody"]) == os.EX_USAGE
    assert capsys.readouterr().err == f"{program.USAGE}\n"


def test_no_port_is_wrong_usage(program: ModuleType) -> None:
    assert program.main(["nobody"]) == os.EX_USAGE


@pytest.mark.parametrize(
    ("wanted", "family", "address", "only", "met"),
    [
        ("127.0.0.1", socket.AF_INET, "127.0.0.1", 0, True),
        ("127.0.0.1", socket.AF_INET, "0.0.0.0", 0, True),
        ("127.0.0.1", socket.AF_INET, "127.0.0.2", 0, False),
        ("127.0.0.1", socket.AF_INET6, "::ffff:127.0.0.1", 0, True),
        ("127.0.0.1", socket.AF_INET6, "::ffff:127.0.0.2", 0, False),
        ("127.0.0.1", socket.AF_INET6, "::", 0, True),
        ("127.0.0.1", socket.AF_INET6, "::", 1, False),
        ("127.0.0.1", socket.AF_INET6, "::1", 0, False),
        ("[::1]", socket.AF_INET6, "::1", 0, True),
        ("[::1]", socket.AF_INET6, "::", 1, True),
        ("[::1]", socket.AF_INET, "0.0.0.0", 0, False),
    ],
)
def test_sockets_in_the_way(
    program: ModuleType, wanted: str, family: socket.AddressFamily, address: str, only: int, met: bool
) -> None:
    with socket.socket(family) as other:
        if family == socket.AF_INET6:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        other.bind((address, 0))
        port = other.getsockname()[1]
        assert program.Port.parse(f"{wanted}:{port}").meets(other) is met
        # The kernel is of the same opinion.
        assert program.Port.parse(f"{wanted}:{port}").free() is not met
        assert not program.Port.parse(f"{wanted}:{port % 65535 + 1}").meets(other)
        assert not program.Port.parse(f"{wanted}:{port}/udp").meets(other)


def test_a_port_that_another_would_share_is_not_free(program: ModuleType) -> None:
    """Over UDP the kernel has both where both say so, and the later one gets what arrives."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        port = program.Port.parse(f"127.0.0.1:{other.getsockname()[1]}/udp")
        assert not port.free()
        assert port.meets(other)


def test_what_is_left_of_a_connection_does_not_keep_a_port(program: ModuleType) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = program.Port.parse("{}:{}".format(*listener.getsockname()))
        with socket.create_connection(listener.getsockname()) as client:
            # The side that closes first is in TIME_WAIT.
            listener.accept()[0].close()
            assert client.recv(1) == b""
    assert port.free()


def test_other_sockets_are_not_in_the_way(program: ModuleType) -> None:
    port = program.Port.parse("127.0.0.1:10028")
    for one in socket.socketpair():
        with one:
            assert not port.meets(one)


def test_a_free_port(program: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(program, "holders", lambda *_: pytest.fail("nothing to look for"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = "{}:{}".format(*listener.getsockname())
    assert program.main([address, f"{address}/udp"]) == os.EX_OK
    assert capsys.readouterr().err == ""


def test_who_holds_it(program: ModuleType, squatter: tuple[subprocess.Popen[str], str]) -> None:
    process, address = squatter
    ports = [program.Port.parse("127.0.0.1:1"), program.Port.parse(address)]
    [found] = program.holders(ports, set())
    os.close(found.pidfd)
    assert (found.pid, found.owner, found.maker, found.port) == (process.pid, US, US, ports[1])
    before = os.listdir("/proc/self/fd")
    assert program.holders(ports, {US}) == []
    assert program.holders(ports[:1], set()) == []
    assert os.listdir("/proc/self/fd") == before


def test_another_network_is_another_matter(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, squatter: tuple[subprocess.Popen[str], str]
) -> None:
    cookies = iter(range(2**20))
    monkeypatch.setattr(program, "network", lambda _one: next(cookies))
    assert program.holders([program.Port.parse(squatter[1])], set()) == []


def test_it_is_named_and_ended(
    program: ModuleType, squatter: tuple[subprocess.Popen[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    process, address = squatter
    port = program.Port.parse(address)
    found = program.holders([port], set())
    program.make_room(found)
    os.close(found[0].pidfd)
    assert process.wait() == -signal.SIGKILL
    name = f"{pwd.getpwuid(US).pw_name} (uid {US})"
    line = f"<4>port {port.number} is held by process {process.pid} of {name}, "
    told = capsys.readouterr().err
    assert told.startswith(line)
    assert told.endswith("): killed\n")
    assert os.path.realpath(sys.executable) in told
    assert "import" not in told


def test_who_does_it_again_and_who_was_handed_a_socket(
    program: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    squatter: tuple[subprocess.Popen[str], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    process, address = squatter
    port = program.Port.parse(address)
    ended: list[int] = []
    monkeypatch.setattr(program, "end_all", ended.append)
    # A socket that another user created and passed on: its holder is not to blame.
    pidfd = os.pidfd_open(process.pid)
    handed = program.Holder(pidfd, process.pid, "python3 (?)", US, 4000000000, port)
    program.make_room([handed])
    assert ended == [4000000000]
    assert process.poll() is None
    assert f"of {pwd.getpwuid(US).pw_name} (uid {US}), python3 (?): uid 4000000000 created the socket\n" in (
        capsys.readouterr().err
    )
    # Two processes with one socket are one offence.
    ours = program.Holder(pidfd, process.pid, "python3 (?)", US, US, port)
    program.make_room([ours, ours])
    assert ended == [4000000000]
    assert process.wait() == -signal.SIGKILL
    program.make_room([ours])
    assert ended == [4000000000, US]
    assert {path.name for path in program.STAMPS.iterdir()} == {f"{port.number}-{uid}" for uid in (US, 4000000000)}
    os.close(pidfd)


def test_a_long_time_ago_is_not_again(program: ModuleType) -> None:
    assert not program.repeated(1000, {25})
    assert program.repeated(1000, {25, 26})
    assert not program.repeated(1000, {27})
    assert not program.repeated(1001, {25})
    os.utime(program.STAMPS / "25-1000", (1, 1))
    assert not program.repeated(1000, {25})


def test_root_is_never_all(load_program: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may still signal init would end all processes."""
    program = load_program("firewall/files/usr/local/lib/selfhosted-mail/free-port")
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fork", lambda: 0)
    monkeypatch.setattr(os, "setresuid", lambda *_uids: None)
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setattr(os, "_exit", lambda _code: None)
    program.end_all(1000)
    assert sent == [(1, 0)]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain", "plain"), ("a\n<0>b", "a?<0>b"), ("\x1b[1m\x00", "?[1m?"), ("a\u202eb", "a?b"), ("x" * 300, "x" * 200)],
)
def test_what_a_stranger_has_chosen(program: ModuleType, text: str, shown: str) -> None:
    assert program.printable(text) == shown


def test_the_name_of_a_command(program: ModuleType) -> None:
    naming = "import ctypes, sys; ctypes.CDLL(None).prctl(15, b'a\\n<0>b'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", naming], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        assert program.command(process.pid) == f"a?<0>b ({os.path.realpath(sys.executable)})"
    assert program.command(2**31 - 1) == "? (?)"
