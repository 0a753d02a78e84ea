#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible action: check a mail server. Implemented by the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: check
short_description: Report what is wrong with a mail server and how to fix it
version_added: "0.1.0"
description:
  - On the controller, connects to the ports 25, 465, 587, 993 and 4190 at each address of the server, reads the
    greeting, checks the certificate, and tests whether TLS below 1.2 is refused. It does not log in there.
  - On the host, runs C(mail-status) and the DNS check, logs in at the relay provider
    (M(selfhosted.mail.smtp_login)) and sends test messages through it (M(selfhosted.mail.relay_proof)).
  - Changes nothing, and does not fail on findings.
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  hostname: {description: "The server's name, which its certificate must contain.", type: str, required: true}
  address: {description: Name or address to connect to from the controller., type: str, required: true}
  tls_mode:
    description: Value of C(mail_tls_mode). With C(selfsigned) the certificate need not be signed by an authority.
    type: str
    required: true
  relay_host: {description: The relay provider., type: str, default: ""}
  relay_port: {description: Its port., type: int, default: 587}
  relay_tls: {description: C(starttls) or C(smtps)., type: str, default: starttls}
  domains: {description: The mail domains., type: list, elements: str, required: true}
  unsigned_headers: {description: Header fields that are currently not signed., type: list, elements: str, default: []}
  patience: {description: Seconds to wait for the test messages to return., type: int, default: 60}
extends_documentation_fragment: [ansible.builtin.action_common_attributes]
attributes:
  platform: {platforms: debian}
  check_mode: {support: full, details: "In check mode it neither logs in at the relay provider nor sends messages."}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Check the mail server
  selfhosted.mail.check:
    hostname: mail.example.org
    address: mail.example.org
    tls_mode: selfsigned
    relay_host: smtp.provider.example
    domains: [example.org]
"""

RETURN = r"""
findings:
  description:
    - Mappings with C(check), C(subject), C(status) (C(ok), C(warning), C(error) or C(unknown)), C(required), C(text),
      C(fix), as C(mail-status --json) has them, and C(host). The worst come first.
  type: list
  elements: dict
  returned: always
lines: {description: The findings as text., type: list, elements: str, returned: always}
wrong: {description: Number of required findings with the status C(error)., type: int, returned: always}
"""
