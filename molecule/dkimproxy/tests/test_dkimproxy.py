# SPDX-License-Identifier: GPL-3.0-or-later
"""The role dkimproxy alone: mail is signed and aligned, or refused."""

import re
import uuid

import pytest

from testbed import containers
from testbed.signer import compose, kept, send, verified

testinfra_hosts = ["docker://dkimproxy-debian12", "docker://dkimproxy-debian13"]


@pytest.mark.parametrize(
    ("author", "domain", "selector"),
    [
        ("alice@our.test", "our.test", "mail"),
        ("Alice <alice@sub.our.test>", "our.test", "mail"),
        ("alice@other.test", "other.test", "mail"),
        ("alice@third.test", "third.test", "s2026"),
        ("root@mail.elsewhere.test", "mail.elsewhere.test", "mail"),
    ],
)
def test_it_signs_with_the_domain_in_from(container, next_hop, author, domain, selector):
    marker, message = compose(author)
    assert send(container, "alice@our.test", message) == "taken"
    assert verified(container, kept(container, marker)) == (domain, selector)


@pytest.mark.parametrize(
    "author",
    [
        "mallory@far.test",
        "alice@our.test, mallory@far.test",
        "alice@our.test.far.test",
        "alice@notour.test",
        "nobody",
        "alice@our.test\r\nFrom: mallory@far.test",
        "",
    ],
)
def test_it_refuses_what_it_cannot_align(container, next_hop, author):
    marker, message = compose(author)
    answer = send(container, "alice@our.test", message)
    assert re.match(r"5\d\d 5\.\d\.\d ", answer), answer
    assert kept(container, marker) is None


def test_no_from_is_refused(container, next_hop):
    marker = uuid.uuid4().hex
    message = f"Sender: alice@our.test\r\nSubject: {marker}\r\n\r\n.\r\n"
    assert send(container, "alice@our.test", message.encode()).startswith("5")
    assert kept(container, marker) is None


def test_large_and_odd_bodies_verify(container, next_hop):
    for body in (b"", b"\r\n\r\n\r\n", b".\r\n..\r\n.x\r\n", "Grüße\r\n".encode() * 200000, b"x" * 900 + b" \t \r\n"):
        marker, message = compose("alice@our.test", body)
        assert send(container, "alice@our.test", message) == "taken"
        verified(container, kept(container, marker))


def test_a_refusal_of_the_next_hop_comes_back(container, next_hop):
    assert (
        send(container, "alice@our.test", compose("alice@our.test")[1], "refused@far.test") == "550 5.1.1 No such user"
    )


def test_without_the_next_hop_it_answers_try_again(host, container, next_hop):
    host.run_test("systemctl stop next-hop")
    answer = send(container, "alice@our.test", compose("alice@our.test")[1])
    assert re.match(r"4\d\d ", answer), answer


def test_a_key_that_is_gone_lets_nothing_out(host, container, next_hop):
    key = "/etc/dkimproxy/keys/other.test.mail.pem"
    host.run_test(f"mv {key} {key}.away")
    try:
        host.run("systemctl restart dkimproxy")
        marker, message = compose("alice@other.test")
        # It may refuse to start or refuse mail, but must not pass on unsigned mail.
        assert "taken" not in send(container, "alice@other.test", message)
        assert kept(container, marker) is None
    finally:
        host.run_test(f"mv {key}.away {key} && systemctl restart dkimproxy")


def test_keys_are_closed_and_never_made_again(host):
    keys = host.check_output("ls /etc/dkimproxy/keys").split()
    assert keys == ["mail.elsewhere.test.mail.pem", "other.test.mail.pem", "our.test.mail.pem", "third.test.s2026.pem"]
    for key in keys:
        file = host.file(f"/etc/dkimproxy/keys/{key}")
        assert (file.user, file.group, file.mode) == ("root", "dkimproxy", 0o640)
        assert "2048 bit" in host.check_output(f"openssl pkey -in /etc/dkimproxy/keys/{key} -noout -text")
    assert host.run("runuser -u nobody -- ls /etc/dkimproxy/keys").rc != 0


def test_it_runs_as_its_own_user_on_loopback_alone(host):
    main = host.check_output("systemctl show -P MainPID dkimproxy")
    users = set(host.check_output(f"ps -o user= --pid {main} --ppid {main}").split())
    assert users == {"dkimproxy"}
    lines = [line for line in host.check_output("ss -Hltn").splitlines() if ":10027 " in line]
    assert lines and all("127.0.0.1:10027 " in line for line in lines)


def test_the_unit_is_hardened(host):
    last = host.check_output("systemd-analyze security --no-pager dkimproxy.service").splitlines()[-1]
    assert float(re.search(r"([\d.]+) [A-Z]", last)[1]) <= 2.0, last


def test_it_comes_back_after_a_kill(host, container, next_hop):
    main = "systemctl show -P MainPID dkimproxy"
    before = host.check_output(main)
    host.run_test("systemctl kill --signal=KILL dkimproxy")
    containers.wait_for(lambda: host.check_output(main) not in ("0", before), what="the proxy after a kill")
    containers.wait_for(lambda: host.service("dkimproxy").is_running, what="it runs")
    containers.wait_for(lambda: "127.0.0.1:10027" in host.check_output("ss -Hltn"), what="its port")
    assert host.service("dkimproxy").is_enabled


def test_a_wrong_configuration_does_not_replace_the_right_one(host):
    conf = "/etc/dkimproxy/dkimproxy_out.conf"
    host.run_test(f"cp -p {conf} /root/conf && echo 'nonsense 1' >> {conf}")
    try:
        check = host.run(f"runuser -u dkimproxy -- /usr/local/sbin/dkimproxy.out --check --conf_file={conf}")
        assert check.rc != 0
        assert "nonsense" in check.stderr + check.stdout
        host.run("systemctl reload dkimproxy")
        assert host.service("dkimproxy").is_running
    finally:
        host.run_test(f"cp -p /root/conf {conf} && systemctl reload dkimproxy")
