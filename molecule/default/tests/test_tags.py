# SPDX-License-Identifier: GPL-3.0-or-later
"""One role of the whole by its tag: it runs, the others do not, and nothing changes."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

from testbed.playbook import run_site

ROLES = ("accounts", "certificate", "dkimproxy", "smtp_relay", "rspamd", "dovecot", "opensmtpd")
# What a role needs before it, or what has to take in its files.
WITH = {
    "accounts": {"certificate", "opensmtpd"},
    "certificate": {"accounts", "dovecot", "opensmtpd"},
    "dkimproxy": {"accounts"},
    "smtp_relay": {"accounts", "certificate", "opensmtpd"},
    "rspamd": set(),
    "dovecot": {"accounts", "certificate"},
    "opensmtpd": {"accounts", "certificate"},
}


def test_tags() -> None:
    with ThreadPoolExecutor(3) as pool:
        runs = dict(zip(ROLES, pool.map(lambda role: run_site("--tags", role), ROLES), strict=True))
    for role, done in runs.items():
        # Ansible checks the arguments of every role of the play, whatever the tags; mail looks at all variables.
        ran = re.findall(r"^TASK \[selfhosted\.mail\.(\w+) : (?!Validating)", done.output, re.MULTILINE)
        assert set(ran) == {"mail", role, *WITH[role]}
        assert list(done.changed.values()) == [0, 0], done.output
