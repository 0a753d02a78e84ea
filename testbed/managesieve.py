# SPDX-License-Identifier: GPL-3.0-or-later
"""A ManageSieve client (RFC 5804), as far as tests need one."""

from __future__ import annotations

import base64
import re
import socket
from types import TracebackType

from testbed.containers import PATIENCE
from testbed.smtp import tls


class Refused(Exception):
    """The server answered NO or BYE; `str()` is the whole answer."""


class Session:
    """A session over STARTTLS, for a `with` statement. Without a user it has no TLS."""

    def __init__(self, host: str, user: str = "", password: str = "") -> None:
        self._socket: socket.socket = socket.create_connection((host, 4190), timeout=PATIENCE)
        self._file = self._socket.makefile("rwb")
        self.greeting = self._answer()
        if user:
            self.command("STARTTLS")
            self._socket = tls().wrap_socket(self._socket, server_hostname=host)
            self._file = self._socket.makefile("rwb")
            self.greeting = self._answer()
            self.login(user, password)

    def login(self, user: str, password: str) -> None:
        """AUTHENTICATE PLAIN (RFC 4616)."""
        response = base64.b64encode("\0".join(["", user, password]).encode()).decode()
        self.command(f'AUTHENTICATE "PLAIN" "{response}"')

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._socket.close()

    def _answer(self) -> str:
        said = ""
        while True:
            line = self._file.readline().decode()
            kind = re.match(r"(OK|NO|BYE)\b|$", line)
            while literal := re.search(r"\{(\d+)\}\r\n$", line):
                said += line + self._file.read(int(literal[1])).decode()
                line = self._file.readline().decode()
            said += line
            if kind:
                break
        if kind[0] != "OK":
            raise Refused(said)
        return said

    def command(self, line: str) -> str:
        """The server's answer, with the OK line last. Raises Refused."""
        self._file.write(f"{line}\r\n".encode())
        self._file.flush()
        return self._answer()

    def put(self, name: str, script: str) -> None:
        """Store a script and make it the active one."""
        text = script.replace("\n", "\r\n")
        self.command(f'PUTSCRIPT "{name}" {{{len(text.encode())}+}}\r\n{text}')
        self.command(f'SETACTIVE "{name}"')

    def remove(self, name: str) -> None:
        """Deactivate all scripts and delete this one."""
        self.command('SETACTIVE ""')
        self.command(f'DELETESCRIPT "{name}"')
