# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks messages line by line: size, line length, memory, control characters in the header, and the held header.

A refused message is discarded while it is received, since the next filter would keep it in memory, and answered at its
end.
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

HEADER = 1 << 18  # octets; a larger one would keep all sessions waiting
LONGEST = 998  # octets of a line that every mail server leaves unchanged (RFC 5322 section 2.1.1)
CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def too_large(size: int) -> Refusal:
    return Refusal("too-large", f"The message is too large, at most {size} bytes are accepted", "5.3.4", 552)


def too_long(what: str, octets: int) -> str:
    return f"{what} has {octets} octets, at most {LONGEST} are allowed; send it as quoted-printable or base64"


class Content:
    def __init__(self, settings: Settings, writers: Writers) -> None:
        self.size, self.memory, self.writers = settings.bytes, Memory(settings.memory), writers

    def begin(self, session: Session) -> None:
        """Prepare for the next message, and free the memory of the last one."""
        if session.port == INBOUND:
            self.memory.free(session.network, session.allowed)
        session.begin()

    def passed(self, session: Session, text: bytes) -> list[bytes]:
        """The lines to pass on after this one, including the final dot."""
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
            if session.held and not session.passing:
                return self._header(session)
            return self._end(session) if session.port == INBOUND else []
        if session.received > self.size:
            raise too_large(self.size)
        if len(text) > LINE:
            raise Refusal("line", f"A line of the message is longer than {LINE} octets", "5.6.0", 554)
        if session.memory > session.allowed:
            inbound = session.port == INBOUND
            session.allowed = self.memory.more(session.network, session.allowed) if inbound else sys.maxsize
        plain = text.removeprefix(b".")
        if session.passing:
            session.lines += 1
            session.last = text
            # A report (null sender) quotes lines of other messages.
            if session.held and session.sender and len(plain) > LONGEST:
                raise malformed(too_long(f"line {session.lines} of its body", len(plain)))
            return [text]
        session.passing = not plain
        if CONTROL.search(plain):
            raise malformed("its header contains control characters")
        if not session.held:
            return [text]
        if session.passing:
            return [*self._header(session), b""]
        session.header += plain + b"\n"
        if len(session.header) > HEADER:
            raise Refusal("header-size", "The header of this message is too large", "5.3.4", 552)
        return []

    def _end(self, session: Session) -> list[bytes]:
        """Empty lines to add at the end. filter-rspamd drops the end of the last line: Rspamd then treats a header
        without a body as broken, and a signature over trailing blanks as invalid. A signature ignores trailing empty
        lines (RFC 6376 section 3.4.3 and 3.4.4)."""
        if not session.passing:
            return [b"", b""]
        return [b""] if session.lines == 0 or session.last.endswith((b" ", b"\t")) else []

    def _header(self, session: Session) -> list[bytes]:
        """The lines of the held header, repaired. Raises Refusal, also if the writer may not use its From."""
        fields = header.fields(bytes(session.header))
        session.header = bytearray()
        self.writers.check_author(session, fields)
        for name, value in fields:
            # Only words count, as the signing proxy folds at blanks.
            if len(value) > LONGEST and (longest := max(map(len, value.split()), default=0)) > LONGEST:
                raise malformed(too_long(f"a word in its field {name.decode()}", longest))
        return header.lines(fields)
