# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A template's text, as ansible.builtin.template gives it, without its copy of all variables."""

from __future__ import annotations

DOCUMENTATION = r"""
name: rendered
short_description: A template's text, whatever the size of the inventory
version_added: "0.1.0"
description:
  - The same as P(ansible.builtin.template#lookup) with its defaults. That one copies all variables first, down to the
    last string, which takes seconds for each template where a host has thousands of accounts.
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  _terms:
    description: Names of template files.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: The configuration is in place
  selfhosted.mail.daemon_config:
    service: dovecot.service
    files:
      - path: /etc/dovecot/dovecot.conf
        content: "{{ lookup('selfhosted.mail.rendered', 'dovecot.conf.j2') }}"
"""

RETURN = r"""
_raw:
  description: The rendered text of each template.
  type: list
  elements: str
"""

from typing import Any  # noqa: E402

from ansible.plugins.loader import lookup_loader  # noqa: E402
from ansible.plugins.lookup import LookupBase  # noqa: E402


class Variables(dict[str, Any]):
    """Variables that nobody changes in place, so a copy of the outermost mapping is enough."""

    def __deepcopy__(self, _memo: dict[int, Any]) -> dict[str, Any]:
        return dict(self)


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **_options: Any) -> list[Any]:
        template = lookup_loader.get("ansible.builtin.template", loader=self._loader, templar=self._templar)
        result: list[Any] = template.run(terms, Variables(variables or {}))
        return result
