# SPDX-License-Identifier: GPL-3.0-or-later
"""After the other implementation has taken over under load: mail, keys and files."""

import io
import re
import tarfile

import pytest

from testbed import containers
from testbed.signer import compose, kept, send, verified

testinfra_hosts = ["docker://dkimproxy_upstream-debian12", "docker://dkimproxy_upstream-debian13"]
FILES = {
    "embedded": ["/usr/local/lib/selfhosted-mail/dkimproxy/command.py"],
    "upstream": [
        "/etc/dkimproxy/sender_map",
        "/usr/local/lib/selfhosted-mail/dkimproxy-1.4.1/SelfhostedMail.pm",
        "/usr/local/lib/selfhosted-mail/dkimproxy-1.4.1/scripts/dkimproxy.out",
        "/usr/local/lib/selfhosted-mail/dkimproxy-1.4.1/lib/MSDW/SMTP/Client.pm",
    ],
}


@pytest.fixture
def implementation(host):
    return host.file("/root/implementation").content_string


def test_no_mail_is_lost_and_none_is_unsigned(host, container, next_hop):
    def queue_is_empty():
        host.run("smtpctl schedule all")
        return host.check_output("smtpctl show queue") == ""

    containers.wait_for(queue_is_empty, 120, "an empty queue")
    packed = containers.docker("exec", container, "tar", "c", "-C", "/root", "next_hop")
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        messages = [archive.extractfile(item).read() for item in archive if item.isfile()]
    fed = set(host.file("/root/fed").content_string.split())
    assert len(fed) > 100
    arrived = [match[1].decode() for message in messages if (match := re.search(rb"(?m)^Subject: fed (\w+)", message))]
    assert fed - set(arrived) == set()
    assert max(arrived.count(marker) for marker in fed) <= 2
    assert [message for message in messages if not message.startswith(b"DKIM-Signature:")] == []


def test_the_keys_are_the_same_and_sign(host, container, next_hop):
    host.run_test("sha256sum --check --quiet /root/keys.sum")
    marker, message = compose("alice@third.test")
    assert send(container, "alice@our.test", message) == "taken"
    assert verified(container, kept(container, marker)) == ("third.test", "s2026")


def test_foreign_mail_does_not_leave(container, next_hop, implementation):
    marker, message = compose("mallory@far.test")
    answer = {"embedded": r"5\d\d 5\.", "upstream": r"450 "}[implementation]
    assert re.match(answer, send(container, "alice@our.test", message))
    assert kept(container, marker) is None


def test_only_the_files_of_the_one_that_runs_are_there(host, implementation):
    for owner, files in FILES.items():
        for file in files:
            assert host.file(file).exists is (owner == implementation), file
    main = host.check_output("systemctl show -P MainPID dkimproxy")
    program = {"embedded": "python3", "upstream": "perl"}[implementation]
    assert program in host.check_output(f"ps -o args= --pid {main}").split()[0]
    assert host.check_output("systemctl show -P NeedDaemonReload dkimproxy") == "no"
