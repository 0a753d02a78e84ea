# SPDX-License-Identifier: GPL-3.0-or-later
"""What the filter has been told, on its command line and of a session."""

from dataclasses import dataclass, field

from authors.address import Address

SUBMISSION = (b"465", b"587")
INBOUND, LOCAL, REDIRECT = b"25", b"10025", b"10026"


@dataclass(frozen=True)
class Settings:
    """The words of the command line: `bytes` of a message and `memory` for all that are on their way in, in octets;
    `messages` of a session; `senders` and `limits`: tables of logins with their addresses, and with their recipients
    in an hour; `recipients`: the file that keeps how many there were.

    `from_policy`: whose From is judged here, that of each `account`; or with `domain` the host's users' alone, since
    the signing proxy judges what a login hands in.
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
    """`received`: octets of the message under way, `memory`: that it takes in the next filter, of which `allowed` may
    be taken without asking. `accepted`: messages so far. `counted`: the minute under which the recipient just named
    counts, 0 when it does not."""

    port: bytes = b""
    source: str = ""
    network: str = ""
    destination: str = ""
    login: str = ""
    uid: int = -1
    user: str = ""
    command: bytes = b""
    accepted: int = 0
    counted: int = 0
    sender: Address | None = None
    received: int = 0
    memory: int = 0
    allowed: int = 0
    # Of the message under way: its header without dot-stuffing, as long as it is held; whether lines go on as they are.
    header: bytearray = field(default_factory=bytearray)
    passing: bool = False
    refusal: bytes = b""

    def begin(self) -> None:
        """The next message."""
        self.received, self.memory, self.allowed = 0, 0, 0
        self.header, self.passing, self.refusal = bytearray(), False, b""

    @property
    def held(self) -> bool:
        return self.port in SUBMISSION or self.port == LOCAL
