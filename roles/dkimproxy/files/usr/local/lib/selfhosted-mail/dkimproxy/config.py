# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration: DKIMproxy's file and command line, and the keys this signer adds.

One option a line: `key value`, `key = value` or `key: value`. `#` begins a comment, `\\#` is the character. The
same keys are command line options (`--key=value`, `--key value`), which take precedence over the file; an empty
value removes the file's setting. Two words without dashes are LISTEN and RELAY.

DKIMproxy's keys
  listen, relay       ADDRESS:PORT; IPv6 in brackets; `*` listens on every IPv4 address; relay's port defaults to 25
  domain              domains to sign for, comma separated; the longest one that contains From's domain is used
  signature           `dkim(...)`, repeatable; every signature that aligns with From is added. Inside, separated
                      by commas: `d` domain, `s` selector, `key` key file, `a` rsa-sha256 or ed25519-sha256
                      (default: the key's own), `c` canonicalization (default relaxed/relaxed), `i` identity, `h`
                      further header names to sign, colon separated, and `x` (not in DKIMproxy): seconds until the
                      signature expires. Macros in d, s, key, i: `$sender` is From's address, `$senderdomain` its
                      domain, `$key` and `$keydomain` the matched domain, also of an address in a map
  keyfile, selector   for signatures without `key` or `s`
  method, dkim_method for signatures without `c`: simple, relaxed, or two of them with `/`
  identity            for signatures without `i`
  sender_map          file of `ADDRESS-OR-DOMAIN dkim(...), dkim(...)` lines; the whole address is looked up,
                      then without +tag, its domain, the parents, `.`
  listid_map          the same, looked up first, by the List-Id field; if that is identical with a key, the domain
                      is the part after the list's own label
  user, group, pidfile, pid_file, daemonize, setsid, background, debugtrace, log_level, log_file,
  syslog_facility, syslog_ident, syslog_logsock
                      accepted and ignored: the systemd unit sets the user, and journald keeps the log
  min_servers, max_servers, min_spare_servers, max_spare_servers, spare_servers, max_requests,
  check_for_waiting, check_for_dead, check_for_dequeue, max_dequeue, lock_file, serialize, reject_error
                      accepted and ignored: there is one process for each core, and a message that cannot be
                      signed is never passed on
  conf_file           command line only

Keys of this signer
  hostname            the host's name, in From of bounces and mail of this host (default: the system's)
  senders             file of `LOGIN ADDRESS,ADDRESS,@DOMAIN` lines, OpenSMTPD's table of the addresses that each
                      login may use; read again when it changes
  from_policy         `account`: From must be an address of the writer (default if `senders` is given);
                      `domain`: any address in the domains above
  received_auth       `yes` or `no` (default): whether the login is read from the Received field, into which
                      OpenSMTPD writes it with `received-auth`, and removed there. Without a login, the writer is
                      the account of the envelope sender, or this host
  foreign_from        how to treat a message whose From is outside the domains above, or that has Sender instead
                      of From: `refuse` (default), or `rewrite`: From becomes the envelope sender, if the writer
                      may use that address, and Reply-To keeps the original From
  unsigned            header fields to leave out of h=, comma separated, because a relay provider rewrites them;
                      not From
  legacy              `error` (default) or `ignore`: skip DomainKeys signatures, sign rsa-sha256 for rsa-sha1
  workers             number of processes (default: one for each core)
  spool_dir           directory for large messages (default: $CACHE_DIRECTORY, /var/tmp)
  spool_memory        bytes of a message's body kept in memory before it goes to disk (default 262144)
"""

import os
import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from authors.address import AddressError, domain_name

from .errors import ConfigError
from .signature import UNSIGNABLE

Endpoint = tuple[str, int]


class Template(NamedTuple):
    """One `dkim(...)` before macros are replaced. `where` is file and line; None means not given."""

    where: str
    domain: str | None
    selector: str | None
    key: str | None
    algorithm: str | None
    relaxed: tuple[bool, bool]
    identity: str | None
    headers: tuple[str, ...]
    lifetime: int | None


@dataclass(frozen=True)
class Config:
    """A valid configuration. The module's docstring describes the fields."""

    listen: Endpoint
    relay: Endpoint
    domains: tuple[str, ...]
    signatures: tuple[Template, ...]
    sender_map: dict[str, tuple[Template, ...]]
    listid_map: dict[str, tuple[Template, ...]]
    senders: str | None
    from_policy: str
    foreign_from: str
    received_auth: bool
    unsigned: frozenset[str]
    hostname: str
    workers: int
    spool_dir: str
    spool_memory: int
    warnings: tuple[str, ...]
    # Key to the place where it was set.
    places: dict[str, str]

    def place(self, key: str) -> str:
        """`FILE:LINE: KEY`, for a message about its value."""
        return f"{self.places[key]}: {key}" if key in self.places else key


def _endpoint(text: str, default_port: int | None = None) -> Endpoint:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+|\*))(?::([0-9]{1,5}))?", text)
    port = int(match[3]) if match and match[3] else default_port
    if not match or port is None or not 0 <= port <= 65535:
        raise ValueError("must be ADDRESS:PORT")
    host = match[1] or match[2]
    return "0.0.0.0" if host == "*" else host, port


def _number(text: str, least: int = 0) -> int:
    if not re.fullmatch(r"[0-9]{1,12}", text) or int(text) < least:
        raise ValueError(f"must be a whole number, {least} or more")
    return int(text)


def _one_of(*words: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be {' or '.join(words)}")
        return text

    return check


def _domains(text: str) -> tuple[str, ...]:
    return tuple(domain_name(name) for name in re.split(r"\s*,\s*", text.strip(", ")))


def _selector(text: str) -> str:
    if "$" not in text and not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,61}[A-Za-z0-9])?", text):
        raise ValueError("is not a valid DKIM selector")
    return text.lower() if "$" not in text else text


def _method(text: str) -> tuple[bool, bool]:
    # RFC 6376 §3.5, c=: a single name applies to the header; the body is then "simple".
    header, _slash, body = text.lower().partition("/")
    if header not in ("simple", "relaxed") or body not in ("", "simple", "relaxed"):
        raise ValueError("must be simple, relaxed, or two of them with a slash")
    return header == "relaxed", body == "relaxed"


def _unsigned(text: str) -> frozenset[str]:
    names = frozenset(re.split(r"\s*,\s*", text.strip(", ").lower()))
    if "from" in names or not all(re.fullmatch(r"[!-9;-~]+", name) for name in names):
        raise ValueError("must be names of header fields, without From (RFC 6376 §5.4)")
    return names


_WITHOUT_EFFECT = (
    "user", "group", "pidfile", "pid_file", "daemonize", "setsid", "background", "debugtrace", "log_level", "log_file",
    "syslog_facility", "syslog_ident", "syslog_logsock", "min_servers", "max_servers", "min_spare_servers",
    "max_spare_servers", "spare_servers", "max_requests", "check_for_waiting", "check_for_dead", "check_for_dequeue",
    "max_dequeue", "lock_file", "serialize", "reject_error", "domainkeys_method",
)  # fmt: skip
# Command line options without a value.
_BARE = ("check", "help", "keys", "version", "daemonize", "setsid", "background", "reject_error")
# Options of DKIMproxy's library that restrict the daemon or its clients: ignoring them would be unsafe.
_INSTEAD = {
    **dict.fromkeys(("host", "port", "proto", "ipv"), "write listen ADDRESS:PORT"),
    **dict.fromkeys(("relay_host", "relay_port"), "write relay ADDRESS:PORT"),
    **dict.fromkeys(
        ("allow", "deny", "cidr_allow", "cidr_deny", "reverse_lookups", "double_reverse_lookups"),
        "restrict clients in the firewall",
    ),
    "chroot": "the sandbox of the systemd unit replaces it",
}
_KEYS: dict[str, Callable[[str], Any]] = {
    "listen": _endpoint,
    "relay": lambda text: _endpoint(text, 25),
    "domain": _domains,
    "signature": str,
    "keyfile": str,
    "selector": _selector,
    "method": str,
    "dkim_method": str,
    "identity": str,
    "sender_map": str,
    "listid_map": str,
    "hostname": domain_name,
    "senders": str,
    "from_policy": _one_of("account", "domain"),
    "foreign_from": _one_of("refuse", "rewrite"),
    "received_auth": _one_of("yes", "no"),
    "unsigned": _unsigned,
    "legacy": _one_of("error", "ignore"),
    "workers": lambda text: _number(text, 1),
    "spool_dir": str,
    "spool_memory": _number,
}
_TAGS = {"keyfile": "key", "selector": "s", "domain": "d", "method": "c", "algorithm": "a", "headers": "h"}
_TAGS |= {"identity": "i"} | {tag: tag for tag in ("key", "s", "d", "c", "a", "h", "i", "x")}


class _Reader:
    """Collects options and mistakes; nothing is raised until all was read."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.signatures: list[tuple[str, str]] = []
        self.mistakes: list[str] = []
        self.warnings: list[str] = []
        self.places: dict[str, str] = {}

    def option(self, where: str, key: str, text: str | None) -> None:
        key = key.replace("-", "_")
        if key in _WITHOUT_EFFECT:
            return None
        if key in _INSTEAD:
            return self.mistakes.append(f"{where}: '{key}' is not supported: {_INSTEAD[key]}")
        if key not in _KEYS:
            return self.mistakes.append(f"{where}: unknown key '{key}'")
        if text is None:
            return self.mistakes.append(f"{where}: {key} has no value")
        if key == "signature":
            return self.signatures.append((where, text))
        if key in self.places and key != "domain":
            return self.mistakes.append(f"{where}: {key} was given before ({self.places[key]})")
        self.places[key] = where
        try:
            value = _KEYS[key](text)
        except ValueError as error:
            return self.mistakes.append(f"{where}: {key} '{text}': {error}")
        self.values[key] = self.values.get("domain", ()) + value if key == "domain" else value

    def file(self, path: str) -> None:
        for where, line in _lines(path):
            line = re.sub(r"(?<!\\)#.*", "", line).replace(r"\#", "#").strip()
            match = re.fullmatch(r"(?:--)?([A-Za-z_-]+)(?:\s*[=:]\s*|\s+)?(.*)", line)
            if not match:
                self.mistakes.append(f"{where}: not a `key value` line")
            else:
                self.option(where, match[1].lower(), match[2] or None)

    def template(self, where: str, text: str) -> Template | None:
        """Parse one `dkim(...)`; None for a skipped DomainKeys signature."""
        match = re.fullmatch(r"(\w+)(?:\((.*)\))?", text)
        kind = match[1].lower() if match else ""
        if not match or kind not in ("dkim", "domainkeys"):
            raise ValueError(f"'{text}' is not a signature: write dkim(...)")
        if kind == "domainkeys":
            self._legacy(where, "DomainKeys signatures are not supported", "delete the line, or use dkim(...)")
            return None
        tags: dict[str, str] = {}
        for part in filter(None, re.split(r"\s*,\s*", match[2] or "")):
            name, equals, value = part.partition("=")
            tag = _TAGS.get(name.strip())
            if not tag or not equals or not value.strip():
                raise ValueError(f"'{part}' must be one of a= c= d= s= i= key= h= x=")
            if tag in tags:
                raise ValueError(f"{tag}= is given twice")
            tags[tag] = value.strip()
        algorithm = tags.get("a", "").lower() or None
        if algorithm == "rsa-sha1":
            self._legacy(where, "rsa-sha1 is refused by verifiers (RFC 8301)", "write a=rsa-sha256")
            algorithm = "rsa-sha256"
        elif algorithm not in (None, "rsa-sha256", "ed25519-sha256"):
            raise ValueError(f"a={algorithm}: must be rsa-sha256 or ed25519-sha256")
        headers = tuple(name.lower() for name in filter(None, re.split(r"[:\s]+", tags.get("h", ""))))
        if bad := [name for name in headers if name in UNSIGNABLE or not re.fullmatch(r"[!-9;-~]+", name)]:
            raise ValueError(f"h=: '{bad[0]}' must not be signed")
        domain, selector = tags.get("d"), tags.get("s")
        if domain and "$" not in domain:
            domain = domain_name(domain)
        return Template(
            where=where,
            domain=domain,
            selector=_selector(selector) if selector else self.values.get("selector"),
            key=tags.get("key") or self.values.get("keyfile"),
            algorithm=algorithm,
            relaxed=self._canonicalization(where, tags.get("c")),
            identity=tags.get("i") or self.values.get("identity"),
            headers=headers,
            lifetime=_number(tags["x"], 1) if "x" in tags else None,
        )

    def templates(self, entries: Iterable[tuple[str, str]]) -> tuple[Template, ...]:
        """Templates of `(file:line, text)`; mistakes are noted."""
        made = []
        for where, text in entries:
            try:
                if template := self.template(where, text):
                    made.append(template)
            except ValueError as error:
                self.mistakes.append(f"{where}: signature: {error}")
        return tuple(made)

    def map(self, key: str) -> dict[str, tuple[Template, ...]]:
        path, entries = self.values.get(key), {}
        try:
            lines = list(_lines(path)) if path else []
        except ConfigError as error:
            self.mistakes.append(f"{self.places[key]}: {key} {error}")
            lines = []
        for where, line in lines:
            name, _blank, value = line.partition(" ")
            name = name.lower()
            if line.startswith(";"):
                continue
            if not value.strip():
                self.mistakes.append(f"{where}: not a `NAME dkim(...)` line")
                continue
            if name in entries:
                self.warnings.append(f"{where}: '{name}' is given twice; this line is used")
            # Commas inside parentheses belong to one signature.
            parts = re.findall(r"\s*(\w+\s*(?:\([^)]*\))?|[^,]+?)\s*(?:,|$)", value)
            entries[name] = self.templates((where, part) for part in parts)
            if key == "sender_map":
                self._aligned(name, entries[name])
        return entries

    def _aligned(self, name: str, templates: tuple[Template, ...]) -> None:
        """Report signatures that align with no From of their line: they would never be used (RFC 7489 §3.1)."""
        author = name.rpartition("@")[2]
        for template in templates:
            domain = template.domain
            if not domain or "$" in domain or author == "." or _under(author, domain):
                continue
            if "@" in name or not _under(domain, author):
                self.mistakes.append(
                    f"{template.where}: d={domain} does not align with a From of {name}, so that mail would be refused "
                    f"(RFC 7489 §3.1): sign with {author} or a parent of it"
                )

    def _canonicalization(self, where: str, method: str | None) -> tuple[bool, bool]:
        method = method or self.values.get("dkim_method") or self.values.get("method") or "relaxed/relaxed"
        if method in ("nofws", "nowsp"):
            self._legacy(where, f"'{method}' is not a canonicalization of DKIM", "write relaxed/relaxed")
            return True, True
        return _method(method)

    def _legacy(self, where: str, what: str, instead: str) -> None:
        if self.values.get("legacy") == "ignore":
            self.warnings.append(f"{where}: {what}; ignored as `legacy ignore` says")
        else:
            self.mistakes.append(f"{where}: {what}: {instead}; `legacy ignore` skips such lines")


def _under(name: str, domain: str) -> bool:
    return name == domain or name.endswith("." + domain)


def _lines(path: str) -> Iterable[tuple[str, str]]:
    """`(file:line, text)` of every line that is neither empty nor a comment. Raises ConfigError."""
    try:
        # Old files may have comments in old encodings; paths keep their bytes.
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            content = file.read()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    for number, line in enumerate(content.split("\n"), 1):
        line = re.sub(r"\s+", " ", line).strip()
        if line and not line.startswith("#"):
            yield f"{path}:{number}", line


def read_arguments(arguments: list[str]) -> tuple[dict[str, list[str | None]], list[str]]:
    """Split a command line into options (name -> values, None for a bare flag) and positional words."""
    options: dict[str, list[str | None]] = {}
    words: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            words.append(word)
            continue
        key, equals, value = word[2:].partition("=")
        key = key.replace("-", "_")
        if not equals and key not in _BARE and rest:
            value, equals = rest.pop(0), "="
        options.setdefault(key, []).append(value if equals else None)
    return options, words


def load(options: dict[str, list[str | None]], words: list[str]) -> Config:
    """Read file and command line into a Config. Raises ConfigError with every mistake found."""
    reader, command_line = _Reader(), _Reader()
    for key, values in options.items():
        for value in values if key not in ("conf_file", "check", "keys") else ():
            command_line.option("command line", key, value)
    if len(words) not in (0, 2):
        raise ConfigError("command line: give LISTEN and RELAY, both or neither")
    for key, word in zip(("listen", "relay"), words, strict=False):
        command_line.option("command line", key, word)
    for path in options.get("conf_file", ()):
        reader.file(path or "")
    reader.values |= command_line.values
    reader.places |= command_line.places
    reader.mistakes += command_line.mistakes
    reader.signatures = command_line.signatures or reader.signatures
    return _finish(reader)


def _finish(reader: _Reader) -> Config:
    get, mistakes = reader.values.get, reader.mistakes
    maps = {key: reader.map(key) for key in ("sender_map", "listid_map")}
    signatures = reader.signatures
    if not signatures and not any(maps.values()):
        signatures = [(reader.places.get("keyfile", "no signature line"), "dkim")]
    templates = reader.templates(signatures)
    domains = dict.fromkeys(get("domain", ()))
    domains.update(dict.fromkeys(t.domain for t in templates if t.domain and "$" not in t.domain))
    mistakes += [f"'{key}' is missing" for key in ("listen", "relay") if key not in reader.values]
    if not domains and not any(maps.values()) and not mistakes:
        mistakes.append("'domain' is missing: say which domains to sign for")
    if get("from_policy") == "account" and not get("senders"):
        where = reader.places["from_policy"]
        mistakes.append(f"{where}: from_policy account needs 'senders', the file that says who may write as whom")
    spool_dir = get("spool_dir") or os.environ.get("CACHE_DIRECTORY") or "/var/tmp"
    if not os.path.isdir(spool_dir):
        where = f"{reader.places['spool_dir']}: " if "spool_dir" in reader.places else ""
        mistakes.append(f"{where}spool_dir {spool_dir}: no such directory")
    try:
        hostname = get("hostname") or domain_name(socket.gethostname())
    except AddressError as error:
        hostname = ""
        mistakes.append(f"hostname: {error}")
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return Config(
        listen=reader.values["listen"],
        relay=reader.values["relay"],
        domains=tuple(domains),
        signatures=templates,
        senders=get("senders"),
        from_policy=get("from_policy") or ("account" if get("senders") else "domain"),
        foreign_from=get("foreign_from") or "refuse",
        received_auth=get("received_auth") == "yes",
        unsigned=get("unsigned", frozenset()),
        hostname=hostname,
        workers=get("workers") or len(os.sched_getaffinity(0)),
        spool_dir=spool_dir,
        spool_memory=get("spool_memory", 262144),
        warnings=tuple(reader.warnings),
        places=reader.places,
        **maps,
    )
