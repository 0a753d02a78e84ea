# SPDX-License-Identifier: GPL-3.0-or-later
"""Every role has the same shape: files, names, options and their documentation."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment, meta

ROLES = sorted(path for path in (Path(__file__).parents[3] / "roles").iterdir() if path.is_dir())
REQUIRED_FILES = [
    "README.md",
    "defaults/main.yml",
    "meta/argument_specs.yml",
    "meta/main.yml",
    *(f"tasks/{name}.yml" for name in ("main", "preflight", "install", "configure", "service")),
]


class AnyName(dict[str, Any]):
    """Ansible's filters and tests, which need not be there: nothing is rendered."""

    def get(self, _name: str, _default: Any = None) -> Any:
        return str


CONDITIONS = ("when", "that", "until", "changed_when", "failed_when")
JINJA = Environment()
JINJA.filters = JINJA.tests = AnyName()
every_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


def loaded(file: Path) -> Any:
    return yaml.safe_load(file.read_text()) if file.exists() else None


def options(role: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = loaded(role / "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    return found


def defaults(role: Path) -> dict[str, Any]:
    return loaded(role / "defaults/main.yml") or {}


def tasks_of(data: Any) -> Iterator[dict[str, Any]]:
    """Every task of a tasks or handlers file, those of blocks too."""
    for task in data or []:
        yield task
        for part in ("block", "rescue", "always"):
            yield from tasks_of(task.get(part))


def tasks(role: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in sorted([*role.glob("tasks/*.yml"), *role.glob("handlers/*.yml")]):
        for task in tasks_of(loaded(file)):
            yield file, task


def expressions_in(data: Any, bare: bool = False) -> Iterator[str]:
    """Every Jinja text in a YAML file's data; conditions are expressions without braces."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from expressions_in(value, bare or key in CONDITIONS)
    elif isinstance(data, list):
        for item in data:
            yield from expressions_in(item, bare)
    elif isinstance(data, str):
        yield f"{{{{ {data} }}}}" if bare else data


def variables_in(file: Path) -> set[str]:
    """The variables that a YAML file or a template takes from outside of itself."""
    texts = [file.read_text()] if file.suffix == ".j2" else expressions_in(loaded(file))
    return set().union(*(meta.find_undeclared_variables(JINJA.parse(text)) for text in texts))


SHARED = {name for role in ROLES for name in variables_in(role / "defaults/main.yml") if name.startswith("mail_")}


def test_there_are_roles() -> None:
    assert {"opensmtpd", "dovecot", "rspamd", "dkimproxy", "smtp_relay"} <= {role.name for role in ROLES}


@every_role
def test_files(role: Path) -> None:
    assert [name for name in REQUIRED_FILES if not (role / name).is_file()] == []


@every_role
def test_a_role_with_a_service_has_a_handler_for_others(role: Path) -> None:
    uses_a_service = "daemon_service" in (role / "tasks/service.yml").read_text()
    assert (role / "handlers/main.yml").exists() is uses_a_service


@every_role
def test_main_imports_the_others_in_their_order(role: Path) -> None:
    imported = [task.get("ansible.builtin.import_tasks") for task in loaded(role / "tasks/main.yml")]
    assert imported == ["preflight.yml", "install.yml", "configure.yml", "service.yml"]


@every_role
def test_argument_specs_and_defaults_name_the_same_options(role: Path) -> None:
    assert list(options(role)) == list(defaults(role)), "the same options in the same order"


@every_role
def test_argument_specs_and_defaults_have_the_same_defaults(role: Path) -> None:
    for name, option in options(role).items():
        value = defaults(role)[name]
        if option.get("required"):
            assert "default" not in option, f"{name} is required"
            assert "omit" in str(value), f"{name}: without omit the argument spec does not see that it is missing"
        else:
            assert (option["default"], type(option["default"])) == (value, type(value)), name


@every_role
def test_options_are_described_and_typed(role: Path) -> None:
    for name, option in options(role).items():
        assert option.get("description"), name
        assert option.get("type"), name
        if option["type"] == "list":
            assert option.get("elements"), name


@every_role
def test_secrets_are_hidden_texts(role: Path) -> None:
    """``no_log`` does not hide a value that cannot be converted, so secrets are texts; accounts carry passwords."""
    for name, option in options(role).items():
        if re.search(r"(password|secret)(_hash)?$", name):
            assert option["type"] == "str", name
            assert option.get("no_log") or name.endswith("_hash"), name
        if name.endswith("_accounts") or name == "accounts_list":
            assert option.get("no_log"), name


@every_role
def test_options_carry_the_roles_name(role: Path) -> None:
    assert [name for name in defaults(role) if not name.startswith(f"{role.name}_")] == []


@every_role
def test_internals_begin_with_the_roles_name(role: Path) -> None:
    """Or with ``__mail_``: what the site playbook and the roles tell each other."""
    names = [(file.name, name) for file in role.glob("vars/*.yml") for name in loaded(file)]
    for file, task in tasks(role):
        set_here = [*(task.get("ansible.builtin.set_fact") or {}), *filter(None, [task.get("register")])]
        if not any(key in task for key in ("ansible.builtin.include_role", "ansible.builtin.import_role")):
            set_here += list(task.get("vars") or {})
        names += [(file.name, name) for name in set_here if name != "cacheable"]
    assert [where for where in names if not where[1].startswith((f"__{role.name}_", "__mail_"))] == []


@every_role
def test_no_parameter_is_set_over(role: Path) -> None:
    for file, task in tasks(role):
        overwritten = {*(task.get("ansible.builtin.set_fact") or {}), task.get("register")} & set(options(role))
        assert not overwritten, f"{file}: {overwritten}"


@every_role
def test_shared_variables_come_in_through_the_defaults_alone(role: Path) -> None:
    """Then the role runs alone with its own variables set."""
    for file in sorted({*role.glob("tasks/*"), *role.glob("handlers/*"), *role.glob("vars/*"), *role.rglob("*.j2")}):
        assert variables_in(file) & SHARED == set(), file


@every_role
def test_every_variable_that_is_used_exists_and_every_option_is_used(role: Path) -> None:
    known = {*defaults(role), *(name for file in role.glob("vars/*.yml") for name in loaded(file))}
    for _file, task in tasks(role):
        known |= {*(task.get("ansible.builtin.set_fact") or {}), *(task.get("vars") or {}), task.get("register")}
    files = [*role.glob("tasks/*.yml"), *role.glob("handlers/*.yml"), *role.glob("vars/*.yml"), *role.rglob("*.j2")]
    used = set().union(*(variables_in(file) for file in [*files, role / "defaults/main.yml"]))
    assert {name for name in used if name.startswith((f"{role.name}_", f"__{role.name}_"))} - known == set()
    assert {*defaults(role)} - used == set()


@every_role
def test_task_names_begin_with_their_file(role: Path) -> None:
    for file, task in tasks(role):
        if file.parent.name == "tasks" and file.stem != "main":
            assert task["name"].startswith(f"{file.stem.capitalize()} | "), f"{file}: {task['name']}"


@every_role
def test_templates_say_who_manages_them(role: Path) -> None:
    for template in sorted(role.rglob("templates/**/*.j2")):
        assert template.read_text().startswith("{{ ansible_managed | comment"), template


def test_tables_of_variables_are_fresh(checkout: Path) -> None:
    done = subprocess.run(
        [sys.executable, checkout / "tools/role-docs", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
