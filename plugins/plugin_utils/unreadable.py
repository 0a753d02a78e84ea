# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Evaluate variables to Python's own types, and report those that cannot be evaluated without showing their content.

Ansible's own error would show the template and the lines above it in the inventory, which may contain secrets. A secret
that would silently become another text is reported too: one with a comment or a statement of Jinja in it, or with an
expression that names no variable. Secrets are variables whose name ends in username, password, password_hash or
environment, the passwords of accounts, and the variables that these refer to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.template import is_trusted_as_template
from ansible_collections.selfhosted.mail.plugins.plugin_utils.validation import ACCOUNT_KEYS
from jinja2 import Environment, TemplateSyntaxError, nodes

Wrong = tuple[str, str]  # a path such as "mail_accounts[1].password -> vault_bob", and what is wrong there

_SECRET = re.compile(r"(password|password_hash|username|environment)\Z")
_NAME_ALONE = re.compile(r"\{\{ *(\w+) *\}\}\Z", re.ASCII)
# Ansible's own, which contain all variables of the host or of all hosts.
_NOT_FOLLOWED = {"hostvars", "vars"}

FAILS = "cannot be evaluated, or names a variable that does not exist"
CHANGES = "would be changed by Jinja"
LOCKED = "cannot be decrypted with the vault passwords that are given"
HINT = "(the value is not shown; write a text that contains {{, {% or {# as !unsafe 'text')"


class Reader:
    """Evaluates variables of one host.

    It has Ansible evaluate only values that are templates, as an evaluation of thousands of accounts takes seconds.

    :param templar: Ansible's templar of that host.
    :param variables: the host's variables, not evaluated.
    """

    def __init__(self, templar: Any, variables: Mapping[str, Any]) -> None:
        self._templar = templar
        self._variables = variables
        self._known: dict[tuple[str, bool], tuple[Any, list[Wrong]]] = {}

    def read(self, names: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
        """Map each name that is set to its value; and a sentence for each place that cannot be evaluated."""
        values: dict[str, Any] = {}
        found: dict[str, Wrong] = {}
        for name in sorted(set(names) & self._variables.keys()):
            values[name], wrong = self._variable(name, bool(_SECRET.search(name)), ())
            for path, what in wrong:
                place = path.rpartition(" -> ")[2]
                if place not in found or len(path) < len(found[place][0]):
                    found[place] = path, what
        return values, [f"{path}: {what} {HINT}" for path, what in found.values()]

    def _variable(self, name: str, secret: bool, trail: tuple[str, ...]) -> tuple[Any, list[Wrong]]:
        """The variable's value and its problems. ``trail``: the variables that refer to it."""
        if (name, secret) not in self._known:
            wrong: list[Wrong] = []
            value = self._value(name, self._variables[name], secret, (*trail, name), wrong)
            self._known[name, secret] = value, wrong
        return self._known[name, secret]

    def _value(self, path: str, value: Any, secret: bool, trail: tuple[str, ...], wrong: list[Wrong]) -> Any:
        if isinstance(value, dict):
            # Other keys are not shown, as they may be secret, too.
            return {
                _plain(key): self._value(f"{path}.{key}", item, bool(_SECRET.match(key)), trail, wrong)
                if isinstance(key, str) and key in ACCOUNT_KEYS
                else self._value(path, item, secret, trail, wrong)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._value(f"{path}[{number}]", item, secret, trail, wrong) for number, item in enumerate(value)]
        if type(value).__name__ == "EncryptedString":
            return self._evaluated(path, value, LOCKED, wrong)
        if (
            isinstance(value, str)
            and ("{" in value or value.startswith("#jinja2:"))
            and is_trusted_as_template(value)
            and self._templar.is_template(value)
        ):
            return self._template(path, value, secret, trail, wrong)
        return _plain(value)

    def _template(self, path: str, text: str, secret: bool, trail: tuple[str, ...], wrong: list[Wrong]) -> Any:
        alone = _NAME_ALONE.match(text)
        names = [alone[1]] if alone else _names(text)
        followed = [name for name in names if name in self._variables and name not in {*trail, *_NOT_FOLLOWED}]
        read = [self._variable(name, secret, trail) for name in followed]
        further = [(f"{path} -> {place}", what) for _value, places in read for place, what in places]
        if further:
            wrong += further
            return None
        if alone and read:
            return read[0][0]
        value = self._evaluated(path, text, FAILS, wrong)
        if secret and (not names or "{#" in text or "{%" in text) and wrong[-1:] != [(path, FAILS)]:
            wrong.append((path, CHANGES))
        return value

    def _evaluated(self, path: str, value: Any, failure: str, wrong: list[Wrong]) -> Any:
        try:
            return _plain(self._templar.template(value))
        except Exception:  # of any kind: its message could show a secret
            wrong.append((path, failure))
            return None


def _plain(value: Any) -> Any:
    """The same data in Python's own types, without the origin that Ansible's types carry."""
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str.__str__(value) if isinstance(value, str) else value


def _names(text: str) -> list[str]:
    """Variables and functions that a template names; none if Jinja cannot parse it."""
    try:
        found = Environment().parse(str(text)).find_all(nodes.Name)
        return list(dict.fromkeys(node.name for node in found if node.ctx == "load"))
    except TemplateSyntaxError:
        return []
