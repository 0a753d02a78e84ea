# SPDX-License-Identifier: GPL-3.0-or-later
"""The message after DATA: find its end, check its text, hash its body, keep it in memory or on disk."""

import io
import re
import secrets
import tempfile
import time
from collections.abc import Iterable, Iterator

from authors.rights import Refusal

from .errors import Deferred
from .signature import BodyHash

HEADER_LIMIT = 1 << 20
BLOCK = 1 << 16
LINE = 998  # octets, without its end (RFC 5322 section 2.1.1)

_END = b"\r\n.\r\n"
_FIELD_NAME = re.compile(rb"[!-9;-~]+")
_FIELD_START = re.compile(rb"\r\n(?![ \t])")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_NOT_A_MESSAGE = "The message violates RFC 5322"


class DataReader:
    """Finds the end of DATA, only CRLF.CRLF, and removes dot-stuffing (RFC 5321 §4.5.2)."""

    def __init__(self) -> None:
        self._buffer = bytearray(b"\r\n")
        self._skip = 2
        self.done = False

    def feed(self, block: bytes) -> bytes:
        """The text that is complete after `block`; a piece never ends between CR and LF."""
        self._buffer += block
        end = self._buffer.find(_END)
        if end >= 0:
            self.done = True
            self.rest = bytes(self._buffer[end + 5 :])
            cut = end + 2
        else:
            cut = len(self._buffer) - next(n for n in (4, 3, 2, 1, 0) if self._buffer.endswith(_END[:n]))
        if cut == 0:
            return b""
        piece = bytes(self._buffer[:cut]).replace(b"\r\n.", b"\r\n")[self._skip :]
        self._skip = 0
        del self._buffer[:cut]
        return piece


class Message:
    """One message, fed in pieces of text without dot-stuffing.

    `feed` never raises: the client must be read to the end before it can be answered. `finish` raises the first
    mistake.
    """

    def __init__(self, spool_dir: str, spool_memory: int, size_limit: int | None, canonical: Iterable[bool]) -> None:
        self.size = 0
        self._lines = 0
        self.author_replaced = False
        self.fields: list[bytes] = []
        self._header = bytearray()
        self._in_header = True
        self._separator = b""
        self._hashes = {relaxed: BodyHash(relaxed) for relaxed in canonical}
        self._spool_dir, self._spool_memory, self._size_limit = (spool_dir, spool_memory, size_limit)
        self._memory: list[bytes] = []
        self._in_memory = 0
        self._file: io.FileIO | None = None
        self._kept = b""
        self._mistake: Refusal | None = None

    def feed(self, piece: bytes) -> None:
        self.size += len(piece)
        if self._mistake:
            return
        try:
            self._lines += piece.count(b"\n")
            # OpenSMTPD counts a line end as one octet. Sizes between both counts are left to the next hop.
            if self._size_limit and self.size - self._lines > self._size_limit:
                raise Refusal("too-large", "The message is larger than this server accepts", "5.3.4", 552)
            piece = self._line_ends(piece)
            if self._in_header:
                piece = self._read_header(piece)
            if piece:
                self._keep(piece)
        except Refusal as error:
            self._fail(error)
        except OSError as error:
            self._fail(Deferred("spool", f"No space to store the message: {error.strerror}", "4.3.1", 452))

    def finish(self) -> None:
        """Call after the last piece. Raises the first mistake (Refusal)."""
        if not self._mistake and self._in_header:
            try:
                self._split_header(bytes(self._header))
            except Refusal as error:
                self._fail(error)
        if self._mistake:
            raise self._mistake

    def values(self, name: str) -> list[bytes]:
        """Raw values of all fields of that (lower case) name."""
        wanted = name.encode()
        return [value for key, _sep, value in (field.partition(b":") for field in self.fields) if key.lower() == wanted]

    def take_login(self, hostname: str) -> str | None:
        """Remove and return, in lower case, the login that OpenSMTPD's `received-auth` put into the first Received.

        None if nobody has logged in.
        """
        trace = rb"(Received:\s+(?:from [^\r\n]*\r\n\t)?by %b \(OpenSMTPD\) with ESMTPSA id [0-9a-f]{8} \([^()]*\))"
        match = re.match(trace % re.escape(hostname.encode()) + rb" auth=yes user=([^\s;]+)", b"".join(self.fields[:1]))
        if not match:
            return None
        self.fields[0] = match[1] + self.fields[0][match.end() :]
        return match[2].decode("ascii", "replace").lower()

    def complete(self, hostname: str) -> None:
        """Add Date and Message-ID where they are missing (RFC 6409 §8.2, §8.3).

        Otherwise OpenSMTPD adds them to mail from loopback, which is after signing.
        """
        missing = []
        if not self.values("date"):
            missing.append(time.strftime("Date: %a, %d %b %Y %H:%M:%S +0000\r\n", time.gmtime()).encode())
        if not self.values("message-id"):
            missing.append(f"Message-ID: <{secrets.token_hex(12)}@{hostname}>\r\n".encode())
        self.fields[:0] = missing

    def fold(self) -> None:
        """Fold header lines that an MTA would break, if they have white space (RFC 5322 §2.1.1, §2.2.3)."""
        self.fields = [b"\r\n".join(_folded(field.split(b"\r\n"))) for field in self.fields]

    def replace_author(self, address: str) -> None:
        """Set From to `address`. The old From becomes Reply-To if the message has none."""
        self.author_replaced = True
        field = f"From: {address}\r\n".encode()
        at = next((n for n, f in enumerate(self.fields) if f.partition(b":")[0].lower() == b"from"), None)
        if at is None:
            self.fields.insert(0, field)
            return
        added = [] if self.values("reply-to") else [b"Reply-To:" + self.fields[at].partition(b":")[2]]
        self.fields[at : at + 1] = [field, *added]

    def body_hash(self, relaxed: bool) -> bytes:
        return self._hashes[relaxed].digest()

    def wire(self, signatures: Iterable[bytes]) -> Iterator[bytes]:
        """The signed message with dot-stuffing and the end of data, in blocks."""
        tail, last = b"\r\n", b""
        for block in self._blocks(b"".join([*signatures, *self.fields, self._separator])):
            if last:
                yield last
            joined = tail + block
            last = joined.replace(b"\r\n.", b"\r\n..")[len(tail) :]
            tail = joined[-2:]
        yield last + b".\r\n"

    def close(self) -> None:
        self._memory.clear()
        if self._file:
            self._file.close()

    def _blocks(self, header: bytes) -> Iterator[bytes]:
        if not self._file:
            # Small messages leave in one write.
            yield header + b"".join(self._memory)
            return
        yield header
        self._file.seek(0)
        while block := self._file.read(BLOCK):
            yield block

    def _fail(self, mistake: Refusal) -> None:
        self._mistake = mistake
        self._header.clear()
        self.close()

    def _line_ends(self, piece: bytes) -> bytes:
        """Only CRLF ends a line (RFC 5321 §2.3.8). A bare LF and NUL are refused: an MTA sends neither.

        OpenSMTPD passes a bare CR on, and other MTAs change it in transit, which would break the signature. So it is
        dropped before CRLF and becomes a space elsewhere.
        """
        pairs = piece.count(b"\r\n")
        if pairs != piece.count(b"\n"):
            raise Refusal("bare-lf", f"{_NOT_A_MESSAGE}: a line does not end in CRLF", "5.6.0", 554)
        if b"\0" in piece:
            raise Refusal("nul", f"{_NOT_A_MESSAGE}: it contains NUL bytes", "5.6.0", 554)
        if self._kept or pairs != piece.count(b"\r"):
            piece = re.sub(rb"\r+", b"\r", self._kept + piece)
            self._kept = b"\r" if piece.endswith(b"\r") else b""
            piece = re.sub(rb"\r(?!\n)", b" ", piece.removesuffix(b"\r"))
        return piece

    def _read_header(self, piece: bytes) -> bytes:
        """Collect the header section; returns the part of the piece that belongs to the body."""
        start = max(0, len(self._header) - 3)
        self._header += piece
        at = -2 if self._header.startswith(b"\r\n") else self._header.find(b"\r\n\r\n", start)
        if (len(self._header) if at == -1 else at) > HEADER_LIMIT:
            raise Refusal("header-size", "The header of this message is too large", "5.3.4", 552)
        if at == -1:
            return b""
        header, body = bytes(self._header[: at + 2]), bytes(self._header[at + 4 :])
        self._separator = b"\r\n"
        self._split_header(header)
        return body

    def _split_header(self, header: bytes) -> None:
        """Split the header section into fields (RFC 5322 §2.2)."""
        self._in_header = False
        self._header.clear()
        if _CONTROL.search(header):
            raise Refusal("header-control", f"{_NOT_A_MESSAGE}: its header contains control characters", "5.6.0", 554)
        for line in _FIELD_START.split(header):
            if line:
                name, colon, _value = line.partition(b":")
                if not colon or not _FIELD_NAME.fullmatch(name):
                    raise Refusal("header-syntax", f"{_NOT_A_MESSAGE}: its header is malformed", "5.6.0", 554)
                self.fields.append(line + b"\r\n")

    def _keep(self, piece: bytes) -> None:
        for body_hash in self._hashes.values():
            body_hash.update(piece)
        if not self._file:
            self._memory.append(piece)
            self._in_memory += len(piece)
            if self._in_memory <= self._spool_memory:
                return
            self._file = tempfile.TemporaryFile(buffering=0, dir=self._spool_dir)  # noqa: SIM115
            piece = b"".join(self._memory)
            self._memory.clear()
        view = memoryview(piece)
        while view:
            view = view[self._file.write(view) :]


def _folded(lines: Iterable[bytes]) -> Iterator[bytes]:
    for line in lines:
        while len(line) > LINE:
            at = max(line.rfind(blank, 0, LINE + 1) for blank in (b" ", b"\t"))
            # A header line must not consist of white space only.
            if at < 0 or not line[:at].strip() or not line[at:].strip():
                break
            yield line[:at]
            line = line[at:]
        yield line
