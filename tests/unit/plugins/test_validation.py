# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input gets one sentence that begins with the variable's name; good input gets none."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.mail.plugins.module_utils import address_book
from ansible_collections.selfhosted.mail.plugins.plugin_utils import validation
from ansible_collections.selfhosted.mail.plugins.plugin_utils.validation import problems
from hypothesis import given
from hypothesis import strategies as st

HASH = "$6$0123456789abcdef$" + "a" * 86
SECRET = "hunter2-hunter2"

GOOD: dict[str, Any] = {
    "mail_domain": "example.org",
    "mail_hostname": "mail.example.org",
    "mail_dkim_selector": "mail",
    "mail_dkim_published_selectors": ["next"],
    "mail_additional_domains": [
        "example.net",
        {"name": "example.com", "dkim_selector": "s2026", "dkim_published_selectors": ["s2027"]},
    ],
    "dkimproxy_ed25519": True,
    "dkimproxy_signature_lifetime": 0,
    "dkimproxy_senders_file": "/etc/selfhosted-mail/senders",
    "dkimproxy_config_file": "",
    "dkimproxy_legacy": "error",
    "mail_relay_host": "smtp.provider.example",
    "mail_relay_port": 587,
    "mail_relay_unsigned_headers": ["Date"],
    "mail_relay_max_connections": "10",
    "mail_relay_max_messages": 100,
    "mail_relay_tls": "starttls",
    "mail_relay_username": "me@example.org",
    "mail_relay_password": "p:a#s@s \"w'o\\r{{d",
    "mail_relay_spf": "include:spf.provider.example",
    "mail_accounts": [
        {"address": "alice@example.org", "password_hash": HASH, "aliases": ["info@example.org"], "quota": "5G"},
        {"address": "robot@example.org", "password_hash": HASH, "recipients_per_hour": "0"},
        {"address": "bob@example.net", "password": "pässwörd", "enabled": True, "sieve": "keep;\n"},
        {
            "address": "shop@example.org",
            "password_hash": HASH,
            "send_only": True,
            "send_as": ["News@example.org", "@example.net"],
        },
    ],
    "mail_aliases": {
        "team@example.org": ["alice@example.org", "bob+list@example.net", "friend@far.example"],
        "chief@example.org": ["team@example.org"],
        "@example.com": ["alice@example.org"],
        "cron@example.org": ["root@mail.example.org"],
        "any@example.org": ["whatever@example.com"],
        "twin@example.org": ["bob@example.net", "team@example.com"],
        "shop@example.org": ["alice@example.org"],
    },
    "mail_domain_aliases": {"example.com": "example.org"},
    "mail_forward_via": "relay",
    "mail_admin_address": "info@example.org",
    "mail_tls_mode": "selfsigned",
    "mail_tls_certificate_file": "",
    "mail_tls_private_key_file": "",
    "mail_dmarc_policy": "none",
    "mail_dmarc_rua": "",
    "mail_dmarc_ruf": "reports@far.example",
}
FILES = {
    "mail_tls_mode": "files",
    "mail_tls_certificate_file": "/etc/ssl/mail.pem",
    "mail_tls_private_key_file": "/etc/ssl/mail.key",
}
BACKUP = {"mail_backup_repository": "/srv/backup", "mail_backup_password": "secret"}
OVH = {"mail_acme_dns_provider": "ovh"}
ALICE: dict[str, Any] = {"address": "alice@example.org", "password_hash": HASH}


def accounts(*more: Any, **changed: Any) -> dict[str, Any]:
    nothing = {"mail_aliases": {}, "mail_admin_address": "", "mail_domain_aliases": {}}
    return {"mail_accounts": [{**ALICE, **changed}, *more], **nothing}


BAD: list[tuple[str, dict[str, Any], str]] = [
    # variable named, what differs from GOOD, a part of the sentence
    ("mail_domain", {"mail_domain": ""}, "domain name such as"),
    ("mail_domain", {"mail_domain": "example"}, "domain name such as"),
    ("mail_domain", {"mail_domain": "exam ple.org"}, "domain name such as"),
    ("mail_domain", {"mail_domain": "198.51.100.7"}, "domain name such as"),
    ("mail_domain", {"mail_domain": 7}, "domain name such as"),
    ("mail_hostname", {"mail_hostname": "mail"}, "full host name"),
    ("mail_hostname", {"mail_hostname": "mail_1.example.org"}, "full host name"),
    ("mail_hostname", {"mail_hostname": "example.org"}, "must not be a mail domain"),
    ("mail_hostname", {"mail_hostname": "Example.NET"}, "must not be a mail domain"),
    ("mail_hostname", {"mail_hostname": "example.com"}, "must not be a mail domain"),
    ("mail_hostname", {"mail_additional_domains": ["example.net", "MAIL.example.org"]}, "must not be a mail domain"),
    ("mail_additional_domains", {"mail_additional_domains": "example.net"}, "must be a list"),
    ("mail_additional_domains", {"mail_additional_domains": ["-x.example"]}, "domain name such as"),
    ("mail_additional_domains", {"mail_additional_domains": [None]}, "domain name such as"),
    ("mail_additional_domains", {"mail_additional_domains": ["example.net", "Example.NET"]}, "given twice"),
    ("mail_additional_domains", {"mail_additional_domains": ["example.org"]}, "given twice"),
    (
        "mail_additional_domains",
        {"mail_additional_domains": [{"name": "example.net", "selector": "a"}]},
        "unknown key 'selector'",
    ),
    (
        "mail_additional_domains",
        {"mail_additional_domains": [{"name": "example.net", "dkim_selector": "a b"}]},
        "DKIM selector",
    ),
    ("mail_dkim_selector", {"mail_dkim_selector": "my selector"}, "DKIM selector"),
    ("mail_dkim_selector", {"mail_dkim_selector": "s" * 64}, "DKIM selector"),
    ("mail_dkim_selector", {"mail_dkim_selector": 2026}, "DKIM selector"),
    ("mail_dkim_published_selectors", {"mail_dkim_published_selectors": "next"}, "must be a list"),
    ("mail_dkim_published_selectors", {"mail_dkim_published_selectors": ["a b"]}, "at most 63 characters, not 'a b'"),
    (
        "mail_additional_domains",
        {"mail_additional_domains": [{"name": "example.net", "dkim_published_selectors": ["_"]}]},
        "dkim_published_selectors of 'example.net': each entry must be a DKIM selector",
    ),
    ("mail_dkim_selector", {"mail_dkim_selector": "a-ed25519"}, "ends in -ed25519"),
    ("mail_dkim_selector", {"mail_dkim_selector": "s" * 56}, "too long"),
    ("mail_dkim_published_selectors", {"mail_dkim_published_selectors": ["a-ed25519"]}, "ends in -ed25519"),
    (
        "mail_additional_domains",
        {"mail_additional_domains": [{"name": "example.net", "dkim_selector": "a-ed25519"}]},
        "ends in -ed25519",
    ),
    ("dkimproxy_signature_lifetime", {"dkimproxy_signature_lifetime": -1}, "must be a whole number from 0 to"),
    ("dkimproxy_senders_file", {"dkimproxy_senders_file": "senders"}, "must be an absolute path"),
    ("dkimproxy_senders_file", {"dkimproxy_senders_file": "/etc/my senders"}, "must be an absolute path"),
    ("dkimproxy_legacy", {"dkimproxy_legacy": "ignore"}, "without dkimproxy_config_file"),
    ("mail_relay_host", {"mail_relay_host": "198.51.100.25"}, "must be a full host name"),
    ("mail_relay_host", {"mail_relay_host": "smtp provider"}, "must be a full host name"),
    ("mail_relay_port", {"mail_relay_port": 0}, "must be a whole number from 1 to 65535"),
    ("mail_relay_max_connections", {"mail_relay_max_connections": 0}, "must be a whole number from 1 to 100"),
    ("mail_relay_max_connections", {"mail_relay_max_connections": 101}, "must be a whole number from 1 to 100"),
    ("mail_relay_max_messages", {"mail_relay_max_messages": 0}, "must be a whole number from 1 to 100000"),
    ("mail_relay_unsigned_headers", {"mail_relay_unsigned_headers": "date"}, "must be a list"),
    ("mail_relay_unsigned_headers", {"mail_relay_unsigned_headers": ["date", "From"]}, "other than From, which must"),
    ("mail_relay_unsigned_headers", {"mail_relay_unsigned_headers": ["date:"]}, "must be the name of a header field"),
    ("mail_relay_unsigned_headers", {"mail_relay_unsigned_headers": [5]}, "must be the name of a header field"),
    ("mail_relay_max_connections", {"mail_relay_max_connections": "many"}, "must be a whole number from 1 to 100"),
    ("mail_relay_port", {"mail_relay_port": 65536}, "must be a whole number from 1 to 65535"),
    ("mail_relay_port", {"mail_relay_port": "smtp"}, "must be a whole number from 1 to 65535"),
    ("mail_relay_port", {"mail_relay_port": -587}, "must be a whole number from 1 to 65535"),
    ("mail_relay_tls", {"mail_relay_tls": "none"}, "must be one of starttls, smtps, not 'none'"),
    ("mail_relay_username", {"mail_relay_username": ""}, "is required if mail_relay_host is set"),
    ("mail_relay_username", {"mail_relay_username": "a:b"}, "colon"),
    ("mail_relay_username", {"mail_relay_username": 4711}, "a text in quotes"),
    ("mail_relay_password", {"mail_relay_password": ""}, "is required if mail_relay_host is set"),
    ("mail_relay_password", {"mail_relay_password": f"{SECRET}\n"}, "printable"),
    ("mail_relay_password", {"mail_relay_password": f"{SECRET} "}, "without a space at the end"),
    ("mail_relay_password", {"mail_relay_password": 123456}, "a text in quotes"),
    ("mail_relay_password", {"mail_relay_password": SECRET * 40}, "at most 500 bytes"),
    ("mail_relay_spf", {"mail_relay_spf": "v=spf1 include:spf.provider.example -all"}, "must be SPF terms"),
    ("mail_relay_spf", {"mail_relay_spf": "include:a.example -all"}, "must be SPF terms"),
    ("mail_relay_spf", {"mail_relay_spf": ["include:a.example"]}, "must be SPF terms"),
    ("mail_accounts", {"mail_accounts": []}, "at least one account"),
    ("mail_accounts", {"mail_accounts": "alice@example.org"}, "at least one account"),
    ("mail_accounts", accounts({"password_hash": HASH}), "entry 2 has no address"),
    ("mail_accounts", accounts("bob@example.org"), "entry 2 has no address"),
    ("mail_accounts", accounts({"address": "bob", "password_hash": HASH}), "'bob' must have the form name@domain"),
    ("mail_accounts", accounts({"address": "bob+x@example.org", "password_hash": HASH}), "must have the form name@"),
    ("mail_accounts", accounts({"address": "bücher@example.org", "password_hash": HASH}), "must have the form name@"),
    ("mail_accounts", accounts({"address": "bob@far.example", "password_hash": HASH}), "outside the mail domains"),
    ("mail_accounts", accounts({"address": "Alice@Example.org", "password_hash": HASH}), "given twice"),
    (
        "mail_accounts",
        accounts({"address": "bob@example.org", "password_hash": HASH, "aliases": ["alice@example.org"]}),
        "given twice",
    ),
    ("mail_accounts", accounts(aliases=["x@far.example"]), "outside the mail domains"),
    ("mail_accounts", accounts(aliases=["Mail-Proof@example.org"]), "the name mail-proof is reserved"),
    ("mail_accounts", accounts(aliases="info@example.org"), "aliases of alice@example.org must be a list"),
    ("mail_accounts", accounts(aliases=["info"]), "'info' must have the form name@domain"),
    ("mail_accounts", accounts(password_hash=""), "needs password_hash, or password"),
    ("mail_accounts", accounts(password=SECRET), "both password and password_hash"),
    ("mail_accounts", accounts(password_hash=SECRET), "must be a complete crypt(5) hash"),
    ("mail_accounts", accounts(password_hash=f"{HASH}:x"), "must be a complete crypt(5) hash"),
    ("mail_accounts", accounts(password_hash=f"$6$a;b${'a' * 86}"), "must be a complete crypt(5) hash"),
    ("mail_accounts", accounts(password_hash=f"$6$a\\b${'a' * 86}"), "must be a complete crypt(5) hash"),
    ("mail_accounts", accounts(password_hash=None, password=f"{SECRET}\n"), "printable"),
    ("mail_accounts", accounts(password_hash=None, password=123456), "or password: a text in quotes"),
    ("mail_accounts", accounts(quota="much"), "quota of alice@example.org must be a size such as 500M"),
    ("mail_accounts", accounts(sieve=["keep;"]), "sieve of alice@example.org must be the text"),
    ("mail_accounts", accounts(sieve=" "), "sieve of alice@example.org must be the text"),
    ("mail_accounts", accounts(quota=0), "quota of alice@example.org must be a size such as 500M or 5G, not 0"),
    ("mail_accounts", accounts(passwort="x"), "unknown key 'passwort'"),
    ("mail_aliases", {"mail_aliases": ["team@example.org"]}, "mapping"),
    ("mail_aliases", {"mail_aliases": {"team@example.org": []}}, "must be a list of addresses"),
    ("mail_aliases", {"mail_aliases": {"team@example.org": "alice@example.org"}}, "must be a list of addresses"),
    ("mail_aliases", {"mail_aliases": {"team@example.org": ["carol@example.org"]}}, "carol@example.org, which is"),
    ("mail_aliases", {"mail_aliases": {"team@example.org": ["carol@mail.example.org"]}}, "which is neither"),
    ("mail_aliases", {"mail_aliases": {"team@example.org": ["alice"]}}, "not a mail address"),
    ("mail_aliases", {"mail_aliases": {"team@example.org": ["|/bin/sh@example.org"]}}, "not a mail address"),
    ("mail_aliases", {"mail_aliases": {"team": ["alice@example.org"]}}, "'team' must have the form name@domain"),
    ("mail_aliases", {"mail_aliases": {"team@far.example": ["alice@example.org"]}}, "outside the mail domains"),
    (
        "mail_aliases",
        {"mail_aliases": {"mail-proof@example.org": ["alice@example.org"]}},
        "the name mail-proof is reserved",
    ),
    (
        "mail_aliases",
        {"mail_aliases": {"@far.example": ["alice@example.org"]}},
        "catch-all of a domain that is not a mail domain",
    ),
    ("mail_aliases", {"mail_aliases": {"Alice@example.org": ["bob@example.net"]}}, "also an address of the account"),
    (
        "mail_aliases",
        {"mail_aliases": {"a@example.org": ["bob@example.net"], "A@example.org": ["bob@example.net"]}},
        "given twice",
    ),
    (
        "mail_aliases",
        {"mail_aliases": {"a@example.org": ["b@example.org"], "b@example.org": ["a@example.org"]}},
        "a@example.org -> b@example.org -> a@example.org is a loop",
    ),
    ("mail_aliases", {"mail_aliases": {"a@example.org": ["a@example.org"]}}, "a loop"),
    ("mail_aliases", {"mail_aliases": {"a@example.org": ["a@example.com"]}}, "-> a@example.org is a loop"),
    ("mail_aliases", {"mail_aliases": {"@example.net": ["x@example.net"]}}, "a loop"),
    (
        "mail_aliases",
        {"mail_aliases": {"ops@example.org": ["root@mail.example.org"]}, "mail_admin_address": "ops@example.org"},
        "ops@example.org -> root@mail.example.org -> ops@example.org is a loop",
    ),
    ("mail_aliases", {"mail_aliases": {"root@example.org": ["root@example.com"]}}, "-> root@example.org is a loop"),
    (
        "mail_aliases",
        {"mail_forward_via": "refuse"},
        "team@example.org forwards to the external address friend@far.example",
    ),
    ("mail_forward_via", {"mail_forward_via": "maybe"}, "must be one of relay, direct, refuse"),
    ("mail_forward_via", {"mail_relay_host": ""}, "if mail_relay_host is empty"),
    ("mail_domain_aliases", {"mail_domain_aliases": ["example.com"]}, "must be a mapping"),
    ("mail_domain_aliases", {"mail_domain_aliases": {"far.example": "example.org"}}, "additional_domains"),
    ("mail_domain_aliases", {"mail_domain_aliases": {"example.com": "far.example"}}, "additional_domains"),
    (
        "mail_domain_aliases",
        {"mail_domain_aliases": {"example.com": "example.net", "example.net": "example.org"}},
        "which is an alias too",
    ),
    ("mail_accounts", accounts(enabled="perhaps"), "enabled of alice@example.org must be true or false, not 'perhaps'"),
    ("mail_accounts", accounts(enabled=False), "no account receives mail"),
    ("mail_accounts", accounts(send_as="x@example.org"), "send_as of alice@example.org must be a list"),
    ("mail_accounts", accounts(send_as=["x@far.example"]), "outside the mail domains"),
    ("mail_accounts", accounts(send_as=["@far.example"]), "which is not a mail domain"),
    ("mail_accounts", accounts(sieve=["keep;"]), "sieve of alice@example.org must be the text"),
    ("mail_accounts", accounts(recipients_per_hour="many"), "recipients_per_hour of alice@example.org must be a whole"),
    ("mail_accounts", accounts(password_hash=HASH[:-1]), "must be a complete crypt(5) hash"),
    ("mail_accounts", accounts(password_hash="$1$abcdefgh$" + "a" * 22), "must be a complete crypt(5) hash"),
    ("mail_accounts", accounts(password_hash=f"{{SHA512-CRYPT}}{HASH}"), "without {SCHEME}"),
    ("mail_admin_address", {"mail_admin_address": "shop@example.org", "mail_aliases": {}}, "receives no mail"),
    ("mail_admin_address", {"mail_admin_address": "root"}, "must be a mail address"),
    ("mail_admin_address", {"mail_admin_address": "Root@Mail.example.org"}, "is at mail_hostname"),
    (
        "mail_admin_address",
        {"mail_admin_address": "Left@example.org", "mail_aliases": {"left@example.org": ["shop@example.org"]}},
        "forwards to no account that receives mail",
    ),
    ("mail_admin_address", {"mail_admin_address": "carol@example.org"}, "neither an account nor an alias"),
    ("mail_tls_mode", {"mail_tls_mode": "letsencrypt"}, "must be one of selfsigned, acme, files"),
    ("mail_acme_directory", {"mail_acme_directory": "http://acme.example/directory"}, "https://acme.example/directory"),
    ("mail_acme_directory", {"mail_acme_directory": ""}, "must be an address"),
    ("mail_acme_ca_file", {"mail_acme_ca_file": "ca.pem"}, "an absolute path"),
    ("mail_acme_dns_provider", {"mail_acme_dns_provider": "hetzler"}, "lego's name of a DNS provider"),
    ("mail_acme_dns_provider", {"mail_acme_dns_provider": "manual"}, "other than manual"),
    ("mail_acme_dns_provider", {"mail_acme_dns_provider": ["ovh"]}, "lego's name of a DNS provider"),
    ("mail_acme_dns_environment", {"mail_acme_dns_environment": "X=y"}, "must be a mapping"),
    (
        "mail_acme_dns_environment",
        {"mail_acme_dns_environment": {"X": "y"}, "mail_acme_dns_provider": ""},
        "needs mail_acme_dns_provider",
    ),
    ("mail_acme_dns_environment", {**OVH, "mail_acme_dns_environment": {"ovh_key": "y"}}, "in capitals"),
    ("mail_acme_dns_environment", {**OVH, "mail_acme_dns_environment": {"OVH_KEY": "a\nb"}}, "OVH_KEY must be a text"),
    ("mail_acme_dns_environment", {**OVH, "mail_acme_dns_environment": {"OVH_KEY": ["a"]}}, "OVH_KEY must be a text"),
    ("mail_backup_repository", {**BACKUP, "mail_backup_repository": "backup"}, "a restic repository, such as"),
    (
        "mail_backup_repository",
        {**BACKUP, "mail_backup_repository": "rest:http://a\nb"},
        "a restic repository, such as",
    ),
    ("mail_backup_password", {**BACKUP, "mail_backup_password": ""}, "is required if mail_backup_repository is set"),
    ("mail_backup_password", {**BACKUP, "mail_backup_password": 12}, "a text in quotes"),
    (
        "mail_backup_environment",
        {**BACKUP, "mail_backup_environment": {"aws": "y"}},
        "an environment variable of restic",
    ),
    ("mail_backup_keep", {**BACKUP, "mail_backup_keep": {"days": 7}}, "one of last, hourly, daily"),
    ("mail_backup_keep", {**BACKUP, "mail_backup_keep": {"daily": 0}}, "'daily' must be a whole number"),
    ("mail_backup_keep", {**BACKUP, "mail_backup_keep": 7}, "must be a mapping"),
    ("mail_restore_snapshot", {"mail_restore_snapshot": "newest"}, "latest or the id of a snapshot"),
    ("mail_restore_mailbox", {"mail_restore_mailbox": "alice"}, "a mail address"),
    ("mail_tls_certificate_file", {**FILES, "mail_tls_certificate_file": ""}, "an absolute path"),
    ("mail_tls_certificate_file", {**FILES, "mail_tls_certificate_file": "mail.pem"}, "an absolute path"),
    ("mail_tls_private_key_file", {**FILES, "mail_tls_private_key_file": None}, "is empty (null)"),
    ("mail_tls_private_key_file", {**FILES, "mail_tls_private_key_file": '/etc/ssl/my "key"'}, "without spaces,"),
    (
        "mail_tls_private_key_file",
        {**FILES, "mail_tls_private_key_file": "/etc/selfhosted-mail/tls/privkey.pem"},
        "must be the file itself",
    ),
    ("mail_dmarc_policy", {"mail_dmarc_policy": "drop"}, "must be one of none, quarantine, reject"),
    ("mail_dmarc_rua", {"mail_dmarc_rua": "mailto:a@example.org"}, "must be a mail address"),
    ("mail_dmarc_ruf", {"mail_dmarc_ruf": "me"}, "must be a mail address"),
]


ROLES: list[tuple[str, Any, str]] = [
    # variable, a wrong value, a part of the sentence
    *(
        (name, "perhaps", "must be true or false, not 'perhaps'")
        for name in ("mail_firewall", "dkimproxy_ed25519", "dovecot_learn_spam", "opensmtpd_rspamd", "rspamd_wait")
    ),
    *(
        (name, -1, "must be a whole number from 0")
        for name in (
            "dovecot_connections_per_minute",
            "dovecot_max_connections",
            "mail_recipients_per_hour",
            "opensmtpd_max_connections",
            "opensmtpd_submission_connections_per_minute",
            "opensmtpd_submission_max_connections",
            "rspamd_greylisting_delay",
        )
    ),
    *(
        (name, 0, "must be a whole number from 1")
        for name in (
            "dovecot_imap_sessions",
            "dovecot_imap_sessions_per_user",
            "dovecot_learn_interval",
            "opensmtpd_max_mails",
            "opensmtpd_max_recipients",
            "smtp_relay_retry_interval",
            "dns_interval",
            "dns_resolver_port",
            "dns_second_look",
            "rspamd_bayes_min_learns",
            "status_patience",
            "status_watch_interval",
        )
    ),
    ("opensmtpd_max_recipients", "many", "must be a whole number"),
    ("opensmtpd_max_recipients", True, "must be a whole number"),
    ("opensmtpd_max_recipients", [1], "must be a whole number from 1 to 1000000000, not a list"),
    ("opensmtpd_max_message_size", "50 MB", "must be a size"),
    ("opensmtpd_max_message_size", 0, "must be a size"),
    ("opensmtpd_max_inbound_memory", "much", "must be a size"),
    ("opensmtpd_max_inbound_rate", "2M/s", "must be a size"),
    ("opensmtpd_max_inbound_memory", "199M", "must be at least four times opensmtpd_max_message_size"),
    ("opensmtpd_ip_versions", [], "must be [4], [6] or [4, 6], not a list"),
    ("opensmtpd_ip_versions", [5], "must be [4], [6] or [4, 6], not a list"),
    ("opensmtpd_ip_versions", 4, "must be [4], [6] or [4, 6], not 4"),
    ("mail_dns_nameservers", ["ns.example.org"], "each entry must be an IP address"),
    ("dns_resolver", "localhost", "must be an IP address"),
    ("dns_records", "em1.example.org. CNAME u1.provider.example.", "must be a list"),
    ("dns_records", ["em1.example.org CNAME u1.provider.example."], "each entry must be a CNAME, MX or TXT record"),
    ("dns_records", ["em1.example.org. CNAME u1.provider.example"], "each entry must be a CNAME, MX or TXT record"),
    ("dns_records", ["em1.example.org. A 192.0.2.1"], "each entry must be a CNAME, MX or TXT record"),
    ("dns_records", ['em1.example.org. TXT "a\nb"'], "each entry must be a CNAME, MX or TXT record"),
    ("dns_records", [f'em1.example.org. TXT "{256 * "a"}"'], "each entry must be a CNAME, MX or TXT record"),
    (
        "dns_records",
        ["em1.far.example. CNAME u1.provider.example."],
        "em1.far.example is outside the zones (example.org",
    ),
    ("opensmtpd_queue_ttl", "4 days", "must be a number with s, m, h or d"),
    ("opensmtpd_queue_ttl", 4, "must be a number with s, m, h or d"),
    ("smtp_relay_probe", False, "must be one of warn, require, off"),
    ("accounts_mail_dir", "vmail", "must be an absolute path"),
    ("dovecot_mail_dir", "/var/my mail", "must be an absolute path"),
    ("dovecot_junk_header", "X Spam", "must be the name of a header"),
    ("dovecot_quota", "much", "must be a size"),
    ("dovecot_quota_grace", "", "must be a size"),
    ("dovecot_compression", "gzip", "must be one of none, lz4, zstd"),
    ("dovecot_imap_sessions_per_user", 501, "must not be above dovecot_imap_sessions"),
    ("bans_max_seconds", 599, "must not be below bans_seconds"),
    *(
        (name, "drop", "must be one of reject, junk, none")
        for name in ("rspamd_own_domains_action", "rspamd_dmarc_reject_action", "rspamd_dmarc_quarantine_action")
    ),
    ("rspamd_trusted_forwarders", ["list example"], "each entry must be a domain name"),
    ("rspamd_trusted_forwarders", "lists.example", "must be a list"),
    *(
        (name, value, "must be a number above 0")
        for name in ("rspamd_greylist_score", "rspamd_add_header_score", "rspamd_reject_score")
        for value in (0, -1, "much")
    ),
    ("rspamd_rate_limits", [], "must be a mapping"),
    ("rspamd_rate_limits", {"everyone": {"burst": 5, "rate": "1 / 1m"}}, "must be one of to, to_ip"),
    ("rspamd_rate_limits", {"to": {"burst": 5}}, "'to' must have burst"),
    ("rspamd_rate_limits", {"to": {"burst": 5, "rate": "1 / 1m", "more": 1}}, "'to' must have burst"),
    ("rspamd_rate_limits", {"to": {"burst": "much", "rate": "1 / 1m"}}, "'to' must have burst"),
    ("rspamd_rate_limits", {"to": {"burst": 5, "rate": "1 / minute"}}, "'to' must have burst"),
    ("rspamd_rate_limits", {"to": "5, 1 / 1m"}, "'to' must have burst"),
    ("rspamd_resolver", "dnsmasq", "must be one of auto, unbound, none"),
    *(
        ("mail_trusted_networks", [value], "each entry must be an IP address or a network")
        for value in (
            "192.0.2",
            "192.0.2.7/24",
            "192.0.2.0/33",
            "192.0.2.0/255.255.255.0",
            "2001:db8::7/48",
            "fe80::1%eth0",
            "office.example.org",
            "::/0 accept",
            3221225985,
            None,
            [],
        )
    ),
    ("mail_trusted_networks", "192.0.2.7", "must be a list"),
    ("bans_failures", -1, "must be a whole number from 0"),
    *((name, 0, "must be a whole number from 1") for name in ("bans_window", "bans_seconds", "bans_max_seconds")),
    ("status_bans", "perhaps", "must be true or false"),
    *(
        (name, [value], "each entry must be an IP address")
        for name in ("rspamd_nameservers", "rspamd_resolver_forwarders")
        for value in (
            "256.0.0.1",
            "192.0.2",
            "2001:db8::1::2",
            "fe80::1%eth0",
            "192.0.2.1:53",
            "resolver.example",
            7,
            None,
        )
    ),
    ("rspamd_controller_password_hash", SECRET, "which begins with $1$ or $2$"),
    ("rspamd_redis_maxmemory", "128", "must be a size such as 128mb"),
    ("rspamd_dmarc_reports_from", "postmaster", "must be a mail address"),
    ("rspamd_dmarc_reports_organisation", 5, "must be a text"),
    ("dkimproxy_clients", "opensmtpd", "must be a list"),
    ("dkimproxy_clients", ["open smtpd"], "must be the name of a system user"),
    ("dkimproxy_from_policy", "none", "must be one of account, domain"),
    ("dkimproxy_foreign_from", "keep", "must be one of refuse, rewrite"),
    ("dkimproxy_implementation", "Upstream", "must be one of embedded, upstream"),
    *(
        (name, value, "must be an address and a port")
        for name in ("dkimproxy_listen", "dkimproxy_relay")
        for value in (
            "127.0.0.1",
            "127.0.0.1:0",
            "127.0.0.1:70000",
            "127.0.0.256:1",
            10027,
            "",
            "127.0.0.1:10027\n",
            ":10027",
            "::1:10027",
            "[127.0.0.1]:10027",
            "a b:10027",
        )
    ),
    ("dkimproxy_listen", "198.51.100.7:10027", "must be a loopback address if mail_firewall is true"),
    ("dkimproxy_listen", "localhost:10027", "must be a loopback address if mail_firewall is true"),
    ("mail_dns_output_dir", "", "must be a path"),
    ("mail_hostname", "", "must be a full host name"),
    ("mail_admin_address", "", "must be a mail address"),
    ("mail_required", "mail_domain", "must be a list"),
    ("mail_validate", 2, "must be true or false"),
]


@pytest.mark.parametrize(("variable", "value", "said"), ROLES)
def test_bad_values_of_one_variable(variable: str, value: Any, said: str) -> None:
    [sentence] = problems({**GOOD, variable: value})
    assert sentence.startswith(f"{variable}: ") and said in sentence
    assert SECRET not in sentence


@pytest.mark.parametrize(
    ("settings", "least_that_is_too_much"),
    [
        # As crypt_gensalt(3) writes them, by cost, and further parameters.
        (["$2b$04$", "$2a$10$", "$2y$10$"], "$2b$11$"),
        (["$6$", "$6$rounds=100000$", "$5$rounds=1000$"], "$6$rounds=100001$"),
        (["$5$", "$5$rounds=100000$"], "$5$rounds=100001$"),
        (["$y$j75$", "$y$j85$", "$y$j7T$", "$y$j9T$", "$y$jAT$"], "$y$jBT$"),
        (["$gy$j75$", "$gy$jAT$"], "$gy$jBT$"),
        (["$y$j9T$"], "$y$j9U$"),
        (["$y$j9T$"], "$y$j9T..$"),
        (["$y$j9T$"], "$y$/9T$"),
        (["$7$BU..../....", "$7$A6..../....", "$7$C6..../...."], "$7$CU..../...."),
        (["$7$BU..../...."], "$7$BU....0...."),
        (["$7$BU..../...."], "$7$BU/.../...."),
    ],
)
def test_a_hash_that_would_keep_others_waiting(settings: list[str], least_that_is_too_much: str) -> None:
    lengths = {"2": 53, "5": 43, "6": 86, "y": 43, "g": 43, "7": 43}

    def found(setting: str) -> list[str]:
        hashed = setting + ("" if setting.startswith("$2") else "saltsaltsaltsa..$") + "a" * lengths[setting[1]]
        first, *others = GOOD["mail_accounts"]
        return problems({**GOOD, "mail_accounts": [{**first, "password_hash": hashed}, *others]})

    assert [setting for setting in settings if found(setting)] == []
    [sentence] = found(least_that_is_too_much)
    assert sentence.startswith(
        "mail_accounts: password_hash of alice@example.org takes too long to check, and other mail"
    )
    assert "bcrypt of cost 10" in sentence and "openssl passwd -6" in sentence and "aaaa" not in sentence


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("mail_recipients_per_hour", "0"),
        ("opensmtpd_max_recipients", "500"),
        ("opensmtpd_max_message_size", "50m"),
        ("opensmtpd_max_inbound_memory", "200m"),
        ("opensmtpd_max_inbound_rate", ""),
        ("opensmtpd_max_message_size", 52428800),
        ("opensmtpd_queue_ttl", "90m"),
        ("opensmtpd_ip_versions", [6]),
        ("mail_dns_nameservers", ["192.0.2.1", "2001:db8::1"]),
        ("dns_records", ["em1.example.org. CNAME u1.provider.example.", '_x.example.org. 60 IN TXT "a b" "c;d"']),
        ("dns_records", ["bounce.Example.org. MX 10 feedback-smtp.eu-west-1.amazonses.com."]),
        ("mail_firewall", "no"),
        ("mail_firewall", 1),
        ("dovecot_quota", ""),
        ("dovecot_imap_sessions_per_user", 500),
        ("smtp_relay_probe", "off"),
        ("rspamd_reject_score", 6.5),
        ("rspamd_greylist_score", "5.5"),
        ("rspamd_rate_limits", {"to_ip": {"burst": 50, "rate": "30 / 1m"}, "to": {"rate": "9 / d", "burst": 1.5}}),
        ("rspamd_nameservers", ["192.0.2.1", "2001:db8::1", "::1"]),
        ("mail_trusted_networks", []),
        ("mail_trusted_networks", ["192.0.2.7", "192.0.2.0/24", "2001:db8::7", "2001:DB8::/48", "0.0.0.0/0"]),
        ("bans_failures", 0),
        ("rspamd_controller_password_hash", "$2$abcdefgh$abcdefgh"),
        ("rspamd_controller_password_hash", ""),
        ("rspamd_redis_maxmemory", "1gb"),
        ("rspamd_dmarc_reports_from", ""),
        ("dkimproxy_listen", "[::1]:10027"),
        ("dkimproxy_relay", "hub.example.org:25"),
        ("dkimproxy_relay", "[2001:db8::1]:25"),
        ("accounts_mail_dir", "/srv/mail.d"),
    ],
)
def test_good_values_of_one_variable(variable: str, value: Any) -> None:
    assert problems({**GOOD, variable: value}) == []


@pytest.mark.parametrize(
    "scores",
    [
        {"rspamd_greylist_score": 6},
        {"rspamd_reject_score": 6},
        {"rspamd_greylist_score": 16},
        {"rspamd_greylist_score": 1, "rspamd_add_header_score": 9, "rspamd_reject_score": 8},
    ],
)
def test_scores_of_rspamd_rise(scores: dict[str, Any]) -> None:
    """Those that are not set have the role's defaults."""
    assert problems(scores) == [
        "rspamd_greylist_score: must be below rspamd_add_header_score, and that below rspamd_reject_score"
    ]


def test_no_loopback_address_is_needed_without_the_firewall() -> None:
    assert problems({**GOOD, "mail_firewall": False, "dkimproxy_listen": "198.51.100.7:10027"}) == []


UPSTREAM: dict[str, Any] = {
    "dkimproxy_implementation": "upstream",
    "dkimproxy_listen": "127.0.0.1:10027",
    "dkimproxy_relay": "192.0.2.1:25",
    "dkimproxy_upstream_url": "https://files.example/release.tar.gz",
    "dkimproxy_upstream_archive": "",
    "dkimproxy_ed25519": False,
    "dkimproxy_signature_lifetime": 0,
}


def test_what_upstream_can_do() -> None:
    assert problems(UPSTREAM) == []
    assert problems({"dkimproxy_implementation": "upstream"}) == [], "the others have their defaults"
    archive = {"dkimproxy_upstream_url": "", "dkimproxy_upstream_archive": "release.tar.gz"}
    assert problems({**UPSTREAM, **archive}) == []
    assert problems({**UPSTREAM, "dkimproxy_implementation": "embedded", "dkimproxy_listen": "[::1]:10027"}) == []


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        *(
            (name, value, "must be an IPv4 address")
            for name, value in (
                ("dkimproxy_listen", "[::1]:10027"),
                ("dkimproxy_relay", "[::1]:10028"),
                ("dkimproxy_relay", "localhost:25"),
            )
        ),
        ("dkimproxy_upstream_url", "", "must be an https or http address"),
        ("dkimproxy_upstream_url", "ftp://files.example/release.tar.gz", "must be an https or http address"),
        ("dkimproxy_upstream_url", "release.tar.gz", "must be an https or http address"),
        ("dkimproxy_upstream_archive", 5, "must be a text"),
        ("dkimproxy_ed25519", "yes", "is not supported by DKIMproxy 1.4.1"),
        ("dkimproxy_signature_lifetime", 600, "is not supported by DKIMproxy 1.4.1"),
        ("dkimproxy_foreign_from", "rewrite", "is not supported by DKIMproxy 1.4.1"),
        ("mail_relay_unsigned_headers", ["message-id"], "is not supported by DKIMproxy 1.4.1"),
    ],
)
def test_what_upstream_cannot_do(variable: str, value: Any, said: str) -> None:
    [sentence] = problems({**UPSTREAM, variable: value})
    assert sentence.startswith(f"{variable}: ") and said in sentence


def test_a_configuration_of_the_users_own_is_a_text_on_the_controller(tmp_path: Path) -> None:
    (tmp_path / "own.conf").write_text("listen 127.0.0.1:10027\n")
    (tmp_path / "latin.conf").write_bytes(b"# Schl\xfcssel\n")
    own_file = {**GOOD, "dkimproxy_ed25519": False}
    good = {"dkimproxy_config_file": str(tmp_path / "own.conf"), "dkimproxy_legacy": "ignore"}
    assert problems({**own_file, **good}) == []
    for wrong in (str(tmp_path / "missing.conf"), str(tmp_path / "latin.conf"), str(tmp_path), "\0", 5, ["a"]):
        [sentence] = problems({**own_file, "dkimproxy_config_file": wrong})
        assert sentence.startswith("dkimproxy_config_file: must be a UTF-8 text file on the controller")
    [sentence] = problems({**GOOD, "dkimproxy_config_file": str(tmp_path / "own.conf")})
    assert sentence == "dkimproxy_ed25519: with dkimproxy_config_file, write the second signature into that file"
    [sentence] = problems(
        {**own_file, "dkimproxy_config_file": str(tmp_path / "own.conf"), "dkimproxy_signature_lifetime": 600}
    )
    assert sentence.startswith("dkimproxy_signature_lifetime: with dkimproxy_config_file, write x= into")


def test_nothing_is_said_twice_of_what_is_computed_from_a_wrong_variable() -> None:
    found = problems({"mail_domain": "my_domain.test", "mail_hostname": "mail.my_domain.test"})
    assert [sentence.split(":")[0] for sentence in found] == ["mail_domain"]
    found = problems({**accounts(address="alice"), "mail_admin_address": "alice", "mail_dmarc_rua": "alice"})
    assert [sentence.split(":")[0] for sentence in found] == ["mail_accounts"]


@pytest.mark.parametrize("name", validation.CHECKS)
def test_a_variable_with_nothing_behind_it(name: str) -> None:
    """A template would render it as the word None."""
    instead = "a value" if list(validation.CHECKS[name]("")) else '""'
    assert problems({name: None}) == [f"{name}: is empty (null); write {instead} or remove the line"]


def test_a_key_of_an_account_with_nothing_behind_it_is_not_set() -> None:
    nothing = dict.fromkeys(validation.ACCOUNT_KEYS - {"address", "password_hash"})
    assert problems({**GOOD, **accounts(**nothing), "mail_admin_address": ALICE["address"]}) == []
    assert address_book.takes_mail({**ALICE, **nothing})


def test_what_is_required_is_named() -> None:
    assert problems({}, ["mail_domain", "mail_accounts"]) == ["mail_domain: is required", "mail_accounts: is required"]
    # An empty default is no value.
    [sentence] = problems({"mail_backup_repository": ""}, ["mail_backup_repository"])
    assert sentence == "mail_backup_repository: is required"
    assert problems(GOOD, ["mail_domain", "mail_accounts"]) == []


SES: dict[str, Any] = {
    "mail_relay_host": "email-smtp.eu-west-1.amazonaws.com",
    "mail_relay_username": "AKIA0123456789ABCDEF",
    "mail_relay_password": "B" * 44,
    "mail_forward_via": "direct",
    "dkimproxy_ed25519": False,
}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("mail_relay_username", "me@example.org"),
        ("mail_relay_password", SECRET.ljust(40, "x")),
        ("dkimproxy_ed25519", "yes"),
    ],
)
def test_what_a_known_provider_refuses_is_named(variable: str, value: Any) -> None:
    assert problems({**GOOD, **SES}) == []
    [sentence] = problems({**GOOD, **SES, variable: value})
    assert sentence.startswith(f"{variable}: must ") and "Amazon SES" in sentence and SECRET not in sentence
    elsewhere = {"mail_relay_host": "smtp.provider.example"}
    assert problems({**GOOD, **SES, variable: value, **elsewhere}) == []


@pytest.mark.parametrize(
    ("text", "several"),
    [
        ("domain example.org\nsignature dkim(c=relaxed)\n# signature dkim(a=ed25519-sha256)\n", False),
        ("signature dkim(d=example.org,s=a)\nsignature = dkim(s=b, d=example.net)\n", False),
        ("signature dkim(d=example.org,s=a)\nsignature dkim(s=b,d=example.org)\n", True),
        ("signature dkim(s=a)\n  signature: dkim(a=ed25519-sha256,s=b)\n", True),
        ("signature dkim(s=a)\nsignature dkim(d=example.net)\n", True),
    ],
)
def test_a_file_of_the_users_own_makes_one_signature_for_a_provider_that_takes_one(
    tmp_path: Path, text: str, several: bool
) -> None:
    (tmp_path / "own.conf").write_text(text)
    found = problems({**GOOD, **SES, "dkimproxy_config_file": str(tmp_path / "own.conf")})
    assert [sentence.split(": ")[0] for sentence in found] == ["dkimproxy_config_file"] * several
    assert problems({**GOOD, "dkimproxy_ed25519": False, "dkimproxy_config_file": str(tmp_path / "own.conf")}) == []


def test_why_nothing_may_lead_outside_is_said_where_the_provider_is_the_reason() -> None:
    alias = {"mail_aliases": {"x@example.org": ["friend@far.example"]}, "mail_forward_via": "refuse"}
    [sentence] = problems({**GOOD, **SES, **alias})
    assert (
        sentence.startswith("mail_aliases: x@example.org forwards to the external address") and "Amazon SES" in sentence
    )
    [sentence] = problems({**GOOD, **alias})
    assert sentence.endswith("but mail_forward_via is refuse")


def test_a_satellite_has_no_domain_and_no_accounts() -> None:
    relay = {"mail_relay_host": "smtp.provider.example", "mail_relay_username": "me", "mail_relay_password": "p"}
    nobody = {"mail_hostname": "", "mail_admin_address": "", "mail_dmarc_rua": "", "mail_additional_domains": []}
    assert problems({**relay, **nobody, "mail_aliases": {}, "mail_forward_via": "relay"}) == []


def test_what_is_long_or_no_scalar_is_not_shown() -> None:
    found = problems({"mail_domain": [SECRET], "mail_hostname": {SECRET: SECRET}, "mail_relay_tls": SECRET * 40})
    assert len(found) == 3 and SECRET not in " ".join(found)


def test_nothing_is_said_about_ten_thousand_good_accounts_for_long() -> None:
    many = [{"address": f"u{number}@example.org", "password_hash": HASH} for number in range(10_000)]
    aliases = {f"a{number}@example.org": [f"u{number}@example.org"] for number in range(10_000)}
    people = {"mail_accounts": many, "mail_aliases": aliases, "mail_admin_address": "u1@example.org"}
    begin = time.process_time()
    assert problems({**GOOD, **people}) == []
    assert time.process_time() - begin < 5


def test_many_loops_are_found_soon() -> None:
    aliases = {f"a{number}@example.org": [f"a{number}@example.org"] for number in range(5000)}
    found = problems({**GOOD, "mail_aliases": aliases})
    assert "mail_aliases: a0@example.org -> a0@example.org is a loop" in found


def test_names_that_nobody_knows() -> None:
    names = [
        "mail_domain",
        "mail_domian",
        "mail_relay_pasword",
        "mail_guard",
        "dovecot_qota",
        "ansible_host",
        "mailx",
        "firewall_zones",
        "smtp_relay_retry_intervall",
        "__mail_x",
        "rspamd_of_somebody",
    ]
    assert validation.unknown(names) == (
        {
            "dovecot_qota": "dovecot_quota",
            "mail_domian": "mail_domain",
            "mail_relay_pasword": "mail_relay_password",
            "smtp_relay_retry_intervall": "smtp_relay_retry_interval",
        },
        ["firewall_zones", "mail_guard", "rspamd_of_somebody"],
    )


def test_names_of_somebody_elses_variables_are_not_taken_for_typing_errors() -> None:
    names = ["mail_port", "mail_to", "mail_server", "mail_host", "mail_user", "mail_from", "dovecot_version"]
    assert validation.unknown(names)[0] == {}


def test_zone_files_of_a_host() -> None:
    values = {
        "mail_domain": "Example.org",
        "mail_additional_domains": ["example.net"],
        "mail_dns_output_dir": "/tmp/dns",
    }
    inside = ["/tmp/dns/example.org.zone", "/tmp/dns/example.net.zone"]
    assert validation.zone_files({**values, "mail_hostname": "mail.example.org"}) == inside
    outside = "/tmp/dns/vps7.provider.example.zone"
    assert validation.zone_files({**values, "mail_hostname": "VPS7.provider.example"}) == [*inside, outside]


def test_good_values_have_no_problems() -> None:
    assert problems(GOOD) == []
    further = {"mail_dmarc_policy": "quarantine", "mail_dmarc_rua": "r@far.example", "mail_relay_port": "465"}
    assert problems({**GOOD, **FILES, **further}) == []


def test_no_relay_needs_no_credentials() -> None:
    nothing = {"mail_relay_host": "", "mail_relay_username": "", "mail_relay_password": ""}
    assert problems({**GOOD, **nothing, "mail_forward_via": "direct"}) == []


@pytest.mark.parametrize(("variable", "changed", "said"), BAD, ids=[f"{bad[0]}-{bad[2][:30]}" for bad in BAD])
def test_bad_values(variable: str, changed: dict[str, Any], said: str) -> None:
    found = problems({**GOOD, **changed})
    assert [sentence for sentence in found if sentence.startswith(f"{variable}: ") and said in sentence], found
    assert all(sentence.split(": ")[0] in validation.CHECKS and "\n" not in sentence for sentence in found)
    assert not any(SECRET in sentence or HASH in sentence for sentence in found)
    assert len(found) == len(set(found))


@pytest.mark.parametrize("key", GOOD)
def test_what_is_not_set_is_not_checked(key: str) -> None:
    """But addresses in a domain that is not there any more are wrong."""
    of_others = {
        "mail_additional_domains": {"mail_accounts", "mail_aliases", "mail_admin_address", "mail_domain_aliases"},
        "mail_domain": {"mail_domain_aliases", "mail_accounts", "mail_aliases"},
        "mail_hostname": {"mail_aliases"},
        "mail_aliases": {"mail_admin_address"},
    }
    found = problems({name: value for name, value in GOOD.items() if name != key})
    assert {sentence.split(":")[0] for sentence in found} <= of_others.get(key, set())


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("alice@example.org"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=8)
            | st.sampled_from(
                [
                    "address",
                    "aliases",
                    "password",
                    "password_hash",
                    "quota",
                    "sieve",
                    "name",
                    "dkim_selector",
                    "@example.org",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(validation.CHECKS)), yaml_values))
def test_any_value_gets_sentences_and_never_an_exception(values: dict[str, Any]) -> None:
    for sentence in problems({**GOOD, **values}):
        assert sentence.split(":")[0] in validation.CHECKS


def test_supported_releases() -> None:
    for version in ("12", "13"):
        assert problems({}, facts={"distribution": "Debian", "distribution_major_version": version}) == []
    assert problems({}, facts={}) == []


@pytest.mark.parametrize(("distribution", "version"), [("Debian", "11"), ("Debian", "14"), ("Ubuntu", "24")])
def test_unsupported_releases(distribution: str, version: str) -> None:
    facts = {"distribution_major_version": version, "distribution_version": f"{version}.1"}
    assert problems({}, facts={"distribution": distribution, **facts}) == [
        f"ansible_facts: this host runs {distribution} {version}.1; supported are Debian 12 and Debian 13"
    ]
