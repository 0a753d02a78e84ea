#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible action: what is wrong with a mail server. The work is in the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: check
short_description: Say what is wrong with a mail server, and what to do
version_added: "0.1.0"
description:
  - From the controller it connects to the ports 25, 465, 587, 993 and 4190 at each address of the server, reads the
    greeting, looks at the certificate, and tries whether TLS below 1.2 is spoken. It logs in nowhere there.
  - On the host it asks C(mail-status), logs in at the relay provider (M(selfhosted.mail.smtp_login)) and sends messages
    round (M(selfhosted.mail.relay_proof)).
  - It changes nothing and does not fail because of what it finds.
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  hostname: {description: "The server's name, which its certificate has to have.", type: str, required: true}
  address: {description: Name or address to connect to from the controller., type: str, required: true}
  tls_mode:
    description: As the variable C(mail_tls_mode). With C(selfsigned) nobody else has to have signed the certificate.
    type: str
    required: true
  relay_host: {description: The relay provider., type: str, default: ""}
  relay_port: {description: Its port., type: int, default: 587}
  relay_tls: {description: C(starttls) or C(smtps)., type: str, default: starttls}
  domains: {description: The mail domains., type: list, elements: str, required: true}
  keys:
    description: Their keys, as the filter P(selfhosted.mail.dkim_keys#filter) has them.
    type: list
    elements: dict
    required: true
  unsigned_headers: {description: Header fields that are not signed now., type: list, elements: str, default: []}
  patience: {description: Seconds until a message that was sent round has to be back., type: int, default: 60}
attributes:
  check_mode: {support: full, details: "In check mode it neither logs in at the relay provider nor sends."}
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
    keys: "{{ 'example.org' | selfhosted.mail.dkim_keys('mail', [], 'mail.example.org') }}"
"""

RETURN = r"""
findings:
  description:
    - Mappings with C(check), C(subject), C(status) (C(ok), C(warning), C(error) or C(unknown)), C(required), C(text),
      C(fix), as C(mail-status --json) has them, and C(host). The worst come first.
  type: list
  elements: dict
  returned: always
lines:
  description: The same for people.
  type: list
  elements: str
  returned: always
wrong:
  description: How many required ones are an C(error).
  type: int
  returned: always
"""
