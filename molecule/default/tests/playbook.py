# SPDX-License-Identifier: GPL-3.0-or-later
"""The site playbook once more, as an administrator calls it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from servers import Server

INVENTORY = Path(os.environ["MOLECULE_INVENTORY_FILE"])
SITE = Path(__file__).resolve().parents[3] / "playbooks" / "site.yml"


def run_site(
    *options: str, inventory: Path = INVENTORY, variables: Mapping[str, object] | None = None
) -> subprocess.CompletedProcess[str]:
    """ansible-playbook with further options and extra variables; output and errors in one text."""
    command = ["ansible-playbook", "--inventory", str(inventory), *options, str(SITE)]
    if variables:
        command += ["--extra-vars", json.dumps(variables)]
    return subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, "ANSIBLE_FORKS": "40", "ANSIBLE_GATHERING": "explicit", "ANSIBLE_NOCOLOR": "1"},
    )


# Files by content, packages, and which processes the services have.
_STATE = r"""
find /etc /usr/local /opt /root /var/lib /var/vmail /var/spool -xdev -type f \
    -not -path '/var/lib/redis*' -not -path '/var/lib/rspamd/*' -not -path '/var/spool/smtpd/*' \
    -not -path '/var/vmail/*' -not -path '/root/.ansible/*' -not -path '/var/lib/systemd/*' \
    -not -path '/var/lib/private/*' \
    -printf '%m %u %g %p ' -exec sha256sum {} \; | sort -k 4
dpkg-query -W
systemctl show -p Id -p MainPID -p ActiveState -p UnitFileState opensmtpd dkimproxy rspamd dovecot
"""


def state(server: Server) -> list[str]:
    """What a run may change on a host, line by line."""
    lines = server.run("sh", "-c", _STATE).splitlines()
    assert len(lines) > 500
    return lines
