# SPDX-License-Identifier: GPL-3.0-or-later
"""The master process: listens, forks workers, replaces them, forwards reloads, notifies systemd.

Workers are forks of one process, not units of their own, because they share its memory.
"""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator

from .config import Config
from .connection import bound_buffers
from .errors import ConfigError
from .policy import Setup
from .systemd import log, notify, watchdog_seconds
from .worker import GRACE, Worker

_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
# A worker without a heartbeat for this many seconds is hung and is replaced.
HUNG = 60
_RELOAD_WAIT = 15


class Child:
    """The master's state of one worker."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.heard = time.monotonic()
        self.reloading = False

    def listen(self) -> None:
        with contextlib.suppress(OSError):
            while word := self.channel.recv(64):
                self.heard = time.monotonic()
                if word == b"reloaded":
                    self.reloading = False


class Master:
    """Runs `config.workers` workers until SIGTERM."""

    def __init__(self, config: Config, load_config: Callable[[], Config]) -> None:
        self._config, self._load_config = config, load_config
        self._children: dict[int, Child] = {}
        self._reload_until: float | None = None

    def run(self) -> None:
        """Run until SIGTERM. Raises ConfigError if it cannot start."""
        self._listener = listen(self._config)
        self._load(self._config)
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        gc.collect()
        gc.freeze()
        for _worker in range(self._config.workers):
            self._fork()
        log("info", f"listening on {self._config.listen[0]}:{self._config.listen[1]}, {self._config.workers} workers")
        notify("READY=1")
        self._watch()
        self._shut_down()

    def _load(self, config: Config) -> None:
        self._setup = Setup.load(config)
        for warning in self._setup.warnings():
            log("warning", warning)

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
            for pid, child in self._children.items():
                child.listen()
                if time.monotonic() - child.heard > HUNG:
                    log("err", f"worker {pid} hangs, replacing it")
                    child.heard = time.monotonic()
                    os.kill(pid, signal.SIGKILL)
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
            self._children[pid] = Child(ours)
            return
        status = 1
        try:
            ours.close()
            for child in self._children.values():
                child.channel.close()
            asyncio.run(Worker(self._listener, theirs, self._setup, self._load_config).run())
            status = 0
        except BaseException:
            log("err", "worker failed: " + traceback.format_exc(limit=-3))
        finally:
            os._exit(status)

    def _replace_dead(self) -> None:
        for pid, status in _ended():
            child = self._children.pop(pid)
            child.channel.close()
            how = f"signal {-status}" if status < 0 else f"status {status}"
            log("err", f"worker {pid} ended with {how}, replacing it")
            # Workers that die immediately must not cause a fork loop.
            if time.monotonic() - child.heard < 0.1:
                time.sleep(0.1)
            self._fork()

    def _reload(self) -> None:
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            config = self._load_config()
            self._load(config)
        except ConfigError as error:
            log("err", f"{error}\nnot reloaded, the previous configuration stays in force")
            notify("READY=1")
            return
        for key in ("listen", "workers"):
            if getattr(config, key) != getattr(self._config, key):
                log("warning", f"a new '{key}' needs a restart")
        for pid, child in self._children.items():
            child.reloading = True
            os.kill(pid, signal.SIGHUP)
        self._reload_until = time.monotonic() + _RELOAD_WAIT

    def _finish_reload(self) -> None:
        if self._reload_until is None:
            return
        late = [pid for pid, child in self._children.items() if child.reloading]
        if late and time.monotonic() < self._reload_until:
            return
        self._reload_until = None
        log("err" if late else "info", f"workers {late} have not reloaded" if late else "reloaded")
        notify("READY=1")

    def _shut_down(self) -> None:
        notify("STOPPING=1")
        self._listener.close()
        self._kill(signal.SIGTERM)
        until = time.monotonic() + GRACE + 5
        while self._children and time.monotonic() < until:
            signal.sigtimedwait({signal.SIGCHLD}, 0.2)
            for pid, _status in _ended():
                del self._children[pid]
        self._kill(signal.SIGKILL)
        log("info", "stopped")

    def _kill(self, number: signal.Signals) -> None:
        for pid in self._children:
            os.kill(pid, number)


def listen(config: Config) -> socket.socket:
    """The listening socket. Raises ConfigError."""
    host, port = config.listen
    try:
        family, _type, _protocol, _name, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound_buffers(listener)
        listener.bind(address)
    except OSError as error:
        raise ConfigError(f"{config.place('listen')} {host}:{port}: {error.strerror}") from None
    listener.listen(1024)
    listener.setblocking(False)
    return listener


def _ended() -> Iterator[tuple[int, int]]:
    """Process id and exit code, negative for a signal, of each worker that has ended."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found[0], os.waitstatus_to_exitcode(found[1])
