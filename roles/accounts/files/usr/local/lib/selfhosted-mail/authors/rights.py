# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may write as whom: the `senders` table, the kinds of writers, and the check of a message's From."""

import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from .address import Address, AddressError, domain_name, parse_address, parse_mailboxes
from .display import addresses_in, shown

ROOT = 0
SYSTEM_USERS = 1000  # lower uids belong to the system (SYS_UID_MAX in login.defs(5))
CHECK_EVERY = 0.2  # seconds
SYSTEM_NAMES = ("abuse", "mailer-daemon", "postmaster", "root")  # RFC 2142 §4, §5 and names that a Unix host writes as


class RightsError(ValueError):
    """The table is invalid; the text has one line per mistake."""


class Refusal(Exception):
    """A refused command or message. `code` is the SMTP reply code (RFC 5321 §4.2), `status` the enhanced code
    (RFC 3463), `reason` one word for the log; the exception's text is for the writer."""

    def __init__(self, reason: str, text: str, status: str = "5.7.1", code: int = 550) -> None:
        super().__init__(text)
        self.reason, self.status, self.code = reason, status, code

    def reply(self) -> bytes:
        """The reply line: printable ASCII, without its end, at most 500 octets (RFC 5321 §4.5.3.1.5)."""
        text = "".join(c if " " <= c <= "~" else "?" for c in str(self))
        return f"{self.code} {self.status} {text}".encode()[:500]


class Rights:
    """The `senders` table: lines of `LOGIN ADDRESS,ADDRESS,@DOMAIN`.

    Raises RightsError when the file cannot be read or a line is invalid.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._checked = 0.0
        self._bad: tuple[int, int, int] | None = None
        self._by_address: defaultdict[Address | str, tuple[str, ...]] = defaultdict(tuple)
        mistakes = []
        try:
            with open(path, encoding="utf-8") as file:
                self._version = _file_version(os.fstat(file.fileno()))
                lines = file.read().split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise RightsError(f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None
        for number, line in enumerate(lines, 1):
            login, _blank, rest = line.strip().replace("\t", " ").partition(" ")
            if not login or login.startswith("#"):
                continue
            for text in filter(None, rest.replace(",", " ").split()):
                try:
                    key = domain_name(text[1:]) if text.startswith("@") else parse_address(text)
                    self._by_address[key] += (login.lower(),)
                except AddressError as error:
                    mistakes.append(f"{path}:{number}: {error}")
            if not rest.strip():
                mistakes.append(f"{path}:{number}: login '{login}' has no address")
        if mistakes:
            raise RightsError("\n".join(mistakes))
        self.domains = frozenset(key if isinstance(key, str) else key.domain for key in self._by_address)

    def current(self, log: Callable[[str, str], None]) -> "Rights":
        """These rights, or new ones if the file has changed. An invalid file is logged, and these rights stay.

        `log` takes a syslog(3) level and a text.
        """
        if time.monotonic() - self._checked < CHECK_EVERY:
            return self
        self._checked = time.monotonic()
        try:
            version = _file_version(os.stat(self.path))
            if version in (self._version, self._bad):
                return self
            self._bad = version
            renewed = Rights(self.path)
        except (RightsError, OSError) as error:
            log("err", f"{error}\nthe previous rights stay in force")
            return self
        log("info", f"read {self.path} again")
        return renewed

    def owners(self, address: Address) -> tuple[str, ...]:
        """The logins of the most specific entry; only the account of that address if it is among them."""
        for key in _keys(address):
            if key in self._by_address:
                owners = self._by_address[key]
                return (str(key),) if str(key) in owners else owners
        return ()

    def may_use(self, login: str, address: Address) -> bool:
        return any(login in self._by_address.get(key, ()) for key in _keys(address))


def _keys(address: Address) -> tuple[Address | str, ...]:
    """Keys of the table for an address, most specific first: itself, without its tag, its domain."""
    return address, address.untagged(), address.domain


def _file_version(status: os.stat_result) -> tuple[int, int, int]:
    """Inode, size and modification time (ns), which change when the file is rewritten."""
    return status.st_ino, status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class Writer:
    """Who submits a message; `name` is used in refusals."""

    name: str
    may_use: Callable[[Address], bool]


def login_writer(rights: Rights, login: str) -> Writer:
    """A login, which may use the addresses that the table gives it."""
    return Writer(login, lambda address: rights.may_use(login.lower(), address))


def sender_writer(rights: Rights, sender: Address | None, hostname: str) -> Writer:
    """A writer known only by the envelope sender: an account whose automatic answer this is, or the host.

    Bounces, refusals and warnings have the null sender (None) and are the host's own (RFC 5321 §4.5.5). If several
    logins share the sender, the writer may use the sender and the addresses that all of them may use.
    """
    if sender is None or sender.domain == hostname:
        return Writer(str(sender or "This server"), lambda address: address.domain == hostname)
    owners = rights.owners(sender)

    def may_use(address: Address) -> bool:
        return bool(owners) and (address == sender or all(rights.may_use(login, address) for login in owners))

    return Writer(str(sender), may_use)


def host_writer(user: str, uid: int, hostname: str) -> Writer:
    """A local user, who may use NAME@HOSTNAME with or without a +tag; system users also SYSTEM_NAMES at the host; root
    every name at the host."""
    names = {user.lower(), *(SYSTEM_NAMES if uid < SYSTEM_USERS else ())}

    def may_use(address: Address) -> bool:
        return address.domain == hostname and (uid == ROOT or address.untagged().local in names)

    return Writer(user, may_use)


def judge(
    authors: Sequence[bytes], senders: Sequence[bytes], writer: Writer | None, domains: Container[str]
) -> list[Address]:
    """Check From and Sender of a message; returns its authors. Raises Refusal.

    `authors` and `senders` are the values of its From and Sender fields. Without a `writer` every author is allowed.
    A display name, comment or Sender must not show an address in `domains` that the writer may not use.
    """
    if len(authors) != 1:
        what = "no From line" if not authors else "several From lines"
        raise Refusal("from-count", f"The message has {what}; it must have one (RFC 5322).")
    try:
        mailboxes = parse_mailboxes(authors[0])
    except AddressError as error:
        raise Refusal("from-syntax", f"The From line cannot be read: {error}.", "5.6.0") from None
    found = [mailbox.address for mailbox in mailboxes]
    if len({author.domain for author in found}) > 1:
        raise Refusal("several-domains", "The From line names authors of several domains. Write from one of them.")
    if writer is None:
        return found
    for author in found:
        if not writer.may_use(author):
            raise Refusal(
                "from-not-allowed",
                f"{writer.name} may not send mail as {author}. "
                "Choose one of your own addresses as From and send again.",
            )
    beside = [("From", mailbox.beside) for mailbox in mailboxes]
    beside += [("Sender", value.replace(b"\r\n", b"").decode("utf-8", "replace")) for value in senders]
    for field, text in beside:
        text = text.replace("\t", " ")
        if re.search(r"[\x00-\x1f\x7f-\x9f]", shown(text)):
            raise Refusal("from-display", f"The name in the {field} line contains control characters.", "5.6.0")
        for local, domain in addresses_in(text):
            if local and _in_a_labels(domain) in domains and not _is_own(f"{local}@{domain}", writer):
                raise Refusal(
                    "from-display",
                    f"The {field} line shows {local}@{domain}, and {writer.name} may not send mail as that. "
                    "Remove it from the name and send again.",
                )
    return found


def _in_a_labels(domain: str) -> str:
    try:
        return domain_name(domain)
    except AddressError:
        return domain


def _is_own(text: str, writer: Writer) -> bool:
    try:
        return writer.may_use(parse_address(text))
    except AddressError:
        return False
