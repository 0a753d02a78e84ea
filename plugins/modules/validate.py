#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible action: check the variables of a host. Implemented by the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: validate
short_description: Check the variables of a host
version_added: "0.1.0"
description:
  - Evaluates every variable of this collection that is set for the host and checks it, by itself and against the
    others. It runs on the controller only.
  - Fails with all problems at once. Each sentence begins with the name of its variable. Secrets, and values that cannot
    be evaluated, are not shown.
  - An unknown variable with the prefix C(mail_) or that of a role is an error if its name resembles a known one, else
    a warning.
  - The role C(selfhosted.mail.mail), on which all others depend, calls it.
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  required:
    description:
      - Variables that must be set.
    type: list
    elements: str
    default: []
extends_documentation_fragment: [ansible.builtin.action_common_attributes]
attributes:
  platform: {platforms: debian}
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Check the variables
  selfhosted.mail.validate:
    required: [mail_domain, mail_accounts]
"""

RETURN = r"""
msg:
  description: A sentence for each problem, one on a line.
  type: str
  returned: on failure
  sample: "mail_relay_tls: must be one of starttls, smtps, not 'none'"
zone_files:
  description: Paths on the controller that the zone files of the host are written to.
  type: list
  elements: str
  returned: always
"""
