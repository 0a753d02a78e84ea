# SPDX-License-Identifier: GPL-3.0-or-later
"""The queried servers, and replies that do not count as answers."""

from __future__ import annotations

import dns.name
import dns.rcode
import pytest
from dns.rdatatype import RdataType
from dns_proof import judge, wanted, world
from dns_proof.world import World
from name_server import ADDRESS, NameServer

NAME = dns.name.from_text("example.org")
MX = "example.org. MX 10 mail.example.org.\n"


def status(asked: World) -> judge.Finding:
    [mx] = wanted.parsed(MX)
    return judge.look_for(mx, asked, [mx])


def test_servers_of_the_zone(server: NameServer, world: World) -> None:
    """Without mail_dns_nameservers those that the delegation names; one without an address is passed over."""
    server.has(MX)
    asked = World(["example.org"])
    assert asked.servers(dns.name.from_text("_dmarc.mail.example.org")) == [("ns.example", ADDRESS)]
    assert status(asked).status == "ok"


def test_a_server_that_has_another_zone_says_nothing(server: NameServer, world: World) -> None:
    server.has(MX)
    asked = World(["example.org"])
    server.authoritative = False
    said = status(asked)
    assert said.status == "unknown" and "ns.example is not a name server of that zone" in said.text


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED])
def test_an_error_is_unknown(server: NameServer, world: World, rcode: dns.rcode.Rcode) -> None:
    server.has(MX)
    server.rcode = rcode
    said = status(world)
    assert said.status == "unknown" and f"answers {rcode.name}" in said.text
    said = status(World(["example.org"]))
    assert said.status == "unknown" and "did not find the name servers" in said.text


@pytest.mark.usefixtures("impatient")
def test_silence_is_unknown_and_is_waited_for_once(server: NameServer, world: World) -> None:
    server.silent = True
    said = status(world)
    assert (said.status, said.text) == ("unknown", f"{ADDRESS} does not answer")
    asked = len(server.asked)
    assert asked == 3, "three times"
    assert status(world).status == "unknown" and len(server.asked) == asked


@pytest.mark.usefixtures("impatient")
def test_one_of_two_servers_is_enough(server: NameServer, world: World) -> None:
    server.has(MX)
    said = status(World(["example.org"], [ADDRESS, "127.0.0.2"]))
    assert said.status == "ok" and "127.0.0.2" in said.text


def test_servers_that_disagree(server: NameServer, world: World) -> None:
    """The one without it is asked as often as the other."""
    server.has(MX)
    NameServer(server.port, "127.0.0.2")
    said = status(World(["example.org"], [ADDRESS, "127.0.0.2"]))
    assert (said.status, said.text) == ("error", "is missing (according to 127.0.0.2)")


def test_no_such_name_and_no_such_record_are_the_same(server: NameServer, world: World) -> None:
    server.has("example.org. A 192.0.2.1")
    assert status(world).text == "is missing"
    server.has("")
    assert status(world).text == "is missing"


def test_long_answers_come_over_tcp(server: NameServer, world: World) -> None:
    server.has("\n".join(f'example.org. TXT "{number:03}{"x" * 200}"' for number in range(20)))
    assert len(world.texts(NAME)) == 20


def test_a_loop_of_aliases_ends(server: NameServer, world: World) -> None:
    server.has("example.org. CNAME example.net.\nexample.net. CNAME far.example.")
    assert status(world).status in ("error", "unknown")


def test_no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_arguments: object, **_options: object) -> None:
        raise dns.resolver.NoResolverConfiguration("none")

    monkeypatch.setattr(dns.resolver, "Resolver", nothing)
    with pytest.raises(world.Silent, match="/etc/resolv"):
        World(["example.org"])


def test_texts_of_others_come_from_the_hosts_resolver(server: NameServer, world: World) -> None:
    server.has('spf.far.example. TXT "v=spf1 " "-all"')
    assert world.texts(dns.name.from_text("spf.far.example")) == ["v=spf1 -all"]
    assert world.texts(dns.name.from_text("none.far.example")) == []
    assert world.records(NAME, RdataType.MX) == ()
