# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may write as whom: the From field against the envelope sender's rights."""

import os
from collections import defaultdict

from .address import Address, AddressError, domain_name, parse_address
from .errors import ConfigError, Refused


class Rights:
    """The `senders` table: `LOGIN ADDRESS,ADDRESS,@DOMAIN` lines, as OpenSMTPD reads them.

    Raises ConfigError when the file cannot be read or a line is wrong.
    """

    def __init__(self, path: str) -> None:
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
    author in our domains is right, which the choice of the signature sees to.
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
