# SPDX-License-Identifier: GPL-3.0-or-later
"""Each role's README has one valid example of the role alone. tests/readme runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.selfhosted.mail.plugins.plugin_utils import validation
from jinja2 import Environment, StrictUndefined

from testbed.examples import ROLES, VAULT, examples
from testbed.playbook import run

CHECKOUT = Path(__file__).parents[3]
# A role that another one runs, which its example names instead.
RUN_BY = {"dkimproxy_upstream": "dkimproxy"}
JINJA = Environment(undefined=StrictUndefined)
every_role = pytest.mark.parametrize("role", ROLES)


def options(role: str) -> set[str]:
    """Names of the variables that it documents."""
    specs = yaml.safe_load((CHECKOUT / "roles" / role / "meta/argument_specs.yml").read_text())["argument_specs"]
    return {name for entry_point in specs.values() for name in entry_point["options"]}


def variables(role: str) -> dict[str, Any]:
    """Those of its example, with what Ansible would put into them."""
    [text] = examples(role)
    [play] = yaml.safe_load(JINJA.from_string(text).render(VAULT, playbook_dir="/play"))
    found: dict[str, Any] = play["roles"][0]["vars"]
    return found


@every_role
def test_there_is_one_example_with_the_role_alone(role: str) -> None:
    [text] = examples(role)
    [play] = yaml.safe_load(text)
    assert set(play) == {"hosts", "roles"}
    assert [used["role"] for used in play["roles"]] == [f"selfhosted.mail.{RUN_BY.get(role, role)}"]
    assert 2 <= len(variables(role)) <= 6


@every_role
def test_its_variables_are_the_roles_or_shared(role: str) -> None:
    assert set(variables(role)) - options(role) - options(RUN_BY.get(role, role)) - options("mail") == set()


@every_role
def test_preflight_takes_it(role: str) -> None:
    assert validation.problems(variables(role)) == []


def test_ansible_takes_them_all(tmp_path: Path) -> None:
    files = [tmp_path / f"{role}.yml" for role in ROLES]
    for role, file in zip(ROLES, files, strict=True):
        file.write_text(*examples(role))
    (tmp_path / "hosts").touch()
    run(files[0], "--syntax-check", *map(str, files[1:]), inventory=tmp_path / "hosts")
