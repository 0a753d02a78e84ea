# SPDX-License-Identifier: GPL-3.0-or-later
"""Records of the written zone files, queried from a name server that serves them."""

from __future__ import annotations

import base64

import dns.message
import dns.query
import dns.rdatatype
import pytest

from testbed.dns import SERVER as NAME_SERVER
from testbed.dns import query
from testbed.servers import Server, both


def zones(server: Server) -> dict[str, str]:
    """Selector by domain."""
    return {server.domain: "mail", server.additional_domain: server.additional_selector}


@both
def test_mail_exchanger(server: Server) -> None:
    for domain in zones(server):
        hosts = [record.split()[1].rstrip(".") for record in query(domain, "MX")]
        assert hosts == [server.hostname]
    assert query(server.hostname, "A") == [server.ip]


@both
def test_spf(server: Server) -> None:
    """One record a domain that names the relay provider and ends in a refusal."""
    for domain in [*zones(server), server.hostname]:
        records = [text.split() for text in query(domain, "TXT") if text.startswith("v=spf1")]
        assert len(records) == 1, domain
        assert "include:_spf.provider.test" in records[0], records
        assert records[0][-1] in ("-all", "~all"), records


@both
def test_dkim_key_is_the_one_on_the_host(server: Server) -> None:
    for domain, selector in zones(server).items():
        records = query(f"{selector}._domainkey.{domain}", "TXT")
        assert len(records) == 1, domain
        tags = dict(part.strip().split("=", 1) for part in records[0].strip(" ;").split(";"))
        assert tags.get("v") == "DKIM1" and tags.get("k", "rsa") == "rsa"
        assert "t" not in tags, "verifiers ignore a domain that is testing"
        file = f"/etc/dkimproxy/keys/{domain}.{selector}.pem"
        public = server.run("sh", "-c", f"openssl pkey -in {file} -pubout -outform DER | base64 --wrap=0")
        assert tags["p"] == public
        assert "2048 bit" in server.run("openssl", "pkey", "-in", file, "-noout", "-text")
        assert len(base64.b64decode(public)) == 294


@both
def test_strings_are_short(server: Server) -> None:
    """A DKIM record holds several strings, none empty (RFC 1035 §3.3: 255 bytes at most, which the format enforces)."""
    for domain, selector in zones(server).items():
        question = dns.message.make_query(f"{selector}._domainkey.{domain}", "TXT", use_edns=0, payload=4096)
        (answer,) = dns.query.udp(question, NAME_SERVER, timeout=10).answer
        assert answer.rdtype == dns.rdatatype.TXT
        strings = next(iter(answer)).strings
        assert len(strings) > 1 and all(strings)


@both
def test_dmarc(server: Server) -> None:
    for domain in zones(server):
        records = query(f"_dmarc.{domain}", "TXT")
        assert len(records) == 1, domain
        tags = dict(part.strip().split("=", 1) for part in records[0].strip(" ;").split(";"))
        assert tags["v"] == "DMARC1" and tags["p"] == "none"
        assert tags["rua"] == f"mailto:{server.alice.address}"


@both
def test_reports_about_the_additional_domain_are_welcome(server: Server) -> None:
    """Reports to an address in another domain need that domain's consent (RFC 7489 §7.1)."""
    records = query(f"{server.additional_domain}._report._dmarc.{server.domain}", "TXT")
    assert [record.strip(" ;") for record in records] == ["v=DMARC1"]


@pytest.mark.parametrize("name", ["nothing", "mail2._domainkey"])
@both
def test_nothing_else(server: Server, name: str) -> None:
    """No wildcard answers in place of the records."""
    assert query(f"{name}.{server.domain}", "TXT") == []
