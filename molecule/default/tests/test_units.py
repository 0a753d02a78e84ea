# SPDX-License-Identifier: GPL-3.0-or-later
"""Sandboxes of services, and root's behaviour in directories where other users can create links.

That they can do their work all the same is every other test's business.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from testbed import units
from testbed.playbook import run_site
from testbed.servers import FRIEND, Server, both

RESTART = 80  # seconds; by default systemd waits for 90, and for Redis without a limit
ROOTS = "/root/roots"


# Debian's services with our drop-ins.
DAEMONS = ("dovecot", "opensmtpd", "redis-server@rspamd", "rspamd")


@both
def test_services_may_do_little(server: Server) -> None:
    documented = units.figures()
    daemons = {f"{name}.service": documented[name] for name in DAEMONS}
    assert units.too_exposed(server.container, daemons) == {}


@contextmanager
def home_of_mailboxes(server: Server) -> Iterator[None]:
    """Makes the mailboxes' directory the home of vmail, as older versions of the collection did."""

    def move(before: str, after: str) -> None:
        server.sh(rf"sed -i 's#^\(vmail:.*\):{before}:#\1:{after}:#' /etc/passwd; getent passwd vmail | grep :{after}:")

    move("/", "/var/vmail")
    try:
        yield
    finally:
        server.sh("rm -f /var/vmail/.forward")
        move("/var/vmail", "/")


@pytest.mark.disruptive
@pytest.mark.parametrize("made", [f"echo {FRIEND} >", "mkfifo", "ln -s /root/roots"])
@both
def test_mailboxes_user_forwards_nothing(server: Server, made: str) -> None:
    """OpenSMTPD reads a .forward in the home of the user who delivers, the same for all mailboxes."""
    with home_of_mailboxes(server):
        server.run("sh", "-c", f"{made} /var/vmail/.forward", user="vmail")
        message = server.receive(server.bob.address)
        server.mailbox(server.bob, str(message["Message-ID"]))


@contextmanager
def links_everywhere(server: Server) -> Iterator[None]:
    """Compromised users put links to root's files wherever root's programs look."""
    server.sh(f"mkdir -m 755 {ROOTS}; echo precious > {ROOTS}/file")
    put = f"cd /var/lib/selfhosted-mail/full; ln -s {ROOTS}/file a@x; ln -s {ROOTS} b@x; mkfifo c@x; mkdir d@x"
    server.run("sh", "-c", put, user="vmail")
    put = f"cd /var/vmail; ln -s {ROOTS} away.example; mkdir -p {server.domain}; ln -s {ROOTS} {server.domain}/nobody"
    server.run("sh", "-c", put, user="vmail")
    server.run("sh", "-c", f"cd /var/lib/redis; mv rspamd aside; ln -s {ROOTS} rspamd", user="redis")
    try:
        yield
    finally:
        server.run("sh", "-c", "cd /var/lib/redis; rm rspamd; mv aside rspamd", user="redis")
        server.sh(f"cd /var/vmail; rm away.example {server.domain}/nobody")
        server.sh(f"cd /var/lib/selfhosted-mail/full; rm -f a@x b@x c@x; rmdir d@x; rm -r {ROOTS}")


@pytest.mark.disruptive
@both
def test_root_follows_no_link_of_others(server: Server) -> None:
    with links_everywhere(server):
        before = server.sh(f"stat -c '%n %U %G %a %h' {ROOTS} {ROOTS}/*; cat {ROOTS}/file")
        done = run_site("--limit", server.container)
        done.check_unchanged()
        assert "away.example" not in done.output and f"nobody@{server.domain}" not in done.output
        for name in ("full", "retry", "dmarc-reports", "learn"):
            server.run("systemctl", "start", f"selfhosted-mail-{name}.service")
        assert server.sh(f"stat -c '%n %U %G %a %h' {ROOTS} {ROOTS}/*; cat {ROOTS}/file") == before
        assert server.sh("ls /var/lib/selfhosted-mail/full") == "d@x"


# Holds the processes of a control group until they are gone: they take no signal but KILL. Some end by themselves
# before that, and others begin; a zombie whose parent is held stays.
HOLD = """
import ctypes, os, sys
PTRACE_ATTACH, WALL = 16, 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
held = set()
def ended(number):
    try:
        return open(f"/proc/{number}/stat").read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
while numbers := {int(line) for line in open(sys.argv[1])} - held:
    for number in numbers:
        if libc.ptrace(PTRACE_ATTACH, number, None, None) == 0:
            held.add(number)
        else:
            assert ended(number), number
            held.add(number)
print("held" if held else "none", flush=True)
try:
    while True:
        os.waitpid(-1, WALL)
except ChildProcessError:
    pass
"""


@pytest.mark.disruptive
@pytest.mark.parametrize("daemon", ["opensmtpd", "dovecot", "redis-server@rspamd", "rspamd"])
@both
def test_a_daemon_that_hangs_can_be_restarted(server: Server, daemon: str) -> None:
    """All of its processes hang."""
    group = server.sh(f"find /sys/fs/cgroup -path '*/{daemon}.service/cgroup.procs' -print -quit 2>/dev/null || true")
    command = ["docker", "exec", server.container, "python3", "-c", HOLD, group]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        begun = time.monotonic()
        server.run("systemctl", "restart", daemon)
        took = time.monotonic() - begun
    assert server.main_pid(daemon)
    assert took < RESTART
