# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon process under load: continuous reloads, large messages at the same time."""

import contextlib
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from dkimproxy_helpers import HEADER, MESSAGE, Client, Daemon, Forget, deliver, open_files, wait_until


def test_every_message_before_between_and_after_reloads_is_acknowledged_and_signed_once(keys, next_hop, tmp_path):
    """Valid and invalid configurations alternately, while four sessions stay open."""
    failures, sent, stopped = [], [0] * 4, threading.Event()

    def session(number):
        try:
            with Client(daemon.port) as client:
                client.begin()
                while not stopped.is_set():
                    mark = b"<%d.%d@example.org>" % (number, sent[number])
                    assert client.message(MESSAGE.replace(b"<1@example.org>", mark)).startswith(b"250")
                    sent[number] += 1
                    client.transaction()
        except (AssertionError, OSError) as error:
            failures.append((number, error))

    with Daemon(keys, next_hop, tmp_path) as daemon:
        workers, threads = daemon.workers(), [threading.Thread(target=session, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        good = {key: daemon.base.replace("rsa.pem", f"{key}.pem") + f"selector {key}\n" for key in ("rsa", "other")}
        for text in [good["other"], "nonsense 1\n", good["rsa"], good["rsa"].replace("rsa.pem", "none.pem")] * 8:
            daemon.file.write_text(text)
            daemon.reload()
        last = sum(sent)
        wait_until(lambda: sum(sent) > last + 20)
        stopped.set()
        for thread in threads:
            thread.join(20)
        assert failures == [] and daemon.workers() == workers
        log = daemon.log.read_text()
        assert log.count("stays in force") == 16 and log.count(": reloaded") == 16 and "session" not in log
    assert len(next_hop.messages) == sum(sent) == len({re.search(rb"<\d+\.\d+@", one)[0] for one in next_hop.messages})
    assert all(message.count(b"DKIM-Signature:") == 1 and keys.verifies(message) for message in next_hop.messages)
    selectors = [re.search(rb"s=(\w+);", message)[1] for message in next_hop.messages]
    assert {b"rsa", b"other"} == set(selectors) and set(selectors[-8:]) == {b"rsa"}


@pytest.mark.parametrize("count", [5, pytest.param(50, marks=pytest.mark.long)])
def test_large_messages_at_once(keys, next_hop, tmp_path, count):
    """25 MB each, all of them on disk at the same time: memory is that of blocks of them, the disk is free after."""
    if shutil.disk_usage(tmp_path).free < 3 << 30:
        pytest.skip("needs 3 GB in the folder for temporary files")
    next_hop.lines = Forget
    block = (b"0123456789abcdef" * 62 + b"\r\n") * 64
    peak = 0
    with Daemon(keys, next_hop, tmp_path, "selector rsa\n") as daemon:
        assert memory(daemon) < 60_000
        clients = [Client(daemon.port, 120) for _ in range(count)]
        for client in clients:
            client.begin()
            client.socket.sendall(HEADER + b"\r\n")
        for number in range(25 * 1024 * 1024 // len(block)):
            for client in clients:
                client.socket.sendall(block)
            if number % 20 == 0:
                peak = max(peak, memory(daemon))
        for client in clients:
            client.socket.sendall(b".\r\n")
        finished = threading.Thread(target=lambda: [replies.append(client.reply()[:3]) for client in clients])
        replies = []
        finished.start()
        while finished.is_alive():
            peak = max(peak, memory(daemon))
            finished.join(0.2)
        assert replies == [b"250"] * count
        assert peak < 300_000, f"{peak} kB"
        assert list(tmp_path.glob("tmp*")) == []
        wait_until(lambda: not [name for name in open_files(*processes(daemon)) if f"{tmp_path}/#" in name])
        for client in clients:
            client.__exit__()


def processes(daemon) -> list[int]:
    return [daemon.process.pid, *daemon.workers()]


def memory(daemon) -> int:
    """kB that its processes have for themselves, and their share of what they share."""
    texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in processes(daemon)]
    return sum(int(re.search(r"(?m)^Pss: +(\d+) kB", text)[1]) for text in texts)


def test_stopped_by_everybody_at_once(keys, next_hop, tmp_path):
    """systemd signals every process of the unit, and the master its workers again: the shutdown stays orderly."""
    for number in range(12):
        directory = tmp_path / str(number)
        directory.mkdir()
        with Daemon(keys, next_hop, directory, "selector rsa\n") as daemon:
            assert deliver(daemon.port).startswith(b"250")
            everybody = [daemon.process.pid, *daemon.workers()]
            while daemon.process.poll() is None:
                time.sleep(0.001)
                for pid in everybody:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
            assert daemon.process.returncode == 0
        log = daemon.log.read_text()
        assert "Traceback" not in log, log
