# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages, line by line: size, lines, memory, control characters in the header, and a header that is held to its end.

What is refused is thrown away as it comes and answered at its end, since the next filter would keep it in memory.
"""

import re
import sys

from authors.rights import Refusal

from . import header
from .header import LINE
from .memory import Memory
from .replies import malformed, refused
from .session import INBOUND, Session, Settings
from .writers import Writers

HEADER = 1 << 20  # octets
CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def too_large(size: int) -> Refusal:
    return Refusal("too-large", f"The message is too large, at most {size} bytes are taken", "5.3.4", 552)


class Content:
    def __init__(self, settings: Settings, writers: Writers) -> None:
        self.size, self.memory, self.writers = settings.bytes, Memory(settings.memory), writers

    def begin(self, session: Session) -> None:
        """The next message: nobody keeps the last one any more."""
        if session.port == INBOUND:
            self.memory.free(session.network, session.allowed)
        session.begin()

    def passed(self, session: Session, text: bytes) -> list[bytes]:
        """The lines that go on when this one has come, the final dot among them."""
        passed = []
        if not session.refusal:
            try:
                passed = self._passed(session, text)
            except Exception as error:
                session.refusal = refused(error)
                session.passing, session.header = False, bytearray()
        return [*passed, b"."] if text == b"." else passed

    def _passed(self, session: Session, text: bytes) -> list[bytes]:
        if text == b".":
            return self._header(session) if session.held and not session.passing else []
        if session.received > self.size:
            raise too_large(self.size)
        if len(text) > LINE:
            raise Refusal("line", f"A line of the message is longer than {LINE} octets", "5.6.0", 554)
        if session.memory > session.allowed:
            inbound = session.port == INBOUND
            session.allowed = self.memory.more(session.network, session.allowed) if inbound else sys.maxsize
        if session.passing:
            return [text]
        plain = text.removeprefix(b".")
        session.passing = not plain
        if CONTROL.search(plain):
            raise malformed("its header holds control characters")
        if not session.held:
            return [text]
        if session.passing:
            return [*self._header(session), b""]
        session.header += plain + b"\n"
        if len(session.header) > HEADER:
            raise Refusal("header-size", "The header of this message is too large", "5.3.4", 552)
        return []

    def _header(self, session: Session) -> list[bytes]:
        """The lines of the header that was held, mended, when From may be what it says."""
        fields = header.fields(bytes(session.header))
        session.header = bytearray()
        self.writers.check_author(session, fields)
        return header.lines(fields)
