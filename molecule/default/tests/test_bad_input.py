# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input stops the play in its first play, on all hosts, before anything changes, and names the shared variable."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from testbed.playbook import run_site
from testbed.servers import SERVERS, Server

pytestmark = pytest.mark.disruptive

ALICE = {"address": "alice@twelve.test", "password_hash": "$6$wonderland$" + "x" * 86}

# The variable that the message must name, the settings, and a further part of the message.
CASES: dict[str, tuple[str, dict[str, object], str]] = {
    "domain missing": ("mail_domain", {"mail_domain": ""}, ""),
    "domain without dot": ("mail_domain", {"mail_domain": "localhost"}, "localhost"),
    "domain with blank": ("mail_domain", {"mail_domain": "twelve .test"}, ""),
    "domain with underscore": ("mail_domain", {"mail_domain": "my_domain.test"}, "my_domain"),
    "domain is a URL": ("mail_domain", {"mail_domain": "https://twelve.test"}, ""),
    "domain is an address": ("mail_domain", {"mail_domain": "198.51.100.12"}, ""),
    "label too long": ("mail_domain", {"mail_domain": "a" * 64 + ".test"}, ""),
    "host name": ("mail_hostname", {"mail_hostname": "mail"}, ""),
    "host name with slash": ("mail_hostname", {"mail_hostname": "mail/twelve.test"}, ""),
    "additional domain": ("mail_additional_domains", {"mail_additional_domains": ["no domain"]}, "no domain"),
    "additional selector": (
        "mail_additional_domains",
        {"mail_additional_domains": [{"name": "dozen.test", "dkim_selector": "a b"}]},
        "a b",
    ),
    "selector": ("mail_dkim_selector", {"mail_dkim_selector": "my_selector!"}, "my_selector!"),
    "selector with empty label": ("mail_dkim_selector", {"mail_dkim_selector": "a..b"}, ""),
    "selector too long": ("mail_dkim_selector", {"mail_dkim_selector": "s" * 64}, ""),
    "port 0": ("mail_relay_port", {"mail_relay_port": 0}, ""),
    "port 65536": ("mail_relay_port", {"mail_relay_port": 65536}, "65536"),
    "port is a word": ("mail_relay_port", {"mail_relay_port": "submission"}, "submission"),
    "relay without user": ("mail_relay_username", {"mail_relay_username": ""}, ""),
    "relay without password": ("mail_relay_password", {"mail_relay_password": ""}, ""),
    "relay host": ("mail_relay_host", {"mail_relay_host": "smtp provider"}, ""),
    "colon in the user's name": ("mail_relay_username", {"mail_relay_username": "a:b"}, ""),
    "blank at the password's end": ("mail_relay_password", {"mail_relay_password": "seCret99 "}, ""),
    "line break in the password": ("mail_relay_password", {"mail_relay_password": "seCret99\nx"}, ""),
    "relay TLS": ("mail_relay_tls", {"mail_relay_tls": "none"}, "none"),
    "no accounts": ("mail_accounts", {"mail_accounts": []}, ""),
    "no address": ("mail_accounts", {"mail_accounts": [{**ALICE, "address": "alice"}]}, "alice"),
    "address missing": ("mail_accounts", {"mail_accounts": [{"password": "seCret99"}]}, ""),
    "not our domain": ("mail_accounts", {"mail_accounts": [{**ALICE, "address": "alice@far.test"}]}, "far.test"),
    "not ASCII": ("mail_accounts", {"mail_accounts": [{**ALICE, "address": "älice@twelve.test"}]}, "lice@twelve"),
    "no password": ("mail_accounts", {"mail_accounts": [{"address": "alice@twelve.test"}]}, "alice"),
    "plain text as hash": ("mail_accounts", {"mail_accounts": [{**ALICE, "password_hash": "seCret99"}]}, "alice"),
    "two accounts, one address": ("mail_accounts", {"mail_accounts": [ALICE, ALICE]}, "alice@twelve.test"),
    "alias of an account elsewhere": (
        "mail_accounts",
        {"mail_accounts": [{**ALICE, "aliases": ["alice@far.test"]}]},
        "far.test",
    ),
    "alias is an account": (
        "mail_a",
        {"mail_accounts": [ALICE], "mail_aliases": {"alice@twelve.test": ["friend@far.test"]}},
        "alice@twelve.test",
    ),
    "alias to nobody": ("mail_aliases", {"mail_aliases": {"x@twelve.test": ["ghost@twelve.test"]}}, "ghost"),
    "alias without target": ("mail_aliases", {"mail_aliases": {"x@twelve.test": []}}, "x@twelve.test"),
    "alias elsewhere": ("mail_aliases", {"mail_aliases": {"x@far.test": ["alice@twelve.test"]}}, "far.test"),
    "target is no address": ("mail_aliases", {"mail_aliases": {"x@twelve.test": ["what ever"]}}, "what ever"),
    "alias loop": (
        "mail_aliases",
        {"mail_aliases": {"x@twelve.test": ["y@twelve.test"], "y@twelve.test": ["x@twelve.test"]}},
        "a loop",
    ),
    "alias not ASCII": ("mail_aliases", {"mail_aliases": {"büro@twelve.test": ["alice@twelve.test"]}}, "ro@twelve"),
    "MD5 hash": ("mail_accounts", {"mail_accounts": [{**ALICE, "password_hash": "$1$seCret99$" + "x" * 22}]}, "alice"),
    "cut hash": ("mail_accounts", {"mail_accounts": [{**ALICE, "password_hash": "$2y$05$seCret99"}]}, "alice"),
    "send as strangers": ("mail_accounts", {"mail_accounts": [{**ALICE, "send_as": ["@far.test"]}]}, "far.test"),
    "nobody takes mail": ("mail_accounts", {"mail_accounts": [{**ALICE, "send_only": True}]}, "receives mail"),
    "unknown alias domain": ("mail_domain_aliases", {"mail_domain_aliases": {"far.test": "twelve.test"}}, "far.test"),
    "forwarding refused": (
        "mail_aliases",
        {"mail_forward_via": "refuse", "mail_aliases": {"x@twelve.test": ["friend@far.test"]}},
        "x@twelve.test",
    ),
    "forwarding": ("mail_forward_via", {"mail_forward_via": "pigeon"}, "pigeon"),
    "TLS mode": ("mail_tls_mode", {"mail_tls_mode": "letsencrypt"}, "letsencrypt"),
    "no certificate file": ("mail_tls_certificate_file", {"mail_tls_mode": "files"}, ""),
    "ACME server": ("mail_acme_directory", {"mail_acme_directory": "http://acme.test/dir"}, "https"),
    "DNS provider": ("mail_acme_dns_provider", {"mail_acme_dns_provider": "pigeon"}, "pigeon"),
    "no DNS provider": ("mail_acme_dns_environment", {"mail_acme_dns_environment": {"KEY": "seCret99"}}, "provider"),
    "no variable": (
        "mail_acme_dns_environment",
        {"mail_acme_dns_provider": "exec", "mail_acme_dns_environment": {"EXEC PATH": "seCret99"}},
        "capitals",
    ),
    "policy": ("mail_dmarc_policy", {"mail_dmarc_policy": "strict"}, "strict"),
    "SPF": ("mail_relay_spf", {"mail_relay_spf": 'include:x" evil'}, ""),
    "admin": ("mail_admin_address", {"mail_admin_address": "me"}, ""),
}

GOOD = {
    "mail_domain": "twelve.test",
    "additional_domain": "dozen.test",
    "mail_additional_domains": ["dozen.test"],
    "mail_relay_host": "smtp.provider.test",
    "mail_relay_username": "customer",
    "mail_relay_password": "seCret99",
    "mail_accounts": [ALICE],
}

OLD_RELEASE = "default-old-release"


@pytest.fixture(scope="module")
def unsupported() -> Generator[None]:
    """A host with an unsupported operating system."""
    name = (
        'PRETTY_NAME="Debian 11"\\nNAME="Debian GNU/Linux"\\nVERSION_ID="11"\\nVERSION_CODENAME=bullseye\\nID=debian\\n'
    )
    subprocess.run(["docker", "rm", "--force", OLD_RELEASE], capture_output=True, check=False)
    start = [
        "docker",
        "run",
        "--detach",
        "--rm",
        "--name",
        OLD_RELEASE,
        "--network",
        "none",
        "selfhosted-mail-test:debian12",
    ]
    script = f"printf '{name}' >/etc/os-release; echo 11.9 >/etc/debian_version; exec sleep 600"
    subprocess.run([*start, "sh", "-c", script], check=True, capture_output=True)
    yield
    subprocess.run(["docker", "rm", "--force", OLD_RELEASE], capture_output=True, check=False)


def inventory(folder: Path, hosts: dict[str, dict[str, object]], container: str = SERVERS[0].container) -> Path:
    """An inventory of hosts that are all the same container, each with its own variables, and of one good host."""
    docker = {"ansible_connection": "docker", "ansible_host": container}
    entries: dict[str, dict[str, object]] = {name: {**docker, **GOOD, **values} for name, values in hosts.items()}
    entries["good"] = {**docker, **GOOD}
    file = folder / "hosts.json"
    file.write_text(json.dumps({"mail": {"hosts": entries}}))
    return file


def refused(inventory: Path) -> dict[str, str]:
    """The output of a run for each failed host. Asserts that the run ends with the first play, without secrets."""
    output = run_site(inventory=inventory, fails=True).output
    assert len(re.findall(r"^PLAY \[", output, re.MULTILINE)) == 1
    assert "seCret99" not in output
    recap = output[output.index("PLAY RECAP") :]
    assert set(re.findall(r"changed=(\d+)", recap)) == {"0"}
    found = re.findall(
        r"^fatal: \[(\S+)\]: FAILED! => (.*?)(?=^fatal: |^ok: |^\S+ |^$|\Z)", output, re.MULTILINE | re.DOTALL
    )
    return dict(found)


def test_every_case_is_named(tmp_path: Path) -> None:
    """All cases in one run, each a host of its own: the first play looks at all hosts before it stops."""
    names = {re.sub(r"\W+", "_", case): case for case in CASES}
    before = [server.state() for server in SERVERS]
    said = refused(inventory(tmp_path, {name: CASES[case][1] for name, case in names.items()}))
    wrong = []
    for name, case in names.items():
        variable, _values, word = CASES[case]
        if not re.search(rf"\b{variable}", said.get(name, "")) or word not in said[name]:
            wrong.append(f"{case}: {said.get(name, 'accepted')}")
    assert not wrong, "\n".join(wrong)
    assert "good" not in said
    assert [server.state() for server in SERVERS] == before


def certificate(server: Server, name: str) -> tuple[str, str]:
    """A self-signed certificate and its key on the server."""
    paths = f"/tmp/{name}.crt", f"/tmp/{name}.key"
    server.run(
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=mail.twelve.test",
        "-out", paths[0], "-keyout", paths[1],
    )  # fmt: skip
    return paths


def test_certificate_files(tmp_path: Path) -> None:
    """Missing, not matching, not a certificate."""
    server = SERVERS[0]
    (certificate1, key1), (_certificate2, key2) = certificate(server, "one"), certificate(server, "two")
    files = {
        "missing": ("/nowhere/cert.pem", key1),
        "no_key": (certificate1, "/nowhere/key.pem"),
        "no_match": (certificate1, key2),
        "swapped": (key1, certificate1),
        "text": ("/etc/hostname", key1),
    }
    hosts: dict[str, dict[str, object]] = {
        name: {
            "mail_tls_mode": "files",
            "mail_tls_certificate_file": cert,
            "mail_tls_private_key_file": key,
            "mail_dns_output_dir": str(tmp_path / name),
        }
        for name, (cert, key) in files.items()
    }
    hosts["authority"] = {
        "mail_tls_mode": "acme",
        "mail_acme_ca_file": "/nowhere/ca.pem",
        "mail_dns_output_dir": str(tmp_path / "authority"),
    }
    before = server.state()
    said = refused(inventory(tmp_path, hosts))
    assert set(said) == set(hosts)
    for name, text in said.items():
        assert ("mail_acme_ca_file" if name == "authority" else "mail_tls_") in text, f"{name}: {text}"
    assert server.state() == before


def test_unsupported_release(tmp_path: Path, unsupported: None) -> None:
    assert re.search(r"Debian.*1[12]", refused(inventory(tmp_path, {}, OLD_RELEASE))["good"])


def test_one_bad_host_stops_all(tmp_path: Path) -> None:
    """The other server, whose variables are right, is left alone as well."""
    before = [server.state() for server in SERVERS]
    done = run_site(variables={"mail_dkim_selector": "a b"}, fails=True)
    assert "mail_dkim_selector" in done.output
    assert [server.state() for server in SERVERS] == before
