# SPDX-License-Identifier: GPL-3.0-or-later
"""Published records, queried from a name server on loopback: right, wrong or unrelated; each fix repairs them."""

from __future__ import annotations

import pytest
from dns_proof import judge, wanted
from dns_proof.world import World
from name_server import NameServer, absolute

KEY = "v=DKIM1; k=rsa; p=" + "A" * 300
WANTED = f"""
@ MX 10 mail
mail A 198.51.100.7
@ TXT "v=spf1 mx include:spf.provider.example ~all"
mail._domainkey TXT "{KEY[:250]}" "{KEY[250:]}"
old._domainkey TXT "v=DKIM1; k=rsa; p=QUJD" ; recommended
_dmarc TXT "v=DMARC1; p=none; rua=mailto:alice@example.org"
example.net._report._dmarc TXT "v=DMARC1" ; recommended
pm-bounces CNAME pm.provider.example. ; recommended
_imaps._tcp SRV 0 1 993 mail ; recommended
_pop3._tcp SRV 0 0 0 . ; recommended
mail CAA 0 issue "ca.example" ; recommended
7.100.51.198.in-addr.arpa. PTR mail.example.org.
"""
WORLD = """
spf.provider.example. TXT "v=spf1 ip4:192.0.2.0/24 -all"
vps7.provider.example. A 198.51.100.7
stale.provider.example. A 192.0.2.9
"""


def published(*changes: tuple[str, str]) -> str:
    text = WANTED
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def found(server: NameServer, world: World, text: str) -> dict[str, judge.Finding]:
    server.has(WORLD + text)
    ours = wanted.joined(wanted.parsed(absolute(WANTED)))
    return {one.subject: one for one in judge.look(ours, world, ours)}


def test_all_is_published(server: NameServer, world: World) -> None:
    seen = found(server, world, WANTED)
    assert [one for one in seen.values() if one.status != "ok"] == []
    assert len(seen) == 12
    assert all(one.text and not one.fix for one in seen.values())


MX, A, SPF = "MX example.org", "A mail.example.org", "SPF example.org"
DKIM, DMARC, PTR = "DKIM mail._domainkey.example.org", "DMARC _dmarc.example.org", "PTR 7.100.51.198.in-addr.arpa"
SPF_LINE = '@ TXT "v=spf1 mx include:spf.provider.example ~all"'
DMARC_LINE = '"v=DMARC1; p=none; rua=mailto:alice@example.org"'
KEY_LINE = f'"{KEY[:250]}" "{KEY[250:]}"'

WRONG = [
    (MX, ("@ MX 10 mail", ""), "is missing"),
    (MX, ("@ MX 10 mail", "@ MX 10 mx.provider.example."), "points to mx.provider.example"),
    (MX, ("@ MX 10 mail", "@ MX 0 ."), "points to the null MX"),
    (MX, ("@ MX 10 mail", "@ MX 10 mail\n@ MX 5 mx.provider.example."), "prefers mx.provider.example to this server"),
    (A, ("mail A 198.51.100.7", ""), "is missing: 198.51.100.7"),
    (A, ("mail A 198.51.100.7", "mail A 192.0.2.9"), "is 192.0.2.9, but this server is 198.51.100.7"),
    (SPF, (SPF_LINE, ""), "is missing"),
    (SPF, (SPF_LINE, '@ TXT "other=v=spf1"'), "is missing"),
    (SPF, (SPF_LINE, f'{SPF_LINE}\n@ TXT "v=spf1 a -all"'), "there are 2 SPF records"),
    (SPF, (SPF_LINE, '@ TXT "v=spf1 mx -all"'), "include:spf.provider.example is missing"),
    (
        SPF,
        (SPF_LINE, '@ TXT "v=spf1 mx ?include:spf.provider.example -all"'),
        "include:spf.provider.example is missing",
    ),
    (SPF, (SPF_LINE, '@ TXT "v=spf1 mx -all include:spf.provider.example"'), "include:spf.provider.example is missing"),
    (SPF, (SPF_LINE, '@ TXT "v=spf1 include:spf.provider.example -all"'), "mx is missing"),
    (SPF, (SPF_LINE, '@ TXT "v=spf1 mx include:spf.provider.example incl:x -all"'), "incl:x is not an SPF term"),
    (SPF, (SPF_LINE, '@ TXT "v=spf1 mx include:spf.provider.example include:no.example -all"'), "has no SPF record"),
    (SPF, (SPF_LINE, '@ TXT "v=spf1 mx include:spf.provider.example +all"'), "lets every host send"),
    (DKIM, (KEY_LINE, '"v=DKIM1; k=rsa; p=QUJD"'), "is not the key of this server"),
    (DKIM, (KEY_LINE, '"v=DKIM1; k=rsa; p="'), "revoked"),
    (DKIM, (KEY_LINE, f'{KEY_LINE}\nmail._domainkey TXT "v=DKIM1; p=QUJD"'), "2 TXT records, only one is allowed"),
    (DKIM, (KEY_LINE, f'"h=sha1; " {KEY_LINE}'), "does not allow the key for mail"),
    (DMARC, (DMARC_LINE, '"v=DMARC1; sp=none"'), "has no valid policy"),
    (DMARC, (DMARC_LINE, f'{DMARC_LINE}\n_dmarc TXT {DMARC_LINE[:-1]} "'), "there are 2 DMARC records"),
    (DMARC, (f"_dmarc TXT {DMARC_LINE}", ""), "is missing"),
    (
        PTR,
        ("PTR mail.example.org.", "PTR stale.provider.example."),
        "198.51.100.7 is stale.provider.example, which does not resolve back",
    ),
    (PTR, ("7.100.51.198.in-addr.arpa. PTR mail.example.org.", ""), "198.51.100.7 has no reverse name"),
    (PTR, ("mail A 198.51.100.7", "mail A 192.0.2.9"), "198.51.100.7 is mail.example.org, which does not resolve back"),
]


@pytest.mark.parametrize(("subject", "change", "text"), WRONG)
def test_wrong(server: NameServer, world: World, subject: str, change: tuple[str, str], text: str) -> None:
    """Publishing ``fix`` instead of the existing records repairs it."""
    one = found(server, world, published(change))[subject]
    assert (one.status, one.required) == ("error", True)
    assert text in one.text
    [pasted] = wanted.parsed(one.fix)
    rest = []
    for there in wanted.joined(wanted.parsed(absolute(published(change)))):
        if (there.name, there.label) != (pasted.name, pasted.label):
            rest += [wanted.line(there.name, record) for record in there.records]
    mended = found(server, world, "\n".join([*rest, one.fix]))
    assert (mended[subject].status, mended[subject].fix) == ("ok", "")


RECOMMENDED = [
    ("DKIM old._domainkey.example.org", ('old._domainkey TXT "v=DKIM1; k=rsa; p=QUJD"', "")),
    ("TXT example.net._report._dmarc.example.org", ('example.net._report._dmarc TXT "v=DMARC1"', "")),
    ("CNAME pm-bounces.example.org", ("CNAME pm.provider.example.", "CNAME else.provider.example.")),
    ("SRV _imaps._tcp.example.org", ("_imaps._tcp SRV 0 1 993 mail", "_imaps._tcp SRV 0 1 993 imap")),
    ("CAA mail.example.org", ('issue "ca.example"', 'issue "another.example"')),
]


@pytest.mark.parametrize(("subject", "change"), RECOMMENDED)
def test_recommended(server: NameServer, world: World, subject: str, change: tuple[str, str]) -> None:
    one = found(server, world, published(change))[subject]
    assert (one.status, one.required) == ("warning", False)
    assert wanted.parsed(one.fix)[0].subject == subject


ODD = [
    (
        A,
        ("mail A 198.51.100.7", "mail A 198.51.100.7\nmail A 192.0.2.9"),
        "also has 192.0.2.9, which is not an address of this host",
    ),
    (DKIM, (KEY_LINE, f'"t=y; " {KEY_LINE}'), "t=y"),
    (DMARC, (DMARC_LINE, DMARC_LINE.replace("none", "reject")), "has the policy reject, but mail_dmarc_policy is none"),
    (DMARC, (DMARC_LINE, '"v=DMARC1; p=none"'), "has no rua=mailto:alice@example.org"),
    (
        PTR,
        ("PTR mail.example.org.", "PTR vps7.provider.example."),
        "198.51.100.7 is vps7.provider.example, not mail.example.org",
    ),
]


@pytest.mark.parametrize(("subject", "change", "text"), ODD)
def test_odd(server: NameServer, world: World, subject: str, change: tuple[str, str], text: str) -> None:
    one = found(server, world, published(change))[subject]
    assert one.status == "warning" and text in one.text and one.fix


RIGHT = [
    ("@ MX 10 mail", "@ MX 10 mail\n@ MX 20 backup.provider.example."),
    # What people add, and how they write it.
    (SPF_LINE, '@ TXT "site-verification=1"\n@ TXT "V=SPF1 ip4:192.0.2.1 +MX  include:spf.provider.example -all"'),
    (SPF_LINE, '@ TXT "v=spf1 ip4:198.51.100.0/24 include:spf.provider.example -all"'),
    (SPF_LINE, '@ TXT "v=spf1 a:Mail.example.org include:spf.provider.example -all"'),
    (SPF_LINE, '@ TXT "v=spf1 redirect=_spf.example.org"\n_spf TXT "v=spf1 mx include:spf.provider.example -all"'),
    (SPF_LINE, '@ TXT "v=spf1 mx include:_spf.example.org -all"\n_spf TXT "v=spf1 include:spf.provider.example -all"'),
    (KEY_LINE, f'"k=rsa; t=s; n=mine; p= " {" ".join(KEY_LINE.split("p=")[1:])}'.replace('p= " ', 'p= " "')),
    (
        f"mail._domainkey TXT {KEY_LINE}",
        f"mail._domainkey CNAME key.provider.example.\nkey.provider.example. TXT {KEY_LINE}",
    ),
    (DMARC_LINE, '"v=DMARC1; p=none; sp=reject; pct=50; rua=mailto:x@far.example, mailto:alice@example.org; fo=1"'),
    ('"v=DMARC1" ;', '"v=DMARC1;" ;'),
    ("_imaps._tcp SRV 0 1 993 mail", "_imaps._tcp SRV 0 1 993 mail\n_imaps._tcp SRV 9 1 993 other"),
    ('mail CAA 0 issue "ca.example"', 'mail CAA 0 issue "ca.example"\nmail CAA 0 iodef "mailto:x@example.org"'),
    ("PTR mail.example.org.", "PTR mail.example.org.\n7.100.51.198.in-addr.arpa. PTR vps7.provider.example."),
]


@pytest.mark.parametrize("change", RIGHT)
def test_nobodys_business(server: NameServer, world: World, change: tuple[str, str]) -> None:
    assert [one for one in found(server, world, published(change)).values() if one.status != "ok"] == []


def spf(server: NameServer, world: World, includes: int) -> judge.Finding:
    own = " ".join(f"include:s{number}.provider.example" for number in range(includes))
    others = [f's{number}.provider.example. TXT "v=spf1 a:x.example -all"' for number in range(includes)]
    line = f'@ TXT "v=spf1 mx include:spf.provider.example {own} -all"'
    return found(server, world, "\n".join([published((SPF_LINE, line)), *others]))[SPF]


def test_too_many_lookups(server: NameServer, world: World) -> None:
    """mx, the relay's, and two for each further one."""
    assert spf(server, world, 4).status == "ok"
    one = spf(server, world, 5)
    assert (one.status, one.required) == ("error", True) and "more than 10 look-ups" in one.text


def test_a_fix_keeps_what_others_need(server: NameServer, world: World) -> None:
    one = found(
        server, world, published((SPF_LINE, '@ TXT "v=spf1 include:x.provider.example -all"\n@ TXT "v=spf1 a ~all"'))
    )
    assert (
        '"v=spf1 a include:x.provider.example mx include:spf.provider.example ~all" ; instead of all 2' in one[SPF].fix
    )


@pytest.mark.usefixtures("impatient")
def test_what_was_wrong_once_does_not_count(server: NameServer, world: World) -> None:
    right = found(server, world, WANTED)[MX]
    wrong = found(server, world, published(("@ MX 10 mail", "")))[MX]
    server.silent = True
    [mx] = [one for one in wanted.parsed(absolute(WANTED)) if one.subject == MX]
    [silent] = judge.look([mx], world, [mx])
    assert silent.status == "unknown"
    assert judge.twice(right, wrong).status == judge.twice(silent, wrong).status == "unknown"
    assert judge.twice(wrong, wrong) == wrong
    assert judge.twice(wrong, right) == right
    assert judge.twice(wrong, silent) == silent
