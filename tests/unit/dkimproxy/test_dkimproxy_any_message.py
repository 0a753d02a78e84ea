# SPDX-License-Identifier: GPL-3.0-or-later
"""Any message of an MTA leaves signed, aligned and unchanged, or is refused; a later change breaks the signature.

All over real sockets, from one session to the next hop; verdicts are dkimpy's, readings of From the standard library's.
"""

import email
import email.policy
import email.utils
import re

import pytest
from dkimproxy_helpers import Client, NextHop, Proxy
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

OURS = (b"example.org", b"example.net")
REPLY = re.compile(rb"([245])[0-9][0-9] [245]\.[0-9]{1,3}\.[0-9]{1,3} [ -~]{5,500}\r\n")
MIME = (
    b"MIME-Version", b"Content-Type", b"Content-Transfer-Encoding", b"Content-Disposition", b"Content-ID",
    b"Content-Description",
)  # fmt: skip
OVERSIGNED = (b"From", b"To", b"Subject", b"Date", b"Reply-To", b"Cc", *MIME)

# Text of a line without line ends: 8-bit, tabs, dots, more than 998 octets; no other control characters in headers.
text = st.binary(max_size=40).map(lambda raw: re.sub(rb"[\x00-\x08\x0a-\x1f\x7f]", b".", raw)) | st.sampled_from(
    [b"", b".", b"..", b"a  b\t c ", b"\xc3\xbc \xff", b"=?utf-8?Q?=0D=0A?=", b'"', b"word " * 300, b"x" * 2000, b":"]
)
visible = text.filter(lambda raw: raw.strip(b" \t") != b"")
folded = st.builds(
    lambda first, more: first + b"".join(b"\r\n" + space + line for space, line in more),
    text,
    st.lists(st.tuples(st.sampled_from([b" ", b"\t", b"  \t "]), visible), max_size=3),
)
names = st.sampled_from(
    [name for name in OVERSIGNED if name != b"From"]
    + [b"tO", b"SUBJECT", b"Sender", b"Received", b"Return-Path", b"Bcc", b"List-Unsubscribe", b"Resent-From"]
    + [b"Message-ID"]
    + [b"X-From", b"Fro", b"From-", b"DKIM-Signature", b"Authentication-Results", b"In-Reply-To", b"!#$%&'*+-.^_`|~"]
)
fields = st.lists(st.builds(lambda name, value: name + b":" + value + b"\r\n", names, folded), max_size=8)
good_from = st.builds(
    lambda name, form: name + form,
    st.sampled_from([b"From:", b"from: ", b"FROM:\t", b"From:\r\n "]),
    st.sampled_from(
        [
            b"alice@example.org\r\n",
            b" Alice <alice@example.net>\r\n",
            b' "eve@example.com" <a.b+c@sub.example.org>\r\n',
            b" =?utf-8?B?w7w=?=\r\n\t<ALICE@EXAMPLE.ORG>  \r\n",
            b" (a comment) alice@example.org\r\n",
            b" \xc3\x9cber <alice@deep.sub.example.net>\r\n",
            b" alice@example.org, bob@example.org\r\n",
        ]
    ),
)
bodies = st.none() | st.lists(
    text | st.sampled_from([b"", b"\x01\x1b[0m\x7f", b"From alice", b"--b", b"QUIT"]), max_size=12
).map(lambda lines: b"".join(line + b"\r\n" for line in lines))


@st.composite
def well_formed(draw):
    """A message with one readable From of ours that no rule of RFC 5321 and 5322 on line ends and fields forbids."""
    header = draw(fields)
    header.insert(draw(st.integers(0, len(header))), draw(good_from))
    body = draw(bodies)
    return b"".join(header) + (b"" if body is None else b"\r\n" + body)


pieces = st.sampled_from(
    [
        b"Alice", b'"Doe, J"', b'"eve@example.com"', b"=?utf-8?Q?eve=40example.com?=", b"(c)", b"(c (d))", b"\r\n ",
        b"\t", b"\xff", b",", b"<", b">", b"alice@example.org", b"<alice@example.org>", b"eve@example.com", b"=?x?q?a=",
        b"<eve@example.com>", b";", b":", b"\\", b'"', b"\0", b"\r", b"a@sub.example.org", b"@example.org", b"alice",
        b"\xc3\xbc@example.org", b" ", b"a@b@example.org", b"<>", b"group:", b"@[192.0.2.1]", b"(", b")", b".", b"%",
        b"\xe2\x80\xae", b"\xc2\xa0", b"=?utf-8?B?QA==?=", b"=?utf-8?Q?,?=", b"<@example.com:alice@example.org>",
    ]
)  # fmt: skip
odd_from = st.lists(pieces, max_size=6).map(lambda parts: b"From: " + b"".join(parts) + b"\r\n")
ends = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b"\n\r", b"\0\r\n", b"\x0b\r\n", b"\r\n.\r", b""])
any_line = st.binary(max_size=60) | text | st.builds(lambda name, value: name + b":" + value, names, folded)


@st.composite
def anything(draw):
    """Input after DATA: oddly folded headers, no From or several, any bytes and line ends, no separator."""
    parts = draw(st.lists(st.one_of(good_from, odd_from, fields.map(b"".join)), max_size=4))
    parts += draw(st.lists(st.builds(lambda line, end: line + end, any_line, ends), max_size=6))
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), b"\r\n")
    return b"".join(parts)


class Sender:
    """Sends messages to a proxy, one after the other in one session, or in a new one if that has ended."""

    def __init__(self, proxy, next_hop) -> None:
        self.proxy, self.next_hop, self.client = proxy, next_hop, None

    def __call__(self, message: bytes, sender: bytes = b"alice@example.org") -> bytes | None:
        """The message at the next hop, None if it was refused. Asserts that there is at most one."""
        if not self.client:
            self.client = Client(self.proxy.port)
            assert self.client.reply()[:3] == b"220" and self.client.send(b"EHLO c\r\n")[:3] == b"250"
        self.next_hop.messages.clear()
        client, self.client = self.client, None
        client.transaction(sender)
        message += b"" if message.endswith(b"\r\n") else b"\r\n"
        reply = client.message(message)
        match = REPLY.fullmatch(reply)
        assert match, reply
        assert client.send(b"NOOP\r\n").startswith(b"250"), "the session is out of step"
        self.client = client
        assert len(self.next_hop.messages) == (match[1] == b"2"), reply
        return self.next_hop.messages[0] if match[1] == b"2" else None


@pytest.fixture(scope="module")
def send(keys, tmp_path_factory):
    signatures = {
        "signature": [
            f"dkim(c={form}, d={domain}, s={key}, key={keys.path(key)})"
            for form, domain, key in (
                ("relaxed", "example.org", "rsa"),
                ("simple", "example.org", "other"),
                ("relaxed/simple", "example.net", "rsa"),
                ("simple/relaxed", "example.net", "ed"),
            )
        ],
        "domain": ["example.org,example.net"],
    }
    # A little memory alone: some of the messages go over the disk.
    signatures["spool_memory"] = ["1000"]
    with NextHop() as next_hop, Proxy(keys, next_hop, tmp_path_factory.mktemp("spool"), signatures) as proxy:
        yield Sender(proxy, next_hop)


def examples(count):
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))


def signing_domains(message: bytes, added: int) -> set[bytes]:
    """The domains of the first so many signatures."""
    signatures = re.findall(rb"DKIM-Signature: (?:.*\r\n[ \t])*.*\r\n", message)[:added]
    assert len(signatures) == added and message.startswith(b"".join(signatures))
    return {re.search(rb"[ \t;]d=([^;]+);", signature)[1] for signature in signatures}


def authors(message: bytes) -> set[bytes]:
    """The domains of From's addresses as three readers of the standard library see them."""
    found = set()
    for policy in (email.policy.default, email.policy.compat32):
        values = email.message_from_bytes(message, policy=policy).get_all("From", [])
        assert len(values) == 1
        value = str(values[0])
        found |= {address.rpartition("@")[2].lower() for _, address in email.utils.getaddresses([value])}
        for address in getattr(values[0], "addresses", ()):
            found.add(address.domain.lower())
    return {domain.encode() for domain in found}


def unfolded(message: bytes) -> bytes:
    """With each field of the header on one line (RFC 5322 §2.2.3)."""
    header, empty, body = message.partition(b"\r\n\r\n")
    return re.sub(rb"\r\n(?=[ \t])", b"", header) + empty + body


def check(keys, sent: bytes, after: bytes) -> None:
    """Signed twice by one of our domains, aligned, and nothing but what RFC 6409 §8 allows was changed.

    Lines of the header that others would break may have been folded.
    """
    assert keys.verifies(after, 0) and keys.verifies(after, 1)
    domains = signing_domains(after, 2)
    assert len(domains) == 1 and domains <= set(OURS)
    [domain] = domains
    for author in authors(after):
        assert author == domain or author.endswith(b"." + domain), author
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", after), "a stray line end"
    sent += b"" if sent.endswith(b"\r\n") else b"\r\n"
    came = re.sub(rb"\r(?!\n)", b" ", re.sub(rb"\r+(?=\r\n)", b"", re.sub(rb"\r+", b"\r", sent)))
    header = came.partition(b"\r\n\r\n")[0]
    if max(map(len, header.split(b"\r\n"))) > 998:
        after, came = unfolded(after), unfolded(came)
    assert after.endswith(came)
    ours = after[: len(after) - len(came)]
    new = re.findall(rb"(?m)^([!-9;-~]+):", ours)
    assert new[:2] == [b"DKIM-Signature"] * 2
    for name in new[2:]:
        assert name in (b"Date", b"Message-ID")
        assert not re.search(rb"(?mi)^%s:" % name, header), f"{name.decode()} was there before"


@examples(200)
@given(well_formed())
def test_what_is_well_formed_leaves_signed_and_unchanged(send, keys, message):
    after = send(message)
    assert after is not None
    check(keys, message, after)


@examples(500)
@given(anything(), st.sampled_from([b"alice@example.org", b"", b"eve@example.com"]))
def test_anything_else_leaves_signed_and_aligned_or_not_at_all(send, keys, message, sender):
    after = send(message, sender)
    if after is not None:
        check(keys, message, after)


@examples(500)
@given(odd_from, fields)
def test_from_fields_that_could_be_read_otherwise(send, keys, author, others):
    message = author + b"".join(others) + b"\r\nbody\r\n"
    after = send(message)
    if after is not None:
        check(keys, message, after)


def split(message: bytes) -> tuple[list[bytes], bytes]:
    """Its header fields, and the rest from the empty line on."""
    header, empty, body = message.partition(b"\r\n\r\n")
    header += b"\r\n"
    return re.split(rb"(?<=\r\n)(?![ \t])", header)[:-1], empty[2:] + body


@examples(200)
@given(well_formed(), st.data())
def test_added_changed_or_missing_fields_break_every_signature(send, keys, message, data):
    after = send(message)
    assert after is not None
    header, body = split(after)
    how = data.draw(st.sampled_from(["add", "add empty", "change", "remove", "double", "body", "append"]))
    kept = {name.lower() for name in OVERSIGNED}
    signed = [at for at, one in enumerate(header) if one.partition(b":")[0].lower() in kept]
    at = data.draw(st.sampled_from(signed))
    if how.startswith("add"):
        name = data.draw(st.sampled_from(OVERSIGNED))
        value = b"" if how == "add empty" else b" eve@example.com"
        header.insert(data.draw(st.integers(0, len(header))), name + b":" + value + b"\r\n")
    elif how == "change":
        header[at] = header[at].removesuffix(b"\r\n") + b"x\r\n"
    elif how == "remove":
        del header[at]
    elif how == "double":
        header.insert(data.draw(st.integers(0, len(header))), header[at])
    elif how == "body":
        places = [at for at, byte in enumerate(body) if byte not in b" \t\r\n"]
        assume(places)
        place = data.draw(st.sampled_from(places))
        body = body[:place] + (b"y" if body[place : place + 1] == b"x" else b"x") + body[place + 1 :]
    else:
        body = (body or b"\r\n") + b"appended\r\n"
    changed = b"".join(header) + body
    assert not keys.verifies(changed, 0), changed
    assert not keys.verifies(changed, 1), changed


@examples(50)
@given(well_formed())
def test_what_relays_add_on_top_breaks_nothing(send, keys, message):
    after = send(message)
    assert after is not None
    relayed = b"Return-Path: <a@example.org>\r\nReceived: from x\r\n\tby y; now\r\nX-Spam: no\r\n" + after
    # dkimpy counts signatures, and a message may have brought some of its own below ours.
    assert keys.verifies(relayed, 0) and keys.verifies(relayed, 1)
