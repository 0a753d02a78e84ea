# SPDX-License-Identifier: GPL-3.0-or-later
"""Zone fragments, read by a DNS library as a name server would."""

from __future__ import annotations

import string

import dns.rdata
import dns.zone
import pytest
from ansible_collections.selfhosted.mail.plugins.plugin_utils import zone
from dns.rdtypes.ANY.TXT import TXT
from hypothesis import given
from hypothesis import strategies as st

KEY = "v=DKIM1; k=rsa; p=" + "A" * 392
printable = st.text(alphabet=string.printable[:95], max_size=1200)


def parsed(fragment: str, origin: str) -> dns.zone.Zone:
    return dns.zone.from_text(
        f"@ 60 SOA ns.test. hostmaster.test. 1 2 3 4 5\n@ 60 NS ns.test.\n{fragment}", f"{origin}.", relativize=True
    )


def texts(found: dns.zone.Zone, name: str) -> list[str]:
    """The TXT records of ``name``, their strings put together."""
    return sorted(b"".join(record.strings).decode() for record in found.find_rdataset(name, "TXT"))


@given(printable)
def test_strings_fit_and_join_back(text: str) -> None:
    record = dns.rdata.from_text("IN", "TXT", zone.strings(text).removeprefix("( ").removesuffix(" )"))
    assert isinstance(record, TXT)
    assert all(len(part) <= 255 for part in record.strings)
    assert b"".join(record.strings).decode() == text


@pytest.mark.parametrize(("length", "count"), [(0, 1), (1, 1), (255, 1), (256, 2), (510, 2), (511, 3)])
def test_strings_are_as_few_as_possible(length: int, count: int) -> None:
    assert zone.strings("a" * length).count('"') == 2 * count


@given(printable)
def test_any_key_text_survives_in_a_zone(text: str) -> None:
    found = parsed(zone.zone("example.org", hostname="mail.example.org", keys={"mail": text}), "example.org")
    assert texts(found, "mail._domainkey") == [text]


def test_primary_domain() -> None:
    found = parsed(
        zone.zone(
            "example.org",
            hostname="mail.example.org",
            ipv4=["198.51.100.7"],
            ipv6=["2001:db8::7"],
            keys={"mail": KEY, "old": KEY},
            spf="include:spf.provider.example",
            policy="reject",
            rua="dmarc@example.org",
            ruf="fail@example.org",
        ),
        "example.org",
    )
    assert [str(record) for record in found.find_rdataset("@", "MX")] == ["10 mail"]
    assert [record.address for record in found.find_rdataset("mail", "A")] == ["198.51.100.7"]
    assert [record.address for record in found.find_rdataset("mail", "AAAA")] == ["2001:db8::7"]
    assert texts(found, "@") == ["v=spf1 mx include:spf.provider.example ~all"]
    assert texts(found, "mail") == ["v=spf1 a include:spf.provider.example ~all"]
    assert texts(found, "mail._domainkey") == texts(found, "old._domainkey") == [KEY]
    assert texts(found, "_dmarc") == ["v=DMARC1; p=reject; rua=mailto:dmarc@example.org; ruf=mailto:fail@example.org"]


def test_without_relay_and_reports() -> None:
    found = parsed(zone.zone("example.org", hostname="mail.example.org"), "example.org")
    assert texts(found, "@") == ["v=spf1 mx ~all"]
    assert texts(found, "_dmarc") == ["v=DMARC1; p=none"]


def test_additional_domain_and_reports_to_another() -> None:
    both = zone.zones(
        ["example.org", "example.net"],
        hostname="mail.example.org",
        ipv4=["198.51.100.7"],
        ipv6=[],
        keys={"example.net": {"s2": KEY}},
        rua="alice@example.org",
    )
    assert list(both) == ["example.org", "example.net"]
    org, net = parsed(both["example.org"], "example.org"), parsed(both["example.net"], "example.net")
    assert [str(record.exchange) for record in net.find_rdataset("@", "MX")] == ["mail.example.org."]
    assert net.get_rdataset("mail", "A") is None
    assert texts(net, "s2._domainkey") == [KEY]
    assert texts(org, "example.net._report._dmarc") == ["v=DMARC1"]
    assert net.get_rdataset("example.org._report._dmarc", "TXT") is None


def test_host_outside_of_the_mail_domains_has_a_zone_without_mx() -> None:
    both = zone.zones(
        ["example.org"],
        hostname="vps7.provider.example",
        ipv4=["198.51.100.7"],
        ipv6=[],
        keys={"vps7.provider.example": {"mail": KEY}},
    )
    assert list(both) == ["example.org", "vps7.provider.example"]
    host = parsed(both["vps7.provider.example"], "vps7.provider.example")
    assert host.get_rdataset("@", "MX") is None
    assert [record.address for record in host.find_rdataset("@", "A")] == ["198.51.100.7"]
    assert texts(host, "@") == ["v=spf1 a ~all"]
    assert texts(host, "mail._domainkey") == [KEY]
    assert parsed(both["example.org"], "example.org").get_rdataset("vps7", "A") is None


def test_the_domain_itself_can_be_the_host() -> None:
    found = parsed(zone.zone("example.org", hostname="example.org", ipv4=["198.51.100.7"]), "example.org")
    assert [record.address for record in found.find_rdataset("@", "A")] == ["198.51.100.7"]
    assert texts(found, "@") == ["v=spf1 mx ~all"]


def test_public_addresses() -> None:
    assert zone.public_addresses(
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
