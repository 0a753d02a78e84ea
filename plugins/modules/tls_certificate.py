#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible action: order a certificate and have it served. Implemented by the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tls_certificate
short_description: Order a mail server's certificate if it is due, and have it served
version_added: "0.1.0"
description:
  - Runs the program of the role C(selfhosted.mail.certificate) on the host. It orders a certificate by ACME if one is
    due, and reloads or restarts each daemon that does not serve the certificate on disk.
  - Before an order that needs port 80, the controller tests whether the port is reachable, with a temporary listener
    on the host.
  - Each problem is a warning, and the certificate stays as it is.
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  hostname: {description: The name in the certificate., type: str, required: true}
extends_documentation_fragment: [ansible.builtin.action_common_attributes]
attributes:
  platform: {platforms: debian}
  check_mode: {support: none}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Order the certificate if it is due, and have it served
  selfhosted.mail.tls_certificate:
    hostname: mail.example.org
"""

RETURN = r"""
done:
  description: Changes, a phrase each.
  type: list
  elements: str
  returned: always
  sample: ["opensmtpd.service serves it"]
"""
