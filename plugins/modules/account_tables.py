#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: the accounts and addresses of a mail server, as the tables that its daemons read."""

from __future__ import annotations

DOCUMENTATION = r"""
module: account_tables
short_description: The accounts and addresses of a mail server, as the tables that its daemons read
version_added: "0.1.0"
description:
  - Writes C(passwd), C(senders), C(virtuals), C(recipients) and C(domains) into one directory, all accounts in one
    execution.
  - A plain password is hashed on the host. Its hash stays as it is as long as the password matches it.
  - C(passwd) can be read by the users C(dovecot) and C(opensmtpd), where the host has them, and by nobody else.
author: ["selfhosted.mail developers (@selfhosted-mail)"]
options:
  directory:
    description: Where the tables are.
    type: path
    default: /etc/selfhosted-mail
  accounts:
    description: The accounts.
    type: list
    elements: dict
    required: true
    suboptions:
      address: {description: Address and login., type: str, required: true}
      password_hash: {description: Hash as crypt(5) has it., type: str}
      password: {description: Plain password., type: str}
      aliases: {description: Further addresses., type: list, elements: str, default: []}
      quota: {description: Size of the mailbox., type: str}
      sieve: {description: Sieve script. It is for the role C(dovecot) and not written here., type: str}
  aliases:
    description: Address, or C(@domain), to the list of addresses that it leads to.
    type: dict
    default: {}
  domains:
    description: The mail domains.
    type: list
    elements: str
    required: true
  hostname:
    description: Name of the server, whose system addresses exist too.
    type: str
    required: true
  admin:
    description: Address that postmaster and its like lead to.
    type: str
    required: true
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: The accounts are rendered
  selfhosted.mail.account_tables:
    accounts:
      - address: alice@example.org
        password_hash: "{{ vault_alice_password_hash }}"
    domains: [example.org]
    hostname: mail.example.org
    admin: alice@example.org
"""

RETURN = r"""
changed_paths:
  description: Tables that were not as they should be.
  type: list
  elements: str
  returned: always
"""

import ctypes  # noqa: E402
import os  # noqa: E402
from collections.abc import Mapping  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible_collections.selfhosted.mail.plugins.module_utils import addresses  # noqa: E402
from ansible_collections.selfhosted.mail.plugins.module_utils.fileset import (  # noqa: E402
    Access,
    ManagedFile,
    group_id,
    user_id,
)


class Crypt:
    """crypt(3) of the host, which knows every scheme that its daemons know; Python has none of its own any more."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcrypt.so.1")
        self._library.crypt.restype = ctypes.c_char_p
        self._library.crypt_gensalt.restype = ctypes.c_char_p

    def matches(self, password: str, hashed: str) -> bool:
        return self._crypt(password, hashed.encode()) == hashed

    def make(self, password: str) -> str:
        """A new SHA512-CRYPT hash, the one scheme that all supported daemons take."""
        salt = self._library.crypt_gensalt(b"$6$", ctypes.c_ulong(0), os.urandom(16), 16)
        hashed = self._crypt(password, salt)
        if not hashed.startswith("$6$"):
            raise OSError("crypt(3) of this host made no SHA512-CRYPT hash")
        return hashed

    def _crypt(self, password: str, setting: bytes) -> str:
        hashed: bytes = self._library.crypt(password.encode(), setting) or b"*"
        return hashed.decode()


def known_hashes(passwd: Path) -> dict[str, str]:
    """Login to hash, as they stand in the file now."""
    try:
        lines = passwd.read_text().splitlines()
    except FileNotFoundError:
        return {}
    fields = (line.split(":") for line in lines)
    return {field[0]: field[1] for field in fields if len(field) > 1}


def password_hash(account: Mapping[str, Any], known: Mapping[str, str], crypt: Crypt) -> str:
    if account["password_hash"]:
        return str(account["password_hash"])
    old = known.get(account["address"].lower(), "")
    return old if old and crypt.matches(account["password"], old) else crypt.make(account["password"])


def dovecot_fields(account: Mapping[str, Any]) -> str:
    """The passwd-file's eighth field with its colon, extra fields of Dovecot's user database; empty without any."""
    size = addresses.size_bytes(account.get("quota"))
    return f":userdb_quota_storage_size={size}B" if size else ""


def passwd_text(accounts: list[dict[str, Any]], known: Mapping[str, str]) -> str:
    """Dovecot's passwd-file, which OpenSMTPD's table-passwd reads too, its first two fields alone."""
    crypt = Crypt()
    lines = (f"{account['address'].lower()}:{password_hash(account, known, crypt)}:::::{dovecot_fields(account)}"
             for account in accounts)
    return "".join(f"{line}\n" for line in sorted(lines))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "default": "/etc/selfhosted-mail"},
            "accounts": {"type": "list", "elements": "dict", "required": True, "options": {
                "address": {"type": "str", "required": True},
                "password_hash": {"type": "str", "no_log": True},
                "password": {"type": "str", "no_log": True},
                "aliases": {"type": "list", "elements": "str", "default": []},
                "quota": {"type": "str"},
                "sieve": {"type": "str", "no_log": True},
            }},
            "aliases": {"type": "dict", "default": {}},
            "domains": {"type": "list", "elements": "str", "required": True},
            "hostname": {"type": "str", "required": True},
            "admin": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    directory = Path(wanted["directory"])
    for account in wanted["accounts"]:
        if not account["password_hash"] and not account["password"]:
            module.fail_json(msg=f"accounts: {account['address']} has neither password_hash nor password")

    passwd = directory / "passwd"
    # Each daemon drops to its own user and its first group, so one file serves both by owner and group.
    passwd_access = Access(owner="dovecot" if user_id("dovecot") is not None else "root",
                           group="opensmtpd" if group_id("opensmtpd") is not None else "root", mode="0440")
    public = Access("root", "root", "0644")
    virtuals = addresses.virtual_table(wanted["accounts"], wanted["aliases"], wanted["domains"], wanted["hostname"],
                                       wanted["admin"])
    domains = addresses.accepted_domains(wanted["domains"], wanted["hostname"])
    senders = addresses.sender_table(wanted["accounts"], wanted["aliases"])
    files = [
        ManagedFile(passwd, passwd_text(wanted["accounts"], known_hashes(passwd)).encode(), passwd_access, secret=True),
        ManagedFile(directory / "senders", addresses.table_text(senders).encode(), public),
        ManagedFile(directory / "virtuals", addresses.table_text(virtuals).encode(), public),
        ManagedFile(directory / "recipients", "".join(f"{address}\n" for address in sorted(virtuals)).encode(), public),
        ManagedFile(directory / "domains", "".join(f"{domain}\n" for domain in domains).encode(), public),
    ]
    changed = [file for file in files if file.differs()]
    diff = [file.diff() for file in changed]
    if changed and not module.check_mode:
        try:
            directory.mkdir(mode=0o755, exist_ok=True)
            for file in changed:
                file.put()
        except OSError as error:
            module.fail_json(msg=f"accounts: {error}")
    module.exit_json(changed=bool(changed), changed_paths=[str(file.path) for file in changed], diff=diff)


if __name__ == "__main__":
    main()
