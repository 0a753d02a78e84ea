# SPDX-License-Identifier: GPL-3.0-or-later
"""Both sides of the proxy: lines, blocks and replies over TCP, every wait with a timeout (RFC 5321 §4.5.3.2)."""

import asyncio
import contextlib
import re
import socket
from collections.abc import Iterable
from typing import NamedTuple

from .errors import Deferred

BLOCK = 1 << 16
# Kernel buffer for each direction of a connection, in bytes. By default a fast client can fill some megabytes, and
# fifty such clients would exceed the daemon's memory limit.
KERNEL_BUFFER = 1 << 17
COMMAND_LIMIT = 4096
REPLY_LIMIT = 1 << 16

_REPLY_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])([^\r\n]*))?\r?\n")


class Timeouts(NamedTuple):
    """Seconds. RFC 5321 §4.5.3.2 has the minimums, §4.5.3.2.7 for `client`; none for `client_block` and `connect`."""

    client: float = 300
    client_block: float = 180
    connect: float = 30
    greeting: float = 300
    command: float = 300
    data: float = 120
    block: float = 180
    end_of_data: float = 600


class ClientGone(Exception):
    """The client closed the connection or sent nothing for too long (`idle`)."""

    def __init__(self, idle: bool = False) -> None:
        super().__init__()
        self.idle = idle


class NextHopLost(Deferred):
    """The connection to the next hop is unusable; the session ends with 421."""

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


def bound_buffers(sock: socket.socket) -> None:
    """Limit the kernel's buffers. Call before listen or connect: the negotiated window cannot be changed later."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)


class Wire:
    """A TCP connection of the event loop. Unlike asyncio's streams it can still read after a write has failed."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self.buffer = b""

    @classmethod
    async def connect(cls, host: str, port: int) -> "Wire":
        """Connect to the first address that accepts. Raises OSError with the last address's error."""
        loop = asyncio.get_running_loop()
        numeric = re.fullmatch(r"[0-9.]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*", host)
        resolve = socket.getaddrinfo if numeric else loop.getaddrinfo
        found = resolve(host, port, type=socket.SOCK_STREAM)
        failure = OSError(0, "no address")
        for family, kind, protocol, _name, address in found if isinstance(found, list) else await found:
            sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
            bound_buffers(sock)
            try:
                await loop.sock_connect(sock, address)
                return cls(sock)
            except OSError as error:
                failure = error
                sock.close()
            except BaseException:
                sock.close()
                raise
        raise failure

    async def fill(self, seconds: float) -> bool:
        """Read into `buffer`; False at the end of the connection. Raises OSError, TimeoutError."""
        async with asyncio.timeout(seconds):
            data = await self._loop.sock_recv(self._socket, BLOCK)
        self.buffer += data
        return bool(data)

    def acknowledge(self) -> None:
        """Send the ACK now: a sender with Nagle's algorithm (RFC 1122, section 4.2.3.4) waits for it."""
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    async def send(self, data: bytes, seconds: float) -> None:
        """Raises OSError, TimeoutError."""
        async with asyncio.timeout(seconds):
            await self._loop.sock_sendall(self._socket, data)

    async def linger(self) -> None:
        """Let the other side read the last reply: closing with unread input would discard it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(1):
                while await self._loop.sock_recv(self._socket, BLOCK):
                    pass

    def close(self) -> None:
        self._socket.close()


class Client:
    """The side that sends mail."""

    def __init__(self, sock: socket.socket, timeouts: Timeouts) -> None:
        self._wire, self._timeouts = Wire(sock), timeouts

    async def line(self) -> bytes:
        """The next command line with its end. Raises ClientGone, LineTooLong."""
        wire = self._wire
        too_long = False
        while (at := wire.buffer.find(b"\n")) < 0:
            if len(wire.buffer) > COMMAND_LIMIT:
                too_long, wire.buffer = True, b""
            await self._fill(self._timeouts.client)
        line, wire.buffer = wire.buffer[: at + 1], wire.buffer[at + 1 :]
        if too_long or len(line) > COMMAND_LIMIT:
            raise LineTooLong
        return line

    async def block(self) -> bytes:
        """The next part of a message, as received. Raises ClientGone."""
        if not self._wire.buffer:
            # Let other sessions run, however fast this client is.
            await asyncio.sleep(0)
            await self._fill(self._timeouts.client_block)
            # OpenSMTPD sends the final dot only after an ACK of the rest, which takes 40 ms otherwise.
            self._wire.acknowledge()
        block, self._wire.buffer = self._wire.buffer, b""
        return block

    def unread(self, data: bytes) -> None:
        self._wire.buffer = data + self._wire.buffer

    async def send(self, data: bytes) -> None:
        """Raises ClientGone."""
        try:
            await self._wire.send(data, self._timeouts.client)
        except TimeoutError:
            raise ClientGone(idle=True) from None
        except OSError:
            raise ClientGone from None

    async def say_farewell(self, reply: bytes) -> None:
        """Send a last reply if the client still accepts it."""
        with contextlib.suppress(ClientGone):
            await self.send(reply)
            await self._wire.linger()

    def close(self) -> None:
        self._wire.close()

    async def _fill(self, seconds: float) -> None:
        try:
            if await self._wire.fill(seconds):
                return
        except TimeoutError:
            raise ClientGone(idle=True) from None
        except OSError:
            pass
        raise ClientGone


class NextHop:
    """The side that receives mail. After a NextHopLost every further call raises it."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._wire: Wire | None = None
        self._lost: NextHopLost | None = None

    async def connect(self, host: str, port: int) -> Reply:
        """Connect; returns the greeting (220). Raises NextHopLost."""
        try:
            async with asyncio.timeout(self._timeouts.connect):
                self._wire = await Wire.connect(host, port)
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
                await asyncio.sleep(0)
                await self._send(block, self._timeouts.block)
        except NextHopLost as lost:
            # A server that stops reading in the middle of a message has often sent the reason.
            self._lost = None
            try:
                reply = await self._reply(1)
            except NextHopLost:
                reply = None
            self._lost = lost
            if reply and reply.code >= 400:
                return reply
            raise
        return await self._reply(self._timeouts.end_of_data)

    def close(self) -> None:
        """Close immediately, so that the next hop drops an unfinished message."""
        self._lose("was left")
        if self._wire:
            self._wire.close()

    def confused(self) -> NextHopLost:
        """The next hop sent an invalid reply."""
        return self._lose("sent an invalid reply", "4.5.0")

    def _lose(self, text: str, status: str = "4.4.2") -> NextHopLost:
        self._lost = self._lost or NextHopLost(text, status)
        return self._lost

    def _connection(self) -> Wire:
        if self._lost or not self._wire:
            raise self._lost or self._lose("is not connected")
        return self._wire

    async def _send(self, data: bytes, seconds: float) -> None:
        try:
            await self._connection().send(data, seconds)
        except TimeoutError:
            raise self._lose("stopped reading") from None
        except OSError:
            raise self._lose("closed the connection") from None

    async def _reply(self, seconds: float) -> Reply:
        wire = self._connection()
        texts: list[bytes] = []
        size = code = 0
        try:
            async with asyncio.timeout(seconds):
                while True:
                    while (at := wire.buffer.find(b"\n")) < 0:
                        if len(wire.buffer) > REPLY_LIMIT:
                            raise self.confused()
                        if not await wire.fill(seconds):
                            raise self._lose("closed the connection")
                    line, wire.buffer = wire.buffer[: at + 1], wire.buffer[at + 1 :]
                    size += len(line)
                    match = _REPLY_LINE.fullmatch(line)
                    if not match or size > REPLY_LIMIT or (texts and int(match[1]) != code):
                        raise self.confused()
                    code = int(match[1])
                    texts.append(match[3] or b"")
                    if match[2] != b"-":
                        return Reply(code, tuple(texts))
        except TimeoutError:
            raise self._lose("did not answer in time") from None
        except OSError:
            raise self._lose("closed the connection") from None
