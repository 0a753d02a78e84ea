# SPDX-License-Identifier: GPL-3.0-or-later
"""dkimproxy.out as systemd runs it: readiness, reload, workers, shutdown."""

import os
import re
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from dkimproxy_helpers import HEADER, MESSAGE, Client, Daemon, Forget, deliver, launch, ran, wait_until


@pytest.fixture
def daemon(keys, next_hop, tmp_path):
    with Daemon(keys, next_hop, tmp_path) as running:
        yield running


class Load(threading.Thread):
    """Delivers messages on four connections until `stop`; keeps every reply other than 250."""

    def __init__(self, port):
        super().__init__()
        self.port, self.stopped, self.bad, self.sent = port, threading.Event(), [], 0

    def one(self):
        while not self.stopped.is_set():
            try:
                with Client(self.port) as client:
                    client.begin()
                    for _ in range(5):
                        reply = client.message()
                        self.sent += 1
                        if not reply.startswith(b"250"):
                            self.bad.append(reply)
                            break
                        client.transaction()
            except (OSError, AssertionError) as error:
                self.bad.append(repr(error).encode())

    def run(self):
        threads = [threading.Thread(target=self.one) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def stop(self):
        self.stopped.set()
        self.join(60)


def test_ready_watchdog_and_two_workers(daemon, next_hop, keys):
    assert len(daemon.workers()) == 2
    assert deliver(daemon.port).startswith(b"250")
    assert keys.verifies(next_hop.messages[0])
    daemon.wait_for("WATCHDOG=1")


def test_reload_under_load_drops_nothing(daemon, next_hop, keys):
    load = Load(daemon.port)
    load.start()
    wait_until(lambda: load.sent)
    with Client(daemon.port) as held:
        held.begin()
        assert held.message().startswith(b"250")
        workers = daemon.workers()
        for key in ("other", "rsa", "other"):
            daemon.file.write_text(daemon.base.replace("rsa.pem", f"{key}.pem") + f"selector {key}\n")
            daemon.reload()
            held.transaction()
            assert held.message().startswith(b"250")
            assert b"s=%s;" % key.encode() in next_hop.messages[-1] or load.sent
    wait_until(lambda: load.sent > 20)
    load.stop()
    assert load.bad == []
    assert daemon.workers() == workers
    assert all(map(keys.verifies, next_hop.messages))
    deliver(daemon.port)
    assert b"s=other;" in next_hop.messages[-1]


def test_a_bad_reload_keeps_the_old_configuration(daemon, next_hop, keys):
    for bad in (
        daemon.base + "selector rsa\nnonsense 1\n",
        daemon.base.replace("rsa.pem", "none.pem") + "selector x\n",
    ):
        daemon.file.write_text(bad)
        daemon.reload()
        assert deliver(daemon.port).startswith(b"250")
        assert keys.verifies(next_hop.messages[-1])
    log = daemon.log.read_text()
    assert f"{daemon.file}:9: unknown key 'nonsense'" in log and "none.pem: No such file" in log
    assert log.count("stays in force") == 2


def test_changed_rights_are_seen_without_a_reload(keys, next_hop, tmp_path):
    senders = tmp_path / "senders"
    senders.write_text("alice alice@example.org\n")
    with Daemon(keys, next_hop, tmp_path, f"selector rsa\nsenders {senders}\n") as daemon:
        as_bob = MESSAGE.replace(b"Alice <alice@", b"<bob@")
        assert deliver(daemon.port, as_bob).startswith(b"550 5.7.1 ")
        senders.write_text("alice alice@example.org,bob@example.org\n")
        # So many at once that both workers have some, and each has read the new rights.
        with ThreadPoolExecutor(16) as pool:
            wait_until(
                lambda: {reply[:3] for reply in pool.map(deliver, [daemon.port] * 64, [as_bob] * 64)} == {b"250"}
            )
        senders.write_text("nonsense\n")
        complaint = "senders:1: login 'nonsense' has no address"
        wait_until(lambda: deliver(daemon.port, as_bob).startswith(b"250") and complaint in daemon.log.read_text())
        assert deliver(daemon.port, as_bob).startswith(b"250")


def test_killed_workers_are_replaced_and_nothing_is_lost(daemon, next_hop, keys):
    with Client(daemon.port) as client:
        client.begin()
        client.socket.sendall(HEADER)
        for pid in daemon.workers():
            os.kill(pid, signal.SIGKILL)
        assert client.reply() == b""
    assert deliver(daemon.port).startswith(b"250")
    wait_until(lambda: len(daemon.workers()) == 2)
    assert len(next_hop.messages) == 1 and keys.verifies(next_hop.messages[0])
    assert "ended with signal 9, replacing it" in daemon.log.read_text()


def test_killed_under_load_nothing_unsigned_and_nothing_acknowledged_is_lost(daemon, next_hop, keys):
    acknowledged = []
    for number in range(60):
        if number % 15 == 7:
            os.kill(daemon.workers()[0], signal.SIGKILL)
        message = MESSAGE.replace(b"<1@", b"<%d@" % number)
        for _ in range(50):
            try:
                if deliver(daemon.port, message).startswith(b"250"):
                    acknowledged.append(b"<%d@" % number)
                    break
            except (OSError, AssertionError):
                time.sleep(0.02)
    assert len(acknowledged) == 60
    for identifier in acknowledged:
        assert 1 <= sum(identifier in message for message in next_hop.messages) <= 2
    assert all(keys.verifies(message) and message.count(b"DKIM-Signature:") == 1 for message in next_hop.messages)


def test_sigterm_ends_what_waits_and_finishes_what_is_under_way(daemon, next_hop, keys):
    next_hop.delay = 0.5
    with Client(daemon.port) as idle, Client(daemon.port) as busy:
        idle.reply()
        busy.begin()
        busy.socket.sendall(HEADER)
        daemon.process.terminate()
        assert idle.reply().startswith(b"421 4.3.2 ")
        daemon.wait_for("STOPPING=1")
        assert busy.send(b"\r\nlate\r\n.\r\n").startswith(b"250")
        assert busy.reply().startswith(b"421 4.3.2 ")
    assert daemon.process.wait(60) == 0
    assert len(next_hop.messages) == 1 and keys.verifies(next_hop.messages[0])


def test_workers_do_not_outlive_the_master(daemon):
    workers = daemon.workers()
    daemon.process.kill()
    wait_until(lambda: all(ended(pid) for pid in workers))


def ended(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_memory_stays_bounded(daemon, next_hop):
    """Twelve messages of 12 MB at once: no more than blocks of them are in memory."""
    block = b"".join(b"%07d some words and more words of a line\r\n" % number for number in range(20000))
    clients = [Client(daemon.port, 600) for _ in range(12)]
    next_hop.messages = Forget()
    for client in clients:
        client.begin()
        client.socket.sendall(HEADER + b"\r\n")
    for _ in range(13):
        for client in clients:
            client.socket.sendall(block)
    for client in clients:
        client.socket.sendall(b".\r\n")
    assert all(client.reply().startswith(b"250") for client in clients)
    for client in clients:
        client.__exit__()
    peak = 0
    for pid in daemon.workers():
        with open(f"/proc/{pid}/status") as file:
            peak = max(peak, int(re.search(r"VmHWM:\s+(\d+)", file.read())[1]))
    assert peak < 80_000, f"{peak} kB"
    assert list(daemon.file.parent.glob("tmp*")) == []


def test_a_bad_configuration_does_not_start(tmp_path, keys):
    path = tmp_path / "dkimproxy_out.conf"
    path.write_text(f"listen 127.0.0.1:1\nrelay 127.0.0.1:2\ndomain example.org\nkeyfile {keys.path('rsa')}\n")
    done = ran(f"--conf_file={path}")
    assert done.returncode == 78 and "no selector" in done.stderr and "Traceback" not in done.stderr


def test_a_port_that_somebody_has_is_named(tmp_path, keys, next_hop):
    path = tmp_path / "dkimproxy_out.conf"
    path.write_text(
        f"listen 127.0.0.1:{next_hop.port}\nrelay 127.0.0.1:2\ndomain example.org\nselector s\n"
        f"keyfile {keys.path('rsa')}\n"
    )
    done = ran(f"--conf_file={path}")
    assert done.returncode == 78 and "Traceback" not in done.stderr
    assert f"{path}:1: listen 127.0.0.1:{next_hop.port}: Address already in use" in done.stderr


def test_a_lack_of_processes_or_sockets_ends_it_with_a_line(tmp_path, keys):
    path = tmp_path / "dkimproxy_out.conf"
    path.write_text(
        "listen 127.0.0.1:0\nrelay 127.0.0.1:2\ndomain example.org\nhostname mail.example.org\nselector s\n"
        f"keyfile {keys.path('rsa')}\n"
    )
    # Standard streams, the listener, and one to read files with: no pair for a worker.
    few = ["prlimit", "--nofile=5", *launch(f"--conf_file={path}")]
    done = subprocess.run(few, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (71, 1) and "Too many open files" in done.stderr
