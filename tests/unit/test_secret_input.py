# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever stands in a secret, a run's output names the variable and does not show the value.

The real ``ansible-playbook`` runs, with the words that show most. ``ANSIBLE_PLAYBOOK`` names one of another version.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

PLAYBOOK = Path(os.environ.get("ANSIBLE_PLAYBOOK", Path(sys.executable).parent / "ansible-playbook"))
WORD = "s3Cr"
# What a generator of passwords, or somebody who wants to protect one, makes of a text.
TEXTS = {
    "expression": f"{WORD}{{{{{WORD}",
    "statement": f"{WORD}{{%{WORD}",
    "comment": f"{WORD}{{#{WORD}",
    "name": f"{WORD}{{{{{WORD}}}}}{WORD}",
    "filter": f"{WORD}{{{{ mail_domain | {WORD} }}}}",
    "missing": f"{{{{ {WORD} }}}}",
    "constant": f"{WORD}{{{{ 1 }}}}",
    "closed_comment": f"{WORD}{{# {WORD} #}}",
    "raw": f"{{% raw %}}{WORD}{{{{{WORD}{{% endraw %}}",
    "condition": f"{WORD}{{% if mail_domain %}}{WORD}{{% endif %}}",
    "header": f"#jinja2: {WORD}\n{{{{{WORD}",
}
TYPES: dict[str, Any] = {
    "mapping": {WORD: WORD},
    "list": [WORD, WORD],
    "number": 990099,
    "true": True,
    "empty": "",
    "null": None,
    "long": WORD * 1250,
    "control": f"{WORD}\n{WORD}\x07",
}
RELAY = {"mail_relay_host": "smtp.provider.test", "mail_relay_username": "customer"}


@dataclass(frozen=True)
class Run:
    """A playbook, and the variables that may hold a secret in it: name, and whether it is a list of accounts."""

    roles: tuple[str, ...]
    variables: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.roles[0] if self.roles else "site"


RUNS = [
    Run((), ("mail_relay_username", "mail_relay_password", "mail_accounts")),
    Run(("smtp_relay",), ("mail_relay_password", "smtp_relay_username", "smtp_relay_password")),
    Run(("accounts",), ("mail_accounts", "accounts_list")),
    Run(("opensmtpd",), ("mail_accounts", "opensmtpd_accounts")),
    Run(("dovecot",), ("mail_accounts", "dovecot_accounts")),
]


def holding(variable: str, secret: object) -> tuple[dict[str, object], str]:
    """Variables of a host where the secret stands in this one, and the name that a message has to say."""
    if not variable.endswith(("accounts", "list")):
        return {"mail_relay_password": "fine", **RELAY, variable: secret}, variable
    accounts = [{"address": "alice@one.test", "password": "fine"}, {"address": "bob@one.test", "password": secret}]
    return {variable: accounts}, f"{variable}[1].password"


def play(folder: Path, checkout: Path, run: Run, hosts: Mapping[str, Mapping[str, object]], python: str) -> str:
    """The output of a run that fails."""
    entries = {
        name: {
            "ansible_connection": "local", "ansible_python_interpreter": python, "mail_domain": "one.test",
            "mail_accounts": [{"address": "alice@one.test", "password": "fine"}], **values,
        }
        for name, values in hosts.items()
    }  # fmt: skip
    (folder / "hosts.json").write_text(json.dumps({"mail": {"hosts": entries}}))
    playbook = checkout / "playbooks/site.yml"
    if run.roles:
        playbook = folder / "play.json"
        roles = [f"selfhosted.mail.{role}" for role in run.roles]
        playbook.write_text(json.dumps([{"hosts": "mail", "gather_facts": False, "roles": roles}]))
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(checkout / "playbooks/collections"),
        "ANSIBLE_DISPLAY_TRACEBACK": "always",
        "ANSIBLE_FORKS": "10",
        "ANSIBLE_HOME": str(folder / "home"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_VAULT_PASSWORD_FILE": str(folder / "key"),
    }
    (folder / "key").write_text("key")
    command: list[str | Path] = [PLAYBOOK, "-vvv", "--check", "--diff", "-i", folder / "hosts.json", playbook]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode not in (0, 1, 4), done.stdout[-3000:]
    return done.stdout


def messages(output: str) -> dict[str, str]:
    """What the output says of each failed host."""
    found = re.findall(r"^fatal: \[(\S+)\]: FAILED! => (\{.*?^\})", output, re.MULTILINE | re.DOTALL)
    return {host: str(json.loads(text)["msg"]) for host, text in found}


def vault_file(folder: Path, encrypted: bool) -> None:
    """The texts as variables, as vault.yml.example says and as it does not, and one under another key."""
    (folder / "key").write_text("key")
    (folder / "other").write_text("other")
    vault = PLAYBOOK.parent / "ansible-vault"
    locked = subprocess.run(
        [vault, "encrypt_string", "--vault-password-file", folder / "other", "--name", "vault_locked", WORD],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    lines = [f"vault_{name}: {json.dumps(text)}" for name, text in TEXTS.items()]
    lines.append(f"vault_unsafe: !unsafe {json.dumps(' '.join(TEXTS.values()).replace(chr(10), ''))}")
    file = folder / "group_vars" / "mail.yml"
    file.parent.mkdir()
    file.write_text("\n".join([*lines, locked]))
    if encrypted:
        subprocess.run([vault, "encrypt", "--vault-password-file", folder / "key", file], check=True)


@pytest.mark.parametrize(
    ("run", "encrypted"),
    [*((run, False) for run in RUNS), (RUNS[0], True)],
    ids=lambda value: value.name if isinstance(value, Run) else "encrypted" if value else "plain",
)
def test_a_template_in_a_secret_is_named_and_not_shown(
    run: Run, encrypted: bool, tmp_path: Path, checkout: Path
) -> None:
    """No host is asked anything: there is no Python that could answer."""
    vault_file(tmp_path, encrypted)
    hosts: dict[str, dict[str, object]] = {}
    names: dict[str, str] = {}
    for variable in run.variables:
        for case, secret in {**TEXTS, "nested": {WORD: [TEXTS["expression"]]}}.items():
            hosts[f"{variable}-{case}"], name = holding(variable, secret)
            names[f"{variable}-{case}"] = name
        for case in ("expression", "closed_comment", "locked"):
            hosts[f"{variable}-vault-{case}"], name = holding(variable, f"{{{{ vault_{case} }}}}")
            names[f"{variable}-vault-{case}"] = f"{name} -> vault_{case}: "
        hosts[f"{variable}-unsafe"], _name = holding(variable, "{{ vault_unsafe }}")
    output = play(tmp_path, checkout, run, hosts, "/nowhere/python3")
    said = messages(output)
    wrong = [
        f"{host}: {said.get(host)}"
        for host, name in names.items()
        if name not in said.get(host, "") or "!unsafe" not in said[host]
    ]
    assert not wrong, "\n".join(wrong)
    assert WORD not in output
    for host in hosts:
        if host not in names:
            assert "!unsafe" not in said.get(host, ""), said[host]


@pytest.mark.parametrize(
    "run", [RUNS[0], *(pytest.param(run, marks=pytest.mark.long) for run in RUNS[1:])], ids=lambda run: run.name
)
def test_a_secret_of_a_wrong_kind_is_named_and_not_shown(run: Run, tmp_path: Path, checkout: Path) -> None:
    hosts: dict[str, dict[str, object]] = {}
    for variable in run.variables:
        for case, value in TYPES.items():
            values, _name = holding(variable, value)
            # Refused in any case, so that nothing comes of it on this machine.
            hosts[f"{variable}-{case}"] = {**values, "mail_domain": "one", "smtp_relay_port": 0, "mail_relay_port": 0}
    output = play(tmp_path, checkout, run, hosts, sys.executable)
    assert WORD not in output
    assert "990099" not in output
    said = messages(output)
    wrong = []
    for host in hosts:
        variable, case = host.rsplit("-", 1)
        # A role says its own variable, which has the shared one's value.
        what = variable.removeprefix("mail_").removeprefix("smtp_")
        if run.name == "accounts":
            what = "accounts_list"
        if not re.search(rf"\b\w*{what}\b", said.get(host, "")):
            wrong.append(f"{host}: {said.get(host)}")
    assert not wrong, "\n".join(wrong)


def test_all_shared_variables_are_looked_at(checkout: Path) -> None:
    """Those of README. What else begins with mail_ is somebody else's, who may evaluate it where it makes sense."""
    looked_at = yaml.safe_load((checkout / "roles/mail/vars/main.yml").read_text())["__mail_shared"]
    table = re.findall(r"^\| (`mail_.*?) \|", (checkout / "README.md").read_text(), re.MULTILINE)
    assert set(looked_at) == {name for cell in table for name in re.findall(r"`(mail_\w+)`", cell)}


def test_the_lines_above_a_wrong_variable_are_not_shown(tmp_path: Path, checkout: Path) -> None:
    """Ansible's own error shows where the variable stands, and two lines more."""
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/mail.yml").write_text(
        f"mail_relay_username: {WORD}\nmail_relay_password: {WORD}\nmail_relay_spf: '{{{{ nobody }}}}'\n"
    )
    output = play(tmp_path, checkout, RUNS[0], {"host": {}}, "/nowhere/python3")
    assert messages(output)["host"].startswith("mail_relay_spf: ")
    assert WORD not in output
