# SPDX-License-Identifier: GPL-3.0-or-later
"""The login at a relay provider, against a real server with TLS on loopback."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.mail.plugins.modules import smtp_login

from testbed import relays
from testbed.smtp_provider import Provider, self_signed

Login = Callable[..., dict[str, Any]]
USERNAME, PASSWORD = "me@example.org", "p:a#s@s \"w'o\\rd {{ü}}"
VARIANTS = pytest.mark.parametrize("smtps", [False, True], ids=["starttls", "smtps"])


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("provider"), "localhost")


@pytest.fixture(scope="session")
def issuers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the authorities, and ``trusted`` of them."""
    found = tmp_path_factory.mktemp("issuers")
    (found / "trusted").write_text(relays.authorities(found))
    return found


@pytest.fixture
def login(
    run_module: Callable[..., dict[str, Any]], pem: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Login:
    """Run the module with the right credentials against a provider; the host trusts its certificate."""
    monkeypatch.setattr(smtp_login, "CA_FILE", str(pem))
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


@pytest.mark.parametrize("relay", relays.RELAYS, ids=str)
def test_what_opensmtpd_can_use_is_taken_and_nothing_else(
    login: Login, issuers: Path, monkeypatch: pytest.MonkeyPatch, relay: relays.Relay
) -> None:
    """The scenario smtp_relay asks OpenSMTPD the same."""
    connect = socket.create_connection
    monkeypatch.setattr(smtp_login, "CA_FILE", str(issuers / "trusted"))
    monkeypatch.setattr(
        smtp_login.socket, "create_connection", lambda where, *rest: connect(("127.0.0.1", where[1]), *rest)
    )
    with Provider(relays.identity(issuers, relay), USERNAME, PASSWORD, **relay.provider) as provider:
        result = login(provider, host=relays.NAME)
    assert result["accepted"] is relay.usable, result["msg"]
    assert ("MAIL" in provider.commands) is relay.usable
    assert relay.usable or "AUTH" not in provider.commands
    assert not any("AUTH" in line for line in provider.in_clear)


@pytest.mark.parametrize("answers", [True, False])
def test_addresses_of_the_other_version_of_ip(
    login: Login, pem: Path, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """OpenSMTPD accepts them too, and waits two minutes for a missing greeting."""
    with Provider(pem, USERNAME, PASSWORD) as provider, socket.create_server(("127.0.0.2", provider.port)) as other:
        other.listen(1 if answers else 0)
        # One more than the listener keeps is not answered any more.
        waiting = [] if answers else [socket.create_connection(("127.0.0.2", provider.port))]
        addresses = [(socket.AF_INET6, "127.0.0.2"), (socket.AF_INET, "127.0.0.1")]
        found = [(family, socket.SOCK_STREAM, 6, "", (name, provider.port)) for family, name in addresses]
        resolve = socket.getaddrinfo
        monkeypatch.setattr(
            smtp_login.socket,
            "getaddrinfo",
            lambda host, *rest, **more: found if host == "localhost" and more else resolve(host, *rest, **more),
        )
        result = login(provider, timeout=1)
        for connection in waiting:
            connection.close()
    assert result["accepted"]
    assert ("opensmtpd_ip_versions: [4]" in result["msg"]) is not answers, result["msg"]


@VARIANTS
@pytest.mark.parametrize("keywords", ["AUTH PLAIN LOGIN", "AUTH LOGIN CRAM-MD5"])
def test_right_credentials(login: Login, pem: Path, smtps: bool, keywords: str) -> None:
    with Provider(pem, USERNAME, PASSWORD, smtps=smtps, keywords=(keywords,)) as provider:
        result = login(provider)
    assert (result["accepted"], result["null_sender"], result["tls"]) == (True, True, "TLSv1.3")
    assert not result["changed"]
    assert result["msg"] == (
        f"relay localhost:{provider.port} accepts the login: 235 2.7.0 Welcome 2.7.0 customer 17 (TLSv1.3);"
        " null sender: 250 2.1.0 Sender ok"
    )
    assert provider.commands[-3:] == ["MAIL", "RSET", "QUIT"]
    assert f"localhost:{provider.port} refuses" not in str(result.get("warnings"))


@pytest.mark.parametrize(("reply", "taken"), [("550 enable blank senders", False), ("451 later", None)])
def test_the_null_sender(login: Login, pem: Path, reply: str, taken: bool | None) -> None:
    """A refused null sender is a warning, even if the login is required."""
    with Provider(pem, USERNAME, PASSWORD, null_sender=reply) as provider:
        result = login(provider, required=True)
    assert (result["accepted"], result["null_sender"]) == (True, taken)
    assert result["msg"].endswith(f"; null sender: {reply}")
    # Those of other tests are there, too.
    warned = str(result.get("warnings"))
    said = f"localhost:{provider.port} refuses the null sender, MAIL FROM:<>: {reply}. Bounces, read receipts and some"
    assert (said in warned) is (taken is False)
    assert ("enable the null sender at the provider" in warned) or taken is None


@VARIANTS
@pytest.mark.parametrize("required", [False, True])
def test_refused_credentials(login: Login, pem: Path, smtps: bool, required: bool) -> None:
    with Provider(pem, USERNAME, "another", smtps=smtps) as provider:
        result = login(provider, required=required)
    assert "cannot be used for outgoing mail: AUTH: 535 5.7.8 Account is blocked" in result["msg"]
    assert result.get("failed", False) is required
    assert required or (result["accepted"] is False and result["msg"] in str(result["warnings"]))
    assert PASSWORD not in str(result)


@VARIANTS
@pytest.mark.parametrize(
    ("name", "trusted", "said"),
    [("localhost", False, "self-signed certificate"), ("smtp.provider.example", True, "Hostname mismatch")],
)
def test_nothing_secret_goes_to_a_server_whose_certificate_does_not_verify(
    login: Login, smtps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, trusted: bool, said: str
) -> None:
    other = self_signed(tmp_path, name)
    if trusted:
        monkeypatch.setattr(smtp_login, "CA_FILE", str(other))
    with Provider(other, USERNAME, PASSWORD, smtps=smtps) as provider:
        result = login(provider)
    assert f"its certificate does not verify: {said}" in result["msg"]
    assert "AUTH" not in provider.commands


def test_what_is_missing_is_said(login: Login, pem: Path) -> None:
    with Provider(pem, USERNAME, PASSWORD, starttls="") as provider:
        assert "cannot be used for outgoing mail: STARTTLS is not offered" in login(provider)["msg"]
    for keywords, said in (("AUTH CRAM-MD5 XOAUTH2",), "AUTH CRAM-MD5 XOAUTH2"), ((), "no AUTH"):
        with Provider(pem, USERNAME, PASSWORD, keywords=keywords) as provider:
            assert f"it offers {said}, and OpenSMTPD supports only PLAIN and LOGIN" in login(provider)["msg"]


def test_a_server_that_hangs_up_at_quit_has_taken_the_login(login: Login, pem: Path) -> None:
    with Provider(pem, USERNAME, PASSWORD, polite=False) as provider:
        result = login(provider)
    assert (result["accepted"], result["null_sender"]) == (True, True), result["msg"]


def test_nobody_answers(login: Login, pem: Path) -> None:
    with Provider(pem, USERNAME, PASSWORD) as provider:
        pass
    result = login(provider)
    assert f"relay localhost:{provider.port} cannot be used for outgoing mail: connecting: " in result["msg"]
    assert "refused" in result["msg"]


@pytest.mark.parametrize(("smtps", "step"), [(False, "greeting"), (True, "TLS")])
def test_a_server_that_says_nothing_is_not_said_to_refuse(login: Login, pem: Path, smtps: bool, step: str) -> None:
    """OpenSMTPD waits for five minutes."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        provider = Provider(pem, USERNAME, PASSWORD, smtps=smtps)
        provider.port = silent.getsockname()[1]
        result = login(provider, timeout=1)
    assert result["msg"] == f"relay localhost:{provider.port} does not answer: {step} takes longer than 1 s"
    assert result["accepted"] is None


def test_a_name_that_cannot_be_looked_up_now(login: Login, pem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver's silence says nothing of the provider."""

    def fail(*_arguments: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    with Provider(pem, USERNAME, PASSWORD) as provider:
        monkeypatch.setattr(smtp_login.socket, "create_connection", fail)
        result = login(provider)
    assert result["msg"].endswith("does not answer: Temporary failure in name resolution")
    assert result["accepted"] is None


@pytest.mark.parametrize("greeting", ["220" + "x" * 3000, "hello", "199 no", ""])
def test_what_is_no_reply(login: Login, pem: Path, greeting: str) -> None:
    with Provider(pem, USERNAME, PASSWORD, greeting=greeting) as provider:
        result = login(provider)
    assert "cannot be used for outgoing mail: greeting: invalid reply " in result["msg"]


def test_check_mode_asks_nobody(login: Login, pem: Path) -> None:
    with Provider(pem, USERNAME, PASSWORD) as provider:
        result = login(provider, check=True)
    assert "not contacted in check mode" in result["msg"]
    assert provider.commands == []
