# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of a mail server from outside, on the controller."""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from ansible_collections.selfhosted.mail.plugins.module_utils.finding import Finding, finding

# Commands before TLS, each with the beginning of its reply's last line (RFC 3207, RFC 5804 section 2.2).
SMTP = [(b"", b"220 "), (b"EHLO check.invalid\r\n", b"250 "), (b"STARTTLS\r\n", b"220 ")]
SIEVE = [(b"", b"OK"), (b"STARTTLS\r\n", b"OK")]
BEFORE_TLS: dict[int, list[tuple[bytes, bytes]]] = {25: SMTP, 465: [], 587: SMTP, 993: [], 4190: SIEVE}
GREETING = {465: b"220 ", 993: b"* OK"}
GOODBYE = {993: b"x LOGOUT\r\n", 4190: b"LOGOUT\r\n"}
# Errors of the controller's network, not of the server.
NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
NO_OLD_TLS = ("NO_PROTOCOLS_AVAILABLE", "NO_CIPHERS_AVAILABLE", "NO_CIPHER_MATCH")
HTTP = 80  # port
DAY = 86400  # seconds
LINE = 4096  # octets
SITE = "ansible-playbook -i inventory playbooks/site.yml"


class Failed(Exception):
    """``str()`` says what is wrong."""


@dataclass
class Seen:
    """``certificate``: DER; ``names``: its decoded fields, if the context verifies."""

    greeting: str
    version: str
    certificate: bytes
    names: dict[str, Any]


def reply(stream: socket.socket, command: bytes, wanted: bytes) -> str:
    """Send a command; returns the last line of the reply. Raises Failed, OSError."""
    stream.sendall(command)
    text = b""
    # Octet by octet, as TLS follows the last line, which RFC 5321 section 4.2.1 and RFC 5804 section 1.7 define.
    while not text.endswith(b"\n") or text[3:4] == b"-" or text.startswith(b'"'):
        text = b"" if text.endswith(b"\n") else text
        octet = stream.recv(1)
        if not octet or len(text) > LINE:
            raise Failed("the connection is closed" if not octet else "a line does not end")
        text += octet
    shown = text.decode("ascii", "replace").strip()
    if not text.startswith(wanted):
        raise Failed(f"{command.decode().split()[0] if command else 'a connection'} is answered {shown}")
    return shown


@dataclass
class Server:
    """One address of the server. ``mode``: ``mail_tls_mode``; ``patience``: seconds for a step."""

    hostname: str
    address: str
    mode: str
    patience: float

    def talk(self, port: int, context: ssl.SSLContext) -> Seen:
        """Connect, start TLS, read the greeting and say goodbye. Raises Failed, OSError."""
        with socket.create_connection((self.address, port), self.patience) as plain:
            said = [reply(plain, *step) for step in BEFORE_TLS[port]]
            with context.wrap_socket(plain, server_hostname=self.hostname) as stream:
                said = said or [reply(stream, b"", GREETING[port])]
                stream.sendall(GOODBYE.get(port, b"QUIT\r\n"))
                der, names = stream.getpeercert(binary_form=True) or b"", stream.getpeercert() or {}
                return Seen(said[0], stream.version() or "", der, names)

    def findings(self, port: int) -> list[Finding]:
        """Findings about one port: reachability, certificate, TLS versions."""
        subject = f"{self.address} {port}"
        try:
            seen = self.talk(port, anybody())
        except TimeoutError:
            why = "; many networks block outgoing connections to port 25" if port == 25 else ""
            return [finding("port", subject, "unknown", f"no answer within {self.patience:.0f} s{why}")]
        except (Failed, OSError) as error:
            here = isinstance(error, OSError) and error.errno in NO_WAY
            fix = "" if here else "mail-status"
            return [finding("port", subject, "unknown" if here else "error", str(error) or type(error).__name__, fix)]
        found = [finding("port", subject, "ok", f"{seen.greeting} ({seen.version})")]
        for check, ask in (("certificate", self.certificate), ("tls", self.old_tls)):
            try:
                found.append(ask(subject, port, seen))
            except TimeoutError:
                found.append(finding(check, subject, "unknown", f"no answer within {self.patience:.0f} s"))
            except (Failed, OSError) as error:
                found.append(finding(check, subject, "error", str(error) or type(error).__name__))
        return found

    def certificate(self, subject: str, port: int, seen: Seen) -> Finding:
        """Check the certificate's name, its remaining part of its lifetime, and its chain unless self-signed."""
        fix = (
            SITE
            if self.mode != "files"
            else "mail_tls_certificate_file: # must contain the certificate, followed by the intermediate certificates"
        )
        try:
            names = self.talk(port, trusting(seen.certificate) if self.mode == "selfsigned" else everybody()).names
        except ssl.SSLCertVerificationError as error:
            return finding("certificate", subject, "error", error.verify_message, fix)
        begin, end = (ssl.cert_time_to_seconds(names[key]) for key in ("notBefore", "notAfter"))
        left, life = end - time.time(), end - begin
        status = "error" if left < min(life / 6, 15 * DAY) else "warning" if left < min(life / 4, 30 * DAY) else "ok"
        text = f"is for {self.hostname} and good for {left / DAY:.0f} more days"
        return finding("certificate", subject, status, text, "" if status == "ok" else fix)

    def old_tls(self, subject: str, port: int, _seen: Seen) -> Finding:
        """Check that TLS below 1.2 is refused (RFC 8996)."""
        try:
            with warnings.catch_warnings(action="ignore"):
                context = anybody()
                context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
                context.set_ciphers("ALL:@SECLEVEL=0")
            version = self.talk(port, context).version
        except TimeoutError:
            raise
        except ssl.SSLError as error:
            if error.reason in NO_OLD_TLS:
                text = "not tested: the controller's TLS library does not support TLS below 1.2"
                return finding("tls", subject, "unknown", text, required=False)
        except (Failed, OSError):
            pass  # closed instead of answered
        else:
            return finding("tls", subject, "error", f"speaks {version}", SITE, required=False)
        return finding("tls", subject, "ok", "refuses TLS below 1.2", required=False)


def port_80(address: str, hostname: str, token: str, patience: float) -> str:
    """Request the token as an ACME server does (RFC 8555 section 8.3); returns the problem, or an empty string.

    A controller without a route to the address is no problem. Retries for ``patience`` seconds, as the listener starts.
    """
    until = time.monotonic() + patience
    while True:
        connection = http.client.HTTPConnection(address, HTTP, timeout=patience)
        try:
            connection.request("GET", f"/.well-known/acme-challenge/{token}", headers={"Host": hostname})
            reply = connection.getresponse()
            said = f"{reply.status} {reply.reason} {reply.getheader('Server', '')}".strip()
            if reply.read(len(token) + 1).decode("ascii", "replace") == token:
                return ""
            why = f"is answered by something else: {said}"
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in NO_WAY:
                return ""
            why = f"cannot be reached from here: {error or type(error).__name__}"
        finally:
            connection.close()
        if time.monotonic() > until:
            return f"port 80 of {hostname} at {address} {why}"
        time.sleep(0.5)


def anybody() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def everybody() -> ssl.SSLContext:
    """Verify as mail programs do; Python 3.13's default refuses authorities that they accept."""
    context = ssl.create_default_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def trusting(certificate: bytes) -> ssl.SSLContext:
    """Trust this certificate alone, as a user does who has accepted it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificate)
    return context


def look(name: str, hostname: str, mode: str, patience: float) -> list[Finding]:
    """Findings about all ports at each address of ``name``."""
    try:
        addresses = sorted({str(info[4][0]) for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)})
    except socket.gaierror as error:
        lost = error.errno == socket.EAI_NONAME
        text = f"does not resolve on the controller: {error.strerror}"
        return [
            finding(
                "port", name, "error" if lost else "unknown", text, "# publish the zone files of mail_dns_output_dir"
            )
        ]
    servers = [Server(hostname, address, mode, patience) for address in addresses]
    asked = [partial(server.findings, port) for server in servers for port in BEFORE_TLS]
    with ThreadPoolExecutor(len(asked)) as pool:
        return [found for answer in pool.map(partial.__call__, asked) for found in answer]
