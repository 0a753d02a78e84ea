#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: render accounts and addresses as the tables that the mail daemons read."""

from __future__ import annotations

DOCUMENTATION = r"""
module: account_tables
short_description: Render accounts and addresses as the tables that the mail daemons read
version_added: "0.1.0"
description:
  - Writes C(passwd), C(credentials), C(accounts), C(senders), C(virtuals), C(recipients), C(closed), C(domains) and
    C(recipients-per-hour) into one directory, all accounts in one execution.
  - A plain password is hashed on the host. An existing hash is kept while it matches the password.
  - Creates the user C(vmail), which owns all mailboxes, and O(mail_dir).
  - C(passwd) is readable by the group C(dovecot) and C(credentials) by the group C(opensmtpd), if the host has these
    groups, and otherwise only by root.
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  directory: {description: Directory of the tables., type: path, default: /etc/selfhosted-mail}
  accounts:
    description:
      - The accounts, mappings with C(address), C(password_hash) (a crypt(5) hash) or C(password), and optionally
        C(aliases), C(send_as), C(enabled), C(send_only), C(quota) and C(recipients_per_hour). Required.
    type: list
    elements: dict
  accounts_json:
    description:
      - O(accounts) as JSON. The action plugin of the same name sets it, so that Ansible has one value to hide instead
        of thousands.
    type: str
  aliases:
    description: Mapping of an address, or C(@domain), to the list of addresses that it is forwarded to.
    type: dict
    default: {}
  domain_aliases: {description: Mapping of a domain to the domain whose addresses it shares., type: dict, default: {}}
  mail_dir: {description: Directory of the mailboxes., type: path, default: /var/vmail}
  domains: {description: The mail domains., type: list, elements: str, required: true}
  hostname:
    description: Name of the server. Its system addresses, such as postmaster, receive mail too.
    type: str
    required: true
  admin:
    description: Address that receives mail for postmaster and the other system addresses.
    type: str
    required: true
  recipients_per_hour:
    description: Maximum recipients per hour of an account without a limit of its own. 0 means no limit.
    type: int
    default: 1000
  status_login:
    description:
      - Login for programs on this host that test whether logins work. It receives no mail and may send only as
        C(mail-proof@) of each domain, an address that receives no mail. IMAP and ManageSieve accept it only from the
        host itself.
      - Its random password is generated once and stored with it in C(status-login), which only root can read.
    type: str
    default: ""
extends_documentation_fragment: [ansible.builtin.action_common_attributes]
attributes:
  platform: {platforms: debian}
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Render the account tables
  selfhosted.mail.account_tables:
    accounts:
      - address: alice@example.org
        password_hash: "{{ vault_alice_password_hash }}"
    domains: [example.org]
    hostname: mail.example.org
    admin: alice@example.org
"""

RETURN = r"""
changed_paths: {description: Tables that were changed., type: list, elements: str, returned: always}
closed_logins:
  description: Logins that were removed from C(passwd) or may now only send. Their IMAP sessions are terminated.
  type: list
  elements: str
  returned: always
forwarded:
  description: Addresses that are forwarded to external ones, each with its targets.
  type: list
  elements: str
  returned: always
left_mailboxes: {description: Mailboxes on disk that belong to no account., type: list, elements: str, returned: always}
"""

import json
import os
import secrets
import string
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.mail.plugins.module_utils import address_book
from ansible_collections.selfhosted.mail.plugins.module_utils.command import CommandFailed, make_user, run
from ansible_collections.selfhosted.mail.plugins.module_utils.fileset import ManagedFile
from ansible_collections.selfhosted.mail.plugins.module_utils.safe_path import Access, group_id, make_directory, opened

SEND_ONLY = ":nologin=yes"
FROM_HERE = ":allow_nets=127.0.0.0/8"
MAILBOXES = Access(address_book.MAILBOX_USER, address_book.MAILBOX_USER, "0700")


# The host's crypt(3) supports every scheme that its daemons support; Python 3.13 has no crypt module.
CRYPT = ["perl", "-ne", 'my ($word, $setting) = map { pack("H*", $_) } split; print crypt($word, $setting), "\\n"']
SALT = string.ascii_letters + string.digits + "./"


def crypts(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Hash each pair of password and setting. A setting is a salt such as ``$6$SALT$`` or a whole hash.

    :raises CommandFailed: if perl fails.
    """
    lines = "".join(f"{password.encode().hex()} {setting.encode().hex()}\n" for password, setting in pairs)
    return run(CRYPT, stdin=lines).splitlines()


def in_parts(pairs: list[tuple[str, str]]) -> list[str]:
    """Like :func:`crypts`, on all processors."""
    size = -(-len(pairs) // (os.cpu_count() or 1)) or 1
    with ThreadPoolExecutor() as pool:
        parts = pool.map(crypts, (pairs[at : at + size] for at in range(0, len(pairs), size)))
        return [hashed for part in parts for hashed in part]


def hashes_of(passwords: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """Map each login to its hash: the known one if it matches the password, else a new SHA512-CRYPT hash.

    :raises CommandFailed: if perl fails, or crypt(3) does not support SHA512-CRYPT.
    """
    old = {login: known[login] for login in passwords if known.get(login)}
    found = zip(old, in_parts([(passwords[login], setting) for login, setting in old.items()]), strict=True)
    hashes = {login: hashed for login, hashed in found if hashed == old[login]}
    new = [login for login in passwords if login not in hashes]
    salted = [(passwords[login], f"$6${''.join(secrets.choice(SALT) for _character in range(16))}$") for login in new]
    made = dict(zip(new, in_parts(salted), strict=True))
    if not all(hashed.startswith("$6$") for hashed in made.values()):
        raise CommandFailed("crypt(3) on this host does not support SHA512-CRYPT ($6$)")
    return hashes | made


def entries(passwd: Path) -> dict[str, str]:
    """Map each login in the existing file to the rest of its line. Dovecot expects ``'`` as ``\\'``."""
    try:
        lines = passwd.read_text().splitlines()
    except FileNotFoundError:
        return {}
    return {login.replace("\\", ""): rest for login, _colon, rest in (line.partition(":") for line in lines)}


def mailbox_logins(entries_now: Mapping[str, str]) -> set[str]:
    """Logins that may use IMAP."""
    return {login for login, rest in entries_now.items() if not rest.endswith(SEND_ONLY)}


def dovecot_fields(account: Mapping[str, Any]) -> str:
    """Dovecot's extra fields, the eighth field of a passwd-file, with the colon before it; empty if there are none."""
    if not address_book.takes_mail(account):
        return SEND_ONLY
    size = address_book.size_bytes(account.get("quota"))
    return f":userdb_quota_storage_size={size}B" if size else ""


def passwd_entries(accounts: list[dict[str, Any]], known: Mapping[str, str]) -> dict[str, str]:
    """Map each login to its line in Dovecot's passwd-file: hash, five empty fields and optional extra fields.

    A send-only account has no mailbox and cannot log in at Dovecot: ``nologin`` closes all its protocols.
    """
    enabled = {account["address"].lower(): account for account in accounts if address_book.is_enabled(account)}
    hashes = {login: account["password_hash"] for login, account in enabled.items() if account.get("password_hash")}
    hashes |= hashes_of(
        {login: account["password"] for login, account in enabled.items() if login not in hashes}, known
    )
    return {login: f"{hashes[login]}:::::{dovecot_fields(account)}" for login, account in enabled.items()}


def limits(accounts: list[dict[str, Any]], others: int) -> dict[str, list[str]]:
    """Map each login with a limit of its own to its recipients per hour, and ``*`` to the limit of all others."""
    own = {account["address"].lower(): account.get("recipients_per_hour") for account in accounts}
    return {"*": [str(others)], **{login: [str(int(most))] for login, most in own.items() if most is not None}}


def status_password(file: Path, login: str) -> str:
    """The login's password in the file, or a new random one."""
    try:
        known = file.read_text().split()
    except FileNotFoundError:
        known = []
    return known[1] if len(known) == 2 and known[0] == login else secrets.token_urlsafe(24)


def credentials_text(passwd: Mapping[str, str]) -> str:
    """Logins and hashes as a credentials table of OpenSMTPD (table(5)), which must not be empty."""
    table = {login: [rest.partition(":")[0]] for login, rest in passwd.items()}
    return address_book.table_text(table or {"nobody@invalid": ["*"]})


def secret_access(group: str) -> Access:
    """Readable by ``group``, if the host has it: a daemon keeps only its own user and that user's primary group."""
    return Access("root", group if group_id(group) is not None else "root", "0440")


def end_sessions(logins: list[str]) -> None:
    """Terminate the open sessions of these logins, as Dovecot reads ``passwd`` only at login.

    :raises CommandFailed: if a session may still be open.
    """
    if not logins or not Path("/run/dovecot/anvil").exists():
        return
    sessions = run(["doveadm", "-f", "tab", "who"]).splitlines()[1:]
    for login in sorted({line.split("\t")[0] for line in sessions} & set(logins)):
        try:
            run(["doveadm", "kick", login])
        except CommandFailed as error:
            # The session has already ended.
            if "no users kicked" not in str(error).lower():
                raise


def make_mailboxes(mail_dir: Path) -> None:
    """Create the user that owns all mailboxes, and their directory. :raises CommandFailed, OSError: if that fails."""
    # As root, OpenSMTPD looks for a .forward in the home and warns if there is no home. Only root can write to /.
    make_user(MAILBOXES.owner, "/")
    make_directory(mail_dir, MAILBOXES)


def folders(directory: Path) -> list[str]:
    """Names of the subdirectories. :raises OSError: if the directory cannot be read."""
    with opened(directory) as descriptor, os.scandir(descriptor) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def left_mailboxes(mail_dir: Path, ours: set[str]) -> list[str]:
    """Addresses of the mailboxes under ``mail_dir`` (``domain/name/``) that are not in ``ours``."""
    found = []
    try:
        for domain in folders(mail_dir):
            if "." in domain:
                found += [f"{box}@{domain}" for box in folders(mail_dir / domain)]
    except OSError:
        return []
    return sorted(set(found) - ours)


def shortened(addresses: list[str]) -> str:
    """The addresses, separated by commas; of more than four only the first three and the number of others."""
    more = f", and {len(addresses) - 3} more" if len(addresses) > 4 else ""
    return ", ".join(addresses[: 3 if more else None]) + more


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
            "recipients_per_hour": {"type": "int", "default": 1000},
            "status_login": {"type": "str", "default": ""},
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
    book = address_book.AddressBook(
        accounts, wanted["aliases"], wanted["domains"], wanted["hostname"], wanted["admin"], wanted["domain_aliases"]
    )
    status_login, password = wanted["status_login"], ""
    domains = address_book.accepted_domains(wanted["domains"], wanted["hostname"])
    before = entries(passwd)
    try:
        known = {login: rest.partition(":")[0] for login, rest in before.items()}
        logins = passwd_entries(accounts, known)
        if status_login:
            password = status_password(directory / "status-login", status_login)
            logins[status_login] = hashes_of({status_login: password}, known)[status_login] + ":::::" + FROM_HERE
    except CommandFailed as error:
        module.fail_json(msg=f"accounts: {error}")
    passwd_text = "".join(f"{login}:{rest}\n".replace("'", "\\'") for login, rest in sorted(logins.items()))
    proofs = [f"mail-proof@{domain}" for domain in wanted["domains"]] if status_login else []
    closed = book.closed | set(proofs)
    routes = book.routes()
    # archive-account refuses these mailboxes, including those of disabled accounts.
    ours = {*filter(None, [status_login]), *(account["address"].lower() for account in accounts)}
    texts = {
        "senders": address_book.table_text(book.senders() | ({status_login: proofs} if proofs else {})),
        "virtuals": address_book.virtuals_text(routes),
        "recipients": "".join(f"{address}\n" for address in sorted(routes)),
        # OpenSMTPD 7.4 refuses an empty table.
        "closed": "".join(f"{address}\n" for address in sorted(closed) or ["nobody@invalid"]),
        "accounts": "".join(f"{address}\n" for address in sorted(ours)),
        "domains": "".join(f"{domain}\n" for domain in domains),
        "recipients-per-hour": address_book.table_text(limits(accounts, wanted["recipients_per_hour"])),
    }
    credentials = credentials_text(logins).encode()
    files = [
        ManagedFile(passwd, passwd_text.encode(), secret_access("dovecot"), secret=True),
        ManagedFile(directory / "credentials", credentials, secret_access("opensmtpd"), secret=True),
        *(ManagedFile(directory / name, text.encode()) for name, text in texts.items()),
    ]
    if status_login:
        content = f"{status_login} {password}\n".encode()
        files.append(ManagedFile(directory / "status-login", content, Access(mode="0600"), secret=True))
    mail_dir = Path(wanted["mail_dir"])
    try:
        changed = [file for file in files if file.differs()]
        without_mailboxes = MAILBOXES.differs(mail_dir)
    except OSError as error:
        module.fail_json(msg=f"accounts: {error}")
    # Thousands of addresses are not returned unless --diff shows them.
    diff = [file.diff() for file in changed] if module._diff else []
    closed_logins = sorted(mailbox_logins(before) - mailbox_logins(logins))
    if not module.check_mode:
        try:
            if without_mailboxes:
                make_mailboxes(mail_dir)
            if changed:
                make_directory(directory, Access(mode="0755"))
            for file in changed:
                file.put()
            end_sessions(closed_logins)
        except (CommandFailed, OSError) as error:
            module.fail_json(msg=f"accounts: {error}")
    module.exit_json(
        changed=bool(changed or without_mailboxes),
        changed_paths=[str(file.path) for file in changed],
        diff=diff,
        closed_logins=closed_logins,
        forwarded=[f"{name} -> {shortened(targets)}" for name, targets in book.leads_outside().items()],
        left_mailboxes=left_mailboxes(mail_dir, ours),
    )


if __name__ == "__main__":
    main()
