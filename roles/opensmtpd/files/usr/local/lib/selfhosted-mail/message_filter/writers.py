# SPDX-License-Identifier: GPL-3.0-or-later
"""Who writes, by the listener's port, and which addresses the writer may use.

On 465 and 587 the writer is the login; on 127.0.0.1:10025 the local user that the kernel names for the client's socket.
On 127.0.0.1:10026 only vmail and root are accepted, with mail that Sieve redirects.
"""

import pwd
import re
from collections.abc import Sequence

from authors.address import AddressError, parse_address
from authors.rights import Refusal, Rights, RightsError, Writer, host_writer, judge, login_writer, sender_writer

from .header import READ, Field, values
from .peers import peer_uid
from .replies import log, malformed, unjudged
from .session import LOCAL, REDIRECT, SUBMISSION, Session, Settings

MAILBOX_USER = "vmail"
MAIL = re.compile(rb"(?i)mail from:[ \t]*<([^<>]*)>((?: +[!-~]+)*) *")
# RFC 1870, RFC 6152, RFC 3461 section 4.3 and 4.4, RFC 4954 section 5
PARAMETER = re.compile(rb"(?i)SIZE=[0-9]{1,20}|BODY=(?:7BIT|8BITMIME)|RET=(?:FULL|HDRS)|(?:ENVID|AUTH)=[!-~]+")


class Writers:
    def __init__(self, settings: Settings) -> None:
        self.hostname, self.senders = settings.hostname.lower(), settings.senders
        self.judged = (LOCAL, *SUBMISSION) if settings.from_policy == "account" else (LOCAL,)
        self._rights: Rights | None = None

    def introduce(self, session: Session) -> None:
        """Find the local user of the connection. Raises Refusal."""
        uid = peer_uid(session.source, session.destination)
        if uid is None:
            raise Refusal("peer", "Cannot determine the local user of this connection, try again", "4.7.0", 421)
        session.uid = uid
        try:
            user = pwd.getpwuid(uid).pw_name
        except KeyError:
            text = f"User id {uid} has no user name on this host, so it cannot send mail"
            raise Refusal("nameless", text) from None
        if session.port == REDIRECT and user not in (MAILBOX_USER, "root"):
            raise Refusal("redirect", f"{user} may not submit mail on this port; use sendmail")
        session.user = user

    def check_sender(self, session: Session, address: bytes) -> None:
        """Check MAIL FROM; `address` is what OpenSMTPD read from it. Raises Refusal."""
        found = MAIL.fullmatch(session.command)
        if not found or found[1] != address:
            raise Refusal("sender-syntax", "Write MAIL FROM:<address>, with supported parameters only", "5.5.4", 501)
        for parameter in found[2].split():
            if not PARAMETER.fullmatch(parameter):
                raise Refusal("parameter", "This parameter of MAIL FROM is not supported", "5.5.4", 555)
        try:
            session.sender = parse_address(address.decode("utf-8", "surrogateescape")) if address else None
        except AddressError as error:
            raise Refusal("sender-syntax", f"Sender: {error}", "5.1.7", 553) from None
        writer = self.writer(session)
        if session.sender and not writer.may_use(session.sender):
            raise Refusal("sender-not-allowed", f"{writer.name} may not send mail as {session.sender}.")

    def sieve_account(self, session: Session) -> str:
        """The account whose Sieve script redirects or answers, if it is one. Raises Refusal."""
        if session.user != MAILBOX_USER or not session.sender:
            return ""
        return next(iter(self.rights().owners(session.sender)), "")

    def check_author(self, session: Session, fields: Sequence[Field]) -> None:
        """Check From, its display names, and Sender. Raises Refusal."""
        if session.port not in self.judged:
            return
        senders = values(fields, b"sender")
        if sum(map(len, senders)) > READ:
            raise malformed("its Sender field is too long")
        domains = self.rights().domains | {self.hostname}
        judge(values(fields, b"from"), senders, self.writer(session), domains)

    def rights(self) -> Rights:
        """The current rights. Raises Refusal if the table could never be read."""
        try:
            self._rights = self._rights.current(log) if self._rights else Rights(self.senders)
        except RightsError as error:
            log("err", str(error))
            raise unjudged() from None
        return self._rights

    def writer(self, session: Session) -> Writer:
        """The writer on any listener but port 25. Raises Refusal."""
        sender = session.sender
        if session.port in SUBMISSION and session.login:
            return login_writer(self.rights(), session.login)
        if session.port not in (LOCAL, REDIRECT) or not session.user:
            raise unjudged()
        if session.port == LOCAL and session.user != MAILBOX_USER:
            return host_writer(session.user, session.uid, self.hostname)
        # Sieve mail of accounts, whose address is the envelope sender, and Dovecot's own mail with the null sender.
        if sender and not self.rights().owners(sender):
            return Writer(session.user, lambda address: False)
        return sender_writer(self.rights(), sender, self.hostname)
