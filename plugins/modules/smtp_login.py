#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: test the login at a relay provider."""

from __future__ import annotations

DOCUMENTATION = r"""
module: smtp_login
short_description: Test the login at a relay provider
version_added: "0.1.0"
description:
  - Connects from the managed host, verifies the certificate, logs in, tries the null sender and quits.
  - Accepts exactly those certificates, TLS versions and ciphers, EHLO keywords and AUTH mechanisms that OpenSMTPD 7.4
    and 7.6 can use. Stapled OCSP responses are ignored.
  - Sends no mail, and returns the provider's answer in one line. A refused login is a warning, or an error with
    O(required); a refused null sender is a warning.
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  host: {description: Name of the relay., type: str, required: true}
  port: {description: TCP port., type: int, default: 587}
  tls:
    description: C(starttls), or C(smtps) for TLS from the first byte.
    type: str
    choices: [starttls, smtps]
    default: starttls
  credentials_file:
    description: File on the managed host whose last line is C(LABEL USER:PASSWORD), as in OpenSMTPD's table(5).
    type: path
    default: /etc/opensmtpd/relay_credentials
  helo: {description: Host name for EHLO., type: str, required: true}
  required: {description: Whether a refusal is an error., type: bool, default: false}
  timeout: {description: Seconds for each step., type: int, default: 15}
extends_documentation_fragment: [ansible.builtin.action_common_attributes]
attributes:
  platform: {platforms: debian}
  check_mode: {support: full, details: In check mode it does not connect.}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Log in at the relay provider
  selfhosted.mail.smtp_login:
    host: smtp.provider.example
    helo: mail.example.org
"""

RETURN = r"""
accepted:
  description: Whether the provider accepted the login; null if it did not answer, or its name could not be looked up.
  type: bool
  returned: when not in check mode
null_sender:
  description: Whether it accepts C(MAIL FROM:<>); null if its answer was neither 2xx nor 5xx.
  type: bool
  returned: when the provider accepted the login
tls: {description: "The TLS version, such as C(TLSv1.3).", type: str, returned: when the provider accepted the login}
msg: {description: "What the provider answered, in one line.", type: str, returned: always}
"""

import base64
import contextlib
import re
import socket
import ssl
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

# Debian's OpenSMTPD reads this file and no other.
CA_FILE = "/etc/ssl/certs/ca-certificates.crt"
LONGEST_LINE = 2048  # octets, LINE_MAX


class Refused(Exception):
    """The provider refused, or its certificate is not acceptable; ``str()`` names the step and the reason."""


def context() -> ssl.SSLContext:
    """TLS settings of OpenSMTPD's libtls. Python's defaults are stricter (VERIFY_X509_STRICT) and laxer."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    found.minimum_version = ssl.TLSVersion.TLSv1_2
    found.set_ciphers("HIGH:!aNULL")
    found.load_verify_locations(CA_FILE)
    return found


def check_names(certificate: dict[str, Any]) -> None:
    """Check the common name as strictly as tls_verify.c; OpenSSL, which has already matched the name, is laxer.

    Without DNS names, it counts only if there are no IP addresses and no second common name.

    :raises Refused: if it does not count.
    """
    kinds = {kind for kind, _name in certificate.get("subjectAltName", ())}
    common = [value for part in certificate["subject"] for key, value in part if key == "commonName"]
    if "DNS" not in kinds and ("IP Address" in kinds or len(common) > 1):
        why = "it has no DNS name in subjectAltName, and its common name is not its only name"
        raise Refused(f"its certificate does not verify: {why}")


class Session:
    """SMTP as mta_session.c of OpenSMTPD speaks it."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream, self.step = stream, "greeting"
        self.received = stream.makefile("rb")

    def say(self, command: str, wanted: str = "2", step: str = "") -> list[str]:
        self.step = step or command
        self.stream.sendall(f"{command}\r\n".encode())
        return self.reply(wanted)

    def reply(self, wanted: str = "2") -> list[str]:
        """Lines of a reply. :raises Refused: if it is malformed or does not begin with ``wanted``; :raises OSError:"""
        lines: list[str] = []
        while not lines or lines[-1][3:4] == "-":
            if not (line := self.received.readline(LONGEST_LINE)):
                raise Refused(f"{self.step}: the connection was closed")
            lines.append(line.decode(errors="replace").rstrip("\r\n"))
            if not line.endswith(b"\n") or not re.match(r"[2-5]\d\d", lines[-1]):
                raise Refused(f"{self.step}: invalid reply {lines[-1]!r}")
        if not lines[0].startswith(wanted):
            raise Refused(f"{self.step}: {one_line(lines)}")
        return lines

    def keywords(self, helo: str) -> list[str]:
        return [line[4:] for line in self.say(f"EHLO {helo}", step="EHLO")]


def one_line(lines: list[str]) -> str:
    return f"{lines[0][:3]} {' '.join(line[4:] for line in lines)}".rstrip()


def offered(line: str, mechanism: str) -> bool:
    """Whether OpenSMTPD finds the mechanism in the line: only in capitals, and only at its first occurrence."""
    _before, found, after = line.partition(f" {mechanism}")
    return bool(found) and after[:1] in ("", " ")


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def authenticate(session: Session, keywords: list[str], username: str, password: str) -> list[str]:
    """Log in with PLAIN (RFC 4616), else LOGIN, as OpenSMTPD does; returns the last reply. :raises Refused:"""
    lines = [line for line in keywords if line.startswith("AUTH ")]
    if any(offered(line, "PLAIN") for line in lines):
        return session.say("AUTH PLAIN " + encoded(f"\0{username}\0{password}"), step="AUTH")
    if any(offered(line, "LOGIN") for line in lines):
        session.say("AUTH LOGIN", "334 ")
        session.say(encoded(username), "334 ", "AUTH")
        return session.say(encoded(password), step="AUTH")
    raise Refused(f"it offers {' '.join(lines) or 'no AUTH'}, and OpenSMTPD supports only PLAIN and LOGIN")


def credentials(file: Path) -> tuple[str, str]:
    """User and password. :raises OSError: if the file cannot be read."""
    line = file.read_text(encoding="utf-8").splitlines()[-1]
    username, _colon, password = line.partition(" ")[2].partition(":")
    return username, password


def secured(stream: socket.socket, host: str) -> ssl.SSLSocket:
    """Start TLS. :raises Refused, ssl.SSLCertVerificationError: if the certificate is not the relay's."""
    found = context().wrap_socket(stream, server_hostname=host)
    check_names(found.getpeercert() or {})
    return found


def silent_version(wanted: dict[str, Any]) -> int:
    """The IP version, 4 or 6, whose first address does not answer, if the relay has addresses of both; else 0.

    An address without a route fails at once, and OpenSMTPD tries the next one.
    """
    found: dict[int, Any] = {}
    with contextlib.suppress(OSError):
        for family, *_kind, where in socket.getaddrinfo(wanted["host"], wanted["port"], type=socket.SOCK_STREAM):
            found.setdefault(6 if family == socket.AF_INET6 else 4, where)
    for version, where in found.items() if len(found) > 1 else ():
        try:
            socket.create_connection(where[:2], wanted["timeout"]).close()
        except TimeoutError:
            return version
        except OSError:
            continue
    return 0


def log_in(wanted: dict[str, Any]) -> dict[str, Any]:
    """Log in; returns the replies to ``login`` and the ``null`` sender, which may be empty, and the ``tls`` version.

    :raises Refused: with the step that failed and the answer.
    :raises TimeoutError: if it does not answer, with the step; OpenSMTPD would wait for five minutes.
    """
    step, session = "connecting", None
    stream: socket.socket | None = None
    try:
        stream = socket.create_connection((wanted["host"], wanted["port"]), wanted["timeout"])
        if wanted["tls"] == "smtps":
            step = "TLS"
            stream = secured(stream, wanted["host"])
        session = Session(stream)
        session.reply()
        keywords = session.keywords(wanted["helo"])
        if wanted["tls"] == "starttls":
            if "STARTTLS" not in keywords:
                raise Refused("STARTTLS is not offered")
            session.say("STARTTLS")
            stream = secured(stream, wanted["host"])
            session = Session(stream)
            keywords = session.keywords(wanted["helo"])
        reply = authenticate(session, keywords, *credentials(Path(wanted["credentials_file"])))
        said = {
            "login": one_line(reply),
            "tls": stream.version() if isinstance(stream, ssl.SSLSocket) else "",
            "null": "",
        }
        with contextlib.suppress(OSError, Refused):
            said["null"] = one_line(session.say("MAIL FROM:<>", ""))
            session.say("RSET")
            session.say("QUIT")
        return said
    except ssl.SSLCertVerificationError as error:
        raise Refused(f"its certificate does not verify: {error.verify_message}") from error
    except TimeoutError as error:
        raise TimeoutError(f"{session.step if session else step} takes longer than {wanted['timeout']} s") from error
    except OSError as error:
        if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
            raise TimeoutError(error.strerror) from error
        raise Refused(f"{session.step if session else step}: {error}") from error
    finally:
        if stream:
            stream.close()


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "host": {"type": "str", "required": True},
            "port": {"type": "int", "default": 587},
            "tls": {"type": "str", "choices": ["starttls", "smtps"], "default": "starttls"},
            "credentials_file": {"type": "path", "default": "/etc/opensmtpd/relay_credentials"},
            "helo": {"type": "str", "required": True},
            "required": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 15},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    relay = f"relay {wanted['host']}:{wanted['port']}"
    if module.check_mode:
        module.exit_json(changed=False, msg=f"{relay} is not contacted in check mode")
    try:
        said = log_in(wanted)
    except (Refused, TimeoutError) as error:
        unanswered = isinstance(error, TimeoutError)
        message = f"{relay} {'does not answer' if unanswered else 'cannot be used for outgoing mail'}: {error}"
        if wanted["required"]:
            module.fail_json(msg=message)
        module.warn(message)
        module.exit_json(changed=False, accepted=None if unanswered else False, msg=message)
    null_sender = {"2": True, "5": False}.get(said["null"][:1])
    message = f"{relay} accepts the login: {said['login']} ({said['tls']}); null sender: {said['null'] or 'no answer'}"
    if null_sender is False:
        module.warn(
            f"{relay} refuses the null sender, MAIL FROM:<>: {said['null']}. Bounces, read receipts and some vacation"
            " answers cannot be sent; enable the null sender at the provider."
        )
    if silent := silent_version(wanted):
        hint = f"no answer over IPv{silent}, so mail is delayed: set opensmtpd_ip_versions: [{10 - silent}]"
        message += f"; {hint}"
        module.warn(f"{relay}: {hint}")
    module.exit_json(changed=False, accepted=True, null_sender=null_sender, tls=said["tls"], msg=message)


if __name__ == "__main__":
    main()
