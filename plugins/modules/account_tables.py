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
  - Writes C(passwd), C(credentials), C(senders), C(virtuals), C(recipients), C(closed) and C(domains) into one
    directory, all accounts in one execution.
  - A plain password is hashed on the host. Its hash stays as it is as long as the password matches it.
  - C(passwd) can be read by the group C(dovecot) and C(credentials) by the group C(opensmtpd), where the host has them,
    and by nobody else.
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  directory:
    description: Where the tables are.
    type: path
    default: /etc/selfhosted-mail
  accounts:
    description:
      - The accounts, mappings with C(address), C(password_hash) (as crypt(5) has it) or C(password), and optionally
        C(aliases), C(send_as), C(enabled), C(send_only) and C(quota). Required.
    type: list
    elements: dict
  accounts_json:
    description:
      - O(accounts) as JSON. The action plugin of the same name moves them here, so that thousands of secrets are hidden
        as one.
    type: str
  aliases:
    description: Address, or C(@domain), to the list of addresses that it leads to.
    type: dict
    default: {}
  domain_aliases:
    description: Domain to the domain whose addresses it has too.
    type: dict
    default: {}
  mail_dir:
    description: Directory of the mailboxes, where those without an account are looked for.
    type: path
    default: /var/vmail
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
closed_logins:
  description: Logins that were in C(passwd) and are not any more, or may only send now. Their IMAP sessions are ended.
  type: list
  elements: str
  returned: always
forwarded:
  description: Addresses that lead outside, each with where to.
  type: list
  elements: str
  returned: always
left_mailboxes:
  description: Mailboxes on disk that no account has.
  type: list
  elements: str
  returned: always
"""

import ctypes  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
from collections.abc import Mapping  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible_collections.selfhosted.mail.plugins.module_utils import address_book  # noqa: E402
from ansible_collections.selfhosted.mail.plugins.module_utils.fileset import (  # noqa: E402
    Access,
    CommandFailed,
    ManagedFile,
    group_id,
    run,
)

SEND_ONLY = ":nologin=yes"


class Crypt:
    """crypt(3) of the host, which knows every scheme that its daemons know; Python has none of its own any more."""

    SIZE = 32768  # bytes of struct crypt_data

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcrypt.so.1")
        self._library.crypt_rn.restype = ctypes.c_char_p
        self._library.crypt_gensalt_rn.restype = ctypes.c_char_p

    def matches(self, password: str, hashed: str) -> bool:
        return self._crypt(password, hashed.encode()) == hashed

    def make(self, password: str) -> str:
        """A new SHA512-CRYPT hash, the one scheme that all supported daemons take."""
        hashed = self._crypt(password, self.salt("$6$"))
        if not hashed.startswith("$6$"):
            raise OSError("crypt(3) of this host made no SHA512-CRYPT hash")
        return hashed

    def salt(self, scheme: str) -> bytes:
        """A fresh salt for a scheme such as ``$6$``, as crypt(3) takes it."""
        buffer = ctypes.create_string_buffer(192)
        setting: bytes | None = self._library.crypt_gensalt_rn(scheme.encode(), ctypes.c_ulong(0), os.urandom(16), 16,
                                                               buffer, len(buffer))
        return setting or b"*"

    def _crypt(self, password: str, setting: bytes) -> str:
        # The reentrant function, since threads call it.
        data = ctypes.create_string_buffer(self.SIZE)
        hashed: bytes = self._library.crypt_rn(password.encode(), setting, data, self.SIZE) or b"*"
        return hashed.decode()


def entries(passwd: Path) -> dict[str, str]:
    """Login to the rest of its line, as they stand in the file now."""
    try:
        lines = passwd.read_text().splitlines()
    except FileNotFoundError:
        return {}
    return {login: rest for login, _colon, rest in (line.partition(":") for line in lines)}


def mailbox_logins(entries_now: Mapping[str, str]) -> set[str]:
    """Those that may log in at IMAP."""
    return {login for login, rest in entries_now.items() if not rest.endswith(SEND_ONLY)}


def hashed(password: str, old: str, crypt: Crypt) -> str:
    """The old hash as long as it is the password's."""
    return old if old and crypt.matches(password, old) else crypt.make(password)


def dovecot_fields(account: Mapping[str, Any]) -> str:
    """The passwd-file's eighth field with its colon, extra fields of Dovecot's; empty without any."""
    if not address_book.takes_mail(account):
        return SEND_ONLY
    size = address_book.size_bytes(account.get("quota"))
    return f":userdb_quota_storage_size={size}B" if size else ""


def passwd_entries(accounts: list[dict[str, Any]], known: Mapping[str, str]) -> dict[str, str]:
    """Dovecot's passwd-file: login to hash, five empty fields and, where there are some, extra ones.

    Who may only send cannot log in at IMAP and has no mailbox: ``nologin`` closes every protocol of Dovecot's.
    """
    crypt = Crypt()
    enabled = {account["address"].lower(): account for account in accounts if address_book.is_enabled(account)}
    hashes = {login: account["password_hash"] for login, account in enabled.items() if account.get("password_hash")}
    plain = [login for login in enabled if login not in hashes]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = pool.map(lambda login: hashed(enabled[login]["password"], known.get(login, ""), crypt), plain)
        hashes |= zip(plain, made, strict=True)
    return {login: f"{hashes[login]}:::::{dovecot_fields(account)}" for login, account in enabled.items()}


def credentials_text(passwd: Mapping[str, str]) -> str:
    """The same logins and hashes as OpenSMTPD's table(5) has credentials; it takes no empty file for such a table."""
    table = {login: [rest.partition(":")[0]] for login, rest in passwd.items()}
    return address_book.table_text(table or {"nobody@invalid": ["*"]})


def secret_access(group: str) -> Access:
    """For ``group`` to read, where the host has it: a daemon drops to its own user and that user's first group."""
    return Access("root", group if group_id(group) is not None else "root", "0440")


def end_sessions(logins: list[str]) -> None:
    """Dovecot asks ``passwd`` at each login; who is in already has to be thrown out.

    :raises CommandFailed: when a session may be open still.
    """
    if not logins or not Path("/run/dovecot/anvil").exists():
        return
    sessions = run(["doveadm", "-f", "tab", "who"]).splitlines()[1:]
    for login in sorted({line.split("\t")[0] for line in sessions} & set(logins)):
        try:
            run(["doveadm", "kick", login])
        except CommandFailed as error:
            # It ended by itself.
            if "no users kicked" not in str(error).lower():
                raise


def left_mailboxes(mail_dir: Path, accounts: list[dict[str, Any]]) -> list[str]:
    """Addresses of the mailboxes under ``mail_dir`` (``domain/name/``) that no account has."""
    ours = {account["address"].lower() for account in accounts}
    found = []
    try:
        for domain in mail_dir.iterdir():
            if "." in domain.name and domain.is_dir() and not domain.is_symlink():
                found += [f"{box.name}@{domain.name}" for box in domain.iterdir() if box.is_dir()]
    except OSError:
        return []
    return sorted(set(found) - ours)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "default": "/etc/selfhosted-mail"},
            "accounts": {"type": "list", "elements": "dict"},
            "accounts_json": {"type": "str", "no_log": True},
            "aliases": {"type": "dict", "default": {}},
            "domain_aliases": {"type": "dict", "default": {}},
            "mail_dir": {"type": "path", "default": "/var/vmail"},
            "domains": {"type": "list", "elements": "str", "required": True},
            "hostname": {"type": "str", "required": True},
            "admin": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    directory = Path(wanted["directory"])
    accounts = json.loads(wanted["accounts_json"] or "null")
    if accounts is None:
        module.fail_json(msg="account_tables: accounts are missing")
    for account in accounts:
        if not account.get("password_hash") and not account.get("password"):
            module.fail_json(msg=f"accounts: {account.get('address')} has neither password_hash nor password")

    passwd = directory / "passwd"
    public = Access("root", "root", "0644")
    book = address_book.AddressBook(accounts, wanted["aliases"], wanted["domains"], wanted["hostname"], wanted["admin"],
                               wanted["domain_aliases"])
    domains = address_book.accepted_domains(wanted["domains"], wanted["hostname"])
    before = entries(passwd)
    logins = passwd_entries(accounts, {login: rest.partition(":")[0] for login, rest in before.items()})
    passwd_text = "".join(f"{login}:{rest}\n" for login, rest in sorted(logins.items()))
    texts = {
        "senders": address_book.table_text(book.senders()),
        "virtuals": address_book.table_text(book.virtuals),
        "recipients": "".join(f"{address}\n" for address in sorted(book.virtuals)),
        # OpenSMTPD 7.4 refuses an empty table.
        "closed": "".join(f"{address}\n" for address in sorted(book.closed) or ["nobody@invalid"]),
        "domains": "".join(f"{domain}\n" for domain in domains),
    }
    credentials = credentials_text(logins).encode()
    files = [ManagedFile(passwd, passwd_text.encode(), secret_access("dovecot"), secret=True),
             ManagedFile(directory / "credentials", credentials, secret_access("opensmtpd"), secret=True),
             *(ManagedFile(directory / name, text.encode(), public) for name, text in texts.items())]
    changed = [file for file in files if file.differs()]
    # Thousands of addresses are a lot to send where nobody looks at them.
    diff = [file.diff() for file in changed] if module._diff else []
    closed = sorted(mailbox_logins(before) - mailbox_logins(logins))
    if changed and not module.check_mode:
        try:
            directory.mkdir(mode=0o755, exist_ok=True)
            for file in changed:
                file.put()
            end_sessions(closed)
        except (CommandFailed, OSError) as error:
            module.fail_json(msg=f"accounts: {error}")
    module.exit_json(changed=bool(changed), changed_paths=[str(file.path) for file in changed], diff=diff,
                     closed_logins=closed,
                     forwarded=[f"{name} -> {', '.join(targets)}" for name, targets in book.leads_outside().items()],
                     left_mailboxes=left_mailboxes(Path(wanted["mail_dir"]), accounts))


if __name__ == "__main__":
    main()
