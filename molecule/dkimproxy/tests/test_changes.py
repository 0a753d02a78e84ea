# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of the role with other variables: further domains and selectors, two algorithms, an own file and key."""

import json
import re
import subprocess

import pytest

from testbed import containers
from testbed.playbook import run_role
from testbed.signatures import signatures, verifies
from testbed.signer import compose, kept, send

testinfra_hosts = ["docker://dkimproxy-debian12", "docker://dkimproxy-debian13"]

KEYS = "/etc/dkimproxy/keys"
DOMAINS = ["other.test", {"name": "third.test", "dkim_selector": "s2026"}]
# Sends one message before and one after a line on standard input, over one connection.
HOLD = """
import smtplib, sys
first, second = sys.stdin.buffer.read(int(sys.argv[1])), sys.stdin.buffer.read(int(sys.argv[2]))
with smtplib.SMTP('127.0.0.1', 10027, timeout=60) as session:
    session.sendmail('alice@our.test', 'carol@far.test', first)
    print('taken', flush=True)
    sys.stdin.buffer.readline()
    session.sendmail('alice@our.test', 'carol@far.test', second)
    print('taken', flush=True)
"""
# One line of JSON for a task's result.
RESULTS = {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_CALLBACK_FORMAT_PRETTY": "False"}


class Run:
    """One run of the role on one host; `records`: the DNS records that it wrote."""

    def __init__(self, container: str, fails: bool, variables: dict[str, object]) -> None:
        self.output = run_role(container, "-v", variables=variables, fails=fails, environment=RESULTS).output
        found = re.search(r'\{.*"records": .*\}', self.output)
        self.records = json.loads(found[0])["records"] if found else {}

    def selectors(self, domain: str) -> list[str]:
        return sorted(self.records[domain])

    def verifies(self, message: bytes, index: int = 0) -> bool:
        """Whether this signature is valid with the records of the run."""

        def record(query: bytes, timeout: int = 5) -> bytes | None:
            selector, _, domain = query.decode().rstrip(".").partition("._domainkey.")
            return self.records.get(domain, {}).get(selector, "").encode() or None

        return verifies(message, index, record)


@pytest.fixture
def role(host, container):
    """`role(variable=value …)` runs it; at the end all is as the scenario has made it."""

    def run(fails: bool = False, **variables: object) -> Run:
        return Run(container, fails, variables)

    keys = set(host.check_output(f"ls {KEYS}").split())
    yield run
    for key in set(host.check_output(f"ls {KEYS}").split()) - keys:
        host.run_test(f"rm {KEYS}/{key}")
    run()


def pids(host) -> set[str]:
    main = host.check_output("systemctl show -P MainPID dkimproxy")
    return set(host.check_output(f"ps -o pid= --pid {main} --ppid {main}").split())


def signed(container: str, run: Run, author: str) -> list[dict[str, str]]:
    """The tags of the signatures of a message from `author`, all of which hold."""
    marker, message = compose(author)
    assert send(container, "alice@our.test", message) == "taken"
    arrived = kept(container, marker)
    found = signatures(arrived)
    assert found and all(run.verifies(arrived, number) for number in range(len(found)))
    return found


def test_a_further_domain_restarts_nothing_and_drops_no_connection(host, container, next_hop, role):
    before = pids(host)
    assert len(before) >= 2
    first, second = compose("alice@our.test")[1], compose("alice@fourth.test")
    command = ["docker", "exec", "-i", container, "python3", "-c", HOLD, str(len(first)), str(len(second[1]))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as held:
        held.stdin.write(first + second[1])
        held.stdin.flush()
        assert held.stdout.readline() == b"taken\n"
        run = role(mail_additional_domains=[*DOMAINS, "fourth.test"])
        assert pids(host) == before
        held.stdin.write(b"\n")
        held.stdin.flush()
        assert held.stdout.readline() == b"taken\n"
    arrived = kept(container, second[0])
    assert [tags["d"] for tags in signatures(arrived)] == ["fourth.test"] and run.verifies(arrived)
    # Taken away again: the same.
    role()
    assert pids(host) == before
    assert send(container, "alice@our.test", compose("alice@fourth.test")[1]).startswith("550 5.7.1 ")


def test_a_new_selector_in_three_steps(host, container, next_hop, role):
    own = [{"name": "third.test", "dkim_selector": "s2026", "dkim_published_selectors": ["s2027"]}]
    first = role(mail_dkim_published_selectors=["next"], mail_additional_domains=["other.test", *own])
    assert [first.selectors(domain) for domain in ("our.test", "third.test")] == [["mail", "next"], ["s2026", "s2027"]]
    assert [tags["s"] for tags in signed(container, first, "alice@our.test")] == ["mail"]
    second = role(mail_dkim_selector="next")
    assert second.selectors("our.test") == ["mail", "next"], "what was signed with the old key still verifies"
    assert [tags["s"] for tags in signed(container, second, "alice@our.test")] == ["next"]
    assert second.records["our.test"] == first.records["our.test"]
    old = " ".join(f"{domain}.mail.pem" for domain in ("our.test", "other.test", "mail.elsewhere.test"))
    host.run_test(f"mkdir -p /root/old && cd {KEYS} && mv {old} /root/old")
    try:
        third = role(mail_dkim_selector="next")
        assert third.selectors("our.test") == ["next"]
    finally:
        host.run_test(f"cp -p /root/old/* {KEYS}/")


def test_two_algorithms_an_end_and_a_foreign_from(host, container, next_hop, role):
    run = role(dkimproxy_ed25519=True, dkimproxy_signature_lifetime=864000, dkimproxy_foreign_from="rewrite")
    found = signed(container, run, "alice@our.test")
    assert [(tags["a"], tags["s"]) for tags in found] == [("rsa-sha256", "mail"), ("ed25519-sha256", "mail-ed25519")]
    assert all(int(tags["x"]) - int(tags["t"]) == 864000 for tags in found)
    assert run.records["our.test"]["mail-ed25519"].startswith("v=DKIM1; k=ed25519; p=")
    key = host.file(f"{KEYS}/our.test.mail-ed25519.pem")
    assert (key.user, key.group, key.mode) == ("root", "dkimproxy", 0o640)
    marker, message = compose("shop@far.test")
    assert send(container, "alice@our.test", message) == "taken"
    arrived = kept(container, marker)
    assert b"\nFrom: alice@our.test\r\nReply-To: shop@far.test\r\n" in arrived and run.verifies(arrived)
    assert send(container, "shop@far.test", compose("shop@far.test")[1]).startswith("550 5.7.1 ")


def test_a_key_of_ones_own_is_kept_and_closed(host, container, next_hop, role):
    path = f"{KEYS}/own.test.mail.pem"
    host.run_test(f"openssl genrsa -out {path} 3072 && chmod 644 {path}")
    before = host.file(path).sha256sum
    run = role(mail_additional_domains=[*DOMAINS, "own.test"])
    key = host.file(path)
    assert (key.sha256sum, key.user, key.group, key.mode) == (before, "root", "dkimproxy", 0o640)
    assert [tags["d"] for tags in signed(container, run, "alice@own.test")] == ["own.test"]


def test_a_file_of_dkimproxy_is_taken_over(host, container, next_hop, role, tmp_path):
    host.run_test(f"openssl genrsa -out {KEYS}/../private.key 2048")
    host.run_test(f"chgrp dkimproxy {KEYS}/../private.key && chmod 640 {KEYS}/../private.key")
    own = tmp_path / "dkimproxy_out.conf"
    own.write_text(
        "# for the old server\nlisten 127.0.0.1:7\nrelay 127.0.0.1:8\ndomain our.test,mail.elsewhere.test\n"
        "signature dkim(a=rsa-sha1,c=relaxed)\nsignature domainkeys(c=nofws)\nkeyfile /etc/dkimproxy/private.key\n"
        "selector brought  # since 2011\nuser nobody\ngroup nogroup\ndaemonize 1\npidfile /var/run/dkimproxy.pid\n"
        "min_servers 5\n"
    )
    before = pids(host), host.file("/etc/dkimproxy/dkimproxy_out.conf").sha256sum
    refused = role(fails=True, dkimproxy_config_file=str(own))
    assert "/etc/dkimproxy/dkimproxy_out.conf:6: DomainKeys" in refused.output
    assert "/etc/dkimproxy/dkimproxy_out.conf:5: rsa-sha1" in refused.output
    assert (
        "dkimproxy_config_file: must be a UTF-8 text file on the controller"
        in role(fails=True, dkimproxy_config_file=f"{own}.none").output
    )
    assert (pids(host), host.file("/etc/dkimproxy/dkimproxy_out.conf").sha256sum) == before
    try:
        run = role(dkimproxy_config_file=str(own), dkimproxy_legacy="ignore")
        assert host.file("/etc/dkimproxy/dkimproxy_out.conf").content_string == own.read_text()
        assert run.selectors("our.test") == ["brought", "mail"]
        [tags] = signed(container, run, "alice@our.test")
        assert (tags["a"], tags["s"], tags["c"]) == ("rsa-sha256", "brought", "relaxed/simple")
        assert send(container, "alice@our.test", compose("alice@other.test")[1]).startswith("550 5.7.1 ")
        assert "changed=0 " in role(dkimproxy_config_file=str(own), dkimproxy_legacy="ignore").output
        # A configuration that its signer rejects is rolled back, and the other host is not affected.
        host.run_test("mv /etc/dkimproxy/private.key /root/private.key")
        own.write_text(own.read_text().replace("min_servers 5", "min_servers 6"))
        broken = role(fails=True, dkimproxy_config_file=str(own), dkimproxy_legacy="ignore")
        assert "/etc/dkimproxy/private.key: No such file" in broken.output
        assert "min_servers 5" in host.file("/etc/dkimproxy/dkimproxy_out.conf").content_string
        assert send(container, "alice@our.test", compose("alice@our.test")[1]) == "taken"
    finally:
        host.run("rm -f /root/private.key /etc/dkimproxy/private.key")


def test_wrong_values_are_refused_by_name(role):
    refused = role(
        fails=True,
        mail_dkim_selector="a-ed25519",
        dkimproxy_ed25519=True,
        mail_dkim_published_selectors=["b c"],
        dkimproxy_signature_lifetime=-1,
        dkimproxy_senders_file="senders",
        dkimproxy_listen="10027",
    )
    for variable in (
        "dkimproxy_listen",
        "mail_dkim_selector",
        "mail_dkim_published_selectors",
        "dkimproxy_signature_lifetime",
        "dkimproxy_senders_file",
    ):
        assert f"{variable}: " in refused.output, variable
    assert "dkimproxy_foreign_from" in role(fails=True, dkimproxy_foreign_from="sign").output


def test_logs_hold_no_content(host, container, next_hop):
    marker, message = compose("alice@our.test")
    send(container, "alice@our.test", message)
    send(container, "alice@our.test", compose("mallory@far.test")[1])
    journal = containers.journal(container, "-u", "dkimproxy", "-o", "cat", "-n", "20")
    assert re.search(
        r"^verdict=signed code=250 queue_id=\S+ d=our\.test s=mail a=rsa-sha256 size=\d+ .*ms=[\d.]+$",
        journal,
        re.MULTILINE,
    )
    assert "verdict=refused reason=foreign-from code=550" in journal
    assert not re.search(f"alice|mallory|carol|{marker}", journal)
