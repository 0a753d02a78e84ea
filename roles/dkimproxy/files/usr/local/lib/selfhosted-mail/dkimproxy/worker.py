# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker process: accepts connections from the shared socket and serves sessions."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable

from .config import Config
from .connection import Timeouts
from .errors import ConfigError
from .policy import Setup
from .session import Session
from .systemd import log

# Seconds that sessions with a message in progress may continue after SIGTERM.
GRACE = 15
HEARTBEAT = 2


class Worker:
    """`parent` is a SOCK_SEQPACKET socket to the master: `beat` every HEARTBEAT seconds, `reloaded` after a reload."""

    def __init__(
        self, listener: socket.socket, parent: socket.socket, setup: Setup, load_config: Callable[[], Config]
    ) -> None:
        self._listener, self._parent, self._setup, self._load_config = listener, parent, setup, load_config
        self._sessions: dict[asyncio.Task[None], Session] = {}

    async def run(self) -> None:
        """Serve until SIGTERM or until the master is gone."""
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        self._loop.add_signal_handler(signal.SIGINT, self._stop.set)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        # The master blocks its signals; those that came before the handlers were set arrive now.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._loop.add_reader(self._parent, self._stop.set)  # readable means the master is gone
        self._loop.add_reader(self._listener, self._accept)
        heartbeat = asyncio.create_task(self._beat())
        await self._stop.wait()
        self._loop.remove_reader(self._listener)
        self._loop.remove_reader(self._parent)
        await self._drain()
        heartbeat.cancel()
        # systemd and the master both send SIGTERM. One that comes while the loop closes would cause a traceback.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))

    def current_setup(self) -> Setup:
        """The setup for the next message; `senders` is read again when the file has changed."""
        setup = self._setup
        rights = setup.rights and setup.rights.current(log)
        if rights is not setup.rights:
            self._setup = Setup(setup.config, setup.signers, rights)
        return self._setup

    def _accept(self) -> None:
        # One at a time: a busy worker leaves the next connection to the others.
        try:
            connection, _peer = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            log("err", f"accept: {error.strerror}")
            self._loop.remove_reader(self._listener)
            self._loop.call_later(1, self._accept_again)
            return
        session = Session(self.current_setup, Timeouts(), connection)
        task = self._loop.create_task(session.run())
        self._sessions[task] = session
        task.add_done_callback(self._sessions.pop)

    def _accept_again(self) -> None:
        if not self._stop.is_set():
            self._loop.add_reader(self._listener, self._accept)

    async def _drain(self) -> None:
        for session in self._sessions.values():
            session.drain()
        if self._sessions:
            _ended, late = await asyncio.wait(self._sessions, timeout=GRACE)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=2)

    def _reload(self) -> None:
        try:
            self._setup = Setup.load(self._load_config())
        except ConfigError as error:
            log("err", f"{error}\nthe previous configuration stays in force")
        self._tell(b"reloaded")

    def _tell(self, word: bytes) -> None:
        with contextlib.suppress(OSError):
            self._parent.send(word)

    async def _beat(self) -> None:
        while True:
            self._tell(b"beat")
            await asyncio.sleep(HEARTBEAT)
