# SPDX-License-Identifier: GPL-3.0-or-later
"""Accepted fields show only the writer's own addresses to other parsers, two strict ones and a lenient one."""

import re
from email import policy
from email.header import decode_header
from email.parser import BytesParser
from email.utils import getaddresses

import pytest
from authors.repair import repaired
from authors.rights import Refusal, Rights, judge, login_writer
from hypothesis import example, given, settings
from hypothesis import strategies as st

OURS = frozenset({"example.org", "mail.example.org"})
OWN = {"alice@example.org", "al@example.org"}
WORDS = [
    "alice@example.org", "<alice@example.org>", "< alice@example.org >", "al@example.org", "bob@example.org",
    "<bob@example.org>", '"bob@example.org"', "(bob@example.org)", "ALICE@EXAMPLE.ORG", "root@mail.example.org",
    "=?utf-8?q?bob=40example.org?=", "=?utf-8?b?PGJvYkBleGFtcGxlLm9yZz4=?=", "=?utf-8?q?B=C3=BCro?=", "=?x?q?a?=",
    "eve@example.com", "Doe", "Jane", '"Doe, Jane"', "[Shop]", "Team:", ";", ",", ".", "\\", '"', "(", ")", "<", ">",
    "@", "A.", "ü", "\xad", "\t", "\r\n ", "bob@example。org", "bob＠example.org", "alice@faß.de",
]  # fmt: skip
FIELDS = st.builds(str.join, st.sampled_from(["", " "]), st.lists(st.sampled_from(WORDS), min_size=1, max_size=6))


@pytest.fixture(scope="module")
def alice(tmp_path_factory):
    path = tmp_path_factory.mktemp("rights") / "senders"
    path.write_text("alice alice@example.org, al@example.org\nbob bob@example.org\n")
    return login_writer(Rights(str(path)), "alice")


@settings(max_examples=1000, deadline=None)
@given(FIELDS | st.builds("{} <alice@example.org>".format, FIELDS))
@example('"bob@example.org" <alice@example.org>')
@example("bob@example.org, alice <alice@example.org>")
@example("Last, First <alice@example.org>")
@example("alice@example.orgalice@example.org\xad=?utf-8?q?B=C3=BCro?= <alice@example.org>")
@example('alice@example.orgalice@example.org\\"Doe, Jane" <alice@example.org>')
@example('(")"Doe, Jane" <alice@example.org>')
@example("Doe\xadbob@example.org <alice@example.org>")
def test_all_readers_see_the_writer(alice, text):
    value = repaired(b"From", b" " + text.encode())
    try:
        found = {str(author) for author in judge([value], [], alice, OURS)}
    except Refusal:
        return
    assert found <= OWN
    message = BytesParser(policy=policy.default).parsebytes(b"From:" + value + b"\r\n\r\n")
    assert {mailbox.addr_spec.lower() for mailbox in message["From"].addresses} == found
    line = value.replace(b"\r\n", b"").decode()
    assert {address.lower() for _name, address in getaddresses([line])} == found
    # A reader that decodes first and accepts anything that looks like an address.
    parts = [
        part if isinstance(part, str) else part.decode("utf-8" if name in ("x", None) else name, "replace")
        for part, name in decode_header(line)
    ]
    for seen in ("".join(parts), " ".join(parts)):
        assert {address.lower() for address in re.findall(r"[\w.+-]+@example\.org(?![\w.-]*\w)", seen)} <= OWN
