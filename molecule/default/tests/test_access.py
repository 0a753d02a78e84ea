# SPDX-License-Identifier: GPL-3.0-or-later
"""Open ports, TLS versions and certificates, seen from outside."""

from __future__ import annotations

import smtplib
import socket
import ssl
import subprocess

import pytest

from testbed.servers import Server, both
from testbed.smtp import handshake, tls

PORTS = [25, 465, 587, 993]
MANAGESIEVE = 4190  # STARTTLS of its own kind
pytestmark = pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")


def context(version: ssl.TLSVersion, side: int = ssl.PROTOCOL_TLS_CLIENT) -> ssl.SSLContext:
    """A context for this version of TLS only, with any cipher."""
    context = ssl.SSLContext(side)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    return context


@both
def test_only_mail_ports_are_open(server: Server) -> None:
    """Everything else listens on loopback only, port 143 and 110 and the daemons' own ones included."""
    sockets = [line.split()[3].rpartition(":") for line in server.run("ss", "-Hltn").splitlines()]
    open_ports = {
        int(port) for address, _colon, port in sockets if not address.startswith(("127.", "[::1]", "[::ffff:127."))
    }
    assert open_ports == {*PORTS, MANAGESIEVE}


@pytest.mark.parametrize("port", [110, 143, 995, 6379, 10027, 10028, 11332, 11333, 11334])
@both
def test_closed_from_outside(server: Server, port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.ip, port), timeout=60).close()


OLD = [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1]
GOOD = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("version", GOOD, ids=lambda version: version.name)
@pytest.mark.parametrize("port", PORTS)
@both
def test_tls_spoken(server: Server, port: int, version: ssl.TLSVersion) -> None:
    with handshake(server.ip, port, context(version)) as session:
        assert session.version() == version.name.replace("_", ".")


@pytest.mark.parametrize("version", OLD, ids=lambda version: version.name)
@pytest.mark.parametrize("port", PORTS)
@both
def test_old_tls_refused(server: Server, port: int, version: ssl.TLSVersion) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError, smtplib.SMTPServerDisconnected)):
        handshake(server.ip, port, context(version))


@pytest.mark.parametrize("version", OLD, ids=lambda version: version.name)
def test_client_could_speak_old_tls(version: ssl.TLSVersion, tmp_path: object) -> None:
    """Otherwise the test above could not fail."""
    pem = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=old", "-keyout", "-", "-out", "-"],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    file = f"{tmp_path}/old.pem"
    with open(file, "wb") as out:
        out.write(pem)
    old = context(version, ssl.PROTOCOL_TLS_SERVER)
    old.load_cert_chain(file)
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context(version).wrap_bio(ours, theirs)
    server = old.wrap_bio(theirs, ours, server_side=True)
    for side in (client, server, client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert client.version() == version.name.replace("_", ".")


@pytest.mark.parametrize("port", PORTS)
@both
def test_certificate_names_the_server(server: Server, port: int) -> None:
    """A client that trusts it once is never asked again."""
    with handshake(server.ip, port, tls()) as session:
        shown = session.getpeercert(binary_form=True)
    assert shown
    trusting = ssl.create_default_context(cadata=shown)
    with handshake(server.ip, port, trusting, server.hostname) as session:
        assert session.getpeercert()
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server.ip, port, trusting, "mail.example.org")
