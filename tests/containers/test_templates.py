# SPDX-License-Identifier: GPL-3.0-or-later
"""The real daemons of both releases accept and run the rendered templates, with any variables."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from testbed import playbook, units
from testbed.host import Host, Unsafe

PLAYBOOK = Path(__file__).with_name("configure.yml")
PASSWORD = "p:a#s@s \"w'o\\rd {{ü}} %n $x {% if"
DKIMPROXY_CHECK = ["/usr/local/sbin/dkimproxy.out", "--check", "--conf_file=/etc/dkimproxy/dkimproxy_out.conf"]
DAEMONS = ["dkimproxy", "dovecot", "opensmtpd", "rspamd"]
# Where root's own files are, too, the daemons find it.
OWN_CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=vps7.provider.example"
    " -addext subjectAltName=DNS:vps7.provider.example -keyout /root/tls/own.key -out /root/tls/own.pem"
)
HASH = "$6$0123456789abcdef$" + "a" * 86

BASE: dict[str, Any] = {
    "mail_domain": "example.org",
    "mail_accounts": [{"address": "alice@example.org", "password_hash": HASH}],
}
RELAY: dict[str, Any] = {"mail_relay_host": "smtp.provider.example", "mail_relay_username": "me@example.org"}
VARIANTS: dict[str, dict[str, Any]] = {
    "direct delivery": {},
    "relay": {
        **RELAY,
        "mail_relay_password": Unsafe(PASSWORD),
        "dovecot_rspamd": True,
        "dovecot_learn_interval": 8,
        "mail_additional_domains": ["example.net", {"name": "xn--bcher-kva.example", "dkim_selector": "s2026"}],
        "mail_accounts": [
            {"address": "Alice@example.org", "password": Unsafe(PASSWORD), "aliases": ["o'neill@example.net"]},
            {"address": "a.b-c_d=e~f@xn--bcher-kva.example", "password_hash": HASH, "quota": "5G"},
            {"address": "shop@example.org", "password_hash": HASH, "send_only": True, "send_as": ["@example.net"]},
        ],
        "mail_domain_aliases": {"example.net": "example.org"},
        "mail_aliases": {
            "team@example.org": ["alice@example.org", "friend+list@far.example"],
            "@example.net": ["alice@example.org"],
        },
    },
    "own certificate": {
        "mail_hostname": "vps7.provider.example",
        "mail_forward_via": "refuse",
        "mail_tls_mode": "files",
        "opensmtpd_rspamd": False,
        "opensmtpd_received_auth": True,
        "mail_tls_certificate_file": "/root/tls/own.pem",
        "mail_tls_private_key_file": "/root/tls/own.key",
        # The firewall also accepts rules without any limit.
        "opensmtpd_max_connections": 0,
        "opensmtpd_max_inbound_rate": "",
        "opensmtpd_submission_max_connections": 0,
        "opensmtpd_submission_connections_per_minute": 90,
        "dovecot_max_connections": 0,
        "dovecot_connections_per_minute": 0,
    },
    "other options": {
        **RELAY,
        "mail_relay_password": "secret",
        "mail_relay_port": 465,
        "mail_relay_max_connections": 3,
        "mail_relay_max_messages": 7,
        "mail_relay_unsigned_headers": ["date", "content-type"],
        "mail_firewall": False,
        "mail_forward_via": "direct",
        "mail_dkim_selector": "s1",
        "mail_admin_address": "admin@far.example",
        "opensmtpd_max_message_size": "10485760",
        "opensmtpd_max_recipients": 50,
        "opensmtpd_max_mails": 7,
        "opensmtpd_from_policy": "domain",
        "opensmtpd_queue_ttl": "12h",
        "opensmtpd_ip_versions": [4],
        "mail_dns_nameservers": ["192.0.2.53"],
        "dns_interval": 90,
        "dns_second_look": 5,
        "dns_records": ["em1.example.org. CNAME u1.provider.example."],
        "smtp_relay_retry_interval": 7,
        "status_watch_interval": 9,
        "status_patience": 12,
        "dovecot_mail_dir": "/srv/mail",
        "dovecot_junk_header": "X-Junk",
        "dovecot_imap_sessions": 40,
        "dovecot_imap_sessions_per_user": 4,
        "dovecot_quota": "3G",
        "dovecot_quota_grace": "10M",
        "dovecot_full_text_search": False,
        "dovecot_compression": "lz4",
        "dovecot_learn_spam": False,
        "mail_dkim_published_selectors": ["s2"],
        "dkimproxy_from_policy": "domain",
        "dkimproxy_ed25519": True,
        "dkimproxy_signature_lifetime": 864000,
        "dkimproxy_foreign_from": "rewrite",
        "rspamd_reject_score": 12.5,
        "rspamd_add_header_score": 5,
        "rspamd_greylist_score": 3.5,
        "rspamd_greylisting": False,
        "rspamd_greylisting_delay": 60,
        "rspamd_nameservers": ["198.51.100.53", "2001:db8::53"],
        "rspamd_external_checks": False,
        "rspamd_resolver": "none",
        "rspamd_own_domains_action": "junk",
        "rspamd_dmarc_reject_action": "none",
        "rspamd_trusted_forwarders": ["lists.example"],
        "rspamd_rate_limits": {"to_ip": {"burst": 50, "rate": "30 / 1m"}},
        "rspamd_bayes_per_user": True,
        "rspamd_bayes_autolearn": False,
        "rspamd_dmarc_reports": True,
        "rspamd_redis_maxmemory": "64mb",
        "rspamd_controller_password_hash": "$2$" + "y" * 26 + "$" + "b" * 52,
    },
}
# Evidence that the variables have taken effect: a command on the host, a part of its output.
SHOWS: dict[str, list[tuple[str, str]]] = {
    "direct delivery": [
        ("cat /etc/opensmtpd/relay.conf", 'action "SEND" relay helo "mail.example.org"'),
        ("cat /etc/smtpd.conf", "filter-rspamd"),
        ("cat /etc/smtpd.conf", f'smtp max-message-size "{50 * 2**20 + 65536}"'),
        ("doveconf -n", "/etc/selfhosted-mail/tls/fullchain.pem"),
        ("rspamadm configdump actions", "reject = 15"),
    ],
    "relay": [
        ("cat /etc/opensmtpd/relay.conf", "smtp+tls://relay@smtp.provider.example:587"),
        ("cat /etc/opensmtpd/relay_credentials", f"relay me@example.org:{PASSWORD}\n"),
        ("stat -c %a:%U:%G /etc/opensmtpd/relay_credentials", "640:root:opensmtpd"),
        ("cat /etc/selfhosted-mail/domains", "xn--bcher-kva.example\n"),
        ("cat /etc/selfhosted-mail/virtuals", "team@example.net alice@example.org, friend+list@far.example\n"),
        ("cat /etc/selfhosted-mail/senders", "shop@example.org shop@example.org, @example.net, shop@example.net\n"),
        ("cat /etc/selfhosted-mail/closed", "shop@example.net\nshop@example.org\n"),
        ("ls /etc/dkimproxy/keys", "xn--bcher-kva.example.s2026.pem"),
        ("grep mta.limit /etc/opensmtpd/relay.conf", "max-conn-per-host 10 "),
        ("ls /etc/selfhosted-mail/nftables", "dkimproxy.nft\ndovecot.nft\nopensmtpd.nft\nrspamd.nft\n"),
        ("grep Inactive /etc/systemd/system/selfhosted-mail-learn.timer", "OnUnitInactiveSec=8s"),
    ],
    "own certificate": [
        ("cat /etc/smtpd.conf", 'pki "vps7.provider.example" cert "/etc/selfhosted-mail/tls/fullchain.pem"'),
        ("readlink -f /etc/selfhosted-mail/tls/fullchain.pem", "/root/tls/own.pem"),
        ("readlink -f /etc/selfhosted-mail/tls/privkey.pem", "/root/tls/own.key"),
        ("cat /etc/smtpd.conf", 'match tag "INBOUND" from local for any reject'),
        ("cat /etc/smtpd.conf", 'match tag "REDIRECT" from any for any reject'),
        ("grep TRUSTED.*auth /etc/smtpd.conf", " mask-src received-auth filter "),
        ("cat /etc/selfhosted-mail/nftables/opensmtpd.nft", "limit rate over 90/minute"),
        # sed ends with 1 where it finds the word.
        ("sed /ct.count/Q1 /etc/selfhosted-mail/nftables/opensmtpd.nft", "chain"),
        ("sed /dport/Q1 /etc/selfhosted-mail/nftables/dovecot.nft", "chain"),
        ("ls /etc/dkimproxy/keys", "vps7.provider.example.mail.pem"),
    ],
    "other options": [
        ("cat /etc/opensmtpd/relay.conf", " session-mail-max 7 "),
        ("cat /etc/dkimproxy/dkimproxy_out.conf", "unsigned  date, content-type\n"),
        ("cat /etc/opensmtpd/relay.conf", "smtps://relay@smtp.provider.example:465"),
        ("grep FORWARD.*relay /etc/opensmtpd/relay.conf", 'action "FORWARD" relay helo "mail.example.org" srs'),
        ("doveconf -n", "/srv/mail"),
        ("grep filter-message /etc/smtpd.conf", " --messages 7 --from-policy domain"),
        ("grep Inactive /etc/systemd/system/selfhosted-mail-retry.timer", "OnUnitInactiveSec=7s"),
        ("grep Inactive /etc/systemd/system/selfhosted-mail-watch.timer", "OnUnitInactiveSec=9s"),
        ("cat /etc/systemd/system/selfhosted-mail-watch.service", "--patience 12"),
        ("doveconf -n", "lz4"),
        ("sed /fts_/Q1 /etc/dovecot/dovecot.conf", "dovecot"),
        ("rspamadm configdump actions", "reject = 12.5"),
        ("rspamadm configdump ratelimit", "30 / 1m"),
        ("rspamadm configdump arc", "lists.example"),
        ("grep mta.limit /etc/opensmtpd/relay.conf", "max-conn-per-host 3 "),
        # Without the firewall its rules are gone.
        ("find /etc/selfhosted-mail/nftables -empty", "/etc/selfhosted-mail/nftables"),
        ("ls /etc/dkimproxy/keys", "example.org.s1-ed25519.pem\nexample.org.s1.pem\nexample.org.s2-ed25519.pem\n"),
        ("grep foreign /etc/dkimproxy/dkimproxy_out.conf", "rewrite"),
        ("cat /etc/selfhosted-mail/virtuals", "postmaster@example.org admin@far.example"),
        ("cat /etc/smtpd.conf", "\nmta limit inet4\n"),
        ("cat /etc/selfhosted-mail/dns.json", '"192.0.2.53"'),
        ("cat /etc/systemd/system/selfhosted-mail-dns.timer", "Unit=selfhosted-mail-dns@5.service\n"),
        ("cat /etc/systemd/system/selfhosted-mail-dns.timer", "OnUnitInactiveSec=90s\n"),
        ("/usr/local/lib/selfhosted-mail/prove-dns --zones", "u1.provider.example."),
    ],
}
# A broken file that a role's daemon reads, and the variable with which the role is then run.
BROKEN: list[tuple[str, str, str, dict[str, Any]]] = [
    ("opensmtpd", "/etc/opensmtpd/srs.conf", "/etc/smtpd.conf", {"opensmtpd_queue_ttl": "2d"}),
    (
        "dkimproxy",
        "/etc/dkimproxy/keys/example.org.s1.pem",
        "/etc/dkimproxy/dkimproxy_out.conf",
        {"mail_dkim_selector": "s1", "mail_additional_domains": ["example.com"]},
    ),
    ("rspamd", "/etc/rspamd/local.d/mx_check.conf", "/etc/rspamd/local.d/actions.conf", {"rspamd_reject_score": 20}),
]


def configured(host: Host, variables: dict[str, Any], fails: bool = False) -> playbook.Run:
    return host.playbook(PLAYBOOK, {**BASE, **variables}, fails)


def checkers(host: Host, rspamd: bool) -> list[str]:
    """Errors of the daemons' own checkers for the installed configuration; empty if they accept it."""
    commands = [
        ["smtpd", "-n", "-f", "/etc/smtpd.conf"],
        ["doveconf", "-n", "-x"],
        DKIMPROXY_CHECK,
        *([["rspamadm", "configtest"]] if rspamd else []),
    ]
    done = [(command, host.run(*command)) for command in commands]
    return [f"{' '.join(command)}: {result.stdout}{result.stderr}" for command, result in done if result.returncode]


@pytest.fixture(scope="module", autouse=True)
def own_certificate(hosts: dict[str, Host]) -> None:
    for host in hosts.values():
        host.says("mkdir", "-m", "0700", "/root/tls")
        host.says(*OWN_CERTIFICATE.split())


def waiting(host: Host) -> list[str]:
    """Daemons that do not start without the firewall."""
    shown = {daemon: host.says("systemctl", "show", "-p", "Wants,ExecStartPre", daemon) for daemon in DAEMONS}
    return [daemon for daemon, text in shown.items() if text.count("selfhosted-mail-nftables.service") > 1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_daemons_accept(hosts: dict[str, Host], variant: str) -> None:
    variables = VARIANTS[variant]
    firewall = variables.get("mail_firewall", True)
    with ThreadPoolExecutor() as pool:
        if not firewall:
            # The first role removes it for all daemons.
            list(pool.map(lambda host: configured(host, {**variables, "roles_here": ["dovecot"]}), hosts.values()))
            assert [waiting(host) for host in hosts.values()] == [[], []]
        list(pool.map(lambda host: configured(host, variables), hosts.values()))
    for host in hosts.values():
        assert host.says("systemctl", "is-active", *DAEMONS).split() == ["active"] * len(DAEMONS), host.release
        assert waiting(host) == (DAEMONS if firewall else []), host.release
        assert checkers(host, rspamd=variables.get("opensmtpd_rspamd", True)) == [], host.release
        assert units.too_exposed(host.name, {}) == {}, host.release
        for command, shown in SHOWS[variant]:
            assert shown in host.says(*command.split()), f"{host.release}: {command}"


def refused(host: Host, role: str, broken: str, ours: str, variables: dict[str, Any]) -> None:
    """Run the role with ``broken`` broken; its daemon names that file, and ``ours`` stays what it was."""
    whole = host.run("cat", broken).stdout
    before = host.says("stat", "-c", "%Y %s %a", ours), host.says("sha256sum", ours)
    host.write(broken, "section {\n")
    done = configured(host, {**variables, "roles_here": [role]}, fails=True)
    assert Path(broken).name in done.output, done.output[-3000:]
    assert (host.says("stat", "-c", "%Y %s %a", ours), host.says("sha256sum", ours)) == before, host.release
    if whole:
        host.write(broken, whole)
    else:
        host.says("rm", broken)


@pytest.mark.parametrize(("role", "broken", "ours", "variables"), BROKEN, ids=[item[0] for item in BROKEN])
def test_what_a_daemon_does_not_accept_replaces_nothing(
    hosts: dict[str, Host], role: str, broken: str, ours: str, variables: dict[str, Any]
) -> None:
    """Runs after the variants, whose last configuration is in place."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda host: refused(host, role, broken, ours, variables), hosts.values()))
