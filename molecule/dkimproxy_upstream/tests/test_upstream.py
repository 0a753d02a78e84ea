# SPDX-License-Identifier: GPL-3.0-or-later
"""DKIMproxy 1.4.1 instead of the embedded signer: what it guarantees, and its limits as in the README."""

import re

import pytest

from testbed import containers, units
from testbed.signer import compose, kept, send, verified

testinfra_hosts = ["docker://dkimproxy_upstream-debian12", "docker://dkimproxy_upstream-debian13"]
CHECK = "runuser -u dkimproxy -- /usr/local/sbin/dkimproxy.out --check --conf_file=/etc/dkimproxy/dkimproxy_out.conf"


def test_services_may_do_little(container):
    assert units.too_exposed(container, {}) == {}


@pytest.mark.parametrize(
    ("author", "domain", "selector"),
    [
        ("alice@our.test", "our.test", "mail"),
        ("Alice <ALICE@Sub.Our.Test>", "our.test", "mail"),
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
        "alice@our.test.far.test",
        "alice@notour.test",
        "nobody",
        "",
        "alice@our.test\r\nFrom: mallory@far.test",
        "mallory@far.test\r\nSender: mallory@far.test",
    ],
)
def test_it_defers_what_it_has_no_key_for(container, next_hop, author):
    marker, message = compose(author)
    answer = send(container, "alice@our.test", message)
    assert answer.startswith("450 ")
    assert "the address in Sender or From is in no domain of this server or has a plus sign" in answer
    assert kept(container, marker) is None


@pytest.mark.parametrize("head", [b"Subject: no author\r\n", b"To: carol@far.test\r\n"])
def test_no_from_is_deferred(container, next_hop, head):
    assert send(container, "alice@our.test", head + b"\r\n.\r\n").startswith("450 ")


def test_a_from_with_a_tag_is_deferred(container, next_hop):
    marker, message = compose("alice+tag@our.test")
    assert send(container, "alice@our.test", message).startswith("450 ")
    assert kept(container, marker) is None


@pytest.mark.parametrize(
    "author",
    [
        "mallory@far.test\r\nSender: alice@our.test",
        "alice@our.test, mallory@far.test",
        "mallory@far.test\r\nFrom: alice@our.test",
    ],
)
def test_it_can_be_told_to_sign_for_others(container, next_hop, author):
    """If this fails, change the README."""
    marker, message = compose(author)
    assert send(container, "alice@our.test", message) == "taken"
    assert verified(container, kept(container, marker)) == ("our.test", "mail")


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
    assert send(container, "alice@our.test", compose("alice@our.test")[1]).startswith("4")


def test_a_key_that_is_gone_lets_nothing_out(host, container, next_hop):
    key = "/etc/dkimproxy/keys/other.test.mail.pem"
    host.run_test(f"mv {key} {key}.away")
    try:
        for restart in (False, True):
            if restart:
                host.run_test("systemctl restart dkimproxy")
            marker, message = compose("alice@other.test")
            assert send(container, "alice@other.test", message).startswith("450 ")
            assert kept(container, marker) is None
    finally:
        host.run_test(f"mv {key}.away {key}")
    marker, message = compose("alice@other.test")
    assert send(container, "alice@other.test", message) == "taken"
    verified(container, kept(container, marker))


def test_it_runs_as_its_own_user_on_loopback_alone(host):
    main = host.check_output("systemctl show -P MainPID dkimproxy")
    users = host.check_output(f"ps -o user= --pid {main} --ppid {main}").split()
    assert set(users) == {"dkimproxy"} and len(users) > 4
    assert "scripts/dkimproxy.out" in host.check_output(f"ps -o args= --pid {main}")
    lines = [line for line in host.check_output("ss -Hltn").splitlines() if ":10027 " in line]
    assert lines and all("127.0.0.1:10027 " in line for line in lines)


def test_the_unit_is_hardened(host):
    last = host.check_output("systemd-analyze security --no-pager dkimproxy.service").splitlines()[-1]
    assert float(re.search(r"([\d.]+) [A-Z]", last)[1]) <= 2.0, last


def test_it_comes_back_after_a_kill(host):
    host.run_test("systemctl kill --signal=KILL dkimproxy")
    containers.wait_for(lambda: "127.0.0.1:10027" in host.check_output("ss -Hltn"), what="the proxy after a kill")
    assert host.service("dkimproxy").is_enabled


def test_it_is_ready_when_systemd_says_so_and_has_nothing_to_complain_of(host):
    host.run_test("systemctl restart dkimproxy")
    assert "127.0.0.1:10027" in host.check_output("ss -Hltn")
    invocation = host.check_output("systemctl show -P InvocationID dkimproxy")
    said = host.check_output(f"journalctl -q -o cat -t dkimproxy.out _SYSTEMD_INVOCATION_ID={invocation}").splitlines()
    assert len(said) == 2 and "starting!" in said[0] and said[1].startswith("Binding to TCP port 10027 "), said


@pytest.mark.parametrize(
    ("file", "edit", "said"),
    [
        ("sender_map", "s/d=our.test/d=other.test/", "our.test: signed as other.test"),
        ("sender_map", "s/rsa-sha256/rsa-sha255/", "unsupported algorithm rsa-sha255"),
        ("sender_map", "s,keys/our.test.mail,keys/nothing,", "our.test: "),
        ("sender_map", "/^[.] /d", "mail from other domains is not refused"),
        ("dkimproxy_out.conf", "/^sender_map/d", "Error: no keyfile specified"),
        ("dkimproxy_out.conf", "s/^sender_map.*/sender_map nothing/", "nothing: file not found"),
        ("dkimproxy_out.conf", "/^relay/d", "Error: relay host was not specified"),
    ],
)
def test_a_wrong_configuration_is_seen(host, file, edit, said):
    file = f"/etc/dkimproxy/{file}"
    host.run_expect([0], CHECK)
    host.run_test(f"cp -p {file} /root/whole && sed -i '{edit}' {file} && chgrp dkimproxy {file}")
    try:
        check = host.run(CHECK)
        assert check.rc != 0
        assert said in check.stderr + check.stdout
    finally:
        host.run_test(f"cp -p /root/whole {file}")
