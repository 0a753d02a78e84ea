# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody relies on who runs the role dkimproxy alone: signed and aligned, or refused."""

import base64
import re
import textwrap
import uuid
from pathlib import Path

import dkim
import pytest
from testbed import containers

testinfra_hosts = ["docker://dkimproxy-debian12", "docker://dkimproxy-debian13"]

SEND = """
import smtplib, sys
try:
    with smtplib.SMTP('127.0.0.1', 10027, timeout=120) as session:
        session.sendmail(sys.argv[1], sys.argv[2], sys.stdin.buffer.read())
        print('taken')
except smtplib.SMTPResponseException as error:
    text = error.smtp_error
    print(error.smtp_code, text.decode() if isinstance(text, bytes) else text)
except smtplib.SMTPRecipientsRefused as error:
    print(*[f'{code} {text.decode()}' for code, text in error.recipients.values()])
"""


@pytest.fixture
def name(host):
    return host.backend.name


@pytest.fixture
def next_hop(host, name):
    """A next hop that runs."""
    if host.run("systemctl is-active next-hop").rc:
        program = (Path(__file__).parent / "next_hop.py").read_bytes()
        containers.docker("exec", "-i", name, "sh", "-c", "cat > /root/next_hop.py", data=program)
        host.run_test("systemd-run --unit=next-hop --quiet /usr/bin/python3 /root/next_hop.py")
        containers.wait_for(lambda: "127.0.0.1:10028" in host.check_output("ss -Hltn"), what="the next hop")


def send(name: str, sender: str, message: bytes, recipient: str = "carol@far.test") -> str:
    """Hand a message to the proxy on the host; what it answered."""
    answer = containers.docker("exec", "-i", name, "python3", "-c", SEND, sender, recipient, data=message)
    return answer.decode().strip()


def compose(author: str, body: bytes = b"Hello.\r\n") -> tuple[str, bytes]:
    """A marker and a message that has it as subject."""
    marker = uuid.uuid4().hex
    head = f"From: {author}\r\nTo: carol@far.test\r\nSubject: {marker}\r\nDate: Sun, 22 Nov 2026 12:00:00 +0000\r\n"
    return marker, head.encode() + f"Message-ID: <{marker}@our.test>\r\n\r\n".encode() + body


def kept(name: str, marker: str) -> bytes | None:
    """The message as the next hop took it."""
    path = containers.run(name, "sh", "-c", f"grep -rl {marker} /root/next_hop || true").strip()
    return containers.docker("exec", name, "cat", path) if path else None


def verified(name: str, message: bytes) -> tuple[str, str]:
    """Domain and selector of the one signature, which a library that the proxy does not use has verified."""
    signatures = re.findall(rb"(?ms)^DKIM-Signature:.*?(?=^\S)", message)
    assert len(signatures) == 1
    tags = dict(part.strip().split(b"=", 1) for part in signatures[0].split(b":", 1)[1].split(b";") if b"=" in part)
    # Folding white space may stand on either side of a value (RFC 6376 section 3.2).
    domain, selector = tags[b"d"].strip().decode(), tags[b"s"].strip().decode()
    assert tags[b"a"].strip() == b"rsa-sha256"
    assert tags[b"c"].strip() == b"relaxed/relaxed"
    assert b"l" not in tags
    public = containers.docker("exec", name, "openssl", "pkey", "-in", f"/etc/dkimproxy/keys/{domain}.{selector}.pem",
                               "-pubout", "-outform", "DER")
    record = b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)
    assert dkim.verify(message, dnsfunc=lambda *_name, **_more: record)
    return domain, selector


@pytest.mark.parametrize(("author", "domain", "selector"), [
    ("alice@our.test", "our.test", "mail"),
    ("Alice <alice@sub.our.test>", "our.test", "mail"),
    ("alice@other.test", "other.test", "mail"),
    ("alice@third.test", "third.test", "s2026"),
    ("root@mail.elsewhere.test", "mail.elsewhere.test", "mail"),
])
def test_it_signs_with_the_domain_in_from(name, next_hop, author, domain, selector):
    marker, message = compose(author)
    assert send(name, "alice@our.test", message) == "taken"
    assert verified(name, kept(name, marker)) == (domain, selector)


@pytest.mark.parametrize("author", [
    "mallory@far.test", "alice@our.test, mallory@far.test", "alice@our.test.far.test", "alice@notour.test", "nobody",
    "alice@our.test\r\nFrom: mallory@far.test", "",
])
def test_it_refuses_what_it_cannot_align(name, next_hop, author):
    marker, message = compose(author)
    answer = send(name, "alice@our.test", message)
    assert re.match(r"5\d\d 5\.\d\.\d ", answer), answer
    assert kept(name, marker) is None


def test_no_from_is_refused(name, next_hop):
    marker = uuid.uuid4().hex
    message = f"Sender: alice@our.test\r\nSubject: {marker}\r\n\r\n.\r\n"
    assert send(name, "alice@our.test", message.encode()).startswith("5")
    assert kept(name, marker) is None


def test_large_and_odd_bodies_verify(name, next_hop):
    for body in (b"", b"\r\n\r\n\r\n", b".\r\n..\r\n.x\r\n", "Grüße\r\n".encode() * 200000, b"x" * 900 + b" \t \r\n"):
        marker, message = compose("alice@our.test", body)
        assert send(name, "alice@our.test", message) == "taken"
        verified(name, kept(name, marker))


def test_a_refusal_of_the_next_hop_comes_back(name, next_hop):
    assert send(name, "alice@our.test", compose("alice@our.test")[1], "refused@far.test") == "550 5.1.1 No such user"


def test_without_the_next_hop_it_answers_try_again(host, name, next_hop):
    host.run_test("systemctl stop next-hop")
    answer = send(name, "alice@our.test", compose("alice@our.test")[1])
    assert re.match(r"4\d\d ", answer), answer


def test_a_key_that_is_gone_lets_nothing_out(host, name, next_hop):
    key = "/etc/dkimproxy/keys/other.test.mail.pem"
    host.run_test(f"mv {key} {key}.away")
    try:
        host.run("systemctl restart dkimproxy")
        marker, message = compose("alice@other.test")
        # Whether it does not start or refuses: unsigned is what must not happen.
        answer = containers.docker("exec", "-i", name, "python3", "-c", f"try:\n{textwrap.indent(SEND, '  ')}\n"
                                   "except OSError as error: print(error)", "alice@other.test", "carol@far.test",
                                   data=message)
        assert b"taken" not in answer
        assert kept(name, marker) is None
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


def test_it_comes_back_after_a_kill(host, name, next_hop):
    host.run_test("systemctl kill --signal=KILL dkimproxy")
    containers.wait_for(lambda: "127.0.0.1:10027" in host.check_output("ss -Hltn"), what="the proxy after a kill")
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
