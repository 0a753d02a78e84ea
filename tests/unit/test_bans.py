# SPDX-License-Identifier: GPL-3.0-or-later
"""fail2ban's filter: failed logins and their clients. The scenarios test fail2ban itself."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

# As fail2ban has them.
TAGS = {
    "<F-IP6>": "(?P<ip6>",
    "</F-IP6>": ")",
    "<F-ADDRESS>": "(?P<address>",
    "</F-ADDRESS>": ")",
    "<F-CONTENT>": "(?P<content>",
    "</F-CONTENT>": ")",
    "<IP4>": r"(?P<ip4>(?:\d{1,3}\.){3}\d{1,3})",
}
# Lines of journals: OpenSMTPD 7.4 and 7.6 by its filter, Dovecot 2.3 and 2.4.
OPENSMTPD = "mail.our.test filter-message[10434]: failed login from {}"
DOVECOT_23 = "mail.our.test dovecot[7816]: auth: passwd-file(alice@our.test,{},<IvXFDFphdeAgAQ24AGYAAQA>): {}"
DOVECOT_24 = "mail.our.test dovecot[7178]: auth(alice@our.test,{},sasl:plain)<FPqZDlph5a0gAQ24AGYAAQA>: passwd-file: {}"
ODD_23 = "mail.our.test dovecot[7816]: auth: plain(?,{},<GH5LDVphw7DGM2Ty>): {}"
ODD_24 = "mail.our.test dovecot[7178]: auth(?,{},sasl:plain)<5G8cD1phb8jGM2Ty>: plain: {}"
ODD = "Username character disallowed by auth_username_chars: 0x2c (username: nobody,192.0.2.1,<x>): Password mismatch)"


@pytest.fixture(scope="module")
def expressions(checkout: Path) -> list[re.Pattern[str]]:
    """The one that all lines pass, and those of failures."""
    filters = configparser.ConfigParser()
    filters.read(checkout / "roles/bans/files/etc/fail2ban/filter.d/selfhosted-mail.conf")
    found = filters["Definition"]
    texts = [found["prefregex"], *found["failregex"].splitlines()]
    return [re.compile(re.sub(r"</?[A-Z]\S*?>", lambda tag: TAGS[tag[0]], text)) for text in texts]


def who(expressions: list[re.Pattern[str]], line: str) -> str | None:
    first, *failures = expressions
    if not (found := first.search(line)):
        return None
    matches = [match for one in failures if (match := one.search(found["content"]))]
    assert len(matches) < 2
    if not matches:
        return None
    # Trust is looked up by the whole address.
    assert matches[0]["address"] in line.split(",") + line.split()
    client: str = matches[0]["ip6"] or matches[0]["ip4"]
    return client


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("198.51.100.242", "198.51.100.242"),
        ("2001:db8:66:1::2", "2001:db8:66:1"),
        ("2001:db8:66:1:ffff::1", "2001:db8:66:1"),
        ("2001:db8:66:1:a:b:c:d", "2001:db8:66:1"),
        ("2001:db8:0:1::2", "2001:db8:0:1"),
        ("2001:db8:66::2", "2001:db8:66"),
        ("2001:db8:66::a:b:c:d", "2001:db8:66"),
        ("2001:db8::2", "2001:db8"),
        ("2a00::2", "2a00"),
        # Only the host itself.
        ("::1", None),
    ],
)
def test_who_counts(expressions: list[re.Pattern[str]], address: str, client: str | None) -> None:
    lines = [OPENSMTPD.format(address)]
    for text in "Password mismatch", "unknown user":
        lines += [line.format(address, text) for line in (DOVECOT_23, DOVECOT_24)]
    lines += [line.format(address, ODD) for line in (ODD_23, ODD_24)]
    assert [who(expressions, line) for line in lines] == [client] * len(lines)


@pytest.mark.parametrize(
    "line",
    [
        # Further lines about the same attempt, or about none.
        "mail.our.test smtpd[6993]: c4edae7030760683 smtp authentication user=x result=permfail",
        'mail.our.test smtpd[6993]: c4edae7030760683 smtp failed-command command="AUTH PLAIN (...)" result="535 Auth"',
        "mail.our.test dovecot[6186]: imap-login: Disconnected: Connection closed (auth failed, 2 attempts in 8 secs): "
        "user=<alice@our.test>, method=PLAIN, rip=192.0.2.1, lip=192.0.2.2, TLS: Connection closed, session=<a>",
        "mail.our.test dovecot[5351]: imap-login: Login aborted: Connection closed (auth failed, 2 attempts in 8 secs) "
        "(auth_failed): user=<a@our.test>, method=PLAIN, rip=192.0.2.1, lip=192.0.2.2, TLS, session=<a>",
        DOVECOT_23.format("192.0.2.1", "allow_nets check failed: IP 192.0.2.1 not in allowed networks"),
        DOVECOT_24.format("192.0.2.1", "allow_nets check failed: IP 192.0.2.1 not in allowed networks"),
        # Invented lines.
        "mail.our.test dovecot[5351]: managesieve-login: Login aborted: Connection closed (auth failed, 1 attempts) "
        "(auth_failed): user=<auth: plain(?,192.0.2.1,<x>): Password mismatch>, method=PLAIN, rip=192.0.2.2",
        "mail.our.test filter-message[1]: failed login from 192.0.2.1 failed login from 192.0.2.2",
        "mail.our.test smtpd[1]: message: failed login from 192.0.2.1",
    ],
)
def test_what_does_not_count(expressions: list[re.Pattern[str]], line: str) -> None:
    assert who(expressions, line) is None
