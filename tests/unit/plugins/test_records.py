# SPDX-License-Identifier: GPL-3.0-or-later
"""Parts of records, read by a DNS library as a name server would."""

from __future__ import annotations

import string

import dns.rdata
import dns.reversename
import pytest
from ansible_collections.selfhosted.mail.plugins.module_utils import records
from dns.rdtypes.ANY.TXT import TXT
from hypothesis import given
from hypothesis import strategies as st

printable = st.text(alphabet=string.printable[:95], max_size=1200)


@given(printable)
def test_strings_fit_and_join_back(text: str) -> None:
    record = dns.rdata.from_text("IN", "TXT", records.txt(text))
    assert isinstance(record, TXT)
    assert all(len(part) <= 255 for part in record.strings)
    assert b"".join(record.strings).decode() == text


@pytest.mark.parametrize(("length", "count"), [(0, 1), (1, 1), (255, 1), (256, 2), (510, 2), (511, 3)])
def test_strings_are_as_few_as_possible(length: int, count: int) -> None:
    assert records.txt("a" * length).count('"') == 2 * count


@pytest.mark.parametrize("address", ["198.51.100.7", "2001:db8::7"])
def test_reverse_name(address: str) -> None:
    assert records.reverse_name(address) == dns.reversename.from_address(address).to_text()


def test_public_addresses() -> None:
    assert records.public_addresses(
        [
            "10.0.0.5",
            "198.51.100.7",
            "127.0.0.1",
            "192.168.1.1",
            "172.20.0.1",
            "100.64.0.1",
            "169.254.1.1",
            "8.8.8.8",
            "fe80::1",
            "fd00::1",
            "::1",
            "2001:db8::7",
        ]
    ) == ["198.51.100.7", "8.8.8.8", "2001:db8::7"]
