#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: a relay provider takes the credentials."""

from __future__ import annotations

DOCUMENTATION = r"""
module: smtp_login
short_description: A relay provider takes the credentials
version_added: "0.1.0"
description:
  - Connects from the managed host, verifies the certificate, logs in and quits. Sends no mail and changes nothing.
  - Says in one line what the provider answered. A refusal is a warning, or an error with O(required).
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  host: {description: Name of the relay, type: str, required: true}
  port: {description: TCP port., type: int, default: 587}
  tls:
    description: C(starttls) on a plain connection, or C(smtps), TLS from the first byte.
    type: str
    choices: [starttls, smtps]
    default: starttls
  credentials_file:
    description: File on the managed host whose last line is C(LABEL USER:PASSWORD), as table(5) of OpenSMTPD has it.
    type: path
    default: /etc/opensmtpd/relay_credentials
  helo: {description: Name that the host gives of itself., type: str, required: true}
  required: {description: Whether a refusal is an error., type: bool, default: false}
  timeout: {description: Seconds for each step., type: int, default: 15}
attributes:
  check_mode: {support: full, details: Nothing is asked in check mode.}
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
  description: Whether the provider took the login.
  type: bool
  returned: when not in check mode
msg:
  description: What the provider answered, in one line.
  type: str
  returned: always
"""

import base64
import contextlib
import smtplib
import ssl
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule


class Refused(Exception):
    """``str()`` says at which step the provider, or its certificate, refused and how."""


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def authenticate(session: smtplib.SMTP, username: str, password: str) -> tuple[int, bytes]:
    """AUTH PLAIN (RFC 4616), else LOGIN, the two that OpenSMTPD knows; the last reply."""
    offered = session.esmtp_features.get("auth", "").upper().split()
    if "PLAIN" in offered:
        return session.docmd("AUTH", "PLAIN " + encoded(f"\0{username}\0{password}"))
    if "LOGIN" in offered:
        reply = session.docmd("AUTH", "LOGIN")
        for text in (username, password):
            if reply[0] != 334:
                return reply
            reply = session.docmd(encoded(text))
        return reply
    raise Refused(f"it offers AUTH {' '.join(offered) or 'not at all'}, and OpenSMTPD knows PLAIN and LOGIN")


def credentials(file: Path) -> tuple[str, str]:
    """User and password. :raises OSError: when the file cannot be read."""
    line = file.read_text(encoding="utf-8").splitlines()[-1]
    username, _colon, password = line.partition(" ")[2].partition(":")
    return username, password


def log_in(wanted: dict[str, Any]) -> str:
    """The provider's reply to the login.

    :raises Refused: with the step that failed and the answer.
    """
    context = ssl.create_default_context()
    step = "connecting"
    session: smtplib.SMTP | None = None
    try:
        if wanted["tls"] == "smtps":
            session = smtplib.SMTP_SSL(
                wanted["host"], wanted["port"], wanted["helo"], timeout=wanted["timeout"], context=context
            )
        else:
            session = smtplib.SMTP(wanted["host"], wanted["port"], wanted["helo"], timeout=wanted["timeout"])
            step = "STARTTLS"
            session.ehlo()
            session.starttls(context=context)
        step = "AUTH"
        session.ehlo()
        code, text = authenticate(session, *credentials(Path(wanted["credentials_file"])))
        answer = f"{code} {text.decode(errors='replace')}".replace("\n", " ")
        if code != 235:
            raise Refused(f"AUTH: {answer}")
        with contextlib.suppress(OSError, smtplib.SMTPException):
            session.quit()
        return answer
    except ssl.SSLCertVerificationError as error:
        raise Refused(f"its certificate does not verify: {error.verify_message}") from error
    except (OSError, smtplib.SMTPException) as error:
        raise Refused(f"{step}: {error}") from error
    finally:
        if session is not None:
            session.close()


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
        module.exit_json(changed=False, msg=f"{relay} is not asked in check mode")
    try:
        module.exit_json(changed=False, accepted=True, msg=f"{relay} takes the login: {log_in(wanted)}")
    except Refused as refused:
        message = f"{relay} does NOT take outgoing mail: {refused}"
        if wanted["required"]:
            module.fail_json(msg=message)
        module.warn(message)
        module.exit_json(changed=False, accepted=False, msg=message)


if __name__ == "__main__":
    main()
