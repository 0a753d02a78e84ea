# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook with options that administrators use."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from testbed import playbook
from testbed.containers import wait_for
from testbed.playbook import CHECKOUT, PLAIN, run_site
from testbed.servers import SERVERS

pytestmark = pytest.mark.disruptive
BOTH = ("--tags", "opensmtpd,rspamd")
CHANGED = {"opensmtpd_queue_ttl": "3d", "rspamd_reject_score": 17}
DOWN = """
mail:
  hosts:
    away:
      ansible_connection: ssh
      ansible_host: 198.51.100.250
      ansible_ssh_common_args: -o BatchMode=yes
      mail_domain: away.test
"""


def configured() -> list[str]:
    found = "cat /etc/smtpd.conf /etc/rspamd/local.d/actions.conf | grep -c '^queue ttl 3d$\\|reject = 17' || true"
    return [server.sh(found) for server in SERVERS]


def test_one_host_after_the_other_from_another_checkout(tmp_path: Path) -> None:
    """``serial: 1``, and each host at its own speed."""
    for name in ("playbooks", "plugins", "roles", "galaxy.yml"):
        source, copy = CHECKOUT / name, tmp_path / name
        if source.is_dir():
            shutil.copytree(source, copy, symlinks=True)
        else:
            shutil.copy(source, copy)
    (tmp_path / "meta").symlink_to(CHECKOUT / "meta")
    site = tmp_path / "playbooks/site.yml"
    plays = [{**play, "serial": 1} for play in yaml.safe_load(site.read_text())]
    site.write_text(yaml.safe_dump(plays, sort_keys=False))
    elsewhere = {
        "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "playbooks/collections"),
        "ANSIBLE_STRATEGY": "free",
        "ANSIBLE_LOCALHOST_WARNING": "False",
    }
    playbook.run(site, environment=elsewhere).check_unchanged()


def test_a_task_to_start_at_needs_facts() -> None:
    done = run_site("--start-at-task", "Render OpenSMTPD's configuration", fails=True)
    assert "The facts of this host are missing: --start-at-task leaves out what gathers them" in done.output


def test_a_host_that_is_down(tmp_path: Path) -> None:
    """Nothing changes on any host, and --limit lists the others."""
    inventory = tmp_path / "away.yml"
    inventory.write_text(DOWN)
    done = run_site("-i", str(inventory), variables=CHANGED, fails=True)
    assert set(done.changed.values()) == {0} and "away" in done.output
    assert configured() == ["0", "0"]


def ctrl_c(run: subprocess.Popen[str]) -> None:
    """Press Ctrl-C while tasks run on both hosts, and again if Ansible has lost it, as it may where it forks."""

    def workers() -> list[int]:
        found = subprocess.run(["pgrep", "-P", str(run.pid)], capture_output=True, text=True, check=False).stdout
        return [int(number) for number in found.split()]

    wait_for(lambda: len(workers()) == len(SERVERS), what="a task runs on both hosts")
    os.killpg(run.pid, signal.SIGINT)
    try:
        run.wait(20)
    except subprocess.TimeoutExpired:
        left = workers()
        os.killpg(run.pid, signal.SIGINT)
        for number in left:
            os.kill(number, signal.SIGKILL)


def test_ctrl_c_in_the_middle_and_again() -> None:
    words = [playbook.BIN / "ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"]]
    words += [CHECKOUT / "playbooks/site.yml", *BOTH, "--extra-vars", json.dumps(CHANGED)]
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **playbook.ENVIRONMENT, **PLAIN},
        # Ctrl-C is for all that belong to the terminal.
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as run:
        assert run.stdout
        for line in run.stdout:
            if line.startswith("TASK [selfhosted.mail.opensmtpd : Render OpenSMTPD's configuration"):
                ctrl_c(run)
                break
        run.stdout.read()
    assert run.returncode != 0
    for server in SERVERS:
        assert all(server.main_pid(daemon) for daemon in ("opensmtpd", "dovecot", "rspamd", "dkimproxy"))
    run_site(*BOTH, variables=CHANGED)
    assert configured() == ["2", "2"]
    run_site(*BOTH)
    assert configured() == ["0", "0"]
