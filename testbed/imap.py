# SPDX-License-Identifier: GPL-3.0-or-later
"""Access to mailboxes over IMAPS, as a mail client has it."""

from __future__ import annotations

import imaplib
import time

from testbed.containers import PATIENCE, wait_for
from testbed.smtp import tls


def session(host: str, user: str, password: str, timeout: float = PATIENCE) -> imaplib.IMAP4_SSL:
    """A logged-in session; imaplib.IMAP4.error if refused, OSError after `timeout` seconds without an answer."""
    box = imaplib.IMAP4_SSL(host, 993, ssl_context=tls(), timeout=timeout)
    box.login(user, password)
    return box


def messages(host: str, user: str, password: str, folder: str = "INBOX") -> list[bytes]:
    """The messages of a folder, oldest first; none if there is no such folder."""
    with session(host, user, password) as box:
        state, _count = box.select(f'"{folder}"', readonly=True)
        if state != "OK":
            return []
        _state, found = box.search(None, "ALL")
        fetched = [box.fetch(number, "(BODY.PEEK[])")[1] for number in found[0].split()]
    return [parts[0][1] for parts in fetched if isinstance(parts[0], tuple)]


def find(
    host: str, user: str, password: str, subject: str, folder: str = "INBOX", timeout: float = PATIENCE
) -> list[tuple[float, bytes]]:
    """Messages with this text in the subject, each with its time of arrival in seconds since the epoch."""
    with session(host, user, password, timeout) as box:
        _state, [count] = box.select(folder, readonly=True)
        if count == b"0":
            return []
        # Not by SEARCH, which fails while the indexer hangs.
        _state, heads = box.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
        found = [head[0].split()[0] for head in heads if isinstance(head, tuple) and subject.encode() in head[1]]
        if not found:
            return []
        _state, fetched = box.fetch(b",".join(found).decode(), "(INTERNALDATE BODY.PEEK[])")
    messages = []
    for part in fetched:
        if isinstance(part, tuple):
            when = imaplib.Internaldate2tuple(part[0])
            assert when, part[0]
            messages.append((time.mktime(when), part[1]))
    return messages


def wait_message(
    host: str, user: str, password: str, marker: str, folder: str = "INBOX", timeout: float = PATIENCE
) -> bytes:
    """The message that contains `marker`, a Message-ID for example; AssertionError after `timeout` seconds."""
    return wait_for(
        lambda: next((raw for raw in messages(host, user, password, folder) if marker.encode() in raw), None),
        timeout,
        f"message {marker} in {user}'s {folder}",
    )
