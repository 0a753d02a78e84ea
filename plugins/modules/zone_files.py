#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible action: zone files are written on the controller. The work is in the action plugin of the same name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: zone_files
short_description: Zone files are written on the controller
version_added: "0.1.0"
description:
  - Writes one C(<zone>.zone) for each zone into a directory of the controller, in check mode none.
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  directory:
    description: Directory on the controller. It is made where it is missing.
    type: path
    required: true
  zones:
    description: Zone name to the text of its file.
    type: dict
    required: true
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Zone files are written
  selfhosted.mail.zone_files:
    directory: dns
    zones:
      example.org: |
        @ IN MX 10 mail.example.org.
"""

RETURN = r"""
paths:
  description: The files, whether changed or not.
  type: list
  elements: str
  returned: always
"""
