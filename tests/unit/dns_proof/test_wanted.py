# SPDX-License-Identifier: GPL-3.0-or-later
"""Records of the roles, and the zone files made from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dns.zone
import pytest
from dns_proof import wanted

KEY = '"v=DKIM1; k=rsa; p=' + "A" * 236 + '" "' + "B" * 100 + '"'
ALICE = {"address": "alice@example.org", "password": "x"}
HOST: dict[str, Any] = {"mail_domain": "example.org", "mail_accounts": [ALICE]}
RELAY = {"mail_relay_host": "smtp.provider.example", "mail_relay_spf": "include:spf.provider.example"}
HOSTS: dict[str, dict[str, Any]] = {
    "direct": {**HOST, "mail_dmarc_ruf": "fail@example.org", "mail_dmarc_policy": "reject"},
    "ipv4": {**HOST, "opensmtpd_ip_versions": [4]},
    "relay": {**HOST, **RELAY, "mail_additional_domains": [{"name": "Example.net"}]},
    "past_it": {**HOST, **RELAY, "mail_forward_via": "direct"},
    "postmark": {**HOST, "mail_relay_host": "smtp.postmarkapp.com"},
    "sendgrid": {
        **HOST,
        "mail_relay_host": "smtp.sendgrid.net",
        "dns_records": ["em1.example.org. CNAME u1.wl.sendgrid.net."],
    },
    "outside": {**HOST, "mail_hostname": "vps7.provider.example", "mail_dmarc_rua": ""},
    "acme": {
        **HOST,
        "mail_tls_mode": "acme",
        "mail_acme_directory": "https://acme-v02.api.letsencrypt.org/directory",
    },
    "other_acme": {**HOST, "mail_tls_mode": "acme", "mail_acme_directory": "https://ca.example/directory"},
    "long": {**HOST, "mail_relay_spf": " ".join(f"include:spf{number}.provider.example" for number in range(9))},
}
Lines = dict[str, list[wanted.Wanted]]


@pytest.fixture(scope="module")
def hosts(rendered: Any) -> Lines:
    return {name: wanted.joined(wanted.parsed(text)) for name, text in rendered(**HOSTS).items()}


def lines(found: list[wanted.Wanted], *labels: str) -> list[str]:
    """``NAME DATA``, with an asterisk where it is required."""
    return [
        f"{one.name} {record.to_text()}{' *' if one.required else ''}"
        for one in found
        if one.label in labels
        for record in one.records
    ]


def test_where_mail_goes(hosts: Lines) -> None:
    assert lines(hosts["relay"], "MX") == ["example.org. 10 mail.example.org. *", "example.net. 10 mail.example.org. *"]
    assert lines(hosts["relay"], "A", "AAAA") == ["mail.example.org. 198.51.100.7 *", "mail.example.org. 2001:db8::7 *"]
    assert lines(hosts["outside"], "A") == ["vps7.provider.example. 198.51.100.7 *"]


def test_who_may_send(hosts: Lines) -> None:
    assert lines(hosts["relay"], "SPF") == [
        'example.org. "v=spf1 mx include:spf.provider.example ~all" *',
        'example.net. "v=spf1 mx include:spf.provider.example ~all" *',
        'mail.example.org. "v=spf1 a include:spf.provider.example ~all"',
    ]
    assert lines(hosts["outside"], "SPF") == [
        'example.org. "v=spf1 mx ~all" *',
        'vps7.provider.example. "v=spf1 a ~all"',
    ]
    [first] = [one for one in hosts["long"] if one.subject == "SPF example.org"]
    assert len(first.records[0].strings) == 2


def test_dmarc(hosts: Lines) -> None:
    said = "v=DMARC1; p=reject; rua=mailto:alice@example.org; ruf=mailto:fail@example.org"
    assert lines(hosts["direct"], "DMARC") == [f'_dmarc.example.org. "{said}" *']
    assert lines(hosts["outside"], "DMARC") == [
        '_dmarc.example.org. "v=DMARC1; p=none" *',
        '_dmarc.vps7.provider.example. "v=DMARC1; p=none" *',
    ]
    assert lines(hosts["relay"], "TXT") == ['example.net._report._dmarc.example.org. "v=DMARC1"']


@pytest.mark.parametrize(
    ("host", "versions", "required"),
    [("direct", (4, 6), True), ("ipv4", (4,), True), ("relay", (4, 6), False), ("past_it", (4, 6), True)],
)
def test_who_needs_a_reverse_name(hosts: Lines, host: str, versions: tuple[int, ...], required: bool) -> None:
    """Every address that sends; receivers ask for it, a relay provider does not."""
    names = {4: "7.100.51.198.in-addr.arpa.", 6: f"7.{'0.' * 23}8.b.d.0.1.0.0.2.ip6.arpa."}
    assert lines(hosts[host], "PTR") == [
        f"{names[version]} mail.example.org.{' *' if required else ''}" for version in versions
    ]
    assert wanted.sending_addresses(hosts["ipv4"]) == ["198.51.100.7"]


def test_the_providers_return_path(hosts: Lines) -> None:
    assert lines(hosts["postmark"], "CNAME") == ["pm-bounces.example.org. pm.mtasv.net."]
    assert lines(hosts["sendgrid"], "CNAME") == ["em1.example.org. u1.wl.sendgrid.net."]
    assert lines(hosts["relay"], "CNAME") == []


def test_who_may_issue_a_certificate(hosts: Lines) -> None:
    """For the server's name, where the authority's own name in CAA is known."""
    assert lines(hosts["acme"], "CAA") == ['mail.example.org. 0 issue "letsencrypt.org"']
    assert lines(hosts["other_acme"], "CAA") == lines(hosts["direct"], "CAA") == []


def test_services(hosts: Lines) -> None:
    """RFC 6186 section 3, RFC 8314 section 5.1: what there is, and what there is not."""
    found = dict(line.split(" ", 1) for line in lines(hosts["direct"], "SRV"))
    assert {name.split(".")[0]: data for name, data in found.items()} == {
        "_submissions": "0 1 465 mail.example.org.",
        "_submission": "0 1 587 mail.example.org.",
        "_imaps": "0 1 993 mail.example.org.",
        "_sieve": "0 1 4190 mail.example.org.",
        "_imap": "0 0 0 .",
        "_pop3": "0 0 0 .",
        "_pop3s": "0 0 0 .",
    }


def test_zone_files(hosts: Lines) -> None:
    """Each record is in its own zone, PTR records are in none, and a name server loads the files."""
    keys = [f"{label}._domainkey.{zone}. TXT {KEY}" for label, zone in (("mail", "example.org"), ("s2", "example.net"))]
    found = wanted.zone_files([*hosts["relay"], *wanted.parsed("\n".join(keys))], ["example.org", "example.net"])
    assert list(found) == ["example.org", "example.net"]
    rows = []
    for origin, text in found.items():
        whole = f"@ 60 SOA ns.test. hostmaster.test. 1 2 3 4 5\n@ 60 NS ns.test.\n{text}"
        zone = dns.zone.from_text(whole, f"{origin}.", relativize=False)
        rows += [
            f"{name} {record.to_text()}" for name, _ttl, record in zone.iterate_rdatas() if record.rdtype not in (2, 6)
        ]
        required, _heading, recommended = text.partition("; Recommended:\n")
        assert "_domainkey" in required and " MX " in required and "_imaps" in recommended
        assert "A" * 236 + "B" * 100 in required, "in one string, too"
    published = [line.removesuffix(" *") for line in lines(hosts["relay"], *wanted.ORDER)]
    assert sorted(rows) == sorted([*published, *(line.replace(" TXT", "") for line in keys)])


def test_only_names_of_ours(tmp_path: Path) -> None:
    text = (
        "mail._domainkey.example.com. TXT p=\nexample.org. A 192.0.2.1\n7.100.51.198.in-addr.arpa. PTR example.org.\n"
    )
    (tmp_path / "role").write_text(text)
    assert [one.subject for one in wanted.read(tmp_path, ["example.org"])] == [
        "A example.org",
        "PTR 7.100.51.198.in-addr.arpa",
    ]


def test_what_is_no_master_file(tmp_path: Path) -> None:
    (tmp_path / "role").write_text("example.org. MX mail")
    with pytest.raises(ValueError, match="/role: "):
        wanted.read(tmp_path, [])


def test_the_longest_zone_has_it() -> None:
    found = wanted.zone_files(wanted.parsed("a.b.example.org. A 198.51.100.7"), ["example.org", "b.example.org"])
    assert "198.51.100.7" not in found["example.org"] and "198.51.100.7" in found["b.example.org"]


def test_a_key_is_pasted_in_both_forms() -> None:
    [key] = wanted.parsed(f"mail._domainkey.example.org. TXT {KEY}")
    pasted = wanted.line(key.name, key.records[0])
    assert pasted.endswith(f"; in one string: v=DKIM1; k=rsa; p={'A' * 236}{'B' * 100}")
    assert wanted.parsed(pasted)[0].records == key.records
