# SPDX-License-Identifier: GPL-3.0-or-later
"""Authentication: SPF, DKIM, DMARC and ARC as Rspamd verifies them, and actions on mail that fails."""

from __future__ import annotations

import base64
import subprocess
import time
import uuid
from typing import Any

import dkim
import pytest
from rspamd_host import OURS, PEER, scan, wait_for
from rspamd_host import message as message_with_body

from testbed import containers, dns

testinfra_hosts = ["docker://rspamd-debian12", "docker://rspamd-debian13"]
RELAY = "198.51.100.77"  # the address from which our own mail is sent
SELECTOR = f"s{time.time_ns()}".encode()  # of this process


@pytest.fixture(name="key", scope="module")
def fixture_key() -> bytes:
    """A private key that our domain and two forwarders publish, beside their policies and those of others."""
    key = subprocess.run(["openssl", "genrsa", "-traditional", "2048"], check=True, capture_output=True).stdout
    words = ["openssl", "rsa", "-pubout", "-outform", "DER"]
    public = base64.b64encode(subprocess.run(words, input=key, check=True, capture_output=True).stdout).decode()
    dns.publish("our.test", f'@ TXT "v=spf1 ip4:{RELAY} -all"\n')
    # A zone of its own, since the tests of the other host have another key.
    for name in ("our.test", "trusted.test", "forwarder.test"):
        record = f'@ TXT "v=DKIM1; p=" "{public[:200]}" "{public[200:]}"\n'
        dns.publish(f"{SELECTOR.decode()}._domainkey.{name}", record)
    dns.publish("second.test", '@ TXT "v=spf1 -all"\n')
    for policy in ("none", "quarantine", "reject"):
        records = f'@ A 198.51.100.1\n_dmarc TXT "v=DMARC1; p={policy}"\n@ TXT "v=spf1 -all"\n'
        dns.publish(f"says-{policy}.test", records)
    last = f"{SELECTOR.decode()}._domainkey.forwarder.test"
    containers.wait_for(lambda: dns.query("_dmarc.says-reject.test", "TXT") and dns.query(last, "TXT"))
    return key


def message(sender: str = "bob@world.test") -> str:
    """A plain message with a unique text, since greylisting remembers texts."""
    return message_with_body(f"Hello, just a plain message, {uuid.uuid4()}.\n", sender)


def wire(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


def signed(text: str, domain: str, key: bytes) -> str:
    field: bytes = dkim.sign(wire(text), SELECTOR, domain.encode(), key)
    return (field + wire(text)).decode().replace("\r\n", "\n")


def sealed(text: str, forwarder: str, verdict: str, key: bytes) -> str:
    """The message as a forwarder passes it on, with an ARC set of its own (RFC 8617)."""
    found = f"Authentication-Results: {forwarder}; {verdict}\n{text}"
    fields: list[bytes] = dkim.arc_sign(wire(found), SELECTOR, forwarder.encode(), key, forwarder.encode())
    return (b"".join(fields) + wire(text)).decode().replace("\r\n", "\n")


def results(answer: dict[str, Any]) -> str:
    return str(answer["milter"]["add_headers"]["Authentication-Results"]["value"])


FORGED = {
    "from": ({}, "From: Boss <boss@our.test>\n"),
    "capitals": ({}, "From: Boss <BOSS@Our.TEST>\n"),
    "sub-domain": ({}, "From: boss@office.our.test\n"),
    "host": ({}, f"From: root@{OURS}\n"),
    "second domain": ({}, "From: boss@second.test\n"),
    "several authors": ({}, "From: bob@world.test, boss@our.test\n"),
    "second field": ({}, "From: bob@world.test\nFrom: boss@our.test\n"),
    "folded": ({}, "From: Boss\n <boss@our.test>\n"),
    "envelope": ({"From": "boss@our.test"}, "From: bob@world.test\n"),
    "bounce": ({"From": ""}, "From: mailer-daemon@our.test\n"),
    "private network": ({"Ip": "10.1.2.3"}, "From: boss@our.test\n"),
}


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize("case", FORGED)
def test_who_forges_our_domain_is_refused(host: Any, case: str) -> None:
    session, author = FORGED[case]
    text = author + message().partition("\n")[2]
    answer = scan(host, text, **session)
    assert answer["action"] == "reject"
    assert answer["messages"]["smtp_message"].startswith("5.7.1 ")
    assert "is served here" in answer["messages"]["smtp_message"]


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize("domain", ["\u00f6ur.test", "\uff4four.test", "\u24deur.test"])
def test_a_domain_outside_of_ascii_is_refused(host: Any, domain: str) -> None:
    """IDNA (RFC 5895) may make one of ours of it: mail programs show and answer that."""
    answer = scan(host, f"From: Boss <boss@{domain}>\n" + message().partition("\n")[2])
    assert answer["action"] == "reject"
    assert answer["messages"]["smtp_message"] == "5.6.7 Write a domain outside of ASCII as xn--..."
    named = "From: B\u00f6ss <bob@world.test>\n" + message().partition("\n")[2]
    assert "OWN_DOMAIN_FORGED" not in scan(host, named)["symbols"]


@pytest.mark.usefixtures("key")
def test_similar_names_are_others(host: Any) -> None:
    for name in ("notour.test", "our.test.world.test"):
        assert "OWN_DOMAIN_FORGED" not in scan(host, message(sender=f"bob@{name}"))["symbols"]


def test_our_own_mail_comes_back_with_its_signature(host: Any, key: bytes) -> None:
    """From a forwarder or a list that changes only the envelope."""
    answer = scan(host, signed(message(sender="alice@our.test"), "our.test", key))
    assert answer["action"] != "reject"
    assert "dkim=pass" in results(answer)
    forged = signed(message(sender="alice@our.test"), "our.test", key).replace("just a plain", "quite another")
    assert scan(host, forged)["action"] == "reject"


def test_private_networks_are_verified_too(host: Any, key: bytes) -> None:
    answer = scan(host, signed(message(sender="alice@our.test"), "our.test", key), Ip="10.1.2.3")
    assert "dkim=pass" in results(answer)
    assert answer["action"] != "reject"


@pytest.mark.usefixtures("key")
def test_spf_alone_does_not_make_it_ours(host: Any) -> None:
    """The relay provider's other customers send from the addresses that our SPF record has."""
    session = {"From": "alice@our.test", "Ip": RELAY, "Hostname": "a.bank.test"}
    answer = scan(host, message(sender="alice@our.test"), **session)
    assert answer["action"] == "reject"
    assert "R_SPF_ALLOW" in answer["symbols"]


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize(
    ("policy", "action"),
    [
        ("reject", "reject"),
        ("quarantine", "add header"),
        ("none", "no action"),
    ],
)
def test_dmarc_policies_are_honoured(host: Any, policy: str, action: str) -> None:
    answer = scan(host, message(sender=f"ceo@says-{policy}.test"))
    assert answer["action"] == action
    if policy == "reject":
        assert answer["messages"]["smtp_message"] == "5.7.1 Refused by the DMARC policy of says-reject.test"
    else:
        assert "dmarc=fail" in results(answer) or policy == "none"


@pytest.mark.parametrize(
    ("forwarder", "found", "action"),
    [
        ("trusted.test", "dmarc=pass header.from=says-reject.test", "no action"),
        ("trusted.test", "dmarc=fail header.from=says-reject.test", "reject"),
        ("forwarder.test", "dmarc=pass header.from=says-reject.test", "reject"),
    ],
)
def test_seals_of_trusted_forwarders_excuse(host: Any, key: bytes, forwarder: str, found: str, action: str) -> None:
    text = sealed(message(sender="ceo@says-reject.test"), forwarder, found, key)
    answer = scan(host, text)
    assert "ARC_ALLOW" in answer["symbols"], answer["symbols"]
    assert answer["action"] == action
    assert "arc=pass" in results(answer)
    assert "ARC_REJECT" in scan(host, text.replace("just a plain", "quite another"))["symbols"]


def test_seals_of_trusted_forwarders_end_with_the_next(host: Any, key: bytes) -> None:
    """An untrusted recipient changes a trusted list's message, and adds a seal."""
    listed = sealed(message(sender="ceo@says-reject.test"), "trusted.test", "dmarc=pass", key)
    altered = listed.replace("just a plain", "quite another")
    answer = scan(host, sealed(altered, "forwarder.test", "arc=pass; dmarc=pass", key))
    assert "arc=pass" in results(answer)
    assert answer["action"] == "reject"


@pytest.mark.parametrize(
    "text",
    [
        "no header\nAuthentication-Results: mail.our.test; dkim=pass\n\nbody\n",
        "Authentication-Results: mail.our.test; dkim=pass",
        "From: a@world.test\n \nAuthentication-Results: mail.our.test; dkim=pass\n\nbody\n",
        "From: a@world.test\nAUTHENTICATION-RESULTS \t: mail.our.test; dkim=pass\n\nbody\n",
    ],
)
def test_forged_results_are_removed_from_broken_messages_too(host: Any, text: str) -> None:
    lines = [line for line in text.splitlines() if line.lower().startswith("authentication-results")]
    assert lines[0].partition(":")[0] in scan(host, text)["milter"]["remove_headers"]


def test_too_many_bounces_are_deferred(host: Any) -> None:
    session = {"From": "", "Rcpt": f"{time.time():.0f}@our.test"}
    actions = [scan(host, message(sender="mailer-daemon@world.test"), **session)["action"] for _ in range(6)]
    assert actions[0] == "no action"
    assert actions[-1] == "soft reject"


def test_without_dns_own_mail_waits(host: Any, key: bytes) -> None:
    """A signed message is not rejected if DNS does not answer. A new name, as others are cached."""
    host.check_output("systemctl stop selfhosted-mail-resolver")
    try:
        text = message(sender="boss@away.second.test")
        answer = scan(host, signed(text, "away.second.test", key), From="boss@away.second.test")
        assert answer["action"] == "soft reject"
        assert scan(host, text, From="boss@away.second.test")["action"] == "reject"
    finally:
        host.check_output("systemctl start selfhosted-mail-resolver")
    wait_for(host, "systemctl is-active selfhosted-mail-resolver")


def test_the_resolver_is_rspamds_alone(host: Any) -> None:
    lines = [line for line in host.check_output("ss -Hlntup").splitlines() if '"unbound"' in line]
    assert {line.split()[4] for line in lines} == {"127.0.0.1:5335"}
    assert not host.service("unbound").is_enabled
    assert host.file("/etc/resolv.conf").content_string == "nameserver 198.51.100.53\n"
    assert scan(host, message(), Ip=PEER[0])["symbols"]["R_SPF_ALLOW"]
