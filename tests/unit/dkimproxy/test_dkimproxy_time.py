# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker blocks while it parses a header, so no header may take long."""

import time

import pytest
from dkimproxy_helpers import Client

MEGABYTE = 1_000_000
AUTHOR = b"From: alice@example.org\r\n"
# Parts of From, repeated many times.
FROM = {
    "labels that are not ASCII": (b"a@", "é.".encode(), b"x"),
    "one label that is not ASCII": (b"a@", "é".encode(), b".x"),
    "authors": (b"", b"a@example.org, ", b"a@example.org"),
    "folded authors": (b"", b"a@example.org,\r\n ", b"a@example.org"),
    "comments in comments": (b"", b"(", b"a@example.org"),
    "quotes": (b'"', b'\\"', b'" <a@example.org>'),
    "encoded words": (b"", b"=?utf-8?q?a?= ", b"<a@example.org>"),
    "words": (b"", b"a ", b"<a@example.org>"),
    "addresses as a name": (b'"', b"a@example.org ", b'" <a@example.org>'),
}
FIELDS = {
    "empty To": b"To:\r\n", "Subject": b"Subject:\r\n", "unknown fields": b"X:\r\n", "Received": b"Received: x\r\n",
    "long To": b"To: " + b"b@example.net,\r\n " * 5000 + b"c@example.net\r\n",
    "blanks": b"X:" + b" \t" * 450 + b"x\r\n",
    "long Sender": b"Sender: " + b"b@example.net, " * 60_000 + b"\r\n",
}  # fmt: skip


@pytest.mark.parametrize("size", [16_000, MEGABYTE])
@pytest.mark.parametrize("parts", FROM.values(), ids=FROM)
def test_worst_authors(proxy, parts, size):
    begin, middle, end = parts
    check(proxy, b"From: " + begin + middle * ((size - 100) // len(middle)) + end + b"\r\n")


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
def test_worst_fields(proxy, field):
    check(proxy, AUTHOR + field * ((MEGABYTE - len(AUTHOR)) // len(field)))


def check(proxy, header):
    """It has an answer, after less than two seconds of this process, proxy and client."""
    with Client(proxy.port) as client:
        client.begin()
        begun = time.process_time()
        reply = client.message(header + b"\r\nHello.\r\n")
        seconds = time.process_time() - begun
    assert reply[:3] in (b"250", b"550", b"552", b"554"), reply
    assert seconds < 2
