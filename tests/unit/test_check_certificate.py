# SPDX-License-Identifier: GPL-3.0-or-later
"""A certificate and a key that do not belong together are refused, naming the variable."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

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
def problem(load_program: Callable[[str], ModuleType], pem: Path) -> Pair:
    program = load_program("certificate/files/check-certificate")
    return lambda certificate, key: str(program.problem(str(pem / certificate), str(pem / key)))


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
