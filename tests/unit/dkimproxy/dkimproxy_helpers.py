# SPDX-License-Identifier: GPL-3.0-or-later
"""A scripted next hop, a bare SMTP client, the proxy in this process or as a daemon, and a verifier (dkimpy)."""

import asyncio
import base64
import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import dkim
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from dkimproxy import config as config_module
from dkimproxy.connection import Timeouts
from dkimproxy.policy import Setup
from dkimproxy.session import Session

FILES = Path(__file__).resolve().parents[3] / "roles/dkimproxy/files/usr/local/lib/selfhosted-mail"
AUTHORS = FILES.parents[5] / "accounts/files/usr/local/lib/selfhosted-mail"
HEADER = (
    b"From: Alice <alice@example.org>\r\nTo: bob@example.net\r\nSubject: Greetings\r\n"
    b"Date: Mon, 1 Jan 2024 00:00:00 +0000\r\nMessage-ID: <1@example.org>\r\n"
)
MESSAGE = HEADER + b"\r\nHello Bob,\r\n\r\n.this line begins with a dot\r\n"
# Of the proxy in this process; the fixture `quick` is for tests that wait for them to pass.
TIMEOUTS = Timeouts(*[120] * 8)
QUICK = Timeouts(2, 2, 1, 1, 1, 1, 1, 1)


class Keys:
    """Key files `rsa.pem`, `other.pem`, `ed.pem` and the DNS that publishes them as `_domainkey` records."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.records: dict[str, bytes] = {}
        for name, key in (
            ("rsa", rsa.generate_private_key(public_exponent=65537, key_size=2048)),
            ("other", rsa.generate_private_key(public_exponent=65537, key_size=2048)),
            ("ed", ed25519.Ed25519PrivateKey.generate()),
        ):
            pem = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            self.path(name).touch(0o600)
            self.path(name).write_bytes(pem)
            raw, form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
            if name == "ed":
                raw, form = serialization.Encoding.Raw, serialization.PublicFormat.Raw
            public = base64.b64encode(key.public_key().public_bytes(raw, form))
            self.records[name] = b"v=DKIM1; k=%s; p=%s" % (b"ed25519" if name == "ed" else b"rsa", public)

    def path(self, name: str) -> Path:
        return self.directory / f"{name}.pem"

    def dns(self, name, timeout=5):
        """The record of selector `rsa`, `other` or `ed` in any domain."""
        return self.records.get(bytes(name).decode().partition("._domainkey.")[0])

    def verifies(self, message: bytes, index: int = 0) -> bool:
        try:
            return dkim.DKIM(message).verify(idx=index, dnsfunc=self.dns)
        except dkim.ValidationError:
            return False


class NextHop:
    """An SMTP server that does as `script` says: verb (or `.`, `greeting`, `chunk`) -> reply, or what to do.

    Values: bytes are sent as they are, `close` closes, `hang` says nothing more. `sessions` holds the command
    lines of each connection, `messages` the taken messages without dot-stuffing, `wires` all that came between 354
    and the end of data, taken or not. With `drip` replies come a byte at a time.
    """

    EHLO = (
        b"250-next.example.org\r\n250-8BITMIME\r\n250-SIZE 36700160\r\n250-STARTTLS\r\n250-AUTH PLAIN\r\n"
        b"250-CHUNKING\r\n250-BINARYMIME\r\n"
        b"250-DSN\r\n250-XCLIENT NAME\r\n250-PIPELINING\r\n250 ENHANCEDSTATUSCODES\r\n"
    )

    def __init__(self) -> None:
        self.script: dict[str, bytes | str] = {}
        self.sessions: list[list[bytes]] = []
        self.messages: list[bytes] = []
        self.wires: list[bytes] = []
        self.drip = False
        self.lines: type[list[bytes]] = list
        self.envelopes: list[tuple[bytes, list[bytes]]] = []
        self.delay = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._gone = threading.Event()
        # Set when a session hangs.
        self.hanging = threading.Event()

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.away()

    def away(self) -> None:
        """Stop listening and close what is open."""
        self._gone.set()
        for sock in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        commands: list[bytes] = []
        self.sessions.append(commands)
        try:
            self._talk(connection, commands)
        except OSError:
            pass
        finally:
            connection.close()

    def _act(self, connection: socket.socket, step: str, default: bytes) -> bool:
        """Send the scripted reply; False when the connection is over."""
        what = self.script.get(step, default)
        if what == "close":
            return False
        if what == "hang":
            self.hanging.set()
            self._gone.wait()
            return False
        for piece in (what[at : at + 1] for at in range(len(what))) if self.drip else (what,):
            connection.sendall(piece)
        return not what.startswith(b"421")

    def _talk(self, connection: socket.socket, commands: list[bytes]) -> None:
        file = connection.makefile("rb")
        if not self._act(connection, "greeting", b"220 next.example.org ESMTP\r\n"):
            return
        sender, recipients = b"", []
        while line := file.readline():
            commands.append(line)
            verb = line[:4].upper().strip().decode()
            default = {"EHLO": self.EHLO, "DATA": b"354 Go\r\n", "QUIT": b"221 2.0.0 Bye\r\n"}
            if verb == "MAIL":
                sender, recipients = line, []
            if verb == "RCPT":
                recipients.append(line)
            if not self._act(connection, verb, default.get(verb, b"250 2.0.0 Ok\r\n")) or verb == "QUIT":
                return
            if verb == "DATA" and self.script.get("DATA", b"354")[:3] == b"354":
                if self.script.get("chunk"):
                    file.read(10)
                    self._act(connection, "chunk", b"")
                    return
                lines: list[bytes] = self.lines()
                while (line := file.readline()) != b".\r\n":
                    if not line:
                        return
                    lines.append(line)
                time.sleep(self.delay)
                self.wires.append(b"".join(lines))
                if self.script.get(".", b"250 ")[:4] == b"250 ":
                    self.messages.append(b"".join(line.removeprefix(b".") for line in lines))
                    self.envelopes.append((sender, recipients))
                if not self._act(connection, ".", b"250 2.0.0 1a2b3c4d Message accepted for delivery\r\n"):
                    return


class Client:
    """A bare SMTP client: bytes out, replies in."""

    def __init__(self, port: int, timeout: float = 60) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def reply(self) -> bytes:
        """The whole of the next reply; empty at the end of the connection."""
        lines = b""
        with contextlib.suppress(ConnectionResetError):
            while line := self.file.readline():
                lines += line
                if line[3:4] != b"-":
                    break
        return lines

    def send(self, data: bytes) -> bytes:
        self.socket.sendall(data)
        return self.reply()

    def begin(self, sender: bytes = b"alice@example.org") -> None:
        """Greeting, EHLO, MAIL, RCPT and DATA, all of them taken."""
        assert self.reply().startswith(b"220")
        assert self.send(b"EHLO client.example.org\r\n").startswith(b"250")
        self.transaction(sender)

    def transaction(self, sender: bytes = b"alice@example.org") -> None:
        assert self.send(b"MAIL FROM:<%s>\r\n" % sender).startswith(b"250")
        assert self.send(b"RCPT TO:<bob@example.net>\r\n").startswith(b"250")
        assert self.send(b"DATA\r\n").startswith(b"354")

    def message(self, message: bytes = MESSAGE) -> bytes:
        """Send a message (dot-stuffed here) and return the reply."""
        return self.send((b"\r\n" + message).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n")


def deliver(port: int, message: bytes = MESSAGE, sender: bytes = b"alice@example.org") -> bytes:
    """One connection, one message; returns the reply to the end of data."""
    with Client(port) as client:
        client.begin(sender)
        return client.message(message)


def make_config(keys: Keys, relay_port: int, extra: dict[str, str] | None = None, listen: str = "127.0.0.1:0"):
    """A Config for example.org with the RSA key; `extra` are further keys of the configuration."""
    options: dict[str, list[str | None]] = {
        "listen": [listen],
        "relay": [f"127.0.0.1:{relay_port}"],
        "domain": ["example.org"],
        "keyfile": [str(keys.path("rsa"))],
        "selector": ["rsa"],
        "hostname": ["mail.example.org"],
    }
    options.update({key: value if isinstance(value, list) else [value] for key, value in (extra or {}).items()})
    return config_module.load(options, [])


class Proxy:
    """The proxy's sessions behind a real socket, in a thread of this process."""

    def __init__(self, keys: Keys, next_hop: NextHop, directory: Path, extra: dict[str, str] | None = None) -> None:
        settings = {"spool_dir": str(directory), "spool_memory": "4096"} | (extra or {})
        self.setup = Setup.load(make_config(keys, next_hop.port, settings))
        self.sessions: list[Session] = []
        self.port = 0

    def __enter__(self):
        ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True).start()
        ready.wait(60)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        tasks = set()

        def accept() -> None:
            self.sessions.append(Session(lambda: self.setup, TIMEOUTS, listener.accept()[0]))
            tasks.add(self._loop.create_task(self.sessions[-1].run()))

        with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
            self.port = listener.getsockname()[1]
            self._loop.add_reader(listener, accept)
            ready.set()
            await self._stop.wait()
            self._loop.remove_reader(listener)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


class Daemon:
    """dkimproxy.out as a process of its own, with a socket for its messages to systemd."""

    def __init__(self, keys: Keys, next_hop: NextHop, directory: Path, text: str = "") -> None:
        self.port = free_port()
        self.file = directory / "dkimproxy_out.conf"
        self.base = (
            f"listen 127.0.0.1:{self.port}\nrelay 127.0.0.1:{next_hop.port}\nkeyfile {keys.path('rsa')}\n"
            f"domain example.org\nhostname mail.example.org\nspool_dir {directory}\nworkers 2\n"
        )
        self.file.write_text(self.base + (text or "selector rsa\n"))
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(directory / "notify"))
        # Read at once, as systemd does: a full queue would block the writer.
        self._states: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self.log = directory / "log"
        self._environment = os.environ | {"NOTIFY_SOCKET": str(directory / "notify"), "WATCHDOG_USEC": "3000000"}

    def __enter__(self):
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(launch(f"--conf_file={self.file}"), stderr=log, env=self._environment)
        self.wait_for("READY=1")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(25)
        finally:
            self.process.kill()
            self._notify.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        with self._notify:
            while states := self._notify.recv(1024):
                self._states.put(states.decode())

    def wait_for(self, state: str) -> None:
        """Wait for a message to systemd; those before it are dropped."""
        until = time.monotonic() + 60
        while state not in self._states.get(timeout=60).split("\n"):
            assert time.monotonic() < until, f"no {state}"

    def reload(self) -> None:
        self.process.send_signal(signal.SIGHUP)
        self.wait_for("RELOADING=1")
        self.wait_for("READY=1")

    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]


def launch(*arguments: str) -> list[str]:
    """The command that runs the checkout's dkimproxy.out in the tests' Python."""
    code = f"import sys; sys.path[:0] = [{str(FILES)!r}, {str(AUTHORS)!r}]; from dkimproxy.command import main; "
    code += "sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-B", "-c", code, *arguments]


def ran(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run dkimproxy.out with arguments with which it ends."""
    return subprocess.run(launch(*arguments), capture_output=True, text=True, timeout=60, check=False)


class Forget(list[bytes]):
    """Lines or messages, of which the next hop keeps none."""

    def append(self, _: bytes) -> None:
        pass


def open_files(*pids: int) -> list[str]:
    """What the processes have open."""
    found = []
    for path in (path for pid in pids for path in Path(f"/proc/{pid}/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(path))
    return found


def wait_until(condition, seconds: float = 60, state=lambda: "") -> None:
    """Return as soon as `condition()` is true; fail after this many seconds, with `state()`."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"it did not come about: {state()}"
        time.sleep(0.01)
