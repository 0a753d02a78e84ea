# SPDX-License-Identifier: GPL-3.0-or-later
"""daemon_config and daemon_service with a real systemd unit: started, restarted when needed, rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from testbed.host import RELEASES, Host

PORT = 8025
UNIT = """[Service]
ExecStart=/bin/sh /etc/probe/start
ExecReload=/bin/touch /run/probe-reloaded
[Install]
WantedBy=multi-user.target
"""
SERVES = f"exec python3 -m http.server {PORT} --bind 127.0.0.1\n"
SECRET = "correct-horse-battery-staple"


def config(host: Host, start: str = SERVES, check: str = "true", table: str = "one\n") -> dict[str, Any]:
    return host.module(
        "daemon_config",
        name="probe.service",
        directories=[{"path": "/etc/probe"}],
        files=[
            {"dest": "/etc/systemd/system/probe.service", "content": UNIT},
            {"dest": "/etc/probe/start", "content": start},
            {"dest": "/etc/probe/table", "content": table, "on_change": "reload"},
            {"dest": "/etc/probe/secret", "content": SECRET, "mode": "0600", "secret": True},
        ],
        validate=[["sh", "-c", check]],
    )


def service(host: Host, state: str) -> dict[str, Any]:
    return host.module("daemon_service", name="probe.service", state=state, ready_ports=[PORT], timeout=60)


def pid(host: Host) -> str:
    return host.says("systemctl", "show", "--value", "--property", "MainPID", "probe.service").strip()


@pytest.fixture(scope="module", params=RELEASES)
def probe(request: pytest.FixtureRequest, hosts: dict[str, Host]) -> Iterator[Host]:
    """A host where the service has been set up and started. Every test leaves it running; in the end it is gone."""
    host = hosts[request.param]
    assert config(host)["state"] == "started"
    assert service(host, "started")["changed"]
    yield host
    host.says("systemctl", "disable", "--now", "probe.service")
    host.says("rm", "-r", "/etc/systemd/system/probe.service", "/etc/probe")
    host.says("systemctl", "daemon-reload")


def test_a_service_is_started_enabled_and_then_left_alone(probe: Host) -> None:
    assert probe.says("systemctl", "is-enabled", "probe.service") == "enabled\n"
    first = pid(probe)
    again = config(probe)
    assert (again["changed"], again["state"]) == (False, "unchanged")
    assert pid(probe) == first


def test_a_service_that_waits_for_its_configuration(probe: Host) -> None:
    """As in the playbook upgrade: only the module starts the unit."""
    held, drop_in = "/var/lib/selfhosted-mail/upgrade/probe.service", "/etc/systemd/system/probe.service.d"
    probe.says("mkdir", "-p", "/var/lib/selfhosted-mail/upgrade", drop_in)
    probe.write(held, "")
    probe.write(f"{drop_in}/held.conf", f"[Unit]\nConditionPathExists=!{held}\n")
    probe.says("systemctl", "daemon-reload")
    try:
        probe.says("systemctl", "restart", "probe.service")
        assert pid(probe) == "0"
        assert service(probe, "started")["changed"]
        assert pid(probe) != "0"
    finally:
        probe.says("rm", "-r", "/var/lib/selfhosted-mail/upgrade", drop_in)
        probe.says("systemctl", "daemon-reload")


def test_no_secret_is_in_the_journal(probe: Host) -> None:
    """Ansible writes the arguments of modules there."""
    journal = probe.says("journalctl", "--no-pager")
    assert "daemon_config" in journal
    assert SECRET not in journal


def test_a_refused_configuration_leaves_the_service_alone(probe: Host) -> None:
    first = pid(probe)
    result = config(probe, start="exit 1\n", check="echo start: line 1: bad >&2; false")
    assert result["failed"]
    assert result["msg"] == "probe.service: start: line 1: bad"
    assert probe.says("cat", "/etc/probe/start") == SERVES
    assert config(probe)["state"] == "unchanged"
    assert pid(probe) == first


def test_a_configuration_that_does_not_start_is_taken_back(probe: Host) -> None:
    assert config(probe, start="echo no such option >&2; exit 1\n")["state"] == "restarted"
    result = service(probe, "restarted")
    assert result["failed"]
    assert "no such option" in result["msg"]
    assert "The previous files were restored, and it runs with them" in result["msg"]
    assert result["restored"] == ["/etc/probe/start"]
    assert probe.says("cat", "/etc/probe/start") == SERVES
    assert probe.says("systemctl", "is-active", "probe.service") == "active\n"


def test_a_table_takes_a_reload_alone(probe: Host) -> None:
    first = pid(probe)
    assert config(probe, table="two\n")["state"] == "reloaded"
    assert config(probe, table="two\n")["state"] == "reloaded", "the first run ended before the reload"
    assert service(probe, "reloaded")["changed"]
    probe.says("test", "-e", "/run/probe-reloaded")
    assert pid(probe) == first
    assert config(probe, table="two\n")["state"] == "unchanged"


def test_the_last_words_of_a_process_that_journald_took_for_another_units(probe: Host) -> None:
    """As it does with one that ends before it is looked at. journald looks again after a second."""
    leave = "for scope in $(find /sys/fs/cgroup -path '*/init.scope/cgroup.procs'); do echo $$ >$scope; done; sleep 2"
    config(probe, start=f"{leave}; echo no such option >&2; exit 1\n")
    assert "no such option" in service(probe, "restarted")["msg"]


@pytest.mark.parametrize("option", ["--check", "--diff"])
def test_no_link_of_another_user_is_followed(probe: Host, option: str) -> None:
    """A compromised daemon's user replaces a directory, which the next run would chown, by a link."""
    probe.says("install", "-d", "-o", "games", "/srv/games")
    probe.says("runuser", "-u", "games", "--", "ln", "-sfn", "/etc", "/srv/games/new")
    given = {"path": "/srv/games/new", "owner": "games", "group": "games", "mode": "0700"}
    result = probe.module("daemon_config", option, directories=[given])
    assert result["failed"]
    where = "and users other than root can write to the directory above it"
    assert result["msg"] == f"files: /srv/games/new: new is a symbolic link or not a directory, {where}"
    assert probe.says("stat", "-c", "%U %a", "/etc") == "root 755\n"


def test_a_run_that_ended_before_the_restart_is_completed_by_the_next(probe: Host) -> None:
    first = pid(probe)
    assert config(probe, start=f"# v2\n{SERVES}", table="two\n")["state"] == "restarted"
    second = config(probe, start=f"# v2\n{SERVES}", table="two\n")
    assert (second["changed"], second["state"]) == (False, "restarted")
    service(probe, "restarted")
    assert pid(probe) != first
