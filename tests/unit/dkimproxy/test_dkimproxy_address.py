# SPDX-License-Identifier: GPL-3.0-or-later
"""The From field is read strictly: what could be read in two ways is refused."""

import pytest
from dkimproxy.address import AddressError, domain_name, parse_address, parse_authors
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("value", "authors"),
    [
        (b" alice@example.org", ["alice@example.org"]),
        (b"<alice@example.org>", ["alice@example.org"]),
        (b" Alice <Alice@Example.ORG>\t", ["alice@example.org"]),
        (b' "Doe, Jane" <jane@example.org>', ["jane@example.org"]),
        (b" Jane Q. Doe <jane@example.org>", ["jane@example.org"]),
        (b" =?utf-8?Q?J=C3=BCrgen?= <j@example.org>", ["j@example.org"]),
        (" Jürgen <j@example.org>".encode(), ["j@example.org"]),
        (" Jürgen <j@example.org>".encode("latin-1"), ["j@example.org"]),
        (b" root@mail.example.org (Cron Daemon)", ["root@mail.example.org"]),
        (b" (a (nested) comment)alice@example.org", ["alice@example.org"]),
        (b" alice@example.org (bob@example.net)", ["alice@example.org"]),
        (b' "bob@example.net" <alice@example.org>', ["alice@example.org"]),
        (b' "a \\" <x@y> b" <alice@example.org>', ["alice@example.org"]),
        (b" Alice\r\n <alice@example.org>", ["alice@example.org"]),
        (b" a@example.org, B <b@example.org>", ["a@example.org", "b@example.org"]),
        (b' "alice"@example.org', ["alice@example.org"]),
        (b" alice+news@sub.example.org", ["alice+news@sub.example.org"]),
        (" a@bücher.example".encode(), ["a@xn--bcher-kva.example"]),
    ],
)
def test_read(value, authors):
    assert [str(author) for author in parse_authors(value)] == authors


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b" Alice",
        b" Alice <>",
        b" undisclosed-recipients:;",
        b" Team: alice@example.org;",
        b" alice@example.org <eve@example.net>",
        b" alice@example.org, ",
        b" , alice@example.org",
        b" <alice@example.org> <eve@example.net>",
        b" <alice@example.org>, <eve@example.net",
        b" <alice@example.org> eve@example.net",
        b" <@example.net:alice@example.org>",
        b" alice@example.org(<eve@example.net>)",
        b" alice@[192.0.2.1]",
        b" alice @ example.org",
        b" alice@example.org.",
        b" alice@example..org",
        b" .alice@example.org",
        b" alice@",
        b" @example.org",
        b" alice@exam ple.org",
        b' "alice@example.org',
        b" (alice@example.org",
        b" =?utf-8?Q?alice=40example.org?=@example.net",
        b" =?utf-8?Q?alice=40example.org?=",
        b" =?x?=@example.org",
        b' "eve@example.net>"@example.org',
        b" alice\x00@example.org",
        b" alice@example.org\x0b",
        b" <alice@example.org\r\n >",
        b" alice@example.org; eve@example.net",
        b" al\xffice@example.org",
    ],
)
def test_refused(value):
    with pytest.raises(AddressError):
        parse_authors(value)


@given(st.binary(max_size=60) | st.text('ab@.<>(),:;"\\ \t=?', max_size=40).map(str.encode))
def test_anything_is_read_or_refused(value):
    try:
        authors = parse_authors(value)
    except AddressError:
        return
    assert authors
    for author in authors:
        assert parse_address(str(author)) == author
        assert domain_name(author.domain) == author.domain
