# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of a server from outside, on real ports of loopback."""

from __future__ import annotations

import errno
import http.server
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.mail.plugins.plugin_utils import outside
from ansible_collections.selfhosted.mail.plugins.plugin_utils.outside import GREETING, SMTP, Server

from testbed.smtp_provider import Provider, self_signed


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("seen"), "mail.example.org")


def seen(
    monkeypatch: pytest.MonkeyPatch,
    port: int,
    tls_first: bool = False,
    name: str = "mail.example.org",
    mode: str = "selfsigned",
) -> dict[str, dict[str, Any]]:
    """Check to finding."""
    monkeypatch.setitem(outside.BEFORE_TLS, port, [] if tls_first else SMTP)
    monkeypatch.setitem(GREETING, port, b"220 ")
    return {one["check"]: one for one in Server(name, "127.0.0.1", mode, 2).findings(port)}


@pytest.mark.parametrize("tls_first", [False, True])
def test_all_is_well(monkeypatch: pytest.MonkeyPatch, pem: Path, tls_first: bool) -> None:
    with Provider(pem, "", "", smtps=tls_first) as provider:
        found = seen(monkeypatch, provider.port, tls_first)
    assert {one["status"] for one in found.values()} == {"ok"}
    assert found["port"]["text"].startswith("220 provider.example ESMTP (TLSv1.")
    assert found["certificate"]["text"] == "is for mail.example.org and good for 2 more days"
    assert found["tls"]["text"] == "refuses TLS below 1.2"
    assert "AUTH" not in provider.commands


def test_the_name_in_the_certificate(monkeypatch: pytest.MonkeyPatch, pem: Path) -> None:
    with Provider(pem, "", "") as provider:
        found = seen(monkeypatch, provider.port, name="mail.example.net")["certificate"]
    assert (found["status"], found["required"]) == ("error", True)
    assert "not valid for 'mail.example.net'" in found["text"]


def test_the_chain(monkeypatch: pytest.MonkeyPatch, pem: Path) -> None:
    """If clients must trust the certificate, its chain must end at a trusted root."""
    with Provider(pem, "", "") as provider:
        found = seen(monkeypatch, provider.port, mode="files")["certificate"]
        assert found["status"] == "error"
        assert "self-signed certificate" in found["text"]
        assert found["fix"].startswith("mail_tls_certificate_file")
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        assert seen(monkeypatch, provider.port, mode="files")["certificate"]["status"] == "ok"


def test_days_are_parts_of_the_lifetime(monkeypatch: pytest.MonkeyPatch, pem: Path) -> None:
    begun = outside.time.time()
    with Provider(pem, "", "") as provider:
        for days, status in ((1.4, "ok"), (1.6, "warning"), (1.75, "error")):
            monkeypatch.setattr(outside.time, "time", lambda days=days: begun + days * outside.DAY)
            assert seen(monkeypatch, provider.port)["certificate"]["status"] == status


def test_old_tls(monkeypatch: pytest.MonkeyPatch, pem: Path) -> None:
    with Provider(pem, "", "") as provider, pytest.warns(DeprecationWarning):
        provider._context.minimum_version = ssl.TLSVersion.TLSv1
        provider._context.set_ciphers("ALL:@SECLEVEL=0")
        found = seen(monkeypatch, provider.port)["tls"]
    assert (found["status"], found["required"], found["text"]) == ("error", False, "speaks TLSv1.1")


def test_a_closed_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    found = seen(monkeypatch, port)
    assert list(found) == ["port"]
    assert (found["port"]["status"], "refused" in found["port"]["text"]) == ("error", True)


def test_silence_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = seen(monkeypatch, server.getsockname()[1])
    assert (found["port"]["status"], found["port"]["text"]) == ("unknown", "no answer within 2 s")


def test_a_refused_greeting(monkeypatch: pytest.MonkeyPatch, pem: Path) -> None:
    with Provider(pem, "", "", starttls=False) as provider:
        monkeypatch.setattr(provider, "_encrypt", lambda: provider._say("x"))
        monkeypatch.setitem(outside.BEFORE_TLS, provider.port, [(b"", b"554 ")])
        [found] = Server("h", "127.0.0.1", True, 2).findings(provider.port)
    assert (found["status"], found["text"]) == ("error", "a connection is answered 220 provider.example ESMTP")


TOKEN = "0123456789abcdef"


class Patient(http.client.HTTPConnection):
    """A listener has a minute to answer."""

    def __init__(self, host: str, port: int, timeout: float) -> None:
        super().__init__(host, port, timeout=max(timeout, 60))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (TOKEN, ""),
        (TOKEN + "x", "something else: 200"),
        ("", "something else: 404"),
        (None, "cannot be reached from here"),
    ],
)
def test_port_80(monkeypatch: pytest.MonkeyPatch, body: str | None, said: str) -> None:
    asked = []

    class Web(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Host"]))
            self.send_response(200 if body else 404)
            self.end_headers()
            self.wfile.write((body or "not here").encode())

    with http.server.HTTPServer(("127.0.0.1", 0), Web) as server:
        monkeypatch.setattr(outside, "HTTP", server.server_address[1])
        # Only a port without a listener is retried.
        monkeypatch.setattr(outside.http.client, "HTTPConnection", Patient)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        if body is None:
            server.shutdown()
            server.server_close()
        found = outside.port_80("127.0.0.1", "mail.example.org", TOKEN, 0.1)
        if body is not None:
            server.shutdown()
        thread.join()
    assert said in found and bool(said) is bool(found)
    if body is not None:
        assert set(asked) == {(f"/.well-known/acme-challenge/{TOKEN}", "mail.example.org")}


def test_port_80_that_no_packet_gets_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_way(*_words: object, **_options: object) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(outside.http.client.HTTPConnection, "connect", no_way)
    assert outside.port_80("2001:db8::25", "mail.example.org", TOKEN, 0.1) == ""
