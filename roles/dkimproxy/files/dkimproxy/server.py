# SPDX-License-Identifier: GPL-3.0-or-later
"""The master process: listens, forks workers, replaces them, passes signals on, talks to systemd."""

import contextlib
import gc
import grp
import os
import pwd
import signal
import socket
import time
import traceback
from collections.abc import Callable

from .config import Config
from .connection import bound_buffers
from .errors import ConfigError
from .log import log, log_to_syslog
from .notify import notify, watchdog_seconds
from .session import Setup
from .worker import GRACE, run_worker

_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
# A worker that has not been heard of for this long, in seconds, is hung and is replaced.
HUNG = 60
_RELOAD_WAIT = 15


class Child:
    """What the master knows of a worker."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid, self.channel = pid, channel
        self.heard = time.monotonic()
        self.reloading = False

    def listen(self) -> None:
        try:
            while word := self.channel.recv(64):
                self.heard = time.monotonic()
                if word == b"reloaded":
                    self.reloading = False
        except OSError:
            pass


class Master:
    """Runs `config.workers` workers until SIGTERM."""

    def __init__(self, config: Config, load_config: Callable[[], Config]) -> None:
        self._config, self._load_config = config, load_config
        self._children: dict[int, Child] = {}
        self._reload_until: float | None = None

    def run(self) -> None:
        """Raises ConfigError when it cannot start."""
        self._listener = listen(self._config)
        if self._config.daemonize:
            _daemonize()
        if self._config.pidfile:
            _write_pidfile(self._config)
        drop_privileges(self._config)
        # Loaded as the user who will read them again at a reload.
        self._setup = Setup.load(self._config)
        for warning in self._setup.warnings():
            log("warning", warning)
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        gc.collect()
        gc.freeze()
        for _ in range(self._config.workers):
            self._fork()
        log("info", f"listening on {self._config.listen[0]}:{self._config.listen[1]}, {self._config.workers} workers")
        notify("READY=1")
        self._watch()
        self._shut_down()

    def _watch(self) -> None:
        watchdog = watchdog_seconds()
        tick = min(1.0, watchdog or 1.0)
        while True:
            event = signal.sigtimedwait(_SIGNALS, 0.05 if self._reload_until else tick)
            number = event.si_signo if event else None
            if number in (signal.SIGTERM, signal.SIGINT):
                return
            if number == signal.SIGHUP:
                self._reload()
            self._replace_dead()
            for child in self._children.values():
                child.listen()
                if time.monotonic() - child.heard > HUNG:
                    log("err", f"worker {child.pid} hangs, replacing it")
                    child.heard = time.monotonic()
                    os.kill(child.pid, signal.SIGKILL)
            self._finish_reload()
            if watchdog:
                notify("WATCHDOG=1")

    def _fork(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        theirs.setblocking(False)
        pid = os.fork()
        if pid:
            theirs.close()
            self._children[pid] = Child(pid, ours)
            return
        status = 1
        try:
            ours.close()
            for child in self._children.values():
                child.channel.close()
            run_worker(self._listener, theirs, self._setup, self._load_config)
            status = 0
        except BaseException:
            log("err", "worker failed: " + traceback.format_exc(limit=-3))
        finally:
            os._exit(status)

    def _replace_dead(self) -> None:
        for pid, status in _reap():
            child = self._children.pop(pid, None)
            if child:
                child.channel.close()
                log("err", f"worker {pid} ended with {_status(status)}, replacing it")
                # A worker that dies at once must not make the machine busy with forks.
                if time.monotonic() - child.heard < 0.1:
                    time.sleep(0.1)
                self._fork()

    def _reload(self) -> None:
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            config = self._load_config()
            self._setup = Setup.load(config)
        except ConfigError as error:
            log("err", f"{error}\nnot reloaded, the configuration read before stays in force")
            notify("READY=1")
            return
        for key in ("listen", "workers", "user", "group", "pidfile"):
            if getattr(config, key) != getattr(self._config, key):
                log("warning", f"a new '{key}' needs a restart")
        for warning in self._setup.warnings():
            log("warning", warning)
        for child in self._children.values():
            child.reloading = True
            os.kill(child.pid, signal.SIGHUP)
        self._reload_until = time.monotonic() + _RELOAD_WAIT

    def _finish_reload(self) -> None:
        if self._reload_until is None:
            return
        late = [child.pid for child in self._children.values() if child.reloading]
        if late and time.monotonic() < self._reload_until:
            return
        self._reload_until = None
        log("err" if late else "info", f"workers {late} have not reloaded" if late else "reloaded")
        notify("READY=1")

    def _shut_down(self) -> None:
        notify("STOPPING=1")
        self._listener.close()
        for pid in self._children:
            os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + GRACE + 5
        while self._children and time.monotonic() < until:
            signal.sigtimedwait({signal.SIGCHLD}, 0.2)
            for pid, _ in _reap():
                self._children.pop(pid, None)
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        if self._config.pidfile:
            with contextlib.suppress(OSError):
                os.unlink(self._config.pidfile)
        log("info", "stopped")


def listen(config: Config) -> socket.socket:
    """The listening socket. Raises ConfigError."""
    host, port = config.listen
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound_buffers(listener)
        listener.bind(address)
    except OSError as error:
        raise ConfigError(f"{config.place('listen')} {host}:{port}: {error.strerror}") from None
    listener.listen(1024)
    listener.setblocking(False)
    return listener


def find_user(config: Config) -> tuple[pwd.struct_passwd | None, int]:
    """The entry of `user` and the number of `group`, else of the user's group or our own. Raises ConfigError."""
    try:
        name = config.user
        user = (pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)) if name else None
    except (KeyError, OverflowError):
        raise ConfigError(f"{config.place('user')} {config.user}: no such user") from None
    try:
        group = config.group
        entry = (grp.getgrgid(int(group)) if group.isdigit() else grp.getgrnam(group)) if group else None
    except (KeyError, OverflowError):
        raise ConfigError(f"{config.place('group')} {config.group}: no such group") from None
    return user, entry.gr_gid if entry else user.pw_gid if user else os.getgid()


def drop_privileges(config: Config) -> None:
    """Become `user` and `group` when started as root. Raises ConfigError."""
    if not config.user and not config.group:
        return
    user, gid = find_user(config)
    if os.geteuid() != 0:
        if user and user.pw_uid != os.geteuid():
            log("warning", f"not started as root, stays uid {os.geteuid()} and does not become {config.user}")
        return
    os.initgroups(user.pw_name, gid) if user else os.setgroups([gid])
    os.setgid(gid)
    if user:
        os.setuid(user.pw_uid)


def _daemonize() -> None:
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    log_to_syslog()
    os.dup2(null, 2)


def _write_pidfile(config: Config) -> None:
    try:
        path = str(config.pidfile)
        with open(path, "w", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
    except OSError as error:
        raise ConfigError(f"{config.place('pidfile')} {path}: {error.strerror}") from None


def _reap() -> list[tuple[int, int]]:
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if not pid:
            return ended
        ended.append((pid, status))


def _status(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"signal {-code}" if code < 0 else f"status {code}"
