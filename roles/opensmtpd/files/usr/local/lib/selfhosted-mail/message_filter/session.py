# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter's settings and the state of a session."""

from dataclasses import dataclass, field

from authors.address import Address

SUBMISSION = (b"465", b"587")
INBOUND, LOCAL, REDIRECT = b"25", b"10025", b"10026"


@dataclass(frozen=True)
class Settings:
    """The command line's options. `bytes` of a message and `memory` for all messages being received, in octets;
    `messages` per session; `senders` and `limits`: tables of logins with their addresses, and with their recipients per
    hour; `recipients`: the file that keeps the counts.

    `from_policy`: with `account` every From is checked here, with `domain` only that of local users, as the signing
    proxy checks that of logins.
    """

    hostname: str
    senders: str
    limits: str
    recipients: str
    bytes: int
    memory: int
    messages: int
    from_policy: str


@dataclass(slots=True)
class Session:
    """`received`: octets of the current message. `memory`: octets that it takes in the next filter, of which `allowed`
    are reserved. `lines`: of its body so far, and the `last` of them. `accepted`: messages so far. `counted`: the
    minute in which the last recipient was counted for `account`, 0 if it was not."""

    port: bytes = b""
    source: str = ""
    network: str = ""
    destination: str = ""
    login: str = ""
    uid: int = -1
    user: str = ""
    command: bytes = b""
    accepted: int = 0
    account: str = ""
    counted: int = 0
    sender: Address | None = None
    received: int = 0
    memory: int = 0
    allowed: int = 0
    lines: int = 0
    last: bytes = b""
    # Of the current message: its held header without dot-stuffing; whether lines are passed on unchanged.
    header: bytearray = field(default_factory=bytearray)
    passing: bool = False
    refusal: bytes = b""

    def begin(self) -> None:
        """Reset the state for the next message."""
        self.received, self.memory, self.allowed, self.lines, self.last = 0, 0, 0, 0, b""
        self.header, self.passing, self.refusal = bytearray(), False, b""

    @property
    def held(self) -> bool:
        return self.port in SUBMISSION or self.port == LOCAL
