# SPDX-License-Identifier: GPL-3.0-or-later
"""The DNS check finds each wrong record, and its fix repairs the record."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testbed import containers, dns
from testbed.servers import RELAY, Server, both

# Wrong records are checked again a second later.
LOOK = "selfhosted-mail-dns@1.service"
PROVE = "/usr/local/lib/selfhosted-mail/prove-dns"
CONFIG = "/etc/selfhosted-mail/dns.json"
WRONG = 2

Findings = dict[str, dict[str, str]]


def look(server: Server) -> tuple[int, Findings]:
    """Exit code of mail-status, and its DNS findings by subject."""
    server.run("systemctl", "start", LOOK)
    code, _newline, text = server.sh("mail-status --json > /run/found; echo $?; cat /run/found").partition("\n")
    return int(code), {one["subject"]: one for one in json.loads(text) if one["check"] == "dns"}


def not_ok(findings: Findings) -> dict[str, tuple[str, str]]:
    return {subject: (one["status"], one["text"]) for subject, one in findings.items() if one["status"] != "ok"}


def zone_file(domain: str) -> str:
    return (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "dns" / f"{domain}.zone").read_text()


@contextmanager
def published(domain: str, text: str) -> Iterator[None]:
    dns.publish(domain, text)
    try:
        yield
    finally:
        dns.publish(domain, zone_file(domain))


@both
def test_what_the_run_wrote_is_all_there(server: Server) -> None:
    code, found = look(server)
    assert (code, not_ok(found)) == (0, {})
    wanted = {f"MX {server.domain}", f"A {server.hostname}", f"SPF {server.domain}", f"DMARC _dmarc.{server.domain}",
              f"DKIM {server.additional_selector}._domainkey.{server.additional_domain}",
              f"SRV _imaps._tcp.{server.domain}", f"SRV _submissions._tcp.{server.additional_domain}",
              f"PTR {'.'.join(reversed(server.ip.split('.')))}.in-addr.arpa"}  # fmt: skip
    assert wanted <= set(found)
    required = {subject.split()[0] for subject, one in found.items() if one["required"]}
    assert required == {"MX", "A", "SPF", "DKIM", "DMARC"}, "through a relay"


@both
def test_the_look_is_daily(server: Server) -> None:
    timer = server.run("systemctl", "show", "-p", "ActiveState", "-p", "UnitFileState", "selfhosted-mail-dns.timer")
    assert set(timer.split()) == {"ActiveState=active", "UnitFileState=enabled"}
    assert "OnUnitInactiveSec=86400s" in server.run("systemctl", "cat", "selfhosted-mail-dns.timer").split()


@both
def test_each_fix_mends(server: Server) -> None:
    """A missing record, two SPF records, a different key, and a missing include."""
    domain, text = server.domain, zone_file(server.domain)
    wrong = re.sub(r"(?m)^@ .* MX .*\n|^_dmarc .*\n|^_imaps\._tcp .*\n", "", text)
    wrong = re.sub(r"(?m)^(mail\._domainkey .*; p=)....", r"\g<1>AAAA", wrong)
    wrong += '@ IN TXT "v=spf1 a:www -all"\nmail IN TXT "another"\n'
    wrong = re.sub(r"(?m)^(mail .*)include:\S+ ", r"\1", wrong)
    with published(domain, wrong):
        code, found = look(server)
        assert code == WRONG
        assert not_ok(found) == {
            f"MX {domain}": ("error", "is missing"),
            f"DMARC _dmarc.{domain}": ("error", "is missing"),
            f"DKIM mail._domainkey.{domain}": ("error", "is not the key of this server"),
            f"SPF {domain}": ("error", "there are 2 SPF records, and receivers treat that as an error"),
            f"SPF {server.hostname}": ("warning", "include:_spf.provider.test is missing"),
            f"SRV _imaps._tcp.{domain}": ("warning", "is missing"),
        }
        key = found[f"DKIM mail._domainkey.{domain}"]["fix"]
        # In strings, and behind that in one for web interfaces.
        assert re.search(r'TXT "v=DKIM1; k=rsa; p=[^"]+" "[^"]+" ; in one string: v=DKIM1; k=rsa; p=[^"\s]{392}$', key)
        # The pasted lines replace the existing records.
        rest = re.sub(r'(?m)^(mail\._domainkey|@ .*"v=spf1|mail .*"v=spf1).*\n', "", wrong)
        fixes = [found[subject]["fix"] for subject in not_ok(found)]
        dns.publish(domain, "\n".join([rest, *fixes, ""]))
        code, found = look(server)
        assert (code, not_ok(found)) == (0, {})


@contextmanager
def asking(server: Server, *nameservers: str) -> Iterator[None]:
    """``mail_dns_nameservers``."""
    before = server.run("cat", CONFIG)
    containers.write(server.container, CONFIG, json.dumps({**json.loads(before), "nameservers": nameservers}))
    try:
        yield
    finally:
        containers.write(server.container, CONFIG, before)
        server.run("systemctl", "start", LOOK)


@both
def test_no_answer_is_unknown(server: Server) -> None:
    """No server listens there. Reverse names are in none of our zones."""
    silent = containers.address(RELAY)
    with asking(server, silent):
        code, found = look(server)
        assert code == 0
        wrong = not_ok(found)
        assert len(wrong) > 10
        assert {(status, silent in text) for status, text in wrong.values()} == {("unknown", True)}


RULES = """
import nftables, sys
code, _output, error = nftables.Nftables().cmd(sys.argv[1])
assert code == 0, error
"""


@pytest.mark.disruptive
@both
def test_a_network_that_lets_out_no_dns_but_to_the_providers_resolver(server: Server) -> None:
    """Rspamd's resolver gets no answers; the host's, systemd-resolved, does."""

    def resolution() -> Findings:
        return {one["subject"]: one for one in json.loads(server.run(PROVE, "--resolution"))}

    # Debian's installer has put it to 127.0.1.1.
    assert [*not_ok(resolution())] == ["own name"]
    drop = "meta skuid unbound meta l4proto { tcp, udp } th dport 53 drop"
    chain = f"chain out {{ type filter hook output priority 0; {drop}; }};"
    server.python(RULES, f"table inet closed {{ {chain} }}", user="root")
    try:
        server.run("systemctl", "restart", "selfhosted-mail-resolver")
        found = resolution()["Rspamd"]
        assert found["status"] in ("error", "unknown") and "rspamd_resolver: none" in found["text"]
        assert found["fix"] == "rspamd_resolver_forwarders: [127.0.0.53]"
    finally:
        server.python(RULES, "delete table inet closed", user="root")
        server.run("systemctl", "restart", "selfhosted-mail-resolver")
    assert [*not_ok(resolution())] == ["own name"]
