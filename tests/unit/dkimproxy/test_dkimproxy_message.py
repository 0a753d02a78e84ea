# SPDX-License-Identifier: GPL-3.0-or-later
"""Any message verifies with dkimpy after it has passed, or is refused."""

import re

import pytest
from authors.rights import Refusal
from dkimproxy.message import DataReader, Message
from dkimproxy.policy import Setup
from dkimproxy_helpers import HEADER, MESSAGE, make_config
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

LINES = st.lists(
    st.sampled_from(
        [b"", b".", b"..", b"a", b" b \t", b"\t", b"From: eve@example.net", b"\xff\xfe", b"x" * 1200, b"c\r", b"\rd"]
    ),
    max_size=12,
)
FIELDS = st.lists(
    st.sampled_from(
        [
            b"To: a@example.net,\r\n\tb@example.net",
            b"To:",
            b"Subject: \xc3\xbc  \t two  ",
            b"subject:x",
            b"Date: yesterday",
            b"Message-ID:\r\n <1@x>",
            b"X-Long: " + b"y" * 1500,
            b"List-Id: <l.example.org>",
            b"Received: by x\r\n \r\n\tnow",
            b"DKIM-Signature: v=1; a=rsa-sha256; d=example.net; s=x; h=from; bh=aGk=; b=aGk=",
            b"Content-Type: text/plain;\r\n charset=utf-8",
            b"Reply-To: c@example.org",
            b"Sender: d@example.org",
            b"X-CR: a\rb",
            b"X-CR: a\r",
            b"no colon",
            b"Bad Name: x",
            b": empty",
            b"X-NUL: \0",
            b"From: eve@example.net",
        ]
    ),
    max_size=8,
)


@pytest.fixture(scope="module")
def setup(keys, tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("spool"))
    signature = [f"dkim(c={c},key={keys.path(k)},s={k})" for c, k in (("relaxed/relaxed", "rsa"), ("simple", "other"))]
    return Setup.load(make_config(keys, 1, {"signature": signature, "spool_dir": directory, "spool_memory": "100"}))


def pass_on(setup, wire: bytes, sizes=()):
    """The message for the next hop, None if it is refused; and the client's input after it."""
    reader = DataReader()
    message = Message(setup.config.spool_dir, setup.config.spool_memory, None, setup.signers.body_forms)
    for size in sizes:
        if not reader.done and wire:
            message.feed(reader.feed(wire[: size + 1]))
            wire = wire[size + 1 :]
    while not reader.done:
        assert wire, "the end of data was not found"
        message.feed(reader.feed(wire))
        wire = b""
    try:
        message.finish()
        _, fields = setup.sign(message, None)
        return b"".join(message.wire(fields)), reader.rest + wire
    except Refusal as error:
        assert re.fullmatch(rb"[45][0-9][0-9] [45]\.[0-9]+\.[0-9]+ [ -~]{10,480}", error.reply())
        return None, reader.rest + wire
    finally:
        message.close()


def received(wire: bytes) -> bytes:
    """The message as the next hop reads it: one end of data and no stray CR or LF (RFC 5321 §2.3.8, §4.5.2)."""
    assert wire.endswith(b"\r\n.\r\n") and wire.find(b"\r\n.\r\n") == len(wire) - 5
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", wire)
    return wire[:-3].replace(b"\r\n.", b"\r\n")


def stuffed(message: bytes) -> bytes:
    return (b"\r\n" + message).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    FIELDS,
    LINES,
    st.booleans(),
    st.lists(st.integers(0, 60), max_size=30),
    st.sampled_from([b"\r\n", b"\n", b"\r\r\n"]),
)
@example([], [b"\r", b"."], True, [], b"\r\n")
@example([], [b"", b"", b" "], True, [0] * 500, b"\r\n")
@example([], [], False, [], b"\r\n")
def test_verifies_or_is_refused(setup, keys, fields, lines, separator, sizes, end):
    message = b"\r\n".join([b"From: Alice <alice@example.org>", *fields]) + b"\r\n"
    if separator:
        message += b"\r\n" + b"".join(line + end for line in lines)
        if not message.endswith(b"\r\n"):
            message += b"\r\n"
    wire, rest = pass_on(setup, stuffed(message) + b"QUIT\r\n", sizes)
    assert rest == b"QUIT\r\n"
    bad = [b"no colon", b"Bad Name: x", b": empty", b"X-NUL: \0", b"From: eve@example.net"]
    assert (wire is None) == (any(field in bad for field in fields) or bool(re.search(rb"(?<!\r)\n", message)))
    if wire:
        after = received(wire)
        assert keys.verifies(after, 0) and keys.verifies(after, 1)
        after = after.replace(b"X-Long:\r\n ", b"X-Long: ")
        assert after.endswith(re.sub(rb"\r(?!\n)", b" ", re.sub(rb"\r+", b"\r", message)))


def test_lines_that_others_would_break_are_folded_before_they_are_signed(setup, keys):
    """RFC 5322 §2.1.1, §2.2.3: 998 octets; a header line must not consist of white space only."""
    ids = b" ".join(b"<%050d@example.net>" % number for number in range(40))
    fields = [
        b"References: " + ids,
        b"X-Word: " + b"y" * 1500,
        b"X-Blank: a\r\n" + b" " * 1500,
        b"X-Tail: b" + b" " * 1500,
    ]
    message = b"From: alice@example.org\r\n" + b"\r\n".join(fields) + b"\r\n\r\nx\r\n"
    wire, _ = pass_on(setup, stuffed(message))
    after = received(wire)
    assert keys.verifies(after, 0) and keys.verifies(after, 1)
    lines = after.split(b"\r\n")
    assert [len(line) for line in lines if len(line) > 998 and line.strip()] == [1500 + 1, 1500 + len("X-Tail: b")]
    assert all(line.strip() for line in lines if line[:1] == b" " and len(line) < 1500)
    references = re.search(rb"(?s)References: (.*?)\r\n(?! )", after)[1]
    assert b"\r\n" in references and references.replace(b"\r\n", b"") == ids


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.booleans())
def test_junk_verifies_or_is_refused(setup, keys, junk, with_header):
    wire, _ = pass_on(setup, stuffed((HEADER if with_header else b"") + junk.replace(b"\n", b"\r\n") + b"\r\n"))
    if wire:
        assert keys.verifies(received(wire))


@pytest.mark.parametrize(
    "smuggled",
    [
        b"\n.\r\n",
        b"\r.\r\n",
        b"\n.\n",
        b"\r\n.\n",
        b"\r\n.\r",
        b"\r.\r",
        b"\r\n\0.\r\n",
        b"\r\n.\r\r\n",
        b"\r\r\n.\r\r\n",
    ],
)
def test_only_crlf_dot_crlf_is_the_end(setup, keys, smuggled):
    second = b"MAIL FROM:<eve@example.net>\r\nRCPT TO:<victim@example.net>\r\nDATA\r\n"
    wire, rest = pass_on(setup, HEADER + b"\r\nbody" + smuggled + second + b"\r\n.\r\n")
    assert rest == b""
    if wire is not None:
        assert second in received(wire)
        assert keys.verifies(received(wire))


def test_added_fields_break_the_signature(setup, keys):
    wire, _ = pass_on(setup, stuffed(MESSAGE))
    message = received(wire)
    assert keys.verifies(message)
    for name in ("From", "To", "Cc", "Subject", "Date", "Reply-To", "In-Reply-To", "References",
                 "MIME-Version", "Content-Type", "Content-Transfer-Encoding"):  # fmt: skip
        assert not keys.verifies(f"{name}: added\r\n".encode() + message), name
        assert not keys.verifies(message.replace(b"\r\n\r\n", f"\r\n{name}: added\r\n\r\n".encode(), 1)), name
    assert keys.verifies(b"Received: by relay\r\nX-Spam: no\r\n" + message)
    assert keys.verifies(message.replace(b"\r\nMessage-ID: <1@", b"\r\nMessage-ID: <of-the-provider@"))
    assert not keys.verifies(message.replace(b"Hello", b"Hallo"))


def test_what_a_provider_rewrites_is_not_signed(keys, tmp_path):
    """`unsigned`, also where h= names it."""
    signature = [f"dkim(key={keys.path('rsa')},s=rsa,h=X-Mine:X-Kept)"]
    options = {"signature": signature, "unsigned": "Date, x-mine", "spool_dir": str(tmp_path)}
    setup = Setup.load(make_config(keys, 1, options))
    message = received(pass_on(setup, stuffed(b"X-Mine: 1\r\nX-Kept: 1\r\n" + MESSAGE))[0])
    assert keys.verifies(message)
    assert keys.verifies(re.sub(rb"(?m)^Date: .*", b"Date: Fri, 1 Jan 2027 00:00:00 +0000\r", message))
    assert keys.verifies(message.replace(b"X-Mine: 1", b"X-Mine: 2"))
    assert not keys.verifies(message.replace(b"X-Kept: 1", b"X-Kept: 2"))
    assert not keys.verifies(message.replace(b"Subject: ", b"Subject: x"))


def test_missing_date_and_message_id_are_added(setup, keys):
    wire, _ = pass_on(setup, stuffed(b"From: alice@example.org\r\n\r\nHi\r\n"))
    message = received(wire)
    assert keys.verifies(message)
    assert re.search(rb"\r\nDate: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d \+0000\r\n", message)
    assert re.search(rb"\r\nMessage-ID: <[0-9a-f]{24}@mail\.example\.org>\r\n", message)
    assert b"\r\nDate:" not in received(pass_on(setup, stuffed(MESSAGE))[0]).partition(b"\r\nDate:")[2]


def test_tags(keys, tmp_path):
    signature = [f"dkim(key={keys.path('rsa')},s=rsa,x=3600,i=$sender,h=X-Mine)", f"dkim(key={keys.path('ed')},s=ed)"]
    setup = Setup.load(make_config(keys, 1, {"signature": signature, "spool_dir": str(tmp_path)}))
    message = received(pass_on(setup, stuffed(b"X-Mine: 1\r\n" + MESSAGE))[0])
    assert keys.verifies(message, 0) and keys.verifies(message, 1)
    first, second = (
        re.sub(rb"\s+", b"", field) for field in re.findall(rb"DKIM-Signature:(.*?\r\n)(?!\t)", message, re.S)
    )
    assert b"a=rsa-sha256;c=relaxed/relaxed;d=example.org;s=rsa;i=alice@example.org;" in first
    begun, ends = re.search(rb"t=(\d+);?x=(\d+)", first).groups()
    assert int(ends) - int(begun) == 3600
    assert b":x-mine:" in first or b":x-mine;" in first
    assert b"a=ed25519-sha256;" in second
    assert b";l=" not in first + second and b"i=" not in second
    assert not keys.verifies(message.replace(b"X-Mine: 1", b"X-Mine: 2"))
    assert max(map(len, message.split(b"\r\n"))) <= 100


@pytest.mark.parametrize(
    ("header", "word"),
    [
        (b"To: a@example.net\r\n", b"no From line"),
        (b"From: a@example.org\r\nFrom: a@example.org\r\n", b"several From lines"),
        (b"From: a@example.net\r\n", b"does not send mail from example.net"),
        (b"From: a@example.org, b@sub.example.org\r\n", b"several domains"),
        (b"From: undisclosed:;\r\n", b"a group"),
        (b"From: \r\n", b"no valid address"),
        (b"Subject: x\r\n" * 100000, b"too large"),
    ],
)
def test_refusals_are_readable(setup, header, word):
    message = Message(setup.config.spool_dir, 100, None, [True])
    message.feed(header + b"\r\nbody\r\n")
    with pytest.raises(Refusal) as refused:
        message.finish()
        setup.sign(message, None)
    assert word in refused.value.reply() and 550 <= refused.value.code <= 554


def test_a_full_disk_defers(setup, keys):
    message = Message("/nonexistent", 10, None, [True])
    message.feed(MESSAGE)
    message.feed(b"x" * 70000 + b"\r\n")
    with pytest.raises(Refusal) as error:
        message.finish()
    assert error.value.reply().startswith(b"452 4.3.1 ")


def test_large_messages_leave_as_they_came(setup, keys):
    body = b"".join(b".%d some words of a line\r\n" % number for number in range(200000))
    wire, _ = pass_on(setup, stuffed(HEADER + b"\r\n" + body), [65535] * 60)
    assert received(wire).endswith(HEADER + b"\r\n" + body)
    assert keys.verifies(received(wire))
