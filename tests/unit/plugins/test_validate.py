# SPDX-License-Identifier: GPL-3.0-or-later
"""The module validate as the role mail calls it: all problems at once, with names and without secrets.

The real ``ansible-playbook`` runs, with the options that show most. ``ANSIBLE_PLAYBOOK`` names one of another version.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

PLAYBOOK = Path(os.environ.get("ANSIBLE_PLAYBOOK", Path(sys.executable).parent / "ansible-playbook"))
WORD = "s3Cr"
# Texts from password generators, or as users may quote them.
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


ROLE = [{"hosts": "mail", "gather_facts": False, "roles": ["selfhosted.mail.mail"]}]
SECRETS = ("mail_relay_username", "mail_relay_password", "mail_accounts", "rspamd_controller_password_hash")
DEBIAN = {"distribution": "Debian", "distribution_major_version": "13", "distribution_version": "13.1",
          "dns": {}, "all_ipv4_addresses": [], "fqdn": "host.test"}  # fmt: skip
ALICE = {"address": "alice@one.test", "password": "fine"}
GOOD: dict[str, object] = {"mail_domain": "one.test", "mail_accounts": [ALICE]}
NOWHERE = "/nowhere/python3"  # no host is asked anything: there is no Python that could answer


def holding(variable: str, secret: object) -> tuple[dict[str, object], str]:
    """Variables of a host with the secret in this variable, and the name that the message must contain."""
    if variable != "mail_accounts":
        return {**GOOD, "mail_relay_password": "fine", **RELAY, variable: secret}, variable
    return {**GOOD, variable: [ALICE, {"address": "bob@one.test", "password": secret}]}, f"{variable}[1].password"


class Folder:
    """The directory of a run; facts of every host are preset, so that no host is contacted."""

    def __init__(self, path: Path, checkout: Path) -> None:
        self.path, self.checkout = path, checkout

    def run(
        self,
        hosts: Mapping[str, Mapping[str, object]],
        *options: str | Path,
        play: object = None,
        facts: Mapping[str, object] = DEBIAN,
        python: str = NOWHERE,
    ) -> subprocess.CompletedProcess[str]:
        """Output of the role, or of another ``play``, for these hosts."""
        common = {"ansible_connection": "local", "ansible_python_interpreter": python}
        entries = {name: {**common, **values} for name, values in hosts.items()}
        (self.path / "hosts.json").write_text(json.dumps({"mail": {"hosts": entries}}))
        (self.path / "facts.json").write_text(json.dumps({"ansible_facts": facts} if facts else {}))
        if not isinstance(play, Path):
            (self.path / "play.json").write_text(json.dumps(play or ROLE))
            play = self.path / "play.json"
        (self.path / "key").write_text("key")
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(self.checkout / "playbooks/collections"),
            "ANSIBLE_DISPLAY_TRACEBACK": "always",
            "ANSIBLE_FORKS": "10",
            "ANSIBLE_HOME": str(self.path / "home"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_VAULT_PASSWORD_FILE": str(self.path / "key"),
            "PWD": "/nowhere",
        }
        always = [PLAYBOOK, "-vvv", "--check", "--diff", "-i", self.path / "hosts.json", "-e", "@facts.json"]
        return subprocess.run(
            [*always, *options, play],
            cwd=self.path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def passed(self, *arguments: Any, **options: Any) -> str:
        """Output of a run that succeeds."""
        done = self.run(*arguments, **options)
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout

    def failed(self, *arguments: Any, **options: Any) -> str:
        """Output of a run that fails."""
        done = self.run(*arguments, **options)
        assert done.returncode not in (0, 1, 4), done.stdout[-3000:]
        return done.stdout


@pytest.fixture
def folder(tmp_path: Path, checkout: Path) -> Folder:
    return Folder(tmp_path, checkout)


def messages(output: str) -> dict[str, str]:
    """The output for each failed host."""
    found = re.findall(r"^fatal: \[(\S+)\]: FAILED! => (\{.*?^\})", output, re.MULTILINE | re.DOTALL)
    return {host: str(json.loads(text)["msg"]) for host, text in found}


def vault_file(folder: Path, encrypted: bool) -> None:
    """The texts as variables, with and without !unsafe, and one under another key."""
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
    ("encrypted", "site"),
    [
        pytest.param(False, False, id="plain-role"),
        pytest.param(True, True, id="encrypted-site"),
        pytest.param(True, False, id="encrypted-role", marks=pytest.mark.long),
        pytest.param(False, True, id="plain-site", marks=pytest.mark.long),
    ],
)
def test_a_template_in_a_secret_is_named_and_not_shown(encrypted: bool, site: bool, folder: Folder) -> None:
    vault_file(folder.path, encrypted)
    hosts: dict[str, dict[str, object]] = {}
    names: dict[str, str] = {}
    for variable in SECRETS:
        for case, secret in {**TEXTS, "nested": {WORD: [TEXTS["expression"]]}}.items():
            hosts[f"{variable}-{case}"], name = holding(variable, secret)
            names[f"{variable}-{case}"] = name
        for case in ("expression", "closed_comment", "locked"):
            hosts[f"{variable}-vault-{case}"], name = holding(variable, f"{{{{ vault_{case} }}}}")
            names[f"{variable}-vault-{case}"] = f"{name} -> vault_{case}: "
        hosts[f"{variable}-unsafe"], _name = holding(variable, "{{ vault_unsafe }}")
    output = folder.failed(hosts, play=folder.checkout / "playbooks/site.yml" if site else None)
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


def test_a_secret_of_a_wrong_kind_is_named_and_not_shown(folder: Folder) -> None:
    hosts: dict[str, dict[str, object]] = {}
    for variable in SECRETS:
        for case, value in TYPES.items():
            # Some of these values are right where they stand; the domain is wrong on every host.
            hosts[f"{variable}-{case}"] = {**holding(variable, value)[0], "mail_domain": "one"}
    output = folder.failed(hosts)
    assert WORD not in output
    assert "990099" not in output
    said = messages(output)
    right = {"rspamd_controller_password_hash-empty"}
    assert [host for host in hosts if host.rsplit("-", 1)[0] not in said.get(host, "") and host not in right] == []


def test_the_lines_above_a_wrong_variable_are_not_shown(folder: Folder) -> None:
    """Ansible's own error shows where the variable stands, and two lines more."""
    (folder.path / "group_vars").mkdir()
    (folder.path / "group_vars/mail.yml").write_text(
        f"mail_relay_username: {WORD}\nmail_relay_password: {WORD}\nmail_relay_spf: '{{{{ nobody }}}}'\n"
    )
    output = folder.failed({"host": GOOD})
    assert messages(output)["host"].startswith("mail_relay_spf: ")
    assert WORD not in output


def test_all_that_is_wrong_is_said_at_once_for_every_host(folder: Folder) -> None:
    required = {"mail_required": ["mail_domain", "mail_accounts"]}
    satellite = {**RELAY, "mail_relay_password": "fine"}
    hosts: dict[str, dict[str, object]] = {
        "many": {**GOOD, "mail_relay_port": 0, "rspamd_resolver": "dnsmasq", "mail_relay_host": "smtp.test",
                 "mail_domian": "two.test"},
        "missing": {**satellite, **required},
        "empty": {**required, "mail_domain": "", "mail_accounts": None},
        "satellite": satellite,
        "good": {"mail_domain": "{{ name }}.test", "name": "one", "mail_accounts": "{{ people }}", "people": [ALICE],
                 "mail_dns_output_dir": "{{ inventory_dir }}", "mail_additional_domains": ["{{ name }}.example"],
                 **required},
    }  # fmt: skip
    said = messages(folder.failed(hosts))
    assert {host: [sentence.split(":")[0] for sentence in text.split("\n")] for host, text in said.items()} == {
        "many": ["mail_relay_port", "rspamd_resolver", "mail_relay_username", "mail_relay_password", "mail_domian"],
        "missing": ["mail_domain", "mail_accounts"],
        "empty": ["mail_accounts", "mail_domain"],
    }
    assert said["many"].endswith("mail_domian: is not a variable of this collection; did you mean mail_domain?")


def test_good_variables_change_nothing_and_nobody_elses_are_named_in_a_warning(folder: Folder) -> None:
    """The role runs once in a play, even if several roles depend on it."""
    twice = [{**ROLE[0], "roles": ["selfhosted.mail.mail"] * 2}]
    output = folder.passed({"host": {**GOOD, "mail_guard": True, "firewall_zone": "x"}}, play=twice)
    assert re.search(r"host +: ok=\d+ +changed=0 ", output)
    warnings = " ".join(re.sub(r"\[WARNING\]:|\s+", " ", output).split())
    assert "mail_guard: is not a variable of this collection, and is ignored" in warnings
    assert "firewall_zone: is not a variable of this collection, and is ignored" in warnings
    assert output.count("TASK [selfhosted.mail.mail : Check the variables]") == 1


def test_nothing_is_checked_where_a_play_says_so(folder: Folder) -> None:
    folder.passed({"host": {"mail_domain": "one"}}, "-e", "mail_validate=false")


def test_the_role_as_somebody_includes_it(folder: Folder) -> None:
    """Its defaults and requirements are the same."""
    include = [{"hosts": "mail", "gather_facts": False, "tasks": [
        {"ansible.builtin.include_role": {"name": "selfhosted.mail.mail", "public": True},
         "vars": {"mail_required": ["mail_domain"]}},
        {"ansible.builtin.debug": {"msg": "{{ mail_hostname }} {{ mail_admin_address }} {{ mail_dmarc_rua }} "
                                          "{{ mail_relay_tls }} {{ mail_forward_via }} {{ mail_dns_output_dir }}"}},
    ]}]  # fmt: skip
    output = folder.passed({"host": {**GOOD, "mail_relay_port": 465}}, play=include)
    assert f"mail.one.test alice@one.test alice@one.test smtps direct {folder.path}/dns" in output
    assert messages(folder.failed({"host": {}}, play=include)) == {"host": "mail_domain: is required"}


def test_the_role_backup_alone_needs_the_hosts_name(folder: Folder) -> None:
    """It is what the host's snapshots are found by, to be removed or restored."""
    alone = [{"hosts": "mail", "gather_facts": False, "roles": ["selfhosted.mail.backup"]}]
    wanted = {"mail_backup_repository": "/mnt/backup", "mail_backup_password": "fine"}
    said = messages(folder.failed({"host": wanted}, play=alone))
    assert said == {"host": "mail_hostname: is required, or mail_domain, from which it is made"}


def test_what_the_roles_of_a_play_need_is_said_at_once_before_one_of_them_runs(folder: Folder) -> None:
    roles = [f"selfhosted.mail.{name}" for name in ("rspamd", "dovecot", "status")]
    output = folder.failed({"host": {}, "other": GOOD}, play=[{"hosts": "mail", "gather_facts": False, "roles": roles}])
    assert {host: [line.split(":")[0] for line in text.split("\n")] for host, text in messages(output).items()} == {
        "host": ["mail_hostname", "mail_domain", "mail_accounts"]
    }
    # Those of the role mail come first, and nobody goes on to the next ones.
    tasks = re.findall(r"^TASK \[selfhosted\.mail\.(\w+) : (?!Validating)", output, re.MULTILINE)
    assert set(tasks) == {"mail"}


def test_a_known_provider_fills_what_is_left_out(folder: Folder) -> None:
    names = ("port", "tls", "spf", "unsigned_headers", "max_connections", "max_messages")
    values = " ".join(f"{{{{ mail_relay_{name} }}}}" for name in names)
    show = {"ansible.builtin.debug": {"msg": values + " {{ mail_forward_via }}"}}
    login = {"mail_relay_username": "apikey", "mail_relay_password": "SG.x"}
    hosts = {
        "known": {**GOOD, **login, "mail_relay_host": "smtp.sendgrid.net"},
        "other": {**GOOD, **login, "mail_relay_host": "smtp.provider.test"},
        "own": {
            **GOOD,
            "mail_relay_host": "mail.smtp2go.com",
            "mail_relay_username": "me",
            "mail_relay_password": "p",
            "mail_relay_port": 8465,
            "mail_relay_spf": "include:x.example",
            "mail_relay_unsigned_headers": ["date"],
            "mail_relay_max_messages": 7,
            "mail_forward_via": "relay",
        },
    }
    output = folder.passed(hosts, play=[{**ROLE[0], "tasks": [show]}])
    said = re.findall(r'"msg": "(\d.*)"', output)
    rewritten = "['date', 'mime-version', 'content-type', 'content-transfer-encoding']"
    assert sorted(said) == [
        f"587 starttls  {rewritten} 10 5000 refuse",
        "587 starttls  [] 10 100 relay",
        "8465 smtps include:x.example ['date'] 10 7 relay",
    ]


def test_the_summary_says_what_is_known_of_the_provider_and_what_is_not(folder: Folder) -> None:
    template = folder.checkout / "playbooks/templates/summary.txt.j2"
    show = {
        "ansible.builtin.debug": {"msg": f"{{{{ lookup('ansible.builtin.template', '{template}').splitlines() }}}}"}
    }
    play = [
        {
            **ROLE[0],
            "tasks": [show],
            "vars": {"__accounts_tables": {}},
            "vars_files": [
                f"{folder.checkout}/roles/{role}/{part}/main.yml"
                for role in ("dns", "opensmtpd", "smtp_relay")
                for part in ("defaults", "vars")
            ],
        }
    ]
    login = {"mail_relay_username": "me", "mail_relay_password": "p"}
    hosts = {
        name: {**GOOD, **login, "mail_relay_host": name}
        for name in ("mail.smtp2go.com", "smtp.postmarkapp.com", "smtp.provider.test")
    }
    output = folder.passed(hosts, play=play)
    # Whoever is ready first comes first.
    shown = output.partition("TASK [ansible.builtin.debug]")[2].split("ok: [")[1:]
    said = dict(text.split("]", 1) for text in shown)
    assert "recognized as SMTP2GO" in said["mail.smtp2go.com"] and "are lost" in said["mail.smtp2go.com"]
    assert "message size" in said["mail.smtp2go.com"] and "DKIM" not in said["mail.smtp2go.com"]
    assert "recognized as Postmark" in said["smtp.postmarkapp.com"]
    assert "DMARC needs the provider's signature" in said["smtp.postmarkapp.com"]
    assert "null sender" in said["smtp.postmarkapp.com"] and "are lost" not in said["smtp.postmarkapp.com"]
    assert "recognized" not in said["smtp.provider.test"] and "relay smtp.provider.test" in said["smtp.provider.test"]


def test_a_file_of_the_controller_is_found_from_the_current_directory(folder: Folder, tmp_path: Path) -> None:
    """Both in the validation and in the role, for any directory of the playbook and any PWD."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "files").mkdir(parents=True)
    for file in (folder.path / "own.conf", elsewhere / "files" / "other.conf"):
        file.write_text("listen 127.0.0.1:10027\n")
    show = {"ansible.builtin.debug": {"msg": "{{ __dkimproxy_config_path }} {{ __dkimproxy_upstream_file }}"}}
    files = [str(folder.checkout / f"roles/{role}/vars/main.yml") for role in ("dkimproxy", "dkimproxy_upstream")]
    (elsewhere / "play.json").write_text(json.dumps([{**ROLE[0], "tasks": [show], "vars_files": files}]))
    host = {**GOOD, "dkimproxy_config_file": "own.conf", "dkimproxy_upstream_archive": "release.tar.gz"}
    done = folder.run({"host": host}, play=elsewhere / "play.json")
    assert f"{folder.path}/own.conf {folder.path}/release.tar.gz" in done.stdout, done.stdout[-3000:]
    output = folder.failed({"host": {**GOOD, "dkimproxy_config_file": "other.conf"}}, play=elsewhere / "play.json")
    said = "dkimproxy_config_file: must be a UTF-8 text file on the controller, not 'other.conf'"
    assert messages(output) == {"host": said}


def test_two_hosts_that_would_write_the_same_zone_file(folder: Folder) -> None:
    """The first play of the site playbook compares them."""
    site = yaml.safe_load((folder.checkout / "playbooks/site.yml").read_text())[:1]

    def host(domain: str, **more: object) -> dict[str, object]:
        return {"mail_domain": domain, "mail_accounts": [{**ALICE, "address": f"alice@{domain}"}], **more}

    hosts = {
        "one": host("one.test"),
        "two": host("One.test", mail_hostname="mx.one.test", mail_additional_domains=["mail.two.test"]),
        "three": host("three.test", mail_hostname="mail.two.test"),
    }
    [said] = set(messages(folder.failed(hosts, play=site)).values())
    another = "; set another mail_dns_output_dir for one of them"
    assert said.splitlines() == [
        f"mail_dns_output_dir: two and three would write {folder.path}/dns/mail.two.test.zone{another}",
        f"mail_dns_output_dir: one and two would write {folder.path}/dns/one.test.zone{another}",
    ]
    site[0]["vars"]["mail_dns_output_dir"] = "{{ inventory_dir }}/dns/{{ inventory_hostname }}"
    folder.passed(hosts, play=site)


def test_one_wrong_host_stops_all(folder: Folder) -> None:
    play = [*ROLE, {"hosts": "mail", "gather_facts": False, "tasks": [{"ansible.builtin.debug": {"msg": "changes"}}]}]
    output = folder.failed({"wrong": {**GOOD, "mail_tls_mode": "none"}, "good": GOOD}, play=play)
    assert set(messages(output)) == {"wrong"}
    assert '"changes"' not in output


def test_an_unsupported_release(folder: Folder) -> None:
    output = folder.failed({"host": GOOD}, facts={**DEBIAN, "distribution_major_version": "11"})
    assert messages(output)["host"].startswith("ansible_facts: this host runs Debian 13.1; supported are Debian 12 and")


def test_facts_are_gathered_where_they_are_missing(folder: Folder) -> None:
    show = {"ansible.builtin.debug": {"msg": "{{ ansible_facts.keys() | intersect(wanted) | sort | join(' ') }}"},
            "vars": {"wanted": list(DEBIAN)}}  # fmt: skip
    play = [{**ROLE[0], "vars": {"mail_validate": False}, "tasks": [show]}]
    output = folder.passed({"host": GOOD}, play=play, facts={}, python=sys.executable)
    assert " ".join(sorted(DEBIAN)) in output


def test_ten_thousand_accounts_take_seconds(folder: Folder) -> None:
    hashed = "$6$0123456789abcdef$" + "a" * 86
    people = [{"address": f"u{number}@one.test", "password_hash": hashed} for number in range(10_000)]
    aliases = {f"a{number}@one.test": [f"u{number}@one.test"] for number in range(10_000)}
    host = {**GOOD, "mail_accounts": "{{ people }}", "people": people, "mail_aliases": aliases}
    seconds = []
    for options in (["-e", "mail_validate=false"], []):
        begin = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        folder.passed({"host": host}, *options)
        seconds.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - begin)
    assert seconds[1] - seconds[0] < 5, seconds
