# SPDX-License-Identifier: GPL-3.0-or-later
"""The From field is parsed strictly: ambiguous values are refused."""

import pytest
from authors.address import AddressError, domain_name, parse_address, parse_mailboxes
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
    assert [str(mailbox.address) for mailbox in parse_mailboxes(value)] == authors


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
        # Local parts are ASCII; KELVIN SIGN would become k.
        " jürgen@example.org".encode(),
        " \u212aelvin@example.org".encode(),
        # IDNA 2003 reads these as other names (fass.de, example.org); IDNA 2008 does not know them.
        " a@example\u3002org".encode(),
        " a@\uff45xample.org".encode(),
        " a@exam\u00adple.org".encode(),
        " a@example.org\u200b".encode(),
        " a@exam\u212aple.org".encode(),
        b" a@xn--a.example.org",
        b" a@xn--fss-.de",
        # RFC 1035 section 2.3.4, before anything is decoded
        b" a@" + "é.".encode() * 200 + b"org",
        b" " + b"a@example.org," * 100 + b"a@example.org",
        b" a@example.org (" + b"x" * 65536 + b")",
    ],
)
def test_refused(value):
    with pytest.raises(AddressError):
        parse_mailboxes(value)


@given(st.binary(max_size=60) | st.text('ab@.<>(),:;"\\ \t=?', max_size=40).map(str.encode))
def test_anything_is_read_or_refused(value):
    try:
        mailboxes = parse_mailboxes(value)
    except AddressError:
        return
    assert mailboxes
    for address, _beside in mailboxes:
        assert parse_address(str(address)) == address
        assert domain_name(address.domain) == address.domain


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Example.ORG", "example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("XN--Bcher-KVA.example", "xn--bcher-kva.example"),
        # fass.de by IDNA 2003, which is another domain
        ("faß.de", "xn--fa-hia.de"),
        ("my_domain.example", "my_domain.example"),
    ],
)
def test_domain_names(text, name):
    assert domain_name(text) == name
