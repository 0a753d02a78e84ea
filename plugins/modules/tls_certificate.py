#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible action: order a certificate and have it served. The work is in the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tls_certificate
short_description: Order a mail server's certificate where it is due, and have it served
version_added: "0.1.0"
description:
  - Calls the program of the role C(selfhosted.mail.certificate) on the host. It orders a certificate by ACME where that
    is due, and has daemons that serve another one than is on disk take it.
  - Before an order that needs port 80 the controller asks whether it is reachable, by a listener on the host that runs
    meanwhile.
  - What is in the way is a warning, one sentence each, and the certificate stays as it is.
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  hostname:
    description: The name in the certificate.
    type: str
    required: true
attributes:
  check_mode: {support: none}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Order the certificate where it is due, and have it served
  selfhosted.mail.tls_certificate:
    hostname: mail.example.org
"""

RETURN = r"""
done:
  description: What has changed, a phrase each.
  type: list
  elements: str
  returned: always
  sample: ["opensmtpd.service serves it"]
"""
