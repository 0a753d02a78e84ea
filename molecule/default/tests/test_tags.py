# SPDX-License-Identifier: GPL-3.0-or-later
"""One role of the whole by its tag: it runs, the others do not, and nothing changes."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

from testbed.playbook import run_site

# The role of a tag, and what runs before it or has to read its files. What several roles depend on has tags of its own
# in the site playbook.
HUB = {"authors", "opensmtpd", "smtp_relay"}
RUNS = {
    "accounts": {"accounts", "bans", "dovecot", "firewall", *HUB},
    "bans": {"bans", "firewall"},
    "certificate": {"bans", "dovecot", "firewall", *HUB},
    "dkimproxy": {"accounts", "authors", "dkimproxy"},
    # What writes records.
    "dns": {"bans", "dkimproxy", "dns", "dovecot", *HUB},
    "dovecot": {"accounts", "bans", "dovecot", "firewall"},
    "firewall": {"bans", "dkimproxy", "dovecot", "firewall", "rspamd", *HUB},
    "opensmtpd": {"accounts", *HUB},
    "rspamd": {"firewall", "rspamd"},
    "smtp_relay": HUB,
    "status": {"status"},
}


def test_tags() -> None:
    with ThreadPoolExecutor(3) as pool:
        runs = dict(zip(RUNS, pool.map(lambda role: run_site("--tags", role), RUNS), strict=True))
    for role, done in runs.items():
        # Ansible checks the arguments of every role of the play, whatever the tags; the first play looks at all
        # variables and at the certificate.
        ran = re.findall(r"^TASK \[selfhosted\.mail\.(\w+) : (?!Validating)", done.output, re.MULTILINE)
        assert set(ran) == {"mail", "certificate", *RUNS[role]}
        done.check_unchanged()
