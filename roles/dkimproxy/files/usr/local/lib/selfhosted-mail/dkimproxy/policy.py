# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks From against the writer's rights, and signs with the keys of its domain."""

import contextlib
import re
from dataclasses import dataclass

from authors.address import Address, AddressError, parse_mailboxes
from authors.rights import Refusal, Rights, RightsError, Writer, judge, login_writer, sender_writer

from .config import Config
from .errors import ConfigError, Deferred
from .message import Message
from .signature import Signer
from .signers import Signers
from .systemd import log


@dataclass
class Setup:
    """A configuration with its keys and rights. After a reload the next message gets a new one.

    Without `rights`, every author in the domains is allowed.
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
        except RightsError as error:
            place = config.place("senders")
            raise ConfigError("\n".join(f"{place}: {line}" for line in str(error).splitlines())) from None
        return cls(config, signers, rights)

    def warnings(self) -> list[str]:
        """Settings that are valid but may not be intended."""
        found = list(self.config.warnings)
        with contextlib.suppress(ValueError):
            host = self.config.hostname
            if not self.signers.covers(Address("postmaster", host)):
                found.append(f"no signature is for {host}: bounces and the host's own mail will be refused")
        return found

    def sign(self, message: Message, sender: Address | None) -> tuple[list[Signer], list[bytes]]:
        """Check the authors and sign. Returns the signers and their DKIM-Signature fields; raises Refusal."""
        login = message.take_login(self.config.hostname) if self.config.received_auth else None
        try:
            authors = self._authors(message, sender, self._writer(login, sender))
            signers = self.signers.choose(authors[0], self._list_id(message))
        except ValueError as error:
            log("err", str(error))
            raise Deferred("key", "The signing key cannot be used at the moment") from None
        message.complete(self.config.hostname)
        message.fold()
        fields = [signer.sign(message.fields, message.body_hash(signer.relaxed[1])) for signer in signers]
        return signers, fields

    def _writer(self, login: str | None, sender: Address | None) -> Writer | None:
        """The writer, None if every author is allowed. Raises Refusal."""
        if self.rights is None:
            return None
        if login is None:
            return sender_writer(self.rights, sender, self.config.hostname)
        writer = login_writer(self.rights, login)
        if sender and not writer.may_use(sender):
            raise Refusal("sender-not-allowed", f"{login} may not send mail as {sender}.")
        return writer

    def _authors(self, message: Message, sender: Address | None, writer: Writer | None) -> list[Address]:
        """The authors in From, or `sender` where `foreign_from rewrite` makes it replace them. Raises Refusal."""
        values = message.values("from")
        if self.config.foreign_from == "rewrite" and sender and (writer is None or writer.may_use(sender)):
            try:
                found = [mailbox.address for mailbox in parse_mailboxes(values[0])] if len(values) == 1 else []
            except AddressError:
                found = []
            foreign = not any(map(self.signers.covers, found)) if found else not values and message.values("sender")
            if foreign and self.signers.covers(sender):
                message.replace_author(str(sender))
                return [sender]
        ours = self.rights.domains | {self.config.hostname} if self.rights else frozenset()
        return judge(values, message.values("sender"), writer, ours)

    def _list_id(self, message: Message) -> str | None:
        values = message.values("list-id") if self.config.listid_map else []
        if not values:
            return None
        match = re.search(rb"<([^<>\s]+)>", values[0])
        return (match[1] if match else values[0].strip()).decode("ascii", "replace").lower()
