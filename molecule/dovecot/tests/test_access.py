# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports, TLS, logins, and files on disk."""

from __future__ import annotations

import imaplib
import socket
import ssl

import pytest
from dovecot_host import ALICE, BOB, lmtp
from testinfra.host import Host

from testbed import imap, smtp, units

testinfra_hosts = ["docker://dovecot-debian12", "docker://dovecot-debian13"]


def test_imaps_and_managesieve_are_the_only_open_ports(host: Host, address: str) -> None:
    sockets = {line.split()[3] for line in host.check_output("ss -Hltn").splitlines()}
    # Docker's resolver
    sockets = {name for name in sockets if not name.startswith("127.0.0.11:")}
    assert sockets == {"0.0.0.0:993", "[::]:993", "0.0.0.0:4190", "[::]:4190"}
    for port in (110, 143, 995):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, port), timeout=60)


def test_imaps_answers_on_ipv6(host: Host) -> None:
    seen = host.run("echo a logout | timeout 60 openssl s_client -quiet -connect '[::1]:993'")
    assert "* OK" in seen.stdout


def test_certificate_names_the_host(host: Host, address: str) -> None:
    certificate = host.file("/etc/selfhosted-mail/tls/fullchain.pem").content_string
    context = ssl.create_default_context(cadata=certificate)
    with (
        socket.create_connection((address, 993), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="mail.example.org") as secured,
    ):
        assert secured.version() == "TLSv1.3"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize(
    ("version", "ciphers", "accepted"),
    [
        (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0", False),
        (ssl.TLSVersion.TLSv1_2, "ECDHE+AESGCM", True),
        (ssl.TLSVersion.TLSv1_2, "ECDHE+CHACHA20", True),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES256-SHA384:ECDHE-ECDSA-AES128-SHA:AES256-SHA", False),
    ],
)
def test_tls_is_modern(address: str, version: ssl.TLSVersion, ciphers: str, accepted: bool) -> None:
    context = smtp.tls()
    context.set_ciphers(ciphers)
    context.minimum_version = context.maximum_version = version
    with socket.create_connection((address, 993), timeout=60) as plain:
        if accepted:
            context.wrap_socket(plain).close()
        else:
            # 2.4 gives the reason in an alert, 2.3 disconnects.
            with pytest.raises(ssl.SSLError, match=r"ALERT|UNEXPECTED_EOF"):
                context.wrap_socket(plain)


def test_login(address: str) -> None:
    imap.session(address, *ALICE).logout()
    imap.session(address, ALICE[0].upper(), ALICE[1]).logout()
    with imaplib.IMAP4_SSL(address, 993, ssl_context=smtp.tls(), timeout=30) as box:
        # imaplib's login() accepts only ASCII. RFC 4616
        assert box.authenticate("PLAIN", lambda _challenge: "\0".join(["", *BOB]).encode())[0] == "OK"


def test_lmtp_socket_is_for_vmail_alone(host: Host, container: str) -> None:
    found = host.file("/run/dovecot/lmtp")
    assert (found.user, found.mode) == ("vmail", 0o600)
    message = smtp.wire(smtp.compose("sender@world.test", [ALICE[0]]))
    assert lmtp(container, message, ALICE[0])[ALICE[0]][0] == 250
    for user in ("nobody", "dovenull", "dovecot"):
        with pytest.raises(AssertionError, match="PermissionError"):
            lmtp(container, message, ALICE[0], user=user)


@pytest.mark.parametrize(
    ("path", "user", "mode"),
    [
        ("/etc/dovecot/dovecot.conf", "root", 0o644),
        ("/etc/dovecot/sieve/before.sieve", "root", 0o644),
        ("/etc/dovecot/sieve/before.svbin", "root", 0o644),
        ("/etc/selfhosted-mail/passwd", "root", 0o440),
        ("/etc/selfhosted-mail/tls/privkey.pem", "root", 0o600),
        ("/var/vmail", "vmail", 0o700),
        ("/var/lib/selfhosted-mail/full", "root", 0o770),
        ("/var/lib/selfhosted-mail/learn", "vmail", 0o700),
    ],
)
def test_owners_and_modes(host: Host, path: str, user: str, mode: int) -> None:
    """Of the target, if it is a link."""
    found = host.file(host.file(path).linked_to)
    assert (found.user, found.mode) == (user, mode)


def test_services_may_do_little(container: str) -> None:
    """More than with the role opensmtpd, whose sendmail needs nothing."""
    assert units.too_exposed(container, {"dovecot.service": 3.0}) == {}


def test_mail_is_read_by_vmail_alone(host: Host) -> None:
    assert host.check_output("find /var/vmail -not -user vmail -or -perm /077 -not -name 'dovecot-uidvalidity.*'") == ""
