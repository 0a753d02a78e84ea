# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker process: accepts from the shared socket and serves sessions."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable

from .config import Config
from .connection import Timeouts
from .errors import ConfigError
from .log import log
from .policy import Rights, file_version
from .session import Session, Setup

# How long sessions with a message under way may go on after SIGTERM, in seconds.
GRACE = 15
HEARTBEAT = 2


class Worker:
    """`parent` is a datagram socket to the master: `beat` every HEARTBEAT seconds, `reloaded` after a reload."""

    def __init__(
        self, listener: socket.socket, parent: socket.socket, setup: Setup, load_config: Callable[[], Config]
    ) -> None:
        self._listener, self._parent, self._setup, self._load_config = (listener, parent, setup, load_config)
        self._timeouts = Timeouts()
        self._sessions: set[Session] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._rights_checked = 0.0
        self._bad_rights: tuple[int, int, int] | None = None

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        self._loop.add_signal_handler(signal.SIGINT, self._stop.set)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        # The master blocks its signals; what came before the handlers were there comes now.
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._loop.add_reader(self._parent, self._stop.set)  # readable means the master is gone
        self._loop.add_reader(self._listener, self._accept)
        heartbeat = asyncio.create_task(self._beat())
        await self._stop.wait()
        self._loop.remove_reader(self._listener)
        self._loop.remove_reader(self._parent)
        await self._drain()
        heartbeat.cancel()
        # systemd and the master both send SIGTERM. One that comes while the loop is being closed is a traceback.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))

    def current_setup(self) -> Setup:
        """The setup for the next message; `senders` is read again when the file has changed."""
        setup = self._setup
        path = setup.config.senders
        if path and setup.rights and time.monotonic() - self._rights_checked > 0.2:
            self._rights_checked = time.monotonic()
            try:
                version = file_version(os.stat(path))
                if version not in (setup.rights.version, self._bad_rights):
                    self._bad_rights = version
                    self._setup = setup = Setup(setup.config, setup.signers, Rights(path))
                    log("info", f"read {path} again")
            except (ConfigError, OSError) as error:
                log("err", f"{error}\nthe rights read before stay in force")
        return setup

    def _accept(self) -> None:
        # One at a time: a busy worker leaves the next connection to the others.
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            log("err", f"accept: {error.strerror}")
            self._loop.remove_reader(self._listener)
            self._loop.call_later(1, self._accept_again)
            return
        task = self._loop.create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _accept_again(self) -> None:
        if not self._stop.is_set():
            self._loop.add_reader(self._listener, self._accept)

    async def _serve(self, connection: socket.socket) -> None:
        session = Session(self.current_setup, self._timeouts, connection)
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.discard(session)

    async def _drain(self) -> None:
        for session in self._sessions:
            session.drain()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=GRACE)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=2)

    def _reload(self) -> None:
        try:
            self._setup = Setup.load(self._load_config())
        except ConfigError as error:
            log("err", f"{error}\nthe configuration read before stays in force")
        self._tell(b"reloaded")

    def _tell(self, word: bytes) -> None:
        with contextlib.suppress(OSError):
            self._parent.send(word)

    async def _beat(self) -> None:
        while True:
            self._tell(b"beat")
            await asyncio.sleep(HEARTBEAT)


def run_worker(listener: socket.socket, parent: socket.socket, setup: Setup, load_config: Callable[[], Config]) -> None:
    """Serve until SIGTERM or until the master is gone."""
    asyncio.run(Worker(listener, parent, setup, load_config).run())
