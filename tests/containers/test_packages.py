# SPDX-License-Identifier: GPL-3.0-or-later
"""Backports that a mirror no longer has, with Debian's real apt, packages and signatures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.containers import wait_for
from testbed.host import Host
from testbed.playbook import CHECKOUT

SUITE = "bookworm-backports"
SOURCES = "/etc/apt/sources.list.d"
OURS = f"{SOURCES}/selfhosted-mail-backports.sources"
PORT = 8404
# A mirror of the host's own mirror, without the suite or with it.
MIRROR = """
import http.server, sys
port, missing, whole = sys.argv[1:]
class Mirror(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(404 if missing and f"/{missing}/" in self.path else 302)
        self.send_header("Location", whole + self.path.removeprefix("/debian"))
        self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Mirror).serve_forever()
"""
SITE = {
    "mail_domain": "archive.test",
    "mail_accounts": [{"address": "a@archive.test", "password": "no secret"}],
}


@dataclass
class Mirrored:
    """A host of Debian 12 with the mirror above, and the address of the one that has everything."""

    host: Host
    whole: str

    def install(self, *names: str, **options: Any) -> dict[str, Any]:
        return self.host.module("packages", names=names, **options)

    def update(self) -> int:
        """Exit code of `apt-get update`."""
        return self.host.run("apt-get", "--quiet=2", "update").returncode


def use_mirror(host: Host) -> str:
    """Have apt use a mirror without backports. Address of the one that has everything."""
    host.says("apt-get", "update")
    whole = host.says("apt-get", "indextargets", "--format", "$(REPO_URI)", "Release: bookworm").split()[0].rstrip("/")
    host.write("/root/mirror.py", MIRROR)
    for port, missing in ((PORT, SUITE), (80, "")):
        host.says("systemd-run", f"--unit=mirror-{port}", "python3", "/root/mirror.py", str(port), missing, whole)
    wait_for(lambda: host.says("ss", "-Hltn", f"sport = {PORT} or sport = 80").count("\n") == 2, what="mirrors")
    host.says("cp", "-a", SOURCES, "/root/sources")
    host.says(
        "sh", "-c", f"sed -i 's#{whole}/* #http://127.0.0.1:{PORT}/debian #' {SOURCES}/*; rm -rf /var/lib/apt/lists/*"
    )
    assert f":{PORT}/debian " in host.says("sh", "-c", f"cat {SOURCES}/*")
    return whole


@pytest.fixture(scope="module")
def mirrored(hosts: dict[str, Host]) -> Iterator[Mirrored]:
    host = hosts["debian12"]
    yield Mirrored(host, use_mirror(host))
    host.says("sh", "-c", f"rm -r {SOURCES}; mv /root/sources {SOURCES}; systemctl stop mirror-80 mirror-{PORT}")
    host.says("apt-get", "update")


def test_backports_that_are_nowhere_leave_apt_as_it_was(mirrored: Mirrored) -> None:
    done = mirrored.install("opensmtpd", backports={"opensmtpd": "7.4"}, archive=f"http://127.0.0.1:{PORT}/debian")
    assert done["failed"]
    assert done["msg"].count(f"/debian {SUITE} Release' does not have a Release file") == 2
    assert mirrored.update() == 0


def test_backports_that_are_in_the_archive_alone(mirrored: Mirrored) -> None:
    wanted = {"names": ["opensmtpd"], "backports": {"opensmtpd": "7.4"}}
    done = mirrored.install("opensmtpd", backports={"opensmtpd": "7.4"}, archive=mirrored.whole)
    assert done["changed"], done
    assert "~bpo12" in mirrored.host.says("dpkg-query", "-W", "-f", "${Version}", "opensmtpd")
    assert mirrored.host.run("test", "-e", OURS).returncode == 1
    assert mirrored.update() == 0
    again = mirrored.host.module("packages", **wanted, archive="http://127.0.0.1:1/nowhere")
    assert (again["failed"], again["changed"]) == (False, False)


def test_a_source_of_the_hosts_own_that_fails_stops_nothing(mirrored: Mirrored) -> None:
    """Images of Debian 12 name backports themselves."""
    own = f"{SOURCES}/own.list"
    mirrored.host.write(own, f"deb http://127.0.0.1:{PORT}/debian {SUITE} main\n")
    assert mirrored.update() != 0
    mirrored.host.says("touch", "-d", "1 day ago", "/var/lib/apt/lists")
    done = mirrored.install("opensmtpd", "tree", backports={"opensmtpd": "7.4"})
    assert done["changed"], done
    mirrored.host.says("rm", own)


def test_site_on_a_fresh_host(tmp_path: Path) -> None:
    """Neither the run nor the host's apt fails if only Debian's archive has the suite."""
    host = Host("debian12", tmp_path, "accepted-archive")
    connection = {"ansible_connection": "docker", "ansible_python_interpreter": "/usr/bin/python3"}
    host.inventory.write_text(yaml.safe_dump({"mail": {"hosts": {host.name: connection}}}))
    try:
        host.up()
        use_mirror(host)
        host.says("sh", "-c", "echo 127.0.0.1 archive.debian.org >> /etc/hosts")
        host.playbook(CHECKOUT / "playbooks/site.yml", SITE)
        assert "~bpo12" in host.says("dpkg-query", "-W", "-f", "${Version}", "opensmtpd")
        assert host.says("systemctl", "is-active", "opensmtpd") == "active\n"
        host.says("systemctl", "stop", "mirror-80")
        host.says("apt-get", "update")
        host.playbook(CHECKOUT / "playbooks/site.yml", SITE).check_unchanged()
    finally:
        host.down()
