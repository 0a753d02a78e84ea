# SPDX-License-Identifier: GPL-3.0-or-later
"""Running one role by its tag runs no other role, and changes nothing."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from testbed.playbook import Run, run_site
from testbed.servers import SERVERS

# The role of a tag, and what runs before it or has to read its files. What several roles depend on has tags of its own
# in the site playbook.
HUB = {"opensmtpd", "smtp_relay"}
RUNS = {
    "accounts": {"accounts", "bans", "dovecot", "firewall", *HUB},
    "backup": {"backup"},
    "bans": {"bans", "firewall"},
    "certificate": {"bans", "dovecot", "firewall", *HUB},
    "dkimproxy": {"accounts", "dkimproxy"},
    # Roles that write records.
    "dns": {"bans", "dkimproxy", "dns", "dovecot", *HUB},
    "dovecot": {"accounts", "bans", "dovecot", "firewall"},
    "firewall": {"bans", "dkimproxy", "dovecot", "firewall", "rspamd", *HUB},
    "opensmtpd": {"accounts", *HUB},
    "rspamd": {"firewall", "rspamd"},
    "smtp_relay": HUB,
    "status": {"status"},
}


@pytest.mark.parametrize(
    "tags", [["accounts", "dns", "smtp_relay", "status"], pytest.param([*RUNS], marks=pytest.mark.long)]
)
def test_tags(tags: list[str]) -> None:
    """Alternately on the two hosts."""

    def run(number: int, tag: str) -> Run:
        return run_site("--tags", tag, "--limit", SERVERS[number % 2].container)

    with ThreadPoolExecutor(3) as pool:
        runs = dict(zip(tags, pool.map(run, range(len(tags)), tags), strict=True))
    for role, done in runs.items():
        # Ansible checks the arguments of every role of the play, whatever the tags; the first play looks at all
        # variables, at the certificate and at the backup's repository.
        ran = re.findall(r"^TASK \[selfhosted\.mail\.(\w+) : (?!Validating)", done.output, re.MULTILINE)
        assert set(ran) == {"mail", "backup", "certificate", *RUNS[role]}
        done.check_unchanged()
