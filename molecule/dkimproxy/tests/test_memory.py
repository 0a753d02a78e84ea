# SPDX-License-Identifier: GPL-3.0-or-later
"""What memory the signing proxy's unit takes, idle and with messages of 25 MB at once; caches count."""

import contextlib
import threading
from pathlib import Path

import pytest

from testbed import containers

testinfra_hosts = ["docker://dkimproxy-debian12", "docker://dkimproxy-debian13"]

HERE = Path(__file__).parent
UNIT_GROUP = "/sys/fs/cgroup/system.slice/dkimproxy.service"
V1 = Path("/sys/fs/cgroup/memory")


class Unified:
    """Version 2 control groups: the unit has one of its own, and systemd has set its limits."""

    def __init__(self, name: str) -> None:
        self.name = name
        containers.run(name, "systemctl", "restart", "dkimproxy")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def bytes(self) -> int:
        return int(containers.run(self.name, "cat", f"{UNIT_GROUP}/memory.current"))

    def killed(self) -> bool:
        return "oom_kill 0\n" not in containers.run(self.name, "cat", f"{UNIT_GROUP}/memory.events")


class Legacy:
    """Version 1, where systemd in a container sets none: a group for the daemon, limited to the unit's MemoryHigh.

    What the daemon's libraries take of the page cache is in the group of who read them first, so it is added.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.group = V1 / f"selfhosted-mail-{name}"
        inspected = containers.docker("inspect", "-f", "{{.State.Pid}} {{.Id}}", name).decode().split()
        self.init, self.home = inspected[0], V1 / "docker" / inspected[1]

    def __enter__(self):
        limit = containers.run(self.name, "systemctl", "show", "-P", "MemoryHigh", "dkimproxy").strip()
        assert limit.isdigit(), "the unit has a MemoryHigh"
        self.group.mkdir(exist_ok=True)
        (self.group / "memory.limit_in_bytes").write_text(limit)
        # Processes that systemd starts are in systemd's group.
        (self.group / "cgroup.procs").write_text(self.init)
        try:
            containers.run(self.name, "systemctl", "restart", "dkimproxy")
        finally:
            (self.home / "cgroup.procs").write_text(self.init)
        self.libraries = self._libraries()
        return self

    def __exit__(self, *_):
        for pid in (self.group / "cgroup.procs").read_text().split():
            (self.home / "cgroup.procs").write_text(pid)
        self.group.rmdir()

    def bytes(self) -> int:
        return int((self.group / "memory.usage_in_bytes").read_text()) + self.libraries

    def killed(self) -> bool:
        return "oom_kill 0\n" not in (self.group / "memory.oom_control").read_text()

    def _libraries(self) -> int:
        """What is mapped of files, each counted once."""
        sizes: dict[str, int] = {}
        for pid in (self.group / "cgroup.procs").read_text().split():
            mapping = ""
            for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
                words = line.split()
                if "-" in words[0] and not words[0].endswith(":"):
                    mapping = " ".join(words[2:]) if words[4] != "0" else ""
                elif words[0] == "Rss:" and mapping:
                    sizes[mapping] = max(sizes.get(mapping, 0), 1024 * int(words[1]))
        return sum(sizes.values())


@pytest.fixture
def memory(host):
    """The unit's memory, in a group that the daemon has been in from its start."""
    name = host.backend.name
    if host.file(f"{UNIT_GROUP}/memory.current").exists:
        kind = Unified
    elif (V1 / "docker").is_dir():
        kind = Legacy
    else:
        pytest.skip("no control group to be seen that counts memory")
    with kind(name) as group:
        yield group


@pytest.fixture
def discarding_next_hop(host):
    """A next hop for large messages."""
    for program in ("discarding_next_hop.py", "send_large_messages.py"):
        containers.write(host.backend.name, f"/root/{program}", (HERE / program).read_bytes())
    host.run("systemctl stop next-hop guard-next-hop")
    host.run_test("systemd-run --unit=discarding-next-hop --quiet python3 /root/discarding_next_hop.py")
    containers.wait_for(lambda: "127.0.0.1:10028 " in host.check_output("ss -Hltn"), what="the next hop")
    yield
    host.run("systemctl stop discarding-next-hop")


@pytest.mark.parametrize("count", [10, pytest.param(50, marks=pytest.mark.long)])
def test_idle_and_under_large_messages(host, discarding_next_hop, memory, count):
    containers.wait_for(lambda: "127.0.0.1:10027 " in host.check_output("ss -Hltn"), what="the signer")
    idle = memory.bytes()
    assert idle < 60e6, f"{idle / 1e6:.0f} MB"
    peaks = [idle]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            with contextlib.suppress(OSError):
                peaks.append(memory.bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        answers = host.check_output(f"timeout 500 python3 /root/send_large_messages.py {count} 25000000").splitlines()
    finally:
        done.set()
        watcher.join()
    print(f"idle {idle / 1e6:.0f} MB, with {count} messages of 25 MB {max(peaks) / 1e6:.0f} MB")
    assert [answer[:3] for answer in answers] == ["250"] * count
    assert max(peaks) < 300e6, f"{max(peaks) / 1e6:.0f} MB"
    assert len(peaks) > count // 5 and not memory.killed()
