# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailboxes of removed accounts: archive-account archives and removes them, whatever files they contain."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from testbed import containers
from testbed.containers import wait_for
from testbed.servers import SERVERS, Server

ARCHIVES = "/var/lib/selfhosted-mail/archives"
LEFT = """
set -e
umask 077
mkdir -p Maildir/new Maildir/.Sent/cur sieve 'odd
name'
echo 'Subject: the last one' >Maildir/new/1.M1.host
echo 'keep;' >sieve/own.sieve
ln -sfn sieve/own.sieve .dovecot.sieve
ln -sfn /etc/shadow Maildir/new/2.M2.host
ln -sfn /var/vmail Maildir/.Trash
truncate -s "$0" Maildir/new/3.M3.host
"""


@pytest.fixture(params=SERVERS, ids=lambda server: server.container)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server with the mailbox of left@, which has no account."""
    server = request.param
    leave(server)
    # Remaining accounts have a mailbox, even without mail.
    server.run("mkdir", "-p", f"/var/vmail/{server.domain}/alice", user="vmail")
    yield server
    server.sh(f"rm -rf {ARCHIVES}; setpriv --reuid=vmail --clear-groups rm -rf /var/vmail/{server.domain}/left")


def leave(server: Server, size: str = "10k") -> None:
    home = f"/var/vmail/{server.domain}/left"
    server.run("mkdir", "-p", home, user="vmail")
    containers.docker("exec", "-u", "vmail", "-w", home, server.container, "bash", "-c", LEFT, size)


def archive(server: Server, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["docker", "exec", server.container, "archive-account", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def files(server: Server, folder: str) -> str:
    """Names, kinds, sizes, and where links lead."""
    return server.sh(f"cd '{folder}' && find . -mindepth 1 -printf '%y %s %p %l\\n' | grep -v '^d [0-9]* [.]$' | sort")


def test_its_mail_is_in_one_file_of_roots_and_nowhere_else(server: Server) -> None:
    box = f"/var/vmail/{server.domain}/left"
    before, shadow = files(server, box), server.sh("sha256sum /etc/shadow; ls /var/vmail")
    assert f"left@{server.domain}" in server.run("archive-account", "--list")
    assert archive(server, f"Left@{server.domain}").returncode == 0
    assert f"left@{server.domain}" not in server.run("archive-account", "--list")
    assert server.sh(f"ls -A /var/vmail/{server.domain} | grep left || true") == ""
    assert server.sh("sha256sum /etc/shadow; ls /var/vmail") == shadow
    assert server.sh(f"stat -c '%U %a' {ARCHIVES} {ARCHIVES}/*").split("\n") == ["root 700", "root 600"]
    server.sh(f"mkdir /root/back; tar -xzf {ARCHIVES}/left@*.tar.gz -C /root/back")
    try:
        assert files(server, "/root/back/left") == before
    finally:
        server.sh("rm -r /root/back")


def test_mailboxes_in_another_directory(server: Server) -> None:
    address, elsewhere = f"left@{server.domain}", "/var/elsewhere"
    domain = f"{elsewhere}/{server.domain}"
    server.sh(f"install -d -o vmail -g vmail {domain} {domain}/alice; cp -a /var/vmail/{server.domain}/left {domain}")
    before = files(server, f"/var/vmail/{server.domain}/left")
    try:
        assert address in server.run("archive-account", "--directory", elsewhere, "--list")
        assert archive(server, "--directory", elsewhere, address).returncode == 0
        assert "left" not in server.sh(f"ls {elsewhere}/{server.domain}").split()
        assert archive(server, "--directory", f"{elsewhere}/missing", address).returncode != 0
    finally:
        server.sh(f"rm -r {elsewhere}")
    assert files(server, f"/var/vmail/{server.domain}/left") == before


def test_who_has_an_account_keeps_his_mail(server: Server) -> None:
    for name in server.alice.address, f"../{server.domain}/left@x.test", "left", "-rf", f"left@{server.domain}/..", "":
        assert archive(server, name).returncode != 0, name
    server.sh(f"test -d /var/vmail/{server.domain}/alice")
    server.sh("mv /etc/selfhosted-mail/accounts /etc/selfhosted-mail/accounts.away")
    try:
        assert archive(server, f"left@{server.domain}").returncode != 0
    finally:
        server.sh("mv /etc/selfhosted-mail/accounts.away /etc/selfhosted-mail/accounts")
    assert server.sh(f"ls -A {ARCHIVES} 2>/dev/null || true") == ""


def test_a_call_that_is_killed_loses_nothing_and_the_next_one_goes_on(server: Server) -> None:
    leave(server, "2G")
    box = f"/var/vmail/{server.domain}/left"
    before = files(server, box)
    server.run("systemd-run", "--collect", "--unit=killed", "archive-account", f"left@{server.domain}")
    wait_for(lambda: server.sh(f"find {ARCHIVES} -name '*.partial' -size +0 2>&1 || true").endswith("partial"))
    # With those that it has started.
    server.run("systemctl", "kill", "--signal=KILL", "killed")
    wait_for(lambda: server.main_pid("killed") == 0)
    assert files(server, box) == before
    leave(server)
    assert archive(server, f"left@{server.domain}").returncode == 0
    assert server.sh(f"ls {ARCHIVES} | grep -c .") == "1"
    # Killed while it was removed.
    server.run("mkdir", "-p", f"/var/vmail/{server.domain}/.archived-left/Maildir", user="vmail")
    assert f"left@{server.domain}" in server.run("archive-account", "--list")
    assert archive(server, f"left@{server.domain}").returncode == 0
    assert f"left@{server.domain}" not in server.run("archive-account", "--list")
