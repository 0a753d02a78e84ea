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
from ansible_collections.selfhosted.mail.plugins.plugin_utils import validation
from jinja2 import Environment, meta

CHECKOUT = Path(__file__).parents[3]
ROLES = sorted(path for path in (CHECKOUT / "roles").iterdir() if path.is_dir())
MAIL = CHECKOUT / "roles/mail"
TASK_FILES = ["preflight.yml", "install.yml", "configure.yml", "service.yml"]
# Roles whose options carry another role's name: they are parts of it, or it is two roles.
PREFIXES = {"dkimproxy_upstream": "dkimproxy"}


class AnyName(dict[str, Any]):
    """Ansible's filters and tests, which need not be there: nothing is rendered."""

    def get(self, _name: str, _default: Any = None) -> Any:
        return str


CONDITIONS = ("when", "that", "until", "changed_when", "failed_when")
JINJA = Environment()
JINJA.filters = JINJA.tests = AnyName()
EXPRESSION = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
every_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
other_roles = pytest.mark.parametrize("role", [role for role in ROLES if role != MAIL], ids=lambda role: role.name)


def loaded(file: Path) -> Any:
    return yaml.safe_load(file.read_text()) if file.exists() else None


def entry_points(role: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = loaded(role / "meta/argument_specs.yml")["argument_specs"]
    return found


def options(role: Path) -> dict[str, dict[str, Any]]:
    """Options of all entry points, in their order."""
    return {name: option for spec in entry_points(role).values() for name, option in spec["options"].items()}


def defaults(role: Path) -> dict[str, Any]:
    return loaded(role / "defaults/main.yml") or {}


def dependencies(role: Path) -> set[str]:
    """Roles of the collection that this one depends on, directly or through another."""
    found: set[str] = set()
    for entry in loaded(role / "meta/main.yml").get("dependencies", []):
        name = (entry if isinstance(entry, str) else entry["role"]).removeprefix("selfhosted.mail.")
        found |= {name, *dependencies(role.parent / name)}
    return found


def tasks_of(data: Any) -> Iterator[dict[str, Any]]:
    """Every task of a file, those of blocks too."""
    for task in data or []:
        yield task
        for part in ("block", "rescue", "always"):
            yield from tasks_of(task.get(part))


def tasks(role: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in sorted(role.glob("tasks/*.yml")):
        for task in tasks_of(loaded(file)):
            yield file, task


def strings_in(data: Any, condition: bool = False) -> Iterator[tuple[str, bool]]:
    """Every text in a YAML file's data, and whether it is a condition, an expression without braces."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from strings_in(value, condition or key in CONDITIONS)
    elif isinstance(data, list):
        for item in data:
            yield from strings_in(item, condition)
    elif isinstance(data, str):
        yield data, condition


def variables_in(file: Path) -> set[str]:
    """The variables that a YAML file or a template takes from outside of itself."""
    texts = (
        [file.read_text()]
        if file.suffix == ".j2"
        else [f"{{{{ {text} }}}}" if condition else text for text, condition in strings_in(loaded(file))]
    )
    return set().union(*(meta.find_undeclared_variables(JINJA.parse(text)) for text in texts))


def sources(role: Path) -> list[Path]:
    """Files of a role that use variables, but for its defaults."""
    return sorted([*role.glob("tasks/*.yml"), *role.glob("vars/*.yml"), *role.rglob("*.j2")])


def prefix(role: Path) -> str:
    return PREFIXES.get(role.name, role.name)


def test_there_are_roles() -> None:
    assert {"mail", "opensmtpd", "dovecot", "rspamd", "dkimproxy", "smtp_relay"} <= {role.name for role in ROLES}


@every_role
def test_files(role: Path) -> None:
    needed = ["README.md", "meta/argument_specs.yml", "meta/main.yml", "tasks/main.yml"]
    assert [name for name in needed if not (role / name).is_file()] == []
    assert not (role / "handlers").exists(), "daemon_service restarts what runs old files"
    assert [file.name for file in sorted(role.glob("tasks/*.yml")) if "meta: noop" in file.read_text()] == []


@every_role
def test_main_imports_the_others_in_their_order(role: Path) -> None:
    imported = [task.get("ansible.builtin.import_tasks") for task in loaded(role / "tasks/main.yml")]
    there = [name for name in TASK_FILES if (role / "tasks" / name).exists()]
    assert [name for name in imported if name in TASK_FILES] == there


@other_roles
def test_every_role_depends_on_the_shared_variables(role: Path) -> None:
    assert "mail" in dependencies(role)
    for entry in loaded(role / "meta/main.yml").get("dependencies", []):
        assert entry["role"] != "selfhosted.mail.mail" or list(entry) == ["role"], (
            "else it would run once for each role"
        )


@every_role
def test_no_empty_dependencies(role: Path) -> None:
    assert loaded(role / "meta/main.yml").get("dependencies", ["some"]) != []


@every_role
def test_argument_specs_and_defaults_are_the_same(role: Path) -> None:
    specs = {name: option["default"] for name, option in options(role).items() if "default" in option}
    found = defaults(role)
    assert list(specs) == list(found), "the same options in the same order"
    assert [name for name in specs if (specs[name], type(specs[name])) != (found[name], type(found[name]))] == []
    for name, option in options(role).items():
        assert bool(option.get("required")) is ("default" not in option), name


@every_role
def test_options_are_described_and_typed(role: Path) -> None:
    for name, option in options(role).items():
        assert option.get("description"), name
        assert option.get("type"), name
        if option["type"] == "list":
            assert option.get("elements"), name


def test_ansible_itself_does_not_look_at_shared_variables() -> None:
    """Its check of the entry point ``main`` comes before ours, and its errors show values."""
    assert entry_points(MAIL)["main"]["options"] == {}
    assert len(entry_points(MAIL)) > 1


@every_role
def test_secrets_are_hidden_texts(role: Path) -> None:
    """``no_log`` does not hide a value that cannot be converted, so secrets are texts; accounts carry passwords."""
    for name, option in options(role).items():
        if re.search(r"(password|secret|username)(_hash)?$", name):
            assert option["type"] == "str", name
            assert option.get("no_log"), name
        if name.endswith("_accounts"):
            assert option.get("no_log"), name


@every_role
def test_options_carry_the_roles_name(role: Path) -> None:
    assert [name for name in options(role) if not name.startswith(f"{prefix(role)}_")] == []


def test_every_option_is_checked_and_every_check_is_an_options() -> None:
    assert {name for role in ROLES for name in options(role)} == set(validation.CHECKS)


def test_choices_are_those_of_the_checks() -> None:
    for role in ROLES:
        for name, option in options(role).items():
            for choice in option.get("choices", []):
                assert list(validation.CHECKS[name](choice)) == [], f"{name}: {choice}"
            assert not option.get("choices") or list(validation.CHECKS[name]("no choice")), name


def test_every_default_is_right() -> None:
    """But for those that Jinja computes from others."""
    for role in ROLES:
        for name, value in defaults(role).items():
            if not (isinstance(value, str) and "{{" in value):
                assert list(validation.CHECKS[name](value)) == [], f"{name}: {value}"


def test_the_defaults_that_checks_compare_with_are_the_roles() -> None:
    assert {
        name: value
        for role in ("bans", "dovecot", "rspamd")
        for name, value in defaults(CHECKOUT / "roles" / role).items()
        if name in validation.DEFAULTS
    } == validation.DEFAULTS


def test_all_prefixes_are_known() -> None:
    assert {f"{prefix(role)}_" for role in ROLES} == set(validation.PREFIXES)


@every_role
def test_internals_begin_with_the_roles_name(role: Path) -> None:
    names = [(file.name, name) for file in role.glob("vars/*.yml") for name in loaded(file)]
    for file, task in tasks(role):
        set_here = [task["register"]] if "register" in task else []
        if not any(key in task for key in ("ansible.builtin.include_role", "ansible.builtin.import_role")):
            set_here += list(task.get("vars") or {})
        names += [(file.name, name) for name in set_here]
    assert [where for where in names if not where[1].startswith((f"__{role.name}_", f"__{prefix(role)}_"))] == []


def test_no_fact_is_handed_over() -> None:
    for file in [*CHECKOUT.glob("roles/*/tasks/*.yml"), *CHECKOUT.glob("playbooks/*.yml")]:
        text = file.read_text()
        assert "set_fact" not in text, file
        assert "ansible_play_role_names" not in text, file


@other_roles
def test_shared_variables_are_used_by_their_own_names(role: Path) -> None:
    """Defined in the role mail alone, and no option of a role is another name for one."""
    shared = {name.removeprefix("mail_") for name in options(MAIL)}
    assert [name for name in options(role) if name.removeprefix(f"{prefix(role)}_") in shared] == []
    used = set().union(*(variables_in(file) for file in [*sources(role), role / "defaults/main.yml"] if file.exists()))
    assert {name for name in used if name.startswith("mail_")} - set(options(MAIL)) == set()


@every_role
def test_every_variable_that_is_used_exists_and_every_option_is_used(role: Path) -> None:
    """Those of dependencies exist, too; what a role needs of them and no other is used there."""
    includes_it = {"dkimproxy_upstream": ["dkimproxy"]}
    family = [role, *(role.parent / name for name in [*dependencies(role), *includes_it.get(role.name, [])])]
    known = {name for one in family for name in options(one)}
    known |= {name for file in role.glob("vars/*.yml") for name in loaded(file)}
    for _file, task in tasks(role):
        known |= {*(task.get("vars") or {}), task.get("register")}
    files = [*sources(role), *filter(Path.exists, [role / "defaults/main.yml"])]
    used = set().union(*(variables_in(file) for file in files))
    assert {name for name in used if name.startswith((f"{prefix(role)}_", f"__{role.name}_"))} - known == set()
    read_by_plugins = set(options(role)) if role == MAIL else set()
    assert set(options(role)) - used - read_by_plugins == set()


def test_the_site_playbook_installs_the_packages_of_all_roles() -> None:
    """The roles themselves do not: mail_install is false there. dkimproxy_upstream is set up by the role dkimproxy."""
    _check, site = loaded(CHECKOUT / "playbooks/site.yml")
    listed = set(re.findall(r"__\w+_packages", str(site["vars"]["packages_of_roles"])))
    found = {
        f"__{role.name}_packages"
        for role in ROLES
        if f"__{role.name}_packages" in (loaded(role / "vars/main.yml") or ())
    }
    assert listed == found - {"__dkimproxy_upstream_packages"}


@every_role
def test_a_timer_may_start_its_service_as_often_as_a_variable_says(role: Path) -> None:
    """systemd's own limit, 5 starts in 10 s, would end the timer for good."""
    for timer in role.glob("templates/**/*.timer.j2"):
        if "Sec={{" in timer.read_text():
            (service,) = timer.parent.glob(timer.name.replace(".timer", "*.service"))
            assert "\nStartLimitIntervalSec=0\n" in service.read_text(), service


@every_role
def test_tags_are_the_playbooks(role: Path) -> None:
    tags = {tag for _file, task in tasks(role) for tag in task.get("tags", [])}
    assert tags == ({"always"} if role == MAIL else set())


@every_role
def test_tasks_are_named_by_what_they_do(role: Path) -> None:
    for file, task in tasks(role):
        if "block" not in task:
            assert re.match(r"[A-Z]\w+ ", task["name"]) or file.name == "main.yml", f"{file}: {task.get('name')}"
            assert "|" not in task["name"], f"{file}: {task['name']}"


@every_role
def test_no_role_looks_into_anothers_folder(role: Path) -> None:
    for file in sources(role):
        text = file.read_text()
        assert "/roles/" not in text, file
        assert not re.search(r"role_path[^\n]*\.\.", text), file


def test_no_plugin_reads_a_role() -> None:
    for file in CHECKOUT.glob("plugins/*/*.py"):
        assert not re.search(r"""["'/]roles["'/]""", file.read_text()), file


@other_roles
def test_the_role_firewall_alone_has_daemons_wait_for_its_unit(role: Path) -> None:
    """A run of one role with mail_firewall false removes the unit, and no daemon may wait for it then."""
    waiting = [file for file in role.rglob("templates/**/*.j2") if "selfhosted-mail-nftables" in file.read_text()]
    assert waiting == [] or role.name == "firewall"


@every_role
def test_a_files_place_in_the_role_is_its_place_on_the_host(role: Path) -> None:
    """Unless a task names it as ``src``."""
    named = {word for _file, task in tasks(role) for text, _condition in strings_in(task) for word in text.split()}
    named |= {text for file in role.glob("vars/*.yml") for text, _condition in strings_in(loaded(file))}
    wrong = []
    for kind in ("templates", "files"):
        for file in sorted(path for path in (role / kind).rglob("*") if path.is_file()):
            if "__pycache__" in file.parts:
                continue
            place = str(file.relative_to(role / kind))
            if kind == "templates" and not place.endswith(".j2"):
                wrong.append(f"{kind}/{place}: no .j2")
            if not place.startswith(("etc/", "usr/", "run/", "var/")) and place not in named:
                wrong.append(f"{kind}/{place}")
    assert wrong == []


@every_role
def test_templates_say_who_manages_them(role: Path) -> None:
    for template in sorted(role.rglob("templates/**/*.j2")):
        assert template.read_text().startswith("{{ ansible_managed | comment"), template


def test_no_expression_is_long() -> None:
    """200 characters, blanks at the beginnings of lines not counted."""
    long = []
    for file in sorted([*CHECKOUT.glob("roles/*/*/*.yml"), *CHECKOUT.glob("playbooks/*.yml")]):
        for text, condition in strings_in(loaded(file)):
            for expression in [text] if condition else EXPRESSION.findall(text):
                if len(" ".join(expression.split())) > 200:
                    long.append(f"{file.relative_to(CHECKOUT)}: {' '.join(expression.split())[:60]}")
    assert long == []


def test_a_password_makes_few_stops() -> None:
    """From the defaults to the template: nothing is renamed or copied on its way."""
    command = [
        "grep",
        "-rlw",
        "--exclude-dir=collections",
        "--exclude-dir=__pycache__",
        "--exclude=README.md",
        "mail_relay_password",
        "roles",
        "plugins",
        "playbooks",
    ]
    found = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.split()
    assert len(found) <= 4, found


def test_documentation_of_variables_is_fresh(checkout: Path) -> None:
    done = subprocess.run(
        [sys.executable, checkout / "tools/docs", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
