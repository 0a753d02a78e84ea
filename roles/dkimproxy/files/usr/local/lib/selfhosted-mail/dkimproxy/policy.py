# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may write as whom: the From field against the envelope sender's rights, and what is signed then."""

import contextlib
import os
import re
from collections import defaultdict
from dataclasses import dataclass

from .address import Address, AddressError, domain_name, parse_address, parse_authors
from .config import Config
from .errors import ConfigError, Deferred, Refused
from .message import Message
from .signature import Signer
from .signers import Signers
from .systemd import log


class Rights:
    """The `senders` table: `LOGIN ADDRESS,ADDRESS,@DOMAIN` lines, as OpenSMTPD reads them.

    Raises ConfigError when the file cannot be read or a line is wrong.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._by_address: defaultdict[Address | str, tuple[str, ...]] = defaultdict(tuple)
        mistakes = []
        try:
            with open(path, encoding="utf-8") as file:
                self.version = file_version(os.fstat(file.fileno()))
                lines = file.read().split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None
        for number, line in enumerate(lines, 1):
            login, _, rest = line.strip().replace("\t", " ").partition(" ")
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
            raise ConfigError("\n".join(mistakes))

    def _keys(self, address: Address) -> tuple[Address | str, ...]:
        """How an address may stand in the table, closest first: itself, without its tag, its domain."""
        return address, address.untagged(), address.domain

    def owners(self, address: Address) -> tuple[str, ...]:
        """The logins of the closest entry: who has the address itself comes before who has its domain."""
        for key in self._keys(address):
            if key in self._by_address:
                owners = self._by_address[key]
                return (str(key),) if str(key) in owners else owners
        return ()

    def may_use(self, login: str, address: Address) -> bool:
        return any(login in self._by_address.get(key, ()) for key in self._keys(address))


def file_version(status: os.stat_result) -> tuple[int, int, int]:
    """Changes whenever a file is written anew."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def check_authors(authors: list[Address], sender: Address | None, rights: Rights | None, hostname: str) -> None:
    """Refuse a From that the envelope sender may not use (raises Refused).

    `authors` are From's addresses, one at least; `sender` is None for the null sender; without `rights` any
    author is right here, and the choice of the signature refuses those of other domains.
    """
    if len({author.domain for author in authors}) > 1:
        raise Refused("several-domains", "The From line names authors of several domains. Write from one of them.")
    for author in authors:
        if rights is not None and not _allowed(author, sender, rights, hostname):
            raise Refused(
                "from-not-allowed",
                f"{sender or 'This server'} may not send mail as {author}. "
                "Choose one of your own addresses as From and send again.",
            )


def _allowed(author: Address, sender: Address | None, rights: Rights, hostname: str) -> bool:
    if sender is None:
        # Bounces, refusals and warnings, which are the host's own (RFC 5321 §4.5.5). Whose else would it be?
        return author.domain == hostname
    owners = rights.owners(sender)
    if owners:
        # Where several logins share the sender, only what all of them may use is safe, and the sender itself.
        return author == sender or all(rights.may_use(login, author) for login in owners)
    if sender.domain == hostname:
        return author.domain == hostname and (author == sender or sender.local == "root")
    return False


@dataclass
class Setup:
    """What a configuration means for a message; a reload puts a new one in its place for the next message.

    Without `rights`, every author in our domains is right.
    """

    config: Config
    signers: Signers
    rights: Rights | None

    @classmethod
    def load(cls, config: Config) -> "Setup":
        """Load keys and rights. Raises ConfigError."""
        signers = Signers(config)
        try:
            rights = Rights(config.senders) if config.senders and config.from_policy == "account" else None
        except ConfigError as error:
            place = config.place("senders")
            raise ConfigError("\n".join(f"{place}: {line}" for line in str(error).splitlines())) from None
        return cls(config, signers, rights)

    def warnings(self) -> list[str]:
        """What works, but perhaps not as it was meant."""
        found = list(self.config.warnings)
        with contextlib.suppress(ValueError):
            host = self.config.hostname
            if not self.signers.covers(Address("postmaster", host)):
                found.append(f"no signature is for {host}: bounces and the host's own mail will be refused")
        return found

    def sign(self, message: Message, sender: Address | None) -> tuple[list[Signer], list[bytes]]:
        """Check who writes and sign. Returns the signers and their fields; raises Rejected."""
        try:
            authors = self._authors(message, sender)
            check_authors(authors, sender, self.rights, self.config.hostname)
            signers = self.signers.choose(authors[0], self._list_id(message))
        except ValueError as error:
            log("err", str(error))
            raise Deferred("key", "The signing key cannot be used at the moment") from None
        message.complete(self.config.hostname)
        fields = [signer.sign(message.fields, message.body_hash(signer.relaxed[1])) for signer in signers]
        return signers, fields

    def _authors(self, message: Message, sender: Address | None) -> list[Address]:
        """Who From says has written, or `sender` in their place where the configuration wants it so."""
        values = message.values("from")
        stand_in = sender if self.config.foreign_from == "rewrite" and sender and self._may_write(sender) else None
        if len(values) != 1:
            if stand_in and not values and message.values("sender"):
                message.replace_author(str(stand_in))
                return [stand_in]
            what = "no From line" if not values else "several From lines"
            raise Refused("from-count", f"The message has {what}; it must have one (RFC 5322).", "5.7.1", 550)
        try:
            authors = parse_authors(values[0])
        except AddressError as error:
            raise Refused("from-syntax", f"The From line cannot be read: {error}.", "5.6.0", 550) from None
        if stand_in and not any(map(self.signers.covers, authors)):
            message.replace_author(str(stand_in))
            return [stand_in]
        return authors

    def _may_write(self, sender: Address) -> bool:
        """Whether the envelope sender may stand in From itself."""
        try:
            check_authors([sender], sender, self.rights, self.config.hostname)
        except Refused:
            return False
        return self.signers.covers(sender)

    def _list_id(self, message: Message) -> str | None:
        values = message.values("list-id") if self.config.listid_map else []
        if not values:
            return None
        match = re.search(rb"<([^<>\s]+)>", values[0])
        return (match[1] if match else values[0].strip()).decode("ascii", "replace").lower()
