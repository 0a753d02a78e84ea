# SPDX-License-Identifier: GPL-3.0-or-later
"""100 000 malformed inputs from both sides to the daemon process: no crash, no leak, nothing unsigned.

Repeat a run with DKIMPROXY_JUNK_SEED, which a failure names.
"""

import contextlib
import os
import random
import re
import secrets
import socket
import threading
import time
from pathlib import Path

import pytest
from dkimproxy_helpers import HEADER, MESSAGE, Daemon, NextHop, deliver, open_files, wait_until

CLIENTS = 4
COMMANDS = [
    b"EHLO client", b"HELO x", b"MAIL FROM:<alice@example.org>", b"MAIL FROM:<>", b"RCPT TO:<bob@example.net>",
    b"MAIL FROM:<alice@example.org> SIZE=1000 BODY=8BITMIME", b"RCPT TO:<b@example.net> NOTIFY=NEVER ORCPT=rfc822;b",
    b"DATA", b"RSET", b"NOOP", b"VRFY b", b"HELP", b"STARTTLS", b"AUTH PLAIN AGEAYg==", b"BDAT 10 LAST", b"XCLIENT A=b",
]  # fmt: skip
ENVELOPE = b"MAIL FROM:<alice@example.org>\r\nRCPT TO:<bob@example.net>\r\nDATA\r\n"
SNIPPETS = [
    b"\r\n", b"\n", b"\r", b"\0", b"\r\n.\r\n", b"\n.\n", b".", b"From: eve@example.com\r\n", b"From:", b" ", b"\t",
    b"<", b">", b'"', b"(", b"@", b",", b":",
    b"\xff\xfe", b"\r\n\r\n", b"alice@example.org", b"x" * 1200, b"\x1b", b"=?utf-8?Q?",
]  # fmt: skip
REPLIES = re.compile(rb"(?:[2-5][0-9][0-9][ -][ -~]*\r\n)*")
ODD_ANSWERS = [
    b"421 4.3.2 Going\r\n", b"450 4.2.0 Later\r\n", b"554 5.0.0 No\r\n", b"junk\r\n", b"\r\n",
    b"250-half\r\n350 x\r\n", b"999 x\r\n", b"\0\0\0\r\n", b"x" * 70000, "close", "close",
]  # fmt: skip


class OddNextHop(NextHop):
    """Every thirtieth answer is missing or invalid."""

    def _act(self, connection, step, default):
        if random.random() < 1 / 30:
            odd = random.choice(ODD_ANSWERS)
            if step == "DATA" and odd[:2] in (b"45", b"55"):
                odd = "close"  # else it would wait for a message that does not come
            if odd == "close":
                return False
            default = odd
        return super()._act(connection, step, default)


def mutate(rng: random.Random, data: bytes, times: int) -> bytes:
    for _ in range(times):
        at, to = rng.randrange(len(data) + 1), rng.randrange(20)
        match rng.randrange(5):
            case 0:
                data = data[:at] + rng.choice(SNIPPETS) + data[at:]
            case 1:
                data = data[:at] + data[at + to :]
            case 2:
                data = data[:at] + rng.randbytes(1 + to // 8) + data[at + 1 :]
            case 3:
                data = data[:at] + data[max(0, at - 40) : at] + data[at:]
            case 4:
                other = rng.randrange(len(data) + 1)
                data = data[:at] + data[other : other + 2 * to] + data[at:]
    return data


def stuffed(message: bytes) -> bytes:
    return (b"\r\n" + message).replace(b"\r\n.", b"\r\n..")[2:] + b"\r\n.\r\n"


def dialogue(rng: random.Random) -> tuple[bytes, int]:
    """What one connection sends, and of how many inputs (lines, messages) it consists."""
    kind = rng.randrange(8)
    if kind < 2:
        lines = [
            rng.randbytes(rng.randrange(60))
            if rng.random() < 0.3
            else mutate(rng, rng.choice(COMMANDS), rng.randrange(3))
            for _ in range(100)
        ]
        return b"".join(line + b"\r\n" for line in lines if not line.upper().startswith(b"DATA")), len(lines)
    if kind < 7:
        count = rng.randrange(1, 25)
        sent = b"EHLO c\r\n"
        for _ in range(count):
            message = HEADER + b"\r\n" + rng.randbytes(rng.randrange(200)) if rng.random() < 0.1 else MESSAGE
            # A refused message ends its transaction, and the next one begins with a line of its own all the same.
            sent += ENVELOPE + stuffed(mutate(rng, message, rng.randrange(4)))
        return sent, count
    whole = b"EHLO c\r\n" + (ENVELOPE + MESSAGE.replace(b"\r\n.", b"\r\n..") + b".\r\n") * 5 + b"QUIT\r\n"
    return mutate(rng, whole, rng.randrange(1, 12)), 5


class JunkClients:
    """Threads that send dialogues until told to stop."""

    def __init__(self, port: int, seed: int) -> None:
        self.port, self.inputs, self.bad, self.stopped = port, [0] * CLIENTS, [], threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(n, random.Random(seed + n))) for n in range(CLIENTS)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        for thread in self.threads:
            thread.join(30)

    def _run(self, number: int, rng: random.Random) -> None:
        while not self.stopped.is_set() and not self.bad:
            data, count = dialogue(rng)
            replies = self._send(rng, data)
            if not REPLIES.fullmatch(replies):
                self.bad.append((data, replies))
            self.inputs[number] += count

    def _send(self, rng: random.Random, data: bytes) -> bytes:
        """All replies to the data, except those lost by a reset connection."""
        replies = b""
        with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", self.port), 20) as sock:
            if rng.random() < 0.05:
                sock.sendall(data[: rng.randrange(len(data))])
                return b""
            reader = threading.Thread(target=sock.sendall, args=(data,)) if len(data) > 100_000 else None
            if reader:
                reader.start()
            else:
                sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            try:
                while block := sock.recv(65536):
                    replies += block
            except TimeoutError:
                self.bad.append((data, b"no end: " + replies))
        return replies.rpartition(b"\n")[0] + b"\n" if replies else b""


def memory(pid: int) -> int:
    """Resident kB."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def deliver_quietly(port: int) -> None:
    """Any result is accepted."""
    with contextlib.suppress(OSError, AssertionError):
        deliver(port)


@pytest.mark.parametrize("wanted", [5_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_junk(keys, tmp_path, capsys, wanted):
    seed = int(os.environ.get("DKIMPROXY_JUNK_SEED") or secrets.randbelow(1 << 32))
    with OddNextHop() as next_hop, Daemon(keys, next_hop, tmp_path, "selector rsa\nspool_memory 300\n") as daemon:
        workers = daemon.workers()
        for _ in range(20):
            deliver_quietly(daemon.port)
        time.sleep(0.5)
        files = [len(open_files(pid)) for pid in workers]
        with JunkClients(daemon.port, seed) as junk:
            begun = time.monotonic()
            early = None
            while sum(junk.inputs) < wanted and time.monotonic() - begun < 600 and not junk.bad:
                time.sleep(0.2)
                if early is None and sum(junk.inputs) > wanted / 5:
                    early = [memory(pid) for pid in workers]
        seconds, inputs = time.monotonic() - begun, sum(junk.inputs)
        taken = len(next_hop.messages)
        with capsys.disabled():
            print(f"\n{inputs} lines and messages of junk in {seconds:.0f} s, {taken} messages passed; seed {seed}")
        assert junk.bad == [], f"seed {seed}"
        assert inputs >= wanted and taken > 100, "hardly anything was tried"

        log = daemon.log.read_text()
        assert daemon.workers() == workers, log[-3000:]
        assert not re.search("failed:|Traceback|Error", log), re.findall(".*(?:failed:|Traceback|Error).*", log)[:5]
        left = [open_files(pid) for pid in workers]
        wait_until(lambda: [len(open_files(pid)) for pid in workers] == files, 60, lambda: left)
        assert not [name for name in open_files(*workers) if f"{tmp_path}/#" in name]
        assert list(tmp_path.glob("tmp*")) == []
        late = [memory(pid) for pid in workers]
        assert early and all(now < then + 8_000 for now, then in zip(late, early, strict=True)), (early, late)
        assert max(late) < 60_000, late

        for message in next_hop.messages:
            assert message.startswith(b"DKIM-Signature: ") and keys.verifies(message), (seed, message)
        for session in next_hop.sessions:
            assert all(re.fullmatch(rb"[^\r\n\0]*\r\n", line) for line in session), seed
        next_hop._act = super(OddNextHop, next_hop)._act
        assert deliver(daemon.port).startswith(b"250")
