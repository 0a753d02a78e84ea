# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts still have the obstacles of the program "unfriendly", and nothing ran out of memory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from testbed.containers import docker
from testbed.servers import Server, both

pytestmark = pytest.mark.aftermath
# Of control groups, version 1 and 2.
COUNTERS = ("memory.oom_control", "memory.events")
SUDO = "echo administrators-password | runuser -u debian -- sudo -S --prompt= "


@both
def test_as_it_was_prepared(server: Server) -> None:
    assert server.sh(f"{SUDO} sh -c 'umask; printenv LANG'").split() == ["0077", "tr_TR.UTF-8"]
    for directory in ("/tmp", "/var/tmp"):
        assert "noexec" in server.sh(f"findmnt --noheadings --output OPTIONS {directory}")
    assert server.sh("ip -6 address") == ""
    assert server.sh("date +%Z") == "+14"
    assert server.sh("readlink /etc/resolv.conf").endswith("systemd/resolve/stub-resolv.conf")
    assert server.sh("getent hosts $(hostname)").startswith("127.0.1.1 ")
    assert "unattended-upgrades" in server.sh("dpkg-query -W")
    assert docker("inspect", "-f", "{{.HostConfig.Memory}}", server.container) == b"536870912\n"


@both
def test_memory_is_enough(server: Server) -> None:
    name = docker("inspect", "-f", "{{.Id}}", server.container).decode().strip()
    counters = [path for path in Path("/sys/fs/cgroup").glob(f"**/*{name}*/memory.*") if path.name in COUNTERS]
    assert [re.findall(r"oom_kill (\d+)", path.read_text()) for path in counters] == [["0"]]
