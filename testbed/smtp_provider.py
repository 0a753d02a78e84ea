# SPDX-License-Identifier: GPL-3.0-or-later
"""A small SMTP server with TLS and AUTH that plays a relay provider on loopback."""

from __future__ import annotations

import base64
import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path


def self_signed(directory: Path, name: str, days: int = 2) -> Path:
    """A PEM file with a key and a certificate for ``name`` only; ``.key`` and ``.crt`` files are beside it."""
    pem, key, certificate = (directory / f"{name}.{end}" for end in ("pem", "key", "crt"))
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            str(days),
            "-subj",
            f"/CN={name}",
            "-addext",
            f"subjectAltName=DNS:{name}",
            "-keyout",
            key,
            "-out",
            certificate,
        ],
        check=True,
        capture_output=True,
    )
    pem.write_text(key.read_text() + certificate.read_text())
    return pem


@dataclass
class Provider:
    """Accepts one login over TLS; records each command, and all lines that came without TLS.

    ``keywords``: of EHLO under TLS. ``polite``: whether it answers QUIT. ``null_sender``: its reply to MAIL FROM:<>.
    """

    pem: Path
    username: str
    password: str
    smtps: bool = False
    keywords: tuple[str, ...] = ("AUTH PLAIN LOGIN",)
    starttls: str = "STARTTLS"
    greeting: str = "220 provider.example ESMTP"
    null_sender: str = "250 2.1.0 Sender ok"
    polite: bool = True
    versions: tuple[ssl.TLSVersion, ssl.TLSVersion] = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    address: str = "127.0.0.1"
    port: int = 0
    commands: list[str] = field(default_factory=list)
    in_clear: list[str] = field(default_factory=list)

    def __enter__(self) -> Provider:
        self._listener = socket.create_server((self.address, self.port))
        self.port = self._listener.getsockname()[1]
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version, self._context.maximum_version = self.versions
        # For old TLS versions, which OpenSSL's default level refuses.
        self._context.set_ciphers("ALL:@SECLEVEL=0")
        self._context.load_cert_chain(self.pem)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                self._connection, _address = self._listener.accept()
                self._connection.settimeout(10)
                with suppress(OSError), self._connection:
                    self._session()

    def _session(self) -> None:
        self._encrypted = False
        self._lines = self._connection.makefile()
        if self.smtps:
            self._encrypt()
        self._say(self.greeting)
        while line := self._line():
            verb, _space, rest = line.partition(" ")
            self.commands.append(verb.upper())
            match verb.upper():
                case "EHLO":
                    offers = self.keywords if self._encrypted else (self.starttls,)
                    self._say("250-provider.example", *(f"250-{offer}" for offer in offers if offer), "250 SIZE 1000")
                case "STARTTLS":
                    self._say("220 go ahead")
                    self._encrypt()
                case "AUTH":
                    self._authenticate(*rest.split())
                case "MAIL":
                    self._say(self.null_sender if rest == "FROM:<>" else "250 2.1.0 Sender ok")
                case "RSET":
                    self._say("250 2.0.0 Reset")
                case "QUIT":
                    if self.polite:
                        self._say("221 bye")
                    self._connection.shutdown(socket.SHUT_RDWR)
                    return
                case _:
                    self._say("502 what?")

    def _authenticate(self, mechanism: str, response: str = "") -> None:
        if mechanism == "PLAIN":
            given = base64.b64decode(response).decode().split("\0")[1:]
        else:
            given = [self._asked("Username:"), self._asked("Password:")]
        right = given == [self.username, self.password]
        self._say(*(["235-2.7.0 Welcome", "235 2.7.0 customer 17"] if right else ["535 5.7.8 Account is blocked"]))

    def _asked(self, prompt: str) -> str:
        self._say("334 " + base64.b64encode(prompt.encode()).decode())
        return base64.b64decode(self._line()).decode()

    def _encrypt(self) -> None:
        self._connection = self._context.wrap_socket(self._connection, server_side=True)
        self._lines = self._connection.makefile()
        self._encrypted = True

    def _line(self) -> str:
        line = self._lines.readline().strip()
        if not self._encrypted:
            self.in_clear.append(line)
        return line

    def _say(self, *lines: str) -> None:
        self._connection.sendall("".join(f"{line}\r\n" for line in lines).encode())
