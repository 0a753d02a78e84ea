# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which variables cannot be evaluated, said without a word of what stands in them."""

from __future__ import annotations

DOCUMENTATION = r"""
name: unreadable
short_description: Variables that cannot be evaluated, without their values
version_added: "0.1.0"
description:
  - Evaluates variables one by one and says which of them fail. Ansible's own error would show the template and the
    lines above it in the inventory, where secrets may stand.
  - A secret that would silently become another text is named too, one with a comment or a statement of Jinja in it or
    with an expression that names nothing. Secrets are variables whose name ends in C(username) or C(password), the
    passwords of accounts, and what these lead to.
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  _terms:
    description: Names of variables; one that ends in C(_) stands for all that begin with it.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Each variable can be read
  ansible.builtin.fail:
    msg: "{{ unreadable | join('\n') }}"
  when: unreadable | length > 0
  vars:
    unreadable: "{{ query('selfhosted.mail.unreadable', 'mail_relay_password', 'dovecot_') }}"
"""

RETURN = r"""
_raw:
  description: A sentence for each variable, which names it and those that it leads to.
  type: list
  elements: str
"""

import re  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from typing import Any  # noqa: E402

from ansible.plugins.lookup import LookupBase  # noqa: E402
from ansible.template import is_trusted_as_template  # noqa: E402
from jinja2 import Environment, TemplateSyntaxError, nodes  # noqa: E402

Wrong = tuple[str, str]  # a path such as "mail_accounts[1].password -> vault_bob", and what is wrong there

_SECRET = re.compile(r"(password|password_hash|username)\Z")
# Keys of an account; any other is not shown, as it may be part of a value.
_KEYS = {"address", "password", "password_hash", "aliases", "quota", "enabled", "send_only", "send_as", "sieve"}
_NAME_ALONE = re.compile(r"\{\{ *(\w+) *\}\}\Z", re.ASCII)
# Ansible's own, with all variables of all hosts in them.
_NOT_FOLLOWED = {"hostvars", "vars"}

FAILS = "cannot be evaluated, or names a variable that does not exist"
CHANGES = "would become another text"
LOCKED = "cannot be decrypted with the vault passwords that are given"
HINT = "(what stands there is not shown; a text with {{, {% or {# in it is written as !unsafe 'text')"


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **_options: Any) -> list[str]:
        self._variables = variables or {}
        self._known: dict[tuple[str, bool], list[Wrong]] = {}
        names = (name for term in terms for name in sorted(self._variables)
                 if name == term or (term.endswith("_") and name.startswith(term)))
        found: dict[str, Wrong] = {}
        for path, what in (wrong for name in names for wrong in self._variable(name, bool(_SECRET.search(name)), ())):
            place = path.rpartition(" -> ")[2]
            if place not in found or len(path) < len(found[place][0]):
                found[place] = path, what
        return [f"{path}: {what} {HINT}" for path, what in found.values()]

    def _variable(self, name: str, secret: bool, trail: tuple[str, ...]) -> list[Wrong]:
        """What is wrong in a variable. ``trail``: those that led here."""
        if (name, secret) not in self._known:
            self._known[name, secret] = list(self._value(name, self._variables[name], secret, (*trail, name)))
        return self._known[name, secret]

    def _value(self, path: str, value: Any, secret: bool, trail: tuple[str, ...]) -> Iterator[Wrong]:
        """What is wrong in a value as it is written: thousands of accounts need not be evaluated for that."""
        if isinstance(value, dict):
            for key, item in value.items():
                if isinstance(key, str) and key in _KEYS:
                    yield from self._value(f"{path}.{key}", item, bool(_SECRET.match(key)), trail)
                else:
                    yield from self._value(path, item, secret, trail)
        elif isinstance(value, list | tuple):
            for number, item in enumerate(value):
                yield from self._value(f"{path}[{number}]", item, secret, trail)
        elif isinstance(value, str):
            if ("{" in value or value.startswith("#jinja2:")) and is_trusted_as_template(value) \
                    and self._templar.is_template(value):
                yield from self._template(path, value, secret, trail)
        elif type(value).__name__ == "EncryptedString" and not self._evaluates(value):
            yield path, LOCKED

    def _template(self, path: str, text: str, secret: bool, trail: tuple[str, ...]) -> Iterator[Wrong]:
        alone = _NAME_ALONE.match(text)
        names = [alone[1]] if alone else _names(text)
        followed = [name for name in names if name in self._variables and name not in {*trail, *_NOT_FOLLOWED}]
        further = [wrong for name in followed for wrong in self._variable(name, secret, trail)]
        if further:
            yield from ((f"{path} -> {place}", what) for place, what in further)
        elif alone and followed:
            return
        elif not self._evaluates(text):
            yield path, FAILS
        elif secret and (not names or "{#" in text or "{%" in text):
            yield path, CHANGES

    def _evaluates(self, value: Any) -> bool:
        try:
            self._templar.template(value)
        except Exception:  # whatever it is, its words are nobody's to see
            return False
        return True


def _names(text: str) -> list[str]:
    """Variables and functions that a template names; none where it is no template that Jinja can read."""
    try:
        found = Environment().parse(str(text)).find_all(nodes.Name)
        return list(dict.fromkeys(node.name for node in found if node.ctx == "load"))
    except TemplateSyntaxError:
        return []
