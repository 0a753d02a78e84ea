# SPDX-License-Identifier: GPL-3.0-or-later
"""One SMTP connection: every command is passed to the next hop and its reply is passed back (RFC 5321).

DATA is the exception: the client's message is read to its end, checked and signed before the next hop gets DATA. So a
message refused here never starts there, and the client's 250 is the next hop's own.
"""

import asyncio
import re
import socket
import time
import traceback
from collections.abc import Callable, Iterable

from authors.address import Address, AddressError, parse_address
from authors.rights import Refusal

from .connection import Client, ClientGone, LineTooLong, NextHop, NextHopLost, Reply, Timeouts
from .message import DataReader, Message
from .policy import Setup
from .signature import Signer
from .systemd import log

# Extensions that work through the proxy. CHUNKING, BURL, STARTTLS, AUTH and the rest would bypass the signature.
EXTENSIONS = frozenset((b"8BITMIME", b"SIZE", b"DSN", b"SMTPUTF8", b"ENHANCEDSTATUSCODES", b"PIPELINING"))
_FORWARDED = frozenset((b"RSET", b"NOOP", b"VRFY", b"EXPN", b"HELP"))
_MAIL_PARAMETER = re.compile(rb"(?i:SIZE=[0-9]+|BODY=(?:7BIT|8BITMIME)|RET=[^ ]+|ENVID=[^ ]+|SMTPUTF8)")
_RCPT_PARAMETER = re.compile(rb"(?i:NOTIFY=[^ ]+|ORCPT=[^ ]+)")
_PATH = re.compile(rb"(?i:MAIL FROM|RCPT TO): ?<([^<>]*|\"(?:[^\"\\]|\\.)*\"@[^<>]*)>((?: +[^ ]+)*) *")
_QUEUE_ID = re.compile(rb"(?:queued as |\bid=)([A-Za-z0-9.-]+)|(?:^|\s)([0-9a-f]{8}|[0-9A-F]{8,16})(?:\s|$)")
# Octets for added fields, which the next hop's SIZE limit (RFC 1870) counts too.
_GROWTH = 8192


class Session:
    """Serves one client; `run` returns when the connection is closed."""

    def __init__(self, get_setup: Callable[[], Setup], timeouts: Timeouts, sock: socket.socket) -> None:
        self._get_setup = get_setup
        self._client = Client(sock, timeouts)
        self._next_hop = NextHop(timeouts)
        self._sender: Address | None = None
        self._has_sender = False
        self._recipients = 0
        self._size_limit: int | None = None
        self._task: asyncio.Task[None] | None = None
        self._draining = False
        self.waiting = False

    async def run(self) -> None:
        self._task = asyncio.current_task()
        try:
            await self._converse()
        except ClientGone as gone:
            if gone.idle:
                await self._client.say_farewell(b"421 4.4.2 Timeout: no command received\r\n")
        except NextHopLost as lost:
            log("warning", f"session ended: {lost}")
            await self._client.say_farewell(lost.reply() + b"\r\n")
        except asyncio.CancelledError:
            await self._client.say_farewell(b"421 4.3.2 The signing proxy is shutting down, try again\r\n")
        except Exception as error:
            log("err", f"session failed: {_describe(error)}")
            await self._client.say_farewell(b"421 4.3.0 The signing proxy failed, try again\r\n")
        finally:
            self._next_hop.close()
            self._client.close()

    def drain(self) -> None:
        """Shut down: end now if no message is in progress, otherwise after it."""
        self._draining = True
        if self.waiting and not self._has_sender and self._task:
            self._task.cancel()

    async def _converse(self) -> None:
        greeting = await self._next_hop.connect(*self._get_setup().config.relay)
        await self._client.send(greeting.wire())
        while not (self._draining and not self._has_sender):
            self.waiting = True
            try:
                line = await self._client.line()
            except LineTooLong:
                await self._client.send(b"500 5.5.2 The line is too long\r\n")
                continue
            finally:
                self.waiting = False
            reply = await self._command(line)
            await self._client.send(reply)
            if reply[:3] in (b"221", b"421"):
                return
        await self._client.send(b"421 4.3.2 The signing proxy is shutting down, try again\r\n")

    async def _command(self, line: bytes) -> bytes:
        """Execute one command line; returns the reply for the client."""
        if not line.endswith(b"\r\n") or b"\r" in line[:-2] or b"\0" in line:
            return b"500 5.5.2 Command lines must end in CRLF and contain no other CR and no NUL\r\n"
        verb = line[:-2].partition(b" ")[0].upper()
        if verb in (b"EHLO", b"HELO"):
            return await self._hello(line, verb)
        if verb in (b"MAIL", b"RCPT"):
            return await self._envelope(line, verb)
        if verb == b"DATA":
            return await self._data(line)
        if verb == b"QUIT":
            try:
                return (await self._next_hop.command(line)).wire()
            except NextHopLost:
                return b"221 2.0.0 Bye\r\n"
        if verb in _FORWARDED:
            reply = await self._next_hop.command(line)
            if verb == b"RSET" and reply.code == 250:
                self._reset()
            return reply.wire()
        return b"502 5.5.1 The signing proxy does not support this command\r\n"

    def _reset(self) -> None:
        self._sender, self._has_sender, self._recipients = None, False, 0

    async def _hello(self, line: bytes, verb: bytes) -> bytes:
        reply = await self._next_hop.command(line)
        if reply.code != 250:
            return reply.wire()
        self._reset()
        self._size_limit = None
        texts = [reply.texts[0]]
        for text in reply.texts[1:] if verb == b"EHLO" else ():
            keyword, _blank, value = text.partition(b" ")
            if keyword.upper() not in EXTENSIONS:
                continue
            if keyword.upper() == b"SIZE" and value.isdigit() and int(value) > 2 * _GROWTH:
                self._size_limit = int(value)
                text = b"SIZE %d" % (self._size_limit - _GROWTH)
            texts.append(text)
        return Reply(250, tuple(texts)).wire()

    async def _envelope(self, line: bytes, verb: bytes) -> bytes:
        match = _PATH.fullmatch(line[:-2])
        if not match:
            return b"501 5.5.4 Write MAIL FROM:<address> or RCPT TO:<address>\r\n"
        allowed = _MAIL_PARAMETER if verb == b"MAIL" else _RCPT_PARAMETER
        for parameter in match[2].split():
            if not allowed.fullmatch(parameter):
                return b"555 5.5.4 The signing proxy does not support this parameter\r\n"
        sender = None
        if verb == b"MAIL" and match[1]:
            try:
                sender = parse_address(match[1].decode("utf-8", "surrogateescape"))
            except AddressError as error:
                return Refusal("sender", f"Sender: {error}", "5.1.7", 501).reply() + b"\r\n"
        reply = await self._next_hop.command(line)
        if 200 <= reply.code < 300:
            if verb == b"MAIL":
                self._sender, self._has_sender, self._recipients = sender, True, 0
            else:
                self._recipients += 1
        return reply.wire()

    async def _data(self, line: bytes) -> bytes:
        if line[:-2].upper() != b"DATA":
            return b"501 5.5.4 DATA takes no parameters\r\n"
        if not self._has_sender:
            return b"503 5.5.1 Send MAIL before DATA\r\n"
        if not self._recipients:
            return b"554 5.5.1 No valid recipients\r\n"
        await self._client.send(b"354 End the message with a line that contains only a dot\r\n")
        setup = self._get_setup()
        config = setup.config
        message = Message(config.spool_dir, config.spool_memory, self._size_limit, setup.signers.body_forms)
        try:
            await self._receive(message)
            begun = time.monotonic()
            message.finish()
            signers, fields = setup.sign(message, self._sender)
            signed = time.monotonic()
            reply = await self._hand_on(message.wire(fields))
            milliseconds = 1000 * (signed - begun), 1000 * (time.monotonic() - begun)
            _log_message(reply, message, signers, milliseconds)
            return reply.wire()
        except NextHopLost as lost:
            log("notice", f"verdict=deferred reason={lost.reason} code=421 size={message.size}")
            raise
        except Refusal as error:
            verdict = "refused" if error.code >= 500 else "deferred"
            log("notice", f"verdict={verdict} reason={error.reason} code={error.code} size={message.size}")
            await self._forget()
            return error.reply() + b"\r\n"
        except (ClientGone, asyncio.CancelledError):
            raise
        except Exception as error:
            log("err", f"verdict=deferred reason=internal detail={_describe(error)}")
            await self._forget()
            return b"451 4.3.0 The signing proxy failed, try again\r\n"
        finally:
            message.close()
            self._reset()

    async def _receive(self, message: Message) -> None:
        data = DataReader()
        while not data.done:
            message.feed(data.feed(await self._client.block()))
        self._client.unread(data.rest)

    async def _hand_on(self, blocks: Iterable[bytes]) -> Reply:
        reply = await self._next_hop.command(b"DATA\r\n")
        if reply.code == 354:
            reply = await self._next_hop.message(blocks)
            if not 200 <= reply.code < 300 and reply.code < 400:
                raise self._next_hop.confused()
            return reply
        if reply.code < 400:
            raise self._next_hop.confused()
        await self._forget()
        return reply

    async def _forget(self) -> None:
        """End the transaction at the next hop. If that fails, the next command raises NextHopLost."""
        try:
            if (await self._next_hop.command(b"RSET\r\n")).code != 250:
                self._next_hop.close()
        except NextHopLost:
            pass


def _describe(error: BaseException) -> str:
    """Type and place of an exception, without its text, which may contain parts of a message."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {place.name}:{place.lineno}"


def _log_message(reply: Reply, message: Message, signers: list[Signer], milliseconds: tuple[float, float]) -> None:
    match = _QUEUE_ID.search(reply.texts[-1])
    queue_id = (match[1] or match[2]).decode() if match else "-"
    verdict = "signed" if reply.code < 300 else "deferred" if reply.code < 500 else "refused"
    signatures = " ".join(f"d={s.domain} s={s.selector} a={s.key.algorithm}" for s in signers)
    log(
        "info" if reply.code < 300 else "notice",
        f"verdict={verdict} code={reply.code} queue_id={queue_id} {signatures} size={message.size} "
        f"sign_ms={milliseconds[0]:.1f} ms={milliseconds[1]:.1f}" + " from=rewritten" * message.author_replaced,
    )
