# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Validation of the collection's variables. Each problem is a sentence that begins with the variable's name.

Values may have any YAML type. A check gets one value and yields its problems, without the name. Rules about several
variables apply to those that are valid by themselves.
"""

from __future__ import annotations

import collections
import difflib
import graphlib
import ipaddress
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.selfhosted.mail.plugins.module_utils import address_book, syntax
from ansible_collections.selfhosted.mail.plugins.plugin_utils import providers

Check = Callable[[Any], Iterable[str]]
Values = Mapping[str, Any]

# Schemes that Dovecot and OpenSMTPD both accept, on both releases: bcrypt, SHA256-CRYPT, SHA512-CRYPT, yescrypt,
# gost-yescrypt, scrypt (crypt(5), which also lists the characters that no hash has). Dovecot 2.4 refuses MD5-CRYPT.
_CRYPT_HASH = re.compile(
    r"(\$2[aby]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}"
    r"|\$5\$(rounds=\d{1,9}\$)?[^$:;*!\\\x00-\x20\x7f-\U0010ffff]{1,16}\$[./A-Za-z0-9]{43}"
    r"|\$6\$(rounds=\d{1,9}\$)?[^$:;*!\\\x00-\x20\x7f-\U0010ffff]{1,16}\$[./A-Za-z0-9]{86}"
    r"|\$g?y\$[./A-Za-z0-9]+\$[./A-Za-z0-9]{1,86}\$[./A-Za-z0-9]{43}"
    r"|\$7\$[./A-Za-z0-9]{11,97}\$[./A-Za-z0-9]{43})\Z",
    re.ASCII,
)
# OpenSMTPD's lookup process computes one hash at a time, and mail waits meanwhile. On a host where bcrypt of cost 10
# takes 40 ms, yescrypt of cost 6 takes 40 ms, SHA512-CRYPT of 100000 rounds 20 ms, scrypt of cost 6 60 ms. Each further
# step of the cost doubles the time.
_COSTLY = "at most bcrypt of cost 10, 100000 rounds of $5$ or $6$, $y$, $gy$ or $7$ of cost 6"
_ROUNDS, _SCRYPT = 100_000, 1 << 18  # N * r * p
_YESCRYPT = re.compile(r"j[./0-9A][./0-9A-T]\Z")  # N up to 2^13, r up to 32, no further parameters
_DIGITS = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # of crypt(5), lowest first
_RATE_LIMITS = ("to", "to_ip", "to_ip_from", "bounce_to", "bounce_to_ip")  # Rspamd's own
_DKIM = re.compile(r"(?im)^[ \t]*signature[ \t=:]+dkim\b(?:[^#\n]*\bd=([^,)\s]+))?")
_DOMAIN_KEYS = {"name", "dkim_selector", "dkim_published_selectors"}


def _shown(value: object) -> str:
    """A value for a message. Long values and mappings or lists are not shown, as they could contain a secret."""
    text = repr(value)
    return text if isinstance(value, str | int | float | None) and len(text) <= 100 else f"a {type(value).__name__}"


def _must_be(what: str, fits: Callable[[Any], object], *, secret: bool = False) -> Check:
    def check(value: Any) -> Iterator[str]:
        if not fits(value):
            yield f"must be {what}" if secret else f"must be {what}, not {_shown(value)}"

    return check


def _matches(what: str, pattern: str) -> Check:
    return _must_be(what, lambda value: isinstance(value, str) and re.fullmatch(pattern, value))


def _one_of(*choices: str) -> Check:
    return _must_be(f"one of {', '.join(choices)}", lambda value: value in choices)


def _number(low: int, high: int = 10**9) -> Check:
    return _must_be(
        f"a whole number from {low} to {high}",
        lambda value: re.fullmatch(r"[0-9]{1,10}", str(value)) and low <= int(value) <= high,
    )


def _or_empty(check: Check) -> Check:
    return lambda value: () if value == "" else check(value)


def _list_of(entry: Check) -> Check:
    def check(value: Any) -> Iterator[str]:
        yield from _LIST(value)
        for item in value if isinstance(value, list) else ():
            yield from (f"each entry {wrong}" for wrong in entry(item))

    return check


def _is_ip(value: object, version: int | None = None) -> bool:
    try:
        return isinstance(value, str) and "%" not in value and version in (None, ipaddress.ip_address(value).version)
    except ValueError:
        return False


def _is_network(value: Any) -> bool:
    try:
        written = isinstance(value, str) and re.fullmatch(r"[0-9A-Fa-f.:]+(/[0-9]{1,3})?", value)
        return bool(written and ipaddress.ip_network(value))
    except ValueError:
        return False


def _is_score(value: object) -> bool:
    return bool(re.fullmatch(r"[0-9]+(\.[0-9]+)?", str(value))) and float(str(value)) > 0


def _host_of(value: object) -> str:
    """Host of ``host:port`` or ``[IPv6 address]:port``; empty for anything else."""
    host, _colon, port = str(value).rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        return ""
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1] if _is_ip(host[1:-1], 6) else ""
    return host if _is_ip(host, 4) or re.fullmatch(r"([0-9A-Za-z_-]+\.)*(?![0-9]+\Z)[0-9A-Za-z_-]+", host) else ""


def _is_spf(value: object) -> bool:
    """Whether ``value`` is a list of SPF terms without version and ``all`` (RFC 7208 §4.6.1)."""
    return (
        isinstance(value, str)
        and re.fullmatch(r"[\x20-\x7e]*", value) is not None
        and '"' not in value
        and not value.lower().startswith("v=spf1")
        and not re.search(r"(^|\s)[-~?+]?all(\s|$)", value)
    )


def _is_printable(value: object, most: int) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value.encode()) <= most


def _config_file(value: Any) -> Iterator[str]:
    try:
        if value != "":
            Path(os.path.expanduser(value)).read_text(encoding="utf-8")
    except (OSError, TypeError, ValueError):
        yield f"must be a UTF-8 text file on the controller, not {_shown(value)}"


def _name_of(domain: Any) -> Any:
    """Name of an entry of ``mail_additional_domains``."""
    return domain.get("name") if isinstance(domain, Mapping) else domain


def _additional_domains(value: Any) -> Iterator[str]:
    yield from _LIST(value)
    for item in value if isinstance(value, list) else ():
        name = _name_of(item)
        yield from (f"each entry {wrong}" for wrong in _DOMAIN(name))
        if isinstance(item, Mapping):
            for key in sorted({str(key) for key in item} - _DOMAIN_KEYS):
                yield f"{_shown(name)} has the unknown key {key!r}; known are {', '.join(sorted(_DOMAIN_KEYS))}"
            for key, check in (("dkim_selector", _SELECTOR), ("dkim_published_selectors", _list_of(_SELECTOR))):
                yield from (f"{key} of {_shown(name)}: {wrong}" for wrong in (check(item[key]) if key in item else ()))


def _rate_limits(value: Any) -> Iterator[str]:
    yield from _MAPPING(value)
    for name, limit in value.items() if isinstance(value, Mapping) else ():
        yield from (f"each name {wrong}" for wrong in _one_of(*_RATE_LIMITS)(name))
        if not (
            isinstance(limit, Mapping)
            and set(limit) == {"burst", "rate"}
            and _is_score(limit["burst"])
            and re.fullmatch(r"[0-9]+ / [0-9]*[smhd]", str(limit["rate"]))
        ):
            yield f"{_shown(name)} must have burst, a number, and rate, such as 30 / 1m, and nothing else"


def _environment(whose: str, example: str) -> Check:
    """A check of a program's environment variables that shows no value."""

    def check(value: Any) -> Iterator[str]:
        if not isinstance(value, Mapping):
            yield "must be a mapping"
        for name, text in value.items() if isinstance(value, Mapping) else ():
            if not re.fullmatch(r"[A-Z][A-Z0-9_]*", str(name)):
                yield f"each name must be an environment variable of {whose}, in capitals, such as {example}"
            elif isinstance(text, bool) or not isinstance(text, str | int) or not _is_printable(str(text), 8000):
                yield f"{name} must be a text in quotes, printable, on one line"

    return check


def _backup_keep(value: Any) -> Iterator[str]:
    yield from _MAPPING(value)
    for unit, number in value.items() if isinstance(value, Mapping) else ():
        yield from (
            f"each name {wrong}" for wrong in _one_of("last", "hourly", "daily", "weekly", "monthly", "yearly")(unit)
        )
        yield from (f"{_shown(unit)} {wrong}" for wrong in _number(1)(number))


_ANY_TEXT = _must_be("a text, in quotes", lambda value: isinstance(value, str))
_BOOLEAN = _must_be(
    "true or false", lambda value: str(value).lower() in ("true", "false", "yes", "no", "on", "off", "1", "0")
)
_LIST = _must_be("a list", lambda value: isinstance(value, list))
_MAPPING = _must_be("a mapping", lambda value: isinstance(value, Mapping))
_DOMAIN = _must_be("a domain name such as example.org (an international one in its xn-- form)", syntax.is_domain)
_HOSTNAME = _must_be("a full host name such as mail.example.org, not an IP address", syntax.is_domain)
_SELECTOR = _must_be("a DKIM selector: letters, digits, hyphens and dots, at most 63 characters", syntax.is_selector)
_ADDRESS = _must_be("a mail address", syntax.is_address)
_IP_ADDRESS = _must_be("an IP address", _is_ip)
_NETWORK = _must_be("an IP address or a network such as 192.0.2.0/24, without host bits", _is_network)
_ENDPOINT = _must_be("an address and a port, such as 127.0.0.1:10027 or [::1]:10027", _host_of)
_PATH = _matches("an absolute path without spaces, quotes, backslashes, $, % and #", r"/[^\s\"'\\$%#]+")
_MAIL_DIR = _matches("an absolute path of letters, digits and . _ - only", r"(/[A-Za-z0-9._-]+)+")
_SIZE = _must_be("a size such as 500M or 5G", lambda value: re.fullmatch(r"[1-9][0-9]*[KMGTkmgt]?", str(value)))
_RECORD = re.compile(
    r"((?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.){2,}) (?:[0-9]{1,7} )?(?:IN )?"
    r"(?:CNAME [a-z0-9_.-]+\.|MX [0-9]{1,5} [a-z0-9_.-]+\.|TXT(?: \"[ !#-\[\]-~]{0,255}\")+)\Z",
    re.IGNORECASE,
)
# Providers of lego 4.9.1, the version in both releases, except "manual".
_ACME_DNS_PROVIDERS = """
acme-dns alidns allinkl arvancloud auroradns autodns azure bindman bluecat checkdomain civo clouddns cloudflare
cloudns cloudxns conoha constellix desec designate digitalocean dnsimple dnsmadeeasy dnspod dode domeneshop dreamhost
duckdns dyn dynu easydns edgedns epik exec exoscale freemyip gandi gandiv5 gcloud gcore glesys godaddy hetzner
hostingde hosttech httpreq hurricane hyperone ibmcloud iij iijdpf infoblox infomaniak internetbs inwx ionos
iwantmyname joker lightsail linode liquidweb loopia luadns mydnsjp mythicbeasts namecheap namedotcom namesilo
nearlyfreespeech netcup netlify nicmanager nifcloud njalla ns1 oraclecloud otc ovh pdns porkbun rackspace regru
rfc2136 rimuhosting route53 safedns sakuracloud scaleway selectel servercow simply sonic stackpath tencentcloud
transip variomedia vegadns vercel versio vinyldns vkcloud vscale vultr wedos yandex yandexcloud zoneee zonomi
""".split()  # noqa: SIM905
_ACCOUNT_CHECKS = {
    "aliases": _LIST,
    "send_as": _LIST,
    "quota": _SIZE,
    "enabled": _BOOLEAN,
    "send_only": _BOOLEAN,
    "recipients_per_hour": _number(0),
    "sieve": _must_be(
        "the text of a Sieve script", lambda value: isinstance(value, str) and value.strip() and "\0" not in value
    ),
}
ACCOUNT_KEYS = {"address", "password", "password_hash", *_ACCOUNT_CHECKS}

CHECKS: dict[str, Check] = {
    "mail_domain": _DOMAIN,
    "mail_hostname": _or_empty(_HOSTNAME),
    "mail_additional_domains": _additional_domains,
    "mail_admin_address": _or_empty(_ADDRESS),
    "mail_accounts": _must_be(
        "a list of at least one account, a mapping with address and password_hash",
        lambda value: isinstance(value, list) and value,
        secret=True,
    ),
    "mail_relay_host": _or_empty(_HOSTNAME),
    "mail_relay_port": _number(1, 65535),
    "mail_relay_tls": _one_of("starttls", "smtps"),
    "mail_relay_username": _must_be(
        "a text in quotes, at most 500 bytes, printable, without a colon",
        lambda value: _is_printable(value, 500) and ":" not in value,
        secret=True,
    ),
    "mail_relay_password": _must_be(
        "a text in quotes, at most 500 bytes, printable, without a space at the end",
        lambda value: _is_printable(value, 500) and not value.endswith(" "),
        secret=True,
    ),
    "mail_relay_spf": _must_be("SPF terms that the provider names, such as include:spf.provider.example", _is_spf),
    "mail_relay_unsigned_headers": _list_of(
        _must_be(
            "the name of a header field other than From, which must always be signed",
            lambda value: isinstance(value, str) and re.fullmatch(r"(?i)(?!from\Z)[a-z0-9-]+", value),
        )
    ),
    "mail_relay_max_connections": _number(1, 100),
    "mail_relay_max_messages": _number(1, 100_000),
    "mail_forward_via": _one_of("relay", "direct", "refuse"),
    "mail_dkim_selector": _SELECTOR,
    "mail_dkim_published_selectors": _list_of(_SELECTOR),
    "mail_dmarc_policy": _one_of("none", "quarantine", "reject"),
    "mail_dns_output_dir": _must_be("a path", lambda value: isinstance(value, str) and value),
    "mail_dns_nameservers": _list_of(_IP_ADDRESS),
    "mail_tls_mode": _one_of("selfsigned", "acme", "files"),
    "mail_acme_directory": _matches(
        "an address such as https://acme.example/directory", r"https:/{2}[A-Za-z0-9.-]+(:[0-9]+)?/[A-Za-z0-9._~/-]*"
    ),
    "mail_acme_ca_file": _or_empty(_PATH),
    "mail_acme_dns_provider": _must_be(
        "empty, or lego's name of a DNS provider (lego dnshelp lists them), other than manual",
        lambda value: value == "" or value in _ACME_DNS_PROVIDERS,
    ),
    "mail_acme_dns_environment": _environment("lego", "RFC2136_NAMESERVER"),
    "mail_trusted_networks": _list_of(_NETWORK),
    "mail_backup_repository": _must_be(
        "empty, or a restic repository, such as sftp:backup@example.net:mail or a directory's absolute path",
        lambda value: value == "" or (_is_printable(value, 2000) and re.match(r"/|[a-z0-9]+:.", value)),
        secret=True,
    ),
    "mail_backup_password": _must_be(
        "a text in quotes, at most 500 bytes, printable", lambda value: _is_printable(value, 500), secret=True
    ),
    "mail_backup_environment": _environment("restic", "AWS_SECRET_ACCESS_KEY"),
    "mail_backup_keep": _backup_keep,
    "mail_restore_snapshot": _matches("latest or the id of a snapshot", r"(latest|[0-9a-f]{8,64})?"),
    "mail_restore_mailbox": _or_empty(_ADDRESS),
    "mail_required": _list_of(_ANY_TEXT),
    "mail_check_output": _ANY_TEXT,
    "mail_check_patience": _number(1, 3600),
    **dict.fromkeys(
        ("dkimproxy_clients", "rspamd_clients"), _list_of(_matches("the name of a system user", r"[a-z_][a-z0-9_-]*"))
    ),
    "dkimproxy_from_policy": _one_of("account", "domain"),
    "dkimproxy_senders_file": _PATH,
    "dkimproxy_foreign_from": _one_of("refuse", "rewrite"),
    "opensmtpd_from_policy": _one_of("account", "domain"),
    "opensmtpd_ip_versions": _must_be(
        "[4], [6] or [4, 6]", lambda value: value and isinstance(value, list) and value in ([4], [6], [4, 6], [6, 4])
    ),
    "dns_records": _list_of(
        _must_be(
            "a CNAME, MX or TXT record such as em1.example.org. CNAME u1.provider.example., names with their last dot",
            lambda value: isinstance(value, str) and _RECORD.match(value),
        )
    ),
    "dns_resolver": _or_empty(_IP_ADDRESS),
    "dkimproxy_config_file": _config_file,
    "dkimproxy_legacy": _one_of("error", "ignore"),
    "dkimproxy_implementation": _one_of("embedded", "upstream"),
    "dovecot_junk_header": _matches("the name of a header such as X-Spam", r"[A-Za-z0-9-]+"),
    "dovecot_quota": _or_empty(_SIZE),
    "dovecot_quota_grace": _SIZE,
    "dovecot_compression": _one_of("none", "lz4", "zstd"),
    "opensmtpd_max_message_size": _SIZE,
    "opensmtpd_max_inbound_memory": _SIZE,
    "opensmtpd_max_inbound_rate": _or_empty(_SIZE),
    "opensmtpd_queue_ttl": _matches("a number with s, m, h or d, such as 4d", r"[1-9][0-9]*[smhd]"),
    "rspamd_trusted_forwarders": _list_of(_DOMAIN),
    "rspamd_rate_limits": _rate_limits,
    "rspamd_resolver": _one_of("auto", "unbound", "none"),
    "rspamd_resolver_forwarders": _list_of(_IP_ADDRESS),
    "rspamd_nameservers": _list_of(_IP_ADDRESS),
    "rspamd_controller_password_hash": _must_be(
        "empty or a hash that rspamadm pw printed, which begins with $1$ or $2$",
        lambda value: re.fullmatch(r"(\$[12]\$[a-z0-9]+\$[a-z0-9]+)?", str(value)),
        secret=True,
    ),
    "rspamd_redis_maxmemory": _matches("a size such as 128mb", r"[1-9][0-9]*(kb|mb|gb)"),
    "rspamd_dmarc_reports_from": _or_empty(_ADDRESS),
    "status_resolver": _or_empty(_IP_ADDRESS),
    "status_resolver_unit": _or_empty(_matches("the name of a service", r"[A-Za-z0-9@:_.-]+\.service")),
    "smtp_relay_probe": _one_of("warn", "require", "off"),
    **dict.fromkeys(("mail_aliases", "mail_domain_aliases"), _MAPPING),
    **dict.fromkeys(("mail_dmarc_rua", "mail_dmarc_ruf"), _or_empty(_ADDRESS)),
    **dict.fromkeys(("mail_tls_certificate_file", "mail_tls_private_key_file"), _or_empty(_PATH)),
    **dict.fromkeys(("accounts_mail_dir", "backup_mail_dir", "dovecot_mail_dir", "status_mail_dir"), _MAIL_DIR),
    **dict.fromkeys(("dkimproxy_listen", "dkimproxy_relay"), _ENDPOINT),
    **dict.fromkeys(
        ("dkimproxy_upstream_url", "dkimproxy_upstream_archive", "rspamd_dmarc_reports_organisation"), _ANY_TEXT
    ),
    **dict.fromkeys(
        ("rspamd_own_domains_action", "rspamd_dmarc_reject_action", "rspamd_dmarc_quarantine_action"),
        _one_of("reject", "junk", "none"),
    ),
    **dict.fromkeys(
        ("rspamd_reject_score", "rspamd_add_header_score", "rspamd_greylist_score"),
        _must_be("a number above 0", _is_score),
    ),
    **dict.fromkeys(
        (
            "bans_failures",
            "dkimproxy_signature_lifetime",
            "dovecot_max_connections",
            "dovecot_connections_per_minute",
            "mail_recipients_per_hour",
            "opensmtpd_max_connections",
            "opensmtpd_submission_max_connections",
            "opensmtpd_submission_connections_per_minute",
            "rspamd_greylisting_delay",
        ),
        _number(0),
    ),
    **dict.fromkeys(
        (
            "bans_window",
            "bans_seconds",
            "bans_max_seconds",
            "backup_check_interval",
            "backup_interval",
            "certificate_interval",
            "dns_interval",
            "dns_resolver_port",
            "dns_second_look",
            "dovecot_imap_sessions",
            "dovecot_imap_sessions_per_user",
            "dovecot_learn_interval",
            "opensmtpd_max_recipients",
            "opensmtpd_max_mails",
            "rspamd_bayes_min_learns",
            "smtp_relay_retry_interval",
            "status_patience",
            "status_resolver_port",
            "status_signer_reply",
            "status_watch_interval",
        ),
        _number(1),
    ),
    **dict.fromkeys(
        (
            "mail_firewall",
            "mail_install",
            "mail_restore_queue",
            "mail_render_tables",
            "mail_upgrade",
            "mail_upgrade_without_backup",
            "mail_validate",
            "dkimproxy_ed25519",
            "dkimproxy_received_auth",
            "dovecot_full_text_search",
            "dovecot_learn_spam",
            "dovecot_opensmtpd",
            "dovecot_redirect",
            "dovecot_rspamd",
            "opensmtpd_rspamd",
            "opensmtpd_full_mailboxes",
            "opensmtpd_received_auth",
            "rspamd_greylisting",
            "rspamd_bayes_per_user",
            "rspamd_bayes_autolearn",
            "status_bans",
            "status_dns",
            "status_watch",
            "accounts_status_login",
            "rspamd_external_checks",
            "rspamd_dmarc_reports",
            "rspamd_wait",
            "smtp_relay_satellite",
        ),
        _BOOLEAN,
    ),
}
PREFIXES = (
    "mail_",
    "accounts_",
    "backup_",
    "bans_",
    "certificate_",
    "dkimproxy_",
    "dns_",
    "dovecot_",
    "firewall_",
    "opensmtpd_",
    "rspamd_",
    "smtp_relay_",
    "status_",
)
TLS_LINKS = ("/etc/selfhosted-mail/tls/fullchain.pem", "/etc/selfhosted-mail/tls/privkey.pem")
# Defaults of roles, for rules about several variables of which only some are set.
DEFAULTS = {
    "bans_max_seconds": 86400,
    "bans_seconds": 600,
    "dovecot_imap_sessions": 500,
    "dovecot_imap_sessions_per_user": 20,
    "rspamd_greylist_score": 4,
    "rspamd_add_header_score": 6,
    "rspamd_reject_score": 15,
}
# Variables that DKIMproxy 1.4.1 does not support, with the value that requests nothing.
EMBEDDED_ONLY = {
    "dkimproxy_ed25519": "False",
    "dkimproxy_signature_lifetime": "0",
    "dkimproxy_foreign_from": "refuse",
    "dkimproxy_config_file": "",
    "dkimproxy_legacy": "error",
    "mail_relay_unsigned_headers": "[]",
}


def unknown(names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Unknown names with one of our prefixes: those that resemble a known one, mapped to it, and the others."""
    ours = sorted(name for name in names if name.startswith(PREFIXES) and name not in CHECKS)
    typos = {name: similar[0] for name in ours if (similar := difflib.get_close_matches(name, CHECKS, 1, 0.85))}
    return typos, [name for name in ours if name not in typos]


def problems(values: Values, required: Sequence[str] = (), facts: Values | None = None) -> list[str]:
    """All problems, a sentence each, without duplicates.

    :param values: name to value of the known variables that are set, in Python's own types.
    :param required: names that must be among them, with a value that is not empty.
    :param facts: Ansible's facts of the host, without the prefix ``ansible_``; without any, no release is checked.
    """
    or_domain = {"mail_hostname": ", or mail_domain, from which it is made"}
    found = [
        f"{name}: is required{or_domain.get(name, '')}"
        for name in required
        # Where an empty value is wrong in any case, its own check says so.
        if name not in values or (values[name] == "" and not list(CHECKS[name]("")))
    ]
    system, major, version = ((facts or {}).get(f"distribution{part}") for part in ("", "_major_version", "_version"))
    if system and (system, major) not in (("Debian", "12"), ("Debian", "13")):
        found.append(f"ansible_facts: this host runs {system} {version}; supported are Debian 12 and Debian 13")
    # A problem of a computed value is reported for the variable that the value is computed from.
    computed = {
        "mail_hostname": f"mail.{values.get('mail_domain')}",
        "mail_admin_address": address_book.first_address(values.get("mail_accounts")),
        "mail_dmarc_rua": values.get("mail_admin_address", ""),
    }
    right = {}
    for name, value in values.items():
        wrong = [f"{name}: {what}" for what in (_null(name) if value is None else CHECKS[name](value))]
        if name not in computed or value != computed[name]:
            found += wrong
        if not wrong:
            right[name] = value
    further = values.get("mail_additional_domains")
    # An invalid domain must not make the addresses in the others invalid.
    right["mail_additional_domains"] = (
        [item for item in further if syntax.is_domain(_name_of(item))] if isinstance(further, list) else []
    )
    for check in (_server, _relay, _accounts, _domain_aliases, _forwarding, _signer, _records):
        found += check(right)
    return list(dict.fromkeys(found)) or list(_reached(right))


def _null(name: str) -> Iterator[str]:
    instead = "a value" if list(CHECKS[name]("")) else '""'
    yield f"is empty (null); write {instead} or remove the line"


def _domains_of(given: Values) -> list[str]:
    domain = given.get("mail_domain")
    return address_book.domain_names(domain, given["mail_additional_domains"]) if domain else []


def _server(given: Values) -> Iterator[str]:
    if "mail_domain" in given and given.get("mail_hostname") == "":
        yield from (f"mail_hostname: {wrong}" for wrong in _HOSTNAME(""))
    if given.get("mail_hostname", "").lower() in _domains_of(given):
        yield "mail_hostname: must not be a mail domain, because its addresses belong to the users of this host"
    for name, count in collections.Counter(_domains_of(given)).items():
        if count > 1:
            yield f"mail_additional_domains: {name} is given twice, or is mail_domain"
    for name in ("mail_relay_username", "mail_relay_password"):
        if given.get("mail_relay_host") and given.get(name) == "":
            yield f"{name}: is required if mail_relay_host is set"
    for name in ("mail_tls_certificate_file", "mail_tls_private_key_file"):
        if given.get("mail_tls_mode") == "files" and given.get(name) == "":
            yield f"{name}: must be an absolute path on the mail server if mail_tls_mode is files"
        if given.get(name) in TLS_LINKS:
            yield f"{name}: must be the file itself, not {given[name]}, a link that the role certificate creates"
    if given.get("mail_backup_repository") and given.get("mail_backup_password") == "":
        yield "mail_backup_password: is required if mail_backup_repository is set"
    if given.get("mail_acme_dns_environment") and given.get("mail_acme_dns_provider") == "":
        yield "mail_acme_dns_environment: needs mail_acme_dns_provider, the provider that it is for"
    message, memory = (
        address_book.size_bytes(given.get(name, default))
        for name, default in (("opensmtpd_max_message_size", "50M"), ("opensmtpd_max_inbound_memory", "200M"))
    )
    if memory < 4 * message:
        yield "opensmtpd_max_inbound_memory: must be at least four times opensmtpd_max_message_size"
    value = {name: float(given.get(name, default)) for name, default in DEFAULTS.items()}
    if value["bans_max_seconds"] < value["bans_seconds"]:
        yield "bans_max_seconds: must not be below bans_seconds"
    if value["dovecot_imap_sessions_per_user"] > value["dovecot_imap_sessions"]:
        yield "dovecot_imap_sessions_per_user: must not be above dovecot_imap_sessions"
    if not value["rspamd_greylist_score"] < value["rspamd_add_header_score"] < value["rspamd_reject_score"]:
        yield "rspamd_greylist_score: must be below rspamd_add_header_score, and that below rspamd_reject_score"


def _relay(given: Values) -> Iterator[str]:
    """Logins and signatures that a known provider never accepts."""
    provider = providers.relay_provider(given.get("mail_relay_host"))
    login = provider.get("login", {})
    for part in ("username", "password"):
        value = given.get(f"mail_relay_{part}")
        if value and not re.fullmatch(login.get(part, ".*"), value):
            yield f"mail_relay_{part}: must have the form that {provider['name']} requires: {login['text']}"
    if provider.get("signatures") != 1:
        return
    one = f"{provider['name']} refuses a message with more than one signature"
    if address_book.is_true(given.get("dkimproxy_ed25519", False)):
        yield f"dkimproxy_ed25519: must be false, as {one}"
    own_file = given.get("dkimproxy_config_file", "")
    domains = _DKIM.findall(Path(os.path.expanduser(own_file)).read_text("utf-8")) if own_file else []
    if len(set(domains)) < len(domains) or (len(domains) > 1 and "" in domains):
        yield f"dkimproxy_config_file: must have one signature for each domain, as {one}"


def _is_costly(hashed: str) -> bool:
    """Whether a check of this valid hash takes so long that other mail waits."""
    scheme, parameters = hashed.split("$")[1:3]
    if scheme in ("5", "6"):
        return parameters.startswith("rounds=") and int(parameters[7:]) > _ROUNDS
    if scheme in ("y", "gy"):
        return not _YESCRYPT.match(parameters)
    if scheme == "7":
        block, parallel = (
            sum(_DIGITS.index(digit) << 6 * at for at, digit in enumerate(word))
            for word in (parameters[1:6], parameters[6:11])
        )
        return (1 << _DIGITS.index(parameters[0])) * block * parallel > _SCRYPT
    return int(parameters) > 10


def _accounts(given: Values) -> Iterator[str]:
    if "mail_accounts" not in given:
        return
    accounts, domains = given["mail_accounts"], _domains_of(given)
    holders: dict[str, str] = {}
    silent: set[str] = set()
    for number, account in enumerate(accounts, 1):
        address = account.get("address") if isinstance(account, Mapping) else None
        if not isinstance(address, str) or not address:
            yield f"mail_accounts: entry {number} has no address"
            continue
        yield from (f"mail_accounts: {wrong}" for wrong in _account(account, domains))
        for name in [address, *_entries(account, "aliases")]:
            key = str(name).lower()
            if key in holders:
                yield f"mail_accounts: {name} is given twice, for {holders[key]} and {address}"
            holders.setdefault(key, address)
            if not address_book.takes_mail(account):
                silent.add(key)
    yield from _aliases(given, domains, holders, silent)
    admin = given.get("mail_admin_address", "")
    known = {*holders, *_lower(given, "mail_aliases")}
    if admin.lower() in silent - _lower(given, "mail_aliases"):
        yield f"mail_admin_address: {admin} receives no mail, because its account is disabled or send_only"
    elif admin and syntax.domain_of(admin) == given.get("mail_hostname", "").lower():
        yield f"mail_admin_address: {admin} is at mail_hostname, whose addresses all forward to mail_admin_address"
    elif admin and syntax.domain_of(admin) in domains and admin.lower() not in known:
        yield f"mail_admin_address: {admin} is in one of the mail domains, but neither an account nor an alias"
    elif not admin and not address_book.first_address(accounts):
        yield "mail_accounts: no account receives mail; mail to postmaster needs one that is enabled and not send_only"
    elif not admin and "mail_admin_address" in given:
        yield from (f"mail_admin_address: {wrong}" for wrong in _ADDRESS(admin))


def _reached(given: Values) -> Iterator[str]:
    """Check that mail to the admin address is delivered, once all else is valid."""
    if not {"mail_domain", "mail_hostname", "mail_accounts", "mail_admin_address"} <= set(given):
        return
    accounts, aliases, admin = given["mail_accounts"], given.get("mail_aliases", {}), given["mail_admin_address"]
    twins = given.get("mail_domain_aliases", {})
    book = address_book.AddressBook(accounts, aliases, _domains_of(given), given["mail_hostname"], admin, twins)
    if admin.lower() in book.closed:
        yield f"mail_admin_address: {admin} forwards to no account that receives mail"


def _entries(account: Mapping[str, Any], key: str) -> list[Any]:
    value = account.get(key)
    return value if isinstance(value, list) else []


def _lower(given: Values, variable: str) -> set[str]:
    return {str(name).lower() for name in given.get(variable, ())}


def _own(address: Any, domains: list[str]) -> Iterator[str]:
    if not syntax.is_own_address(address):
        yield (
            f"{_shown(address)} must have the form name@domain: the name has letters, digits and . _ - = ~ ' and "
            "begins with a letter, a digit or _"
        )
    elif domains and syntax.domain_of(address) not in domains:
        yield f"{address} is outside the mail domains ({', '.join(domains)})"
    elif address.lower().startswith("mail-proof@"):
        yield f"{address} is not allowed: the name mail-proof is reserved for messages of the playbook check"


def _account(account: Mapping[str, Any], domains: list[str]) -> Iterator[str]:
    address = account["address"]
    for key in sorted({str(key) for key in account} - ACCOUNT_KEYS):
        yield f"{address} has the unknown key {key!r}; known are {', '.join(sorted(ACCOUNT_KEYS))}"
    hashed, password = account.get("password_hash"), account.get("password")
    if hashed and password:
        yield f"{address} has both password and password_hash; keep password_hash"
    elif hashed and not (isinstance(hashed, str) and _CRYPT_HASH.match(hashed)):
        yield (
            f"password_hash of {address} must be a complete crypt(5) hash that both daemons accept, without {{SCHEME}}"
            ": $2a$, $2b$, $2y$, $5$, $6$, $y$, $gy$ or $7$; make one with openssl passwd -6"
        )
    elif hashed and _is_costly(hashed):
        yield (
            f"password_hash of {address} takes too long to check, and other mail waits meanwhile; "
            f"allowed: {_COSTLY}; make one with openssl passwd -6"
        )
    elif not hashed and not (password and _is_printable(password, 512)):
        yield f"{address} needs password_hash, or password: a text in quotes, at most 512 bytes, printable"
    for key, check in _ACCOUNT_CHECKS.items():
        if account.get(key) is not None:
            yield from (f"{key} of {address} {wrong}" for wrong in check(account[key]))
    for name in [address, *_entries(account, "aliases")]:
        yield from _own(name, domains)
    for name in _entries(account, "send_as"):
        if not (isinstance(name, str) and name.startswith("@")):
            yield from _own(name, domains)
        elif name[1:].lower() not in domains:
            yield f"send_as of {address} has {name}, which is not a mail domain"


def _aliases(given: Values, domains: list[str], holders: Mapping[str, str], silent: set[str]) -> Iterator[str]:
    ours = address_book.accepted_domains(domains, given.get("mail_hostname", ""))
    known = {*holders, *_lower(given, "mail_aliases")}
    system = {f"{name}@{domain}" for domain in ours for name in address_book.SYSTEM_NAMES}
    twins = {str(name).lower(): str(target).lower() for name, target in given.get("mail_domain_aliases", {}).items()}

    def entry(address: str) -> str | None:
        """The name that receives an address's mail: the untagged address, its twin, a system name or a catch-all."""
        local, _at, domain = address_book.untagged(address).rpartition("@")
        twin = twins.get(domain, domain)
        own, other = f"{local}@{domain}", f"{local}@{twin}"
        if own in system and not {own, other} & known:
            return own
        return next((name for name in (own, other, f"@{domain}", f"@{twin}") if name in known), None)

    aliases = given.get("mail_aliases", {})
    graph: dict[str, list[str]] = {}
    for name, targets in aliases.items():
        key = str(name).lower()
        if key in graph:
            yield f"mail_aliases: {name} is given twice"
        if key in holders and key not in silent:
            yield f"mail_aliases: {name} is also an address of the account {holders[key]}"
        if not key.startswith("@"):
            yield from (f"mail_aliases: {wrong}" for wrong in _own(name, domains))
        elif key[1:] not in domains:
            yield f"mail_aliases: {name} is a catch-all of a domain that is not a mail domain"
        if not isinstance(targets, list) or not targets:
            yield f"mail_aliases: the value of {name} must be a list of addresses"
        graph[key] = []
        for target in targets if isinstance(targets, list) else ():
            if not syntax.is_address(target):
                yield f"mail_aliases: {name} forwards to {_shown(target)}, which is not a mail address"
            elif syntax.domain_of(target) in ours:
                found = entry(target)
                if found is None:
                    yield f"mail_aliases: {name} forwards to {target}, which is neither an account nor an alias"
                elif found not in holders or found in silent:
                    graph[key].append(found)
    admin = given.get("mail_admin_address", "")
    boss = entry(admin) if syntax.domain_of(admin) in domains else None
    graph |= {name: [boss] for name in system - known if boss}
    yield from (f"mail_aliases: {' -> '.join(loop)} is a loop" for loop in _loops(graph))


def _loops(graph: dict[str, list[str]]) -> Iterator[list[str]]:
    """At most twenty loops, each beginning with its alphabetically first name."""
    for _loop in range(20):
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            loop = error.args[1][:0:-1]
            first = loop.index(min(loop))
            yield [*loop[first:], *loop[: first + 1]]
            graph = {name: targets for name, targets in graph.items() if name not in loop}


def _domain_aliases(given: Values) -> Iterator[str]:
    domains = _domains_of(given)
    aliases = given.get("mail_domain_aliases", {})
    for name, target in aliases.items():
        for domain in (name, target):
            if not syntax.is_domain(domain):
                yield f"mail_domain_aliases: {_shown(domain)} is not a domain name"
            elif domain.lower() not in domains:
                yield (
                    f"mail_domain_aliases: {domain} is not a mail domain ({', '.join(domains)}): add it to "
                    "mail_additional_domains, so that it gets a key and a zone"
                )
        if str(target).lower() in _lower(given, "mail_domain_aliases"):
            yield f"mail_domain_aliases: {name} is an alias of {target}, which is an alias too: write the final domain"


def _forwarding(given: Values) -> Iterator[str]:
    via, admin = given.get("mail_forward_via"), given.get("mail_admin_address")
    ours = {*_domains_of(given), str(given.get("mail_hostname", "")).lower()}
    if via == "relay" and given.get("mail_relay_host") == "":
        yield "mail_forward_via: must be direct or refuse if mail_relay_host is empty"
    provider = providers.relay_provider(given.get("mail_relay_host"))
    foreign = provider.get("foreign_from")
    why = f" ({provider['name']}: a foreign From is {foreign}; direct bypasses the provider)" if foreign else ""
    if via == "refuse":
        for name, targets in given.get("mail_aliases", {}).items():
            for target in targets if isinstance(targets, list) else ():
                if syntax.is_address(target) and syntax.domain_of(target) not in ours:
                    text = f"{name} forwards to the external address {target}, but mail_forward_via is refuse{why}"
                    yield f"mail_aliases: {text}"
        if admin and syntax.domain_of(admin) not in ours:
            yield f"mail_admin_address: {admin} is an external address, but mail_forward_via is refuse{why}"


def _signer(given: Values) -> Iterator[str]:
    ed25519 = address_book.is_true(given.get("dkimproxy_ed25519", False))
    selectors = [
        ("mail_dkim_selector", given.get("mail_dkim_selector")),
        *(("mail_dkim_published_selectors", item) for item in given.get("mail_dkim_published_selectors", ())),
    ]
    for domain in given["mail_additional_domains"]:
        own = domain if isinstance(domain, Mapping) else {}
        selectors += [
            ("mail_additional_domains", item)
            for item in (own.get("dkim_selector"), *_entries(own, "dkim_published_selectors"))
        ]
    for variable, selector in selectors if ed25519 else ():
        label = str(selector).rpartition(".")[2].lower()
        if label.endswith(address_book.SECOND_KEY):
            yield f"{variable}: {selector} ends in {address_book.SECOND_KEY}, which is reserved for Ed25519 keys"
        elif len(label + address_book.SECOND_KEY) > 63:
            yield f"{variable}: {selector} is too long to add {address_book.SECOND_KEY}: a DNS label has at most 63"
    own_file = given.get("dkimproxy_config_file", "")
    if own_file and ed25519:
        yield "dkimproxy_ed25519: with dkimproxy_config_file, write the second signature into that file"
    if own_file and int(given.get("dkimproxy_signature_lifetime", 0)):
        yield "dkimproxy_signature_lifetime: with dkimproxy_config_file, write x= into the signatures of that file"
    if not own_file and given.get("dkimproxy_legacy") == "ignore":
        yield "dkimproxy_legacy: must not be ignore without dkimproxy_config_file"
    host = _host_of(given.get("dkimproxy_listen", "127.0.0.1:10027"))
    loopback = _is_ip(host) and ipaddress.ip_address(host).is_loopback
    if address_book.is_true(given.get("mail_firewall", True)) and not loopback:
        yield "dkimproxy_listen: must be a loopback address if mail_firewall is true, as its rules restrict local users"
    if given.get("dkimproxy_implementation") != "upstream":
        return
    for name in ("dkimproxy_listen", "dkimproxy_relay"):
        if name in given and not _is_ip(_host_of(given[name]), 4):
            yield f"{name}: must be an IPv4 address with a port; DKIMproxy 1.4.1 supports only IPv4"
    for name, nothing in EMBEDDED_ONLY.items():
        value = given.get(name, nothing)
        if str(address_book.is_true(value) if name == "dkimproxy_ed25519" else value) != nothing:
            yield f"{name}: is not supported by DKIMproxy 1.4.1; use dkimproxy_implementation: embedded"
    url = given.get("dkimproxy_upstream_url")
    if (
        url is not None
        and not given.get("dkimproxy_upstream_archive")
        and url.partition("://")[0] not in ("https", "http")
    ):
        yield f"dkimproxy_upstream_url: must be an https or http address, not {_shown(url)}"


def _records(given: Values) -> Iterator[str]:
    domains, hostname = _domains_of(given), given.get("mail_hostname", "")
    zones = address_book.with_host(domains, hostname) if hostname else domains
    for record in given.get("dns_records", ()):
        name = record.split()[0].rstrip(".")
        if not any(syntax.is_under(name, zone) for zone in zones):
            yield f"dns_records: {name} is outside the zones ({', '.join(zones)})"


def zone_files(values: Values) -> list[str]:
    """Paths of the zone files on the controller, one for each zone. The values must be valid."""
    domains = address_book.domain_names(values["mail_domain"], values["mail_additional_domains"])
    zones = address_book.with_host(domains, values["mail_hostname"])
    return [str(Path(values["mail_dns_output_dir"]) / f"{zone}.zone") for zone in zones]
