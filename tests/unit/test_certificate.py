# SPDX-License-Identifier: GPL-3.0-or-later
"""Decisions of the program certificate: matching files, due renewals, obstacles to an order."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import dns.rdata
import pytest

from testbed.smtp_provider import self_signed

Pair = Callable[[str, str], str]


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with two pairs ``one`` and ``two``, and the key of ``one`` under a pass phrase."""
    directory = tmp_path_factory.mktemp("pem")

    for name in ("one", "two"):
        self_signed(directory, name)
    subprocess.run(
        ["openssl", "pkey", "-in", "one.key", "-aes256", "-passout", "pass:phrase", "-out", "locked.key"],
        cwd=directory,
        check=True,
    )
    (directory / "empty.pem").touch()
    (directory / "folder").mkdir()
    return directory


@pytest.fixture
def program(load_program: Callable[[str], ModuleType]) -> ModuleType:
    return load_program("certificate/files/usr/local/lib/selfhosted-mail/certificate")


@pytest.fixture
def problem(program: ModuleType, pem: Path) -> Pair:
    return lambda certificate, key: str(program.pair_problem(str(pem / certificate), str(pem / key)))


@pytest.mark.skipif(os.geteuid() != 0, reason="the files belong to root")
def test_a_pair(problem: Pair) -> None:
    assert problem("one.crt", "one.key") == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="the files belong to root")
def test_a_key_that_others_can_read(problem: Pair, pem: Path) -> None:
    (pem / "one.key").chmod(0o644)
    try:
        assert problem("one.crt", "one.key").startswith("mail_tls_private_key_file: ")
    finally:
        (pem / "one.key").chmod(0o600)


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        ("none.pem", "one.key", "mail_tls_certificate_file: there is no file"),
        ("folder", "one.key", "mail_tls_certificate_file: there is no file"),
        ("one.crt", "none.key", "mail_tls_private_key_file: there is no file"),
        (
            "one.crt",
            "two.key",
            "mail_tls_private_key_file: {pem}/two.key is not the key of the certificate {pem}/one.crt",
        ),
        ("one.crt", "locked.key", "mail_tls_private_key_file: {pem}/locked.key has a pass phrase"),
        ("empty.pem", "one.key", "mail_tls_certificate_file, mail_tls_private_key_file: {pem}/empty.pem and"),
        ("one.crt", "empty.pem", "mail_tls_certificate_file, mail_tls_private_key_file: {pem}/one.crt and"),
    ],
)
def test_no_pair(problem: Pair, pem: Path, certificate: str, key: str, said: str) -> None:
    assert problem(certificate, key).startswith(said.format(pem=pem))


def test_authorities(program: ModuleType, pem: Path) -> None:
    assert program.authority_problem(str(pem / "one.crt")) == ""
    for wrong in ("none.pem", "empty.pem", "one.key"):
        assert program.authority_problem(str(pem / wrong)).startswith("mail_acme_ca_file: ")
    closed = pem / "closed.pem"
    closed.write_text((pem / "one.crt").read_text())
    closed.chmod(0o600)
    assert "must be world-readable" in program.authority_problem(str(closed))


NAME, KEY = "mail.example.org", "-----BEGIN PUBLIC KEY-----\nours"
GOOD = {"begin": 0.0, "end": 90.0, "names": frozenset({NAME}), "key": KEY, "self_signed": False}


@pytest.mark.parametrize(
    ("changed", "day", "due"),
    [
        ({}, 59.9, False),
        ({}, 60.1, True),
        ({}, 95, True),
        ({"end": 6.0}, 3.9, False),
        ({"end": 6.0}, 4.1, True),
        ({"self_signed": True}, 1, True),
        ({"names": frozenset({"mail.example.net"})}, 1, True),
        ({"names": frozenset({NAME, "mail.example.net"})}, 1, True),
        ({"key": "-----BEGIN PUBLIC KEY-----\ntheirs"}, 1, True),
    ],
)
def test_due(program: ModuleType, changed: dict[str, object], day: float, due: bool) -> None:
    assert program.Held(**{**GOOD, **changed}).due(NAME, f"{KEY}\n-----END PUBLIC KEY-----\n", day) is due


def test_what_a_certificate_says(program: ModuleType, pem: Path) -> None:
    held = program.Held.read(str(pem / "one.crt"))
    assert held.names == {"one"}
    assert held.self_signed
    assert held.end - held.begin == 2 * 86400
    public = subprocess.run(
        ["openssl", "pkey", "-in", pem / "one.key", "-pubout"], check=True, capture_output=True, text=True
    ).stdout
    assert public.startswith(held.key)
    with pytest.raises(program.Problem, match=r"empty\.pem"):
        program.Held.read(str(pem / "empty.pem"))


Zone = dict[tuple[str, str], list[str]]


def asks(zone: Zone) -> Callable[[str, str], list[Any]]:
    """Records as dnspython has them."""
    return lambda name, kind: [
        dns.rdata.from_text("IN", kind, text)
        for text in zone.get((name, kind), [])  # type: ignore[attr-defined]
    ]


@pytest.mark.parametrize(
    ("zone", "said"),
    [
        ({("a.test", "A"): ["192.0.2.1"]}, ""),
        ({("a.test", "A"): ["192.0.2.1"], ("a.test", "AAAA"): ["2001:db8::1"]}, ""),
        ({("a.test", "AAAA"): ["2001:db8::1"]}, ""),
        ({}, "a.test has no address in DNS"),
        ({("a.test", "A"): ["192.0.2.1", "192.0.2.9"]}, "resolves to 192.0.2.9, which is not an address of this host"),
        (
            {("a.test", "A"): ["192.0.2.1"], ("a.test", "AAAA"): ["2001:db8::9"]},
            "resolves to 2001:db8::9, which is not an address of this host",
        ),
        ({("a.test", "A"): ["192.0.2.8"], ("a.test", "AAAA"): ["2001:db8::9"]}, "192.0.2.8 and 2001:db8::9"),
    ],
)
def test_addresses(program: ModuleType, zone: Zone, said: str) -> None:
    def found() -> list[str]:
        return list(program.addresses("a.test", asks(zone), lambda address: address in ("192.0.2.1", "2001:db8::1")))

    if said:
        with pytest.raises(program.Problem, match=re.escape(said)):
            found()
    else:
        assert found() == [text for texts in zone.values() for text in texts]


def test_own_addresses(program: ModuleType) -> None:
    assert program.is_own("127.0.0.1")
    assert not program.is_own("2001:db8::9")


@pytest.mark.parametrize(
    ("owner", "records", "identities", "allowed"),
    [
        ("test", [], ["ca.test"], True),
        ("mail.a.test", ['0 issue "ca.test"'], ["ca.test"], True),
        ("a.test", ['0 issue "CA.test"'], ["ca.test"], True),
        ("a.test", ['0 issue "other.test"', '0 issue "ca.test"'], ["ca.test"], True),
        ("a.test", ['0 issue "other.test"'], ["ca.test"], False),
        ("test", ['0 issue "other.test"'], ["ca.test"], False),
        ("a.test", ['0 issue ";"'], ["ca.test"], False),
        ("a.test", ['0 issue ";"'], [], False),
        ("a.test", ['0 issue "other.test"'], [], True),
        ("a.test", ['0 issuewild ";"', '0 iodef "mailto:a@a.test"'], ["ca.test"], True),
        ("a.test", ['0 issue "ca.test; validationmethods=dns-01"'], ["ca.test"], False),
        (
            "a.test",
            ['0 issue "ca.test;accounturi=https://ca.test/1; validationmethods=dns-01,http-01"'],
            ["ca.test"],
            True,
        ),
        ("a.test", ['128 tbs "unknown"', '0 issue "ca.test"'], ["ca.test"], False),
        ("a.test", ['0 tbs "unknown"', '0 issue "ca.test"'], ["ca.test"], True),
    ],
)
def test_caa(program: ModuleType, owner: str, records: list[str], identities: list[str], allowed: bool) -> None:
    # Records nearer to the root do not count.
    zone = {("test", "CAA"): ['0 issue ";"'], (owner, "CAA"): records} if owner != "test" else {(owner, "CAA"): records}
    if allowed:
        program.check_caa("mail.a.test", asks(zone), identities, "http-01")
    else:
        with pytest.raises(program.Problem, match=f"CAA record of {owner} "):
            program.check_caa("mail.a.test", asks(zone), identities, "http-01")


def test_no_links_of_others(program: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    (folder / "file").write_text("text")
    (folder / "link").symlink_to("file")
    os.mkfifo(folder / "fifo")
    (tmp_path / "folder").symlink_to("certificates")
    assert program.read_of_others(folder / "file") == "text"
    assert program.read_of_others(folder / "fifo") == ""
    for wrong in (folder / "link", tmp_path / "folder/file"):
        with pytest.raises(OSError):
            program.read_of_others(wrong)


def test_a_daemon_that_does_not_take_it_keeps_it_from_no_other(
    program: ModuleType, pem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, taken = str(pem / "one.crt"), []
    monkeypatch.setattr(program, "PATIENCE", 0)
    old = program.leaf(str(pem / "two.crt"))

    class Daemon(program.Daemon):  # type: ignore[misc, name-defined]
        def served(self) -> list[str]:
            return [program.leaf(path) if self.unit in taken else old]

        def take(self) -> None:
            if self.unit == "broken":
                raise program.Problem("it does not reload")
            if self.unit != "deaf":
                taken.append(self.unit)

    daemons = [Daemon(unit, (993,)) for unit in ("broken", "deaf", "well")]
    with pytest.raises(program.Problem) as wrong:
        program.serve(path, daemons)
    assert str(wrong.value) == f"it does not reload; deaf does not serve {path} on port 993"
    assert taken == ["well"]
    assert program.serve(path, daemons[2:]) == []
