# SPDX-License-Identifier: GPL-3.0-or-later
"""A certificate and a key that do not belong together are refused, naming the variable."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.mail.plugins.modules import tls_pair

Pair = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with two pairs ``one`` and ``two``, and the key of ``one`` under a pass phrase."""
    directory = tmp_path_factory.mktemp("pem")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    for name in ("one", "two"):
        openssl(
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=mail.example.org",
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.pem",
        )
    openssl("pkey", "-in", "one.key", "-aes256", "-passout", "pass:phrase", "-out", "locked.key")
    (directory / "empty.pem").touch()
    (directory / "folder").mkdir()
    return directory


@pytest.fixture
def pair(run_module: Callable[..., dict[str, Any]], pem: Path) -> Pair:
    def run(certificate: str, key: str, **options: Any) -> dict[str, Any]:
        return run_module(
            tls_pair.main, certificate_file=str(pem / certificate), private_key_file=str(pem / key), **options
        )

    return run


@pytest.mark.skipif(os.geteuid() != 0, reason="the files belong to root")
def test_a_pair(pair: Pair) -> None:
    result = pair("one.pem", "one.key")
    assert not result.get("failed")
    assert not result["changed"]


@pytest.mark.parametrize(
    ("certificate", "key", "said"),
    [
        ("none.pem", "one.key", "mail_tls_certificate_file: there is no file"),
        ("folder", "one.key", "mail_tls_certificate_file: there is no file"),
        ("one.pem", "none.key", "mail_tls_private_key_file: there is no file"),
        (
            "one.pem",
            "two.key",
            "mail_tls_private_key_file: {pem}/two.key is not the key of the certificate {pem}/one.pem",
        ),
        ("one.pem", "locked.key", "mail_tls_private_key_file: {pem}/locked.key has a pass phrase"),
        ("empty.pem", "one.key", "mail_tls_certificate_file, mail_tls_private_key_file: {pem}/empty.pem and"),
        ("one.pem", "empty.pem", "mail_tls_certificate_file, mail_tls_private_key_file: {pem}/one.pem and"),
    ],
)
def test_no_pair(pair: Pair, pem: Path, certificate: str, key: str, said: str) -> None:
    result = pair(certificate, key)
    assert result["failed"]
    assert result["msg"].startswith(said.format(pem=pem))


def test_a_roles_own_variables_are_named(pair: Pair) -> None:
    result = pair("one.pem", "two.key", variables=["opensmtpd_tls_certificate_file", "opensmtpd_tls_private_key_file"])
    assert result["msg"].startswith("opensmtpd_tls_private_key_file: ")
