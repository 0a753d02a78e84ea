# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of a server: each process stopped, killed or ended, and full disks."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

from testbed import imap, managesieve
from testbed.containers import wait_for
from testbed.servers import Server

OPENSMTPD, DOVECOT, RSPAMD, SIGNER = "opensmtpd.service", "dovecot.service", "rspamd.service", "dkimproxy.service"
REDIS, FIREWALL = "redis-server@rspamd.service", "selfhosted-mail-nftables.service"
RESOLVER = "selfhosted-mail-resolver.service"
QUEUE = "/var/spool/smtpd"
UNITS = (FIREWALL, REDIS, RESOLVER, RSPAMD, SIGNER, DOVECOT, OPENSMTPD)


@dataclass(frozen=True)
class Process:
    """A process of a unit. `title`: a pattern for `PARENT USER TITLE`, where the parent is `systemd` or `other`.

    `patience`: seconds in which its message alone waits, when it hangs.
    """

    name: str
    unit: str
    title: str
    patience: float = 0


DELIVERY = 360
FILTERS = [
    Process("filter-message", OPENSMTPD, r"^other mailfilter \S*python3 .*/filter-message "),
    Process("filter-rspamd", OPENSMTPD, r"^other mailfilter \S*filter-rspamd "),
    Process("filter-space", OPENSMTPD, r"^other mailfilter \S*python3 .*/filter-space$"),
]
PROCESSES = [
    Process("OpenSMTPD's parent", OPENSMTPD, r"^systemd root /usr/sbin/smtpd$"),
    Process("OpenSMTPD's control", OPENSMTPD, r" smtpd: control$"),
    Process("OpenSMTPD's crypto", OPENSMTPD, r" smtpd: crypto$"),
    Process("OpenSMTPD's dispatcher", OPENSMTPD, r" smtpd: dispatcher$"),
    Process("OpenSMTPD's lookup", OPENSMTPD, r" smtpd: lookup$"),
    Process("OpenSMTPD's queue", OPENSMTPD, r" smtpd: queue$"),
    Process("OpenSMTPD's scheduler", OPENSMTPD, r" smtpd: scheduler$"),
    Process("parent of a filter", OPENSMTPD, r"^other mailfilter /usr/sbin/smtpd$"),
    Process("mail.lmtp", OPENSMTPD, r" vmail \S*/mail\.lmtp ", DELIVERY),
    Process("lock of a mailbox", OPENSMTPD, r" vmail flock .*/mail\.lmtp ", DELIVERY),
    Process("mail.mda", OPENSMTPD, r" vmail \S*/mail\.mda ", DELIVERY),
    Process("a shell of mail.lmtp's", OPENSMTPD, r" vmail (/bin/)?sh -c .*/mail\.lmtp ", DELIVERY),
    *FILTERS,
    Process("Rspamd's main", RSPAMD, r" rspamd: main process"),
    Process("Rspamd's worker", RSPAMD, r" rspamd: normal process"),
    Process("Rspamd's controller", RSPAMD, r" rspamd: controller process"),
    Process("Rspamd's hs_helper", RSPAMD, r" rspamd: hs_helper process"),
    Process("Redis", REDIS, r" /usr/bin/redis-server "),
    Process("Dovecot's master", DOVECOT, r"^systemd root /usr/sbin/dovecot "),
    *(Process(f"Dovecot's {name}", DOVECOT, rf" dovecot/{name}( \[|$)") for name in (
        "anvil", "log", "config", "auth", "stats", "imap-login", "imap", "managesieve-login", "managesieve",
        "lmtp", "indexer", "indexer-worker",
    )),
    Process("the signer's main", SIGNER, r"^systemd dkimproxy "),
    Process("a worker of the signer's", SIGNER, r"^other dkimproxy "),
    Process("holder of the packet rules", FIREWALL, r" .*/nftables-rules"),
    Process("resolver", RESOLVER, r" /usr/sbin/unbound "),
]  # fmt: skip

_FIND = r"""
import ctypes, os, re, socket, subprocess, sys, time

def processes():
    # Pid, unit, and description.
    ps = ["ps", "-eo", "pid=,ppid=,user:32=,unit:64=,args="]
    for line in subprocess.run(ps, capture_output=True, text=True).stdout.splitlines():
        pid, parent, user, unit, what = line.split(None, 4)
        yield int(pid), unit, ("systemd" if parent == "1" else "other") + f" {user} {what}"
"""
_SIGNAL = (
    _FIND
    + r"""
unit, title, signal = sys.argv[1], re.compile(sys.argv[2]), int(sys.argv[3])

# Some come and go.
end = time.monotonic() + 60
while True:
    try:
        [pid, *_others] = [pid for pid, of, what in processes() if of == unit and title.search(what)]
        if signal:
            os.kill(pid, signal)
        break
    except (ProcessLookupError, ValueError):
        if time.monotonic() > end:
            sys.exit(f"{unit} has no process {title.pattern}")
if signal:
    print(pid)
    sys.exit()

# Its input ends, so that it ends itself. ptrace(2) shows its exit code.
PTRACE_SEIZE, PTRACE_O_TRACEEXIT, PTRACE_GETEVENTMSG, PTRACE_DETACH, SYS_pidfd_getfd = 0x4206, 0x40, 0x4201, 17, 438
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4

def call(function, *arguments):
    result = function(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

call(libc.ptrace, PTRACE_SEIZE, pid, 0, PTRACE_O_TRACEEXIT)
socket.socket(fileno=call(libc.syscall, SYS_pidfd_getfd, os.pidfd_open(pid), 0, 0)).shutdown(socket.SHUT_RD)
os.waitpid(pid, 0x40000000)  # __WALL
status = ctypes.c_ulong()
call(libc.ptrace, PTRACE_GETEVENTMSG, pid, 0, ctypes.addressof(status))
call(libc.ptrace, PTRACE_DETACH, pid, 0, 0)
print(pid, status.value)
"""
)
_UNKNOWN = (
    _FIND
    + r"""
known = [(of, re.compile(title)) for of, title in zip(sys.argv[1::2], sys.argv[2::2])]
for _pid, unit, what in processes():
    if unit in sys.argv[1::2] and not any(of == unit and title.search(what) for of, title in known):
        print(unit, what)
"""
)


def unknown_processes(server: Server) -> list[str]:
    """Processes of the mail server's that PROCESSES does not have."""
    known = [word for process in PROCESSES for word in (process.unit, process.title)]
    # While doveadm lists the users.
    known += [DOVECOT, r" dovecot/auth -w( \[|$)"]
    # About to become one of them.
    known += [DOVECOT, r"^other root /usr/sbin/dovecot ", OPENSMTPD, r"^other (root|vmail) /usr/sbin/smtpd$"]
    return server.python(_UNKNOWN, *known, user="root").splitlines()


class Fault:
    """A fault of a server. The `with` block prepares it, and undoes it at the end.

    `hides`: nothing ends, so that nobody is told; whether anybody sees it, is seen later. `patience`: seconds that a
    message may take longer for it.
    """

    hides = True
    patience = 0.0

    def __init__(self, server: Server) -> None:
        self.server = server

    def __enter__(self) -> Fault:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def begin(self) -> None:
        """Inject the fault."""
        raise NotImplementedError

    def relieve(self) -> None:
        """Do what an administrator must do about it, if anything."""


class Signalled(Fault):
    """A process gets a signal, or with 0 it ends by itself, with exit code 0."""

    def __init__(self, server: Server, process: Process, number: int) -> None:
        super().__init__(server)
        self.process, self.number = process, number
        self.hides = number == signal.SIGSTOP
        self.patience = process.patience if self.hides else 0
        self.pid = ""

    def begin(self) -> None:
        with ExitStack() as at_the_end:
            if self.process.unit == DOVECOT:
                # Somebody looks into a mailbox and has scripts, so that there are processes for that. They may not say
                # good-bye.
                who = self.server.ip, self.server.quinn.address, self.server.quinn.password
                at_the_end.callback(imap.session(*who).shutdown)
                at_the_end.enter_context(managesieve.Session(*who))
            words = (self.process.unit, self.process.title, str(int(self.number)))
            self.pid, *status = self.server.python(_SIGNAL, *words, user="root").split()
        assert status in ([], ["0"]), f"it ended with {status}, a status of wait(2)"
        if self.hides:
            assert self.server.run("ps", "-o", "state=", "-p", self.pid).strip() == "T"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.hides and self.pid:
            # Nothing else that has this number by now minds.
            self.server.sh(f"kill -CONT {self.pid} 2>/dev/null || true")


# A folder on a disk of its own that has room for what is in it and little more, and all of it back where it was.
_SMALL = """
systemctl stop $2
rm -rf /root/aside; cp -a "$1" /root/aside
mount -t tmpfs -o size=$(($(du -sk "$1" | cut -f1) + 65536))k,mode=$(stat -c %a "$1") none "$1"
chown --reference=/root/aside "$1"; cp -a /root/aside/. "$1"
systemctl start $2
"""
_LARGE = """
systemctl stop $2 || true
mountpoint -q "$1" || exit 0
rm -rf /root/aside; cp -a "$1" /root/aside
rm -f /root/aside/filler
umount "$1"
find "$1" -mindepth 1 -delete; cp -a /root/aside/. "$1"; rm -rf /root/aside
systemctl start $2
"""


class Full(Fault):
    """The disk with a unit's files is full."""

    def __init__(self, server: Server, unit: str, folder: str) -> None:
        super().__init__(server)
        self.unit, self.folder = unit, folder
        # Commands of the shell's. Again, as what goes on meanwhile may free some.
        self.filling = (
            f"cd {folder}; for _time in 1 2 3 4 5 6 7 8 9; do cat /dev/zero >>filler 2>/dev/null || true; "
            "test $(stat -f -c %a .) != 0 || exit 0; done; exit 1"
        )

    def __enter__(self) -> Full:
        try:
            self.server.run("sh", "-euc", _SMALL, "sh", self.folder, self.unit)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.run("sh", "-euc", _LARGE, "sh", self.folder, self.unit)

    def begin(self) -> None:
        self.since = self.server.sh("date +%s")
        self.server.sh(self.filling)

    def relieve(self) -> None:
        """Free space once the unit has noticed the full disk."""
        log = f"journalctl --unit={self.unit} --since=@{self.since}"
        met = f"{log} | grep -E 'No space left|not enough disk space|Short write' || true"
        try:
            wait_for(lambda: self.server.sh(met), what=f"{self.unit} has no space left")
        finally:
            self.server.sh(f"rm {self.folder}/filler")


class FullForAWhile(Full):
    """No mail can be accepted meanwhile, so the time counts from its end."""

    def begin(self) -> None:
        super().begin()
        super().relieve()

    def relieve(self) -> None:
        pass


@dataclass(frozen=True)
class Kind:
    """A fault that any server may have."""

    name: str
    make: Callable[[Server], Fault]

    def __str__(self) -> str:
        return self.name


def _signalled(process: Process, number: int) -> Kind:
    what = {signal.SIGSTOP: "hangs", signal.SIGKILL: "is killed"}.get(number, "ends with exit code 0")
    return Kind(f"{process.name} {what}", lambda server: Signalled(server, process, number))


HANGS = {process.name: _signalled(process, signal.SIGSTOP) for process in PROCESSES}
KILLED = {process.name: _signalled(process, signal.SIGKILL) for process in PROCESSES}
ENDS = {process.name: _signalled(process, 0) for process in FILTERS}
FULL = {
    "queue": Kind("disk of the queue is full for a while", lambda server: FullForAWhile(server, OPENSMTPD, QUEUE)),
    "mailboxes": Kind("disk of the mailboxes is full", lambda server: Full(server, DOVECOT, "/var/vmail")),
    "Redis": Kind("disk of Redis is full", lambda server: Full(server, REDIS, "/var/lib/redis/rspamd")),
}
