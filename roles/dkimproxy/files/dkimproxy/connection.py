# SPDX-License-Identifier: GPL-3.0-or-later
"""Both sides of the proxy: lines, blocks and replies over TCP, every wait bounded (RFC 5321 §4.5.3.2)."""

import asyncio
import re
from collections.abc import Iterable
from typing import NamedTuple

from .errors import Deferred

BLOCK = 1 << 16
COMMAND_LIMIT = 4096
REPLY_LIMIT = 1 << 16

_REPLY_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])([^\r\n]*))?\r?\n")


class Timeouts(NamedTuple):
    """Seconds. The defaults are RFC 5321 §4.5.3.2's least values, and its §4.5.3.2.7 for the client."""

    client: float = 300
    client_block: float = 180
    connect: float = 30
    greeting: float = 300
    command: float = 300
    data: float = 120
    block: float = 180
    end_of_data: float = 600


class ClientGone(Exception):
    """The client closed the connection or has said nothing for too long (`idle`)."""

    def __init__(self, idle: bool = False) -> None:
        super().__init__()
        self.idle = idle


class NextHopLost(Deferred):
    """The next hop cannot be talked to any more; the session ends with 421."""

    def __init__(self, text: str, status: str = "4.4.2") -> None:
        super().__init__("next-hop", f"The next mail server {text}", status, 421)


class LineTooLong(Exception):
    """A command line over COMMAND_LIMIT octets; it has been read to its end."""


class Reply(NamedTuple):
    """An SMTP reply: its code and the texts of its lines."""

    code: int
    texts: tuple[bytes, ...]

    def wire(self) -> bytes:
        last = len(self.texts) - 1
        code = b"%d" % self.code
        return b"".join(code + (b" " if n == last else b"-") + text + b"\r\n" for n, text in enumerate(self.texts))


class Client:
    """The side that sends mail."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeouts: Timeouts) -> None:
        self._reader, self._writer, self._timeouts = reader, writer, timeouts
        self._buffer = b""

    async def line(self) -> bytes:
        """The next command line with its end. Raises ClientGone, LineTooLong."""
        start = 0
        too_long = False
        while (at := self._buffer.find(b"\n", start)) < 0:
            start = len(self._buffer)
            if start > COMMAND_LIMIT:
                too_long, start, self._buffer = True, 0, b""
            self._buffer += await self._read(self._timeouts.client)
        line, self._buffer = self._buffer[: at + 1], self._buffer[at + 1 :]
        if too_long or len(line) > COMMAND_LIMIT:
            raise LineTooLong
        return line

    async def block(self) -> bytes:
        """Whatever has come of a message. Raises ClientGone."""
        if self._buffer:
            block, self._buffer = self._buffer, b""
            return block
        return await self._read(self._timeouts.client_block)

    def unread(self, data: bytes) -> None:
        self._buffer = data + self._buffer

    async def send(self, data: bytes) -> None:
        """Raises ClientGone."""
        try:
            self._writer.write(data)
            async with asyncio.timeout(self._timeouts.client):
                await self._writer.drain()
        except TimeoutError:
            raise ClientGone(idle=True) from None
        except OSError:
            raise ClientGone from None

    def close(self) -> None:
        self._writer.close()

    async def _read(self, seconds: float) -> bytes:
        try:
            async with asyncio.timeout(seconds):
                data = await self._reader.read(BLOCK)
        except TimeoutError:
            raise ClientGone(idle=True) from None
        except OSError:
            raise ClientGone from None
        if not data:
            raise ClientGone
        return data


class NextHop:
    """The side that takes mail. After NextHopLost nothing but NextHopLost comes from it."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._lost: NextHopLost | None = None

    async def connect(self, host: str, port: int) -> Reply:
        """Connect; returns the greeting (220). Raises NextHopLost."""
        try:
            async with asyncio.timeout(self._timeouts.connect):
                self._reader, self._writer = await asyncio.open_connection(host, port)
        except TimeoutError:
            raise self._lose("cannot be reached: no answer", "4.4.1") from None
        except OSError as error:
            raise self._lose(f"cannot be reached: {error.strerror or 'connection failed'}", "4.4.1") from None
        greeting = await self._reply(self._timeouts.greeting)
        if greeting.code != 220:
            raise self._lose(f"is not ready: {greeting.code} {greeting.texts[0].decode('ascii', 'replace')}", "4.3.2")
        return greeting

    async def command(self, line: bytes) -> Reply:
        """Send one command line (with CRLF), return its reply. Raises NextHopLost."""
        await self._send(line, self._timeouts.command)
        return await self._reply(self._timeouts.data if line == b"DATA\r\n" else self._timeouts.command)

    async def message(self, blocks: Iterable[bytes]) -> Reply:
        """Send a message after 354; `blocks` ends with the end of data. Raises NextHopLost."""
        try:
            for block in blocks:
                await self._send(block, self._timeouts.block)
        except NextHopLost as lost:
            # Who refuses in the middle of a message has often said why before closing.
            self._lost = None
            try:
                reply = await self._reply(1)
            except NextHopLost:
                raise lost from None
            if reply.code >= 400:
                self._lost = lost
                return reply
            raise lost from None
        return await self._reply(self._timeouts.end_of_data)

    def lose(self) -> None:
        """Close at once: what was begun there is not to be taken."""
        self._lose("was left")

    def confused(self) -> NextHopLost:
        """The next hop answered something that no one could make sense of."""
        return self._lose("gave an unreadable answer", "4.5.0")

    def _lose(self, text: str, status: str = "4.4.2") -> NextHopLost:
        if self._writer:
            self._writer.close()
        self._lost = self._lost or NextHopLost(text, status)
        return self._lost

    async def _send(self, data: bytes, seconds: float) -> None:
        if self._lost or not self._writer:
            raise self._lost or self._lose("is not connected")
        try:
            self._writer.write(data)
            async with asyncio.timeout(seconds):
                await self._writer.drain()
        except TimeoutError:
            raise self._lose("does not read on") from None
        except OSError:
            raise self._lose("closed the connection") from None

    async def _reply(self, seconds: float) -> Reply:
        if self._lost or not self._reader:
            raise self._lost or self._lose("is not connected")
        texts: list[bytes] = []
        size = code = 0
        try:
            async with asyncio.timeout(seconds):
                while True:
                    line = await self._reader.readline()
                    size += len(line)
                    match = _REPLY_LINE.fullmatch(line)
                    if not line.endswith(b"\n"):
                        raise self._lose("closed the connection")
                    if not match or size > REPLY_LIMIT or (texts and int(match[1]) != code):
                        raise self._lose("gave an unreadable answer", "4.5.0")
                    code = int(match[1])
                    texts.append(match[3] or b"")
                    if match[2] != b"-":
                        return Reply(code, tuple(texts))
        except TimeoutError:
            raise self._lose("did not answer in time") from None
        except (OSError, ValueError):
            raise self._lose("closed the connection") from None
