# SPDX-License-Identifier: GPL-3.0-or-later
"""From, To and Cc as people write them, and after their repair."""

from email import policy
from email.parser import BytesParser

import pytest
from authors.address import AddressError, parse_mailboxes
from authors.repair import repaired
from hypothesis import given
from hypothesis import strategies as st


def reader(field, value):
    """What Python's own parser shows for the field: display name and address of each mailbox."""
    message = BytesParser(policy=policy.default).parsebytes(field + b":" + value + b"\r\n\r\n")
    addresses = message[field.decode()].addresses
    return [(mailbox.display_name, mailbox.addr_spec) for mailbox in addresses]


@pytest.mark.parametrize(
    ("written", "name", "address"),
    [
        ("a@x.org <a@x.org>", "a@x.org", "a@x.org"),
        ('"a@x.org" <a@x.org>', "a@x.org", "a@x.org"),
        ("Dr. A. B. <a@x.org>", "Dr. A. B.", "a@x.org"),
        ("Last, First <a@x.org>", "Last, First", "a@x.org"),
        ("[Shop] A <a@x.org>", "[Shop] A", "a@x.org"),
        ("A; Sales <a@x.org>", "A; Sales", "a@x.org"),
        ("A < a@x.org >", "A", "a@x.org"),
        ("=?utf-8?q?B=C3=BCro?= <a@x.org>", "Büro", "a@x.org"),
        ("A <A@X.ORG>", "A", "A@X.ORG"),
        ("<a@x.org>", "", "a@x.org"),
        ("Alice: Sales <a@x.org>", "Alice: Sales", "a@x.org"),
        ("=?iso-8859-1?Q?Doe,_Alice;_B=FCro?= <a@x.org>", "Doe, Alice; Büro", "a@x.org"),
        ("[=?utf-8?b?QsO8cm8=?=] A <a@x.org>", "[Büro] A", "a@x.org"),
        (r'A "B" \[C] <a@x.org>', "A B [C]", "a@x.org"),
        ("Müller, Ä <a@x.org>", "Müller, Ä", "a@x.org"),
        # Proper, and OpenSMTPD 7.4 would take the comma for the end of a mailbox.
        (r'"J \"D, E\" F" <a@x.org>', 'J "D, E" F', "a@x.org"),
        (r'"a \\ b" <a@x.org>', "a \\ b", "a@x.org"),
    ],
)
def test_from_has_one_author(written, name, address):
    value = repaired(b"From", b" " + written.encode())
    assert len(parse_mailboxes(value)) == 1
    assert b"\\" not in value
    assert reader(b"From", value) == [(name, address)]


def test_a_comment_is_no_name():
    assert repaired(b"From", b" a@x.org (A)") == b" a@x.org (A)"


@pytest.mark.parametrize(
    "written",
    [
        b"Alice <a@x.org>;",
        b"Alice <a@x.org> <b@x.org>",
        b"Alice <a@x.org> Bob",
        b"Alice <a>",
        b"Alice",
        b"=?utf-8?q?a=0Ab?= [c] <a@x.org>",
        b"[A]\x0b <a@x.org>",
        b"[J\xfcrgen] <a@x.org>",
        b"[" + b"x" * 600 + b"] <a@x.org>",
        b"[A] <a@x.org\x00>",
    ],
)
def test_from_that_stays_unreadable(written):
    assert repaired(b"From", written) == written
    with pytest.raises(AddressError):
        parse_mailboxes(written)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (" Doe, Jane <friend@far.test>", ' "Doe, Jane" <friend@far.test>'),
        (
            " Doe, Jane <friend@far.test>,\r\n Bob <b@y.z>, c@d.e",
            ' "Doe, Jane" <friend@far.test>,\r\n Bob <b@y.z>,\r\n c@d.e',
        ),
        (" a@x.y <a@x.y>, Doe, J <j@k.l>", ' "a@x.y" <a@x.y>,\r\n "Doe, J" <j@k.l>'),
    ],
)
def test_to_has_the_recipients_that_were_meant(written, expected):
    assert repaired(b"To", written.encode()).decode() == expected
    assert repaired(b"cC", written.encode()).decode() == expected
    assert repaired(b"Reply-To", written.encode()).decode() == written


@pytest.mark.parametrize(
    "written",
    [
        " undisclosed-recipients:;",
        " Friends: a@x.y <a@x.y>, [B] <b@c.d>;",
        " bob, alice@x.y",
        " bob",
        " Doe, Jane <f@far.test>, bob",
        ' "unclosed, a@x.y',
        " A; b@x.y; C <d@e.f>",
        " a@b.c,,d@e.f",
        " (open a@b.c, D <d@e.f>",
        "",
    ],
)
def test_what_may_be_something_else_stays(written):
    assert repaired(b"To", written.encode()).decode() == written


@given(
    st.binary(max_size=60) | st.text('ab@.<>(),:;"\\ \t=?[]', max_size=40).map(str.encode),
    st.sampled_from([b"From", b"To"]),
)
def test_anything_stays_or_becomes_readable(value, field):
    changed = repaired(field, value)
    if changed != value:
        found = [str(mailbox.address) for mailbox in parse_mailboxes(changed)]
        assert [address.lower() for _name, address in reader(field, changed)] == found
        assert repaired(field, changed) == changed
