# SPDX-License-Identifier: GPL-3.0-or-later
"""The example in each role's README: a user's playbook with this role alone."""

from __future__ import annotations

import re

from testbed.playbook import CHECKOUT

ROLES = sorted(path.name for path in (CHECKOUT / "roles").iterdir() if path.is_dir())
# Variables that the examples expect in the user's vault.
VAULT = {
    # The password is "correct horse".
    **dict.fromkeys(
        ("vault_alice_password_hash", "vault_shop_password_hash"),
        "$6$mailboxtest$VDUL1teD4E2syRSQoavYiT3/ZMlCpHFS4Mx.D3sssmgMrO/GILC/xc/A8jC1Xy4NGVfNnmIDOL0iueQ88G4Qq/",
    ),
    "vault_mail_backup_password": "a repository's password",
    "vault_mail_relay_username": "customer",
    "vault_mail_relay_password": "the relay's password",
    "vault_tsig_secret": "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IQ==",
}


def examples(role: str) -> list[str]:
    """The playbooks among the code blocks of the role's README."""
    blocks = re.findall(r"(?ms)^```yaml\n(.*?)^```$", (CHECKOUT / "roles" / role / "README.md").read_text())
    return [block for block in blocks if re.search(r"(?m)^- hosts:", block)]
