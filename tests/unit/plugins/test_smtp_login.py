# SPDX-License-Identifier: GPL-3.0-or-later
"""The login at a relay provider, against a real server with TLS on loopback."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.mail.plugins.modules import smtp_login

from testbed.smtp_provider import Provider, self_signed

Login = Callable[..., dict[str, Any]]
USERNAME, PASSWORD = "me@example.org", "p:a#s@s \"w'o\\rd {{ü}}"
VARIANTS = pytest.mark.parametrize("smtps", [False, True], ids=["starttls", "smtps"])


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("provider"), "localhost")


@pytest.fixture
def login(
    run_module: Callable[..., dict[str, Any]], pem: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Login:
    """Run the module with the right credentials against a provider; the host trusts its certificate."""
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    file = tmp_path / "relay_credentials"
    file.write_text(f"# a comment\nrelay {USERNAME}:{PASSWORD}\n", encoding="utf-8")

    def run(provider: Provider, check: bool = False, **options: Any) -> dict[str, Any]:
        return run_module(
            smtp_login.main,
            check,
            **{
                "host": "localhost",
                "port": provider.port,
                "tls": "smtps" if provider.smtps else "starttls",
                "credentials_file": str(file),
                "helo": "mail.example.org",
                "timeout": 5,
                **options,
            },
        )

    return run


@VARIANTS
@pytest.mark.parametrize("mechanisms", ["PLAIN LOGIN", "LOGIN CRAM-MD5", "plain"])
def test_right_credentials(login: Login, pem: Path, smtps: bool, mechanisms: str) -> None:
    with Provider(pem, USERNAME, PASSWORD, smtps=smtps, mechanisms=mechanisms) as provider:
        result = login(provider)
    assert result["accepted"] is True
    assert not result["changed"]
    assert result["msg"] == f"relay localhost:{provider.port} takes the login: 235 2.7.0 Welcome 2.7.0 customer 17"
    assert provider.commands[-1] == "QUIT"
    assert "MAIL" not in provider.commands


@VARIANTS
@pytest.mark.parametrize("required", [False, True])
def test_refused_credentials(login: Login, pem: Path, smtps: bool, required: bool) -> None:
    with Provider(pem, USERNAME, "another", smtps=smtps) as provider:
        result = login(provider, required=required)
    assert "does NOT take outgoing mail: AUTH: 535 5.7.8 Account is blocked" in result["msg"]
    assert result.get("failed", False) is required
    assert required or (result["accepted"] is False and result["msg"] in str(result["warnings"]))
    assert PASSWORD not in str(result)


@VARIANTS
def test_nothing_secret_goes_to_a_server_with_an_untrusted_certificate(
    login: Login, pem: Path, smtps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(self_signed(tmp_path, "other")))
    with Provider(pem, USERNAME, PASSWORD, smtps=smtps) as provider:
        result = login(provider)
    assert "its certificate does not verify: self-signed certificate" in result["msg"]
    assert "AUTH" not in provider.commands


@VARIANTS
def test_nor_to_one_whose_certificate_has_another_name(
    login: Login, smtps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = self_signed(tmp_path, "smtp.provider.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(other))
    with Provider(other, USERNAME, PASSWORD, smtps=smtps) as provider:
        result = login(provider)
    assert "its certificate does not verify: Hostname mismatch" in result["msg"]
    assert "AUTH" not in provider.commands


def test_nor_without_starttls(login: Login, pem: Path) -> None:
    with Provider(pem, USERNAME, PASSWORD, starttls=False) as provider:
        result = login(provider)
    assert "does NOT take outgoing mail: STARTTLS: STARTTLS extension not supported" in result["msg"]
    assert "AUTH" not in provider.commands
    assert not any("AUTH" in line for line in provider.in_clear)


@pytest.mark.parametrize(
    ("mechanisms", "said"), [("CRAM-MD5 XOAUTH2", "AUTH CRAM-MD5 XOAUTH2"), ("", "AUTH not at all")]
)
def test_a_mechanism_that_opensmtpd_does_not_know(login: Login, pem: Path, mechanisms: str, said: str) -> None:
    with Provider(pem, USERNAME, PASSWORD, mechanisms=mechanisms) as provider:
        result = login(provider)
    assert f"it offers {said}, and OpenSMTPD knows PLAIN and LOGIN" in result["msg"]


def test_a_server_that_hangs_up_at_quit_has_taken_the_login(login: Login, pem: Path) -> None:
    with Provider(pem, USERNAME, PASSWORD, polite=False) as provider:
        result = login(provider)
    assert result["accepted"] is True, result["msg"]


def test_nobody_answers(login: Login, pem: Path) -> None:
    with Provider(pem, USERNAME, PASSWORD) as provider:
        pass
    result = login(provider)
    assert f"relay localhost:{provider.port} does NOT take outgoing mail: connecting: " in result["msg"]
    assert "refused" in result["msg"]


@VARIANTS
def test_a_server_that_says_nothing(login: Login, pem: Path, smtps: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        provider = Provider(pem, USERNAME, PASSWORD, smtps=smtps)
        provider.port = silent.getsockname()[1]
        result = login(provider, timeout=1)
    assert "connecting: " in result["msg"]
    assert "timed out" in result["msg"]


def test_check_mode_asks_nobody(login: Login, pem: Path) -> None:
    with Provider(pem, USERNAME, PASSWORD) as provider:
        result = login(provider, check=True)
    assert "not asked in check mode" in result["msg"]
    assert provider.commands == []
