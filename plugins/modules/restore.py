#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: restore a mail server's state, or one mailbox, from a restic repository."""

from __future__ import annotations

DOCUMENTATION = r"""
module: restore
short_description: Restore a mail server's state, or one mailbox, from a restic repository
version_added: "0.1.0"
description:
  - Restores a backup of the role C(backup), with owners by name. The daemons are stopped, and the roles start them. A
    host that already contains mail which did not come from a restore is refused.
  - On a host that was restored before, files in O(mail_dir) that the earlier snapshot has and the new one lacks are
    removed. Mail that has arrived since is kept.
  - The queue is restored beside the live one and is listed.
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  snapshot:
    description: Id of a snapshot, or C(latest). If empty, only O(send_queue) has an effect.
    type: str
    default: ""
  hostname: {description: Name of the server whose snapshots are used., type: str, required: true}
  mailbox:
    description: Account whose folders alone are restored, into its folder C(Restored/DATE).
    type: str
    default: ""
  mail_dir: {description: Directory of the mailboxes., type: path, default: /var/vmail}
  send_queue:
    description: Whether to move the mail of the restored queue to the live queue.
    type: bool
    default: false
  state_version:
    description: The newest version of a host's state that this collection knows. Newer snapshots are refused.
    type: int
    required: true
  environment_json:
    description: Environment variables of restic as JSON, hidden as one value.
    type: str
    required: true
extends_documentation_fragment: [ansible.builtin.action_common_attributes]
attributes:
  platform: {platforms: debian}
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Restore the state
  selfhosted.mail.restore:
    snapshot: latest
    hostname: mail.example.org
    state_version: 1
    environment_json: "{{ vault_restic_environment | to_json }}"
"""

RETURN = r"""
lines:
  description: What was restored, and what waits in the restored queue, as text.
  type: list
  elements: str
  returned: always
"""

import contextlib
import functools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.mail.plugins.module_utils.address_book import MAILBOX_USER
from ansible_collections.selfhosted.mail.plugins.module_utils.command import CommandFailed, make_user, output_lines, run
from ansible_collections.selfhosted.mail.plugins.module_utils.safe_path import (
    Access,
    group_id,
    make_directory,
    user_id,
)
from ansible_collections.selfhosted.mail.plugins.module_utils.systemd_unit import Unit

TAG = "selfhosted-mail"
STATE = Path("/var/lib/selfhosted-mail/restore.json")
BACKUP_STATE = Path("/var/lib/selfhosted-mail/backup.json")
BESIDE = Path("/var/lib/selfhosted-mail/restored")
COPIES = Path("/var/lib/selfhosted-mail/backup")
SPOOL = Path("/var/spool/smtpd")
INDEXES = {"fts-flatcurve", "xapian-indexes"}
QUEUE_USER = "opensmtpq"
OPENSMTPD = "opensmtpd.service"
# Patterns, which may match nothing. The firewall and the resolver keep running.
DAEMONS = [
    "selfhosted-mail-*.timer",
    "selfhosted-mail-*.path",
    "selfhosted-mail-[!nr]*.service",
    "opensmtpd*.service",
    "dovecot.*",
    "dkimproxy*.service",
    "rspamd*.service",
    "redis-server@rspamd*",
]
# For Redis 7 and later a base file alone is a complete database. With appendonly, Redis ignores an RDB file.
REDIS = r"""
set -e
mkdir -p -m 0750 /var/lib/redis/rspamd
cd /var/lib/redis/rspamd
rm -rf appendonlydir
mkdir -m 0750 appendonlydir
cat >appendonlydir/appendonly.aof.1.base.rdb
echo 'file appendonly.aof.1.base.rdb seq 1 type b' >appendonlydir/appendonly.aof.manifest
"""
# Whole folders under new names. UIDs and UIDVALIDITY are new; flags, keywords and times are those of the files.
MAILBOX = r"""
set -e
from=$1/Maildir to=$2/Maildir name=.Restored.$3
cd "$from"
ls -d "$to/$name".* >/dev/null 2>&1 && { echo "the folder Restored/$3 is there already" >&2; exit 1; }
for folder in .[!.]* ..?*; do
    case $folder in .Restored.*) continue ;; esac
    [ -d "$folder/cur" ] || continue
    rm -f "$folder/dovecot-uidlist"
    mv "$folder" "$to/$name$folder"
done
mkdir -m 0700 "$to/$name.INBOX"
for part in cur new tmp dovecot-keywords; do
    [ ! -e "$part" ] || mv "$part" "$to/$name.INBOX/"
done
"""

Snapshot = dict[str, Any]


def snapshots(*words: str) -> list[Snapshot]:
    found: list[Snapshot] = json.loads(run(["restic", "snapshots", "--json", "--no-lock", *words]) or "[]") or []
    return found


def moment(snapshot: Snapshot) -> datetime:
    """When it was taken, in the host's time zone."""
    return datetime.fromisoformat(re.sub(r"\.\d+", "", snapshot["time"]).replace("Z", "+00:00")).astimezone()


def find(wanted: str, hostname: str) -> Snapshot:
    """The snapshot with this id, or the server's latest one. :raises CommandFailed: if there is none."""
    ours = ["--host", hostname, "--tag", TAG]
    found = snapshots(*ours, "--latest=1") if wanted == "latest" else snapshots(wanted)
    if not found:
        raise CommandFailed(
            f"mail_restore_snapshot: the repository has no such backup of {hostname}; set latest, or an id that "
            "restic snapshots lists"
        )
    return max(found, key=moment)


def require_known(snapshot: Snapshot, version: int) -> None:
    """:raises CommandFailed: if a newer version of this collection has made the snapshot."""
    try:
        state = json.loads(run(["restic", "dump", "--no-lock", snapshot["id"], "/var/lib/selfhosted-mail/state.json"]))
    except CommandFailed:
        return  # older versions of the collection recorded none
    if state["version"] > version:
        raise CommandFailed(
            "mail_restore_snapshot: this backup was made with a newer version of the collection. Its state has version "
            f"{state['version']}, this collection supports version {version}: use that collection or a newer one"
        )


class Node(NamedTuple):
    path: str
    folder: bool
    uid: int
    gid: int


def nodes(identifier: str) -> Iterator[Node]:
    """The backed-up paths and everything below them, without sockets. :raises CommandFailed: if the listing fails."""
    tops: tuple[str, ...] = ()
    # There may be millions, too many for the memory of a small host.
    for line in output_lines(["restic", "ls", "--json", "--no-lock", identifier]):
        found = json.loads(line)
        if found.get("struct_type") == "snapshot":
            tops = tuple(f"{path.rstrip('/')}/" for path in found["paths"])
        elif f"{found['path']}/".startswith(tops) and found["type"] != "socket":
            yield Node(found["path"], found["type"] == "dir", found["uid"], found["gid"])


class Owners:
    """Maps ids of the backed-up host to ids of the same names on this host. A missing user is created."""

    def __init__(self) -> None:
        self.names = json.loads((COPIES / "owners.json").read_text())
        self.user = functools.cache(functools.partial(self._here, "users", user_id))
        self.group = functools.cache(functools.partial(self._here, "groups", group_id))

    def _here(self, kind: str, id_of: Callable[[str], int | None], number: int) -> int:
        name = self.names[kind].get(str(number), "")
        # make_user creates the group of the same name, too.
        if name in self.names["users"].values():
            make_user(name, *(["/"] if name == MAILBOX_USER else []))
        found = id_of(name)
        return number if found is None else found


def identity(path: str) -> str:
    """The path of a file; for a message in a Maildir, what stays the same when its flags change."""
    folder, name = os.path.split(path)
    inner = os.path.basename(folder)
    return f"{os.path.dirname(folder)}/{name.partition(':')[0]}" if inner in ("cur", "new") else path


def require_anothers(snapshot: Snapshot) -> None:
    """:raises CommandFailed: if this host has made the snapshot itself, which is then not what ``latest`` means."""
    state = json.loads(BACKUP_STATE.read_text()) if BACKUP_STATE.exists() else {}
    if state.get("snapshot") == snapshot["id"]:
        raise CommandFailed(
            f"mail_restore_snapshot: the latest backup ({moment(snapshot):%Y-%m-%d %H:%M}) is this host's own. To go "
            f"back to it, write its id, {snapshot['short_id']}"
        )


def remove_stale(mail_dir: Path, now: set[str], before: Iterable[Node]) -> None:
    """Remove indexes, and each file that is not in ``now`` although its :func:`identity` is in ``now`` or ``before``.

    ``now``: the paths in this snapshot; ``before``: the nodes of the one that was restored earlier.
    """
    known, folders = set(map(identity, now)), []
    for node in before:
        if node.path.startswith(f"{mail_dir}/"):
            known.add(identity(node.path))
            folders += [node.path] if node.folder and node.path not in now else []
    for folder, inner, names in os.walk(mail_dir):
        for name in INDEXES.intersection(inner):
            shutil.rmtree(f"{folder}/{name}")
            inner.remove(name)
        for name in names:
            path = f"{folder}/{name}"
            if name.startswith(("dovecot.index", "dovecot.list.index")) or (
                path not in now and identity(path) in known
            ):
                os.unlink(path)
    for path in sorted(folders, key=len, reverse=True):
        # A folder with new mail stays.
        with contextlib.suppress(OSError):
            os.rmdir(path)


def waiting() -> list[str]:
    """The envelopes of the restored queue, as text."""
    found = []
    for file in sorted(BESIDE.glob("var/spool/smtpd/queue/*/*/*")):
        if re.fullmatch(r"[0-9a-f]{16}", file.name):
            fields = dict(re.findall(r"(?m)^(sender|dest|ctime): ?(.*)$", file.read_text(errors="replace")))
            since = datetime.fromtimestamp(int(fields.get("ctime", 0))).strftime("%Y-%m-%d %H:%M")
            found.append(f"{since} from <{fields.get('sender', '')}> to <{fields.get('dest', '')}>")
    return found


def send_queue() -> None:
    """Move the restored queue to the live one. :raises CommandFailed, OSError: if that fails; it can be retried."""
    running = Unit(OPENSMTPD).active
    if running:
        run(["systemctl", "stop", OPENSMTPD])
    make_directory(SPOOL / "queue", Access(QUEUE_USER, "root", "0700"))
    # Root must not follow names in a directory of another user.
    run(["runuser", "-u", QUEUE_USER, "--", "cp", "-a", f"{BESIDE}{SPOOL}/queue/.", f"{SPOOL}/queue/"])
    shutil.rmtree(BESIDE)
    if running:
        run(["systemctl", "start", OPENSMTPD])


def restore_server(snapshot: Snapshot, mail_dir: Path) -> None:
    """:raises CommandFailed, OSError: if the restore is incomplete. A second try starts over."""
    earlier = json.loads(STATE.read_text()).get("snapshot", "") if STATE.exists() else ""
    # The pattern matches the folders cur and new.
    if not STATE.exists() and any(mail_dir.glob("*/*/Maildir/**/[cn][ue][rw]/*")):
        raise CommandFailed(
            f"{mail_dir} already contains mail that did not come from a restore. Use an empty host, or restore one "
            "mailbox with mail_restore_mailbox"
        )
    run(["systemctl", "stop", *DAEMONS])
    STATE.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    STATE.write_text(json.dumps({"snapshot": earlier}))
    run(["restic", "restore", "--no-lock", snapshot["id"], "--target", "/", "--exclude", str(SPOOL)])
    shutil.rmtree(BESIDE, ignore_errors=True)
    BESIDE.mkdir(mode=0o711)
    run(["restic", "restore", "--no-lock", snapshot["id"], "--target", str(BESIDE), "--include", str(SPOOL)])
    owners, now = Owners(), set()
    for node in nodes(snapshot["id"]):
        beside = f"{node.path}/".startswith(f"{SPOOL}/")
        os.lchown(f"{BESIDE if beside else ''}{node.path}", owners.user(node.uid), owners.group(node.gid))
        if node.path.startswith(f"{mail_dir}/"):
            now.add(node.path)
    try:
        remove_stale(mail_dir, now, nodes(earlier) if earlier and snapshots(earlier) else ())
    except CommandFailed:
        remove_stale(mail_dir, now, ())  # the earlier snapshot no longer exists
    if (copy := COPIES / "redis.rdb").exists():
        run(["sh", "-c", 'exec runuser -u redis -- sh -c "$1" <"$2"', "sh", REDIS, str(copy)])
    STATE.write_text(json.dumps({"snapshot": snapshot["id"]}))


def restore_mailbox(snapshot: Snapshot, address: str, mail_dir: Path) -> str:
    """Restore one mailbox; returns its folder. :raises CommandFailed, OSError: if the restore is incomplete."""
    name, _at, domain = address.lower().rpartition("@")
    home, date = mail_dir / domain / name, f"{moment(snapshot):%Y-%m-%d}"
    if not home.is_dir():
        raise CommandFailed(f"mail_restore_mailbox: {address} has no mailbox on this host")
    shutil.rmtree(BESIDE / "mailbox", ignore_errors=True)
    BESIDE.mkdir(mode=0o711, exist_ok=True)
    target = BESIDE / "mailbox"
    try:
        run(["restic", "restore", "--no-lock", snapshot["id"], "--target", str(target), "--include", str(home)])
        if not (target / home.relative_to("/")).is_dir():
            raise CommandFailed(
                f"mail_restore_mailbox: this backup has no mailbox of {address}; choose another backup with "
                "mail_restore_snapshot"
            )
        uid, gid = user_id(MAILBOX_USER), group_id(MAILBOX_USER)
        if uid is None or gid is None:
            raise CommandFailed(f"there is no user {MAILBOX_USER} on this host: run site first")
        # From below, so that nobody else can change names that root is still to follow.
        for folder, inner, names in os.walk(target, topdown=False):
            for name in [*inner, *names]:
                os.lchown(f"{folder}/{name}", uid, gid)
        os.lchown(target, uid, gid)
        moved = ["sh", "-c", MAILBOX, "sh", f"{target}{home}", str(home), date]
        run(["runuser", "-u", MAILBOX_USER, "--", *moved])
    finally:
        shutil.rmtree(target, ignore_errors=True)
    # Mail programs show subscribed folders.
    parent = f"Restored/{date}"
    made = run(["doveadm", "mailbox", "list", "-u", address, f"{parent}/*"]).splitlines()
    run(["doveadm", "mailbox", "subscribe", "-u", address, *made])
    return parent


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "snapshot": {"type": "str", "default": ""},
            "hostname": {"type": "str", "required": True},
            "mailbox": {"type": "str", "default": ""},
            "mail_dir": {"type": "path", "default": "/var/vmail"},
            "send_queue": {"type": "bool", "default": False},
            "state_version": {"type": "int", "required": True},
            "environment_json": {"type": "str", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    mail_dir = Path(wanted["mail_dir"])
    os.environ.update(json.loads(wanted["environment_json"]))
    os.environ |= {"HOME": "/root", "RESTIC_CACHE_DIR": "/var/cache/selfhosted-mail-backup"}
    lines, changed = [], False
    try:
        if wanted["snapshot"]:
            if module.check_mode and not shutil.which("restic"):
                module.exit_json(changed=True, lines=["restic is not installed yet, so the repository was not checked"])
            snapshot = find(wanted["snapshot"], wanted["hostname"])
            require_known(snapshot, wanted["state_version"])
            what = f"the backup {snapshot['short_id']} of {moment(snapshot):%Y-%m-%d %H:%M}"
            done = STATE.exists() and json.loads(STATE.read_text())["snapshot"] == snapshot["id"]
            changed = bool(wanted["mailbox"]) or not done
            if module.check_mode:
                lines.append(f"{'Found' if changed else 'Already restored'}: {what}")
            elif wanted["mailbox"]:
                folder = restore_mailbox(snapshot, wanted["mailbox"], mail_dir)
                lines.append(f"{wanted['mailbox']} has {what} in the folder {folder}")
            else:
                if changed:
                    if wanted["snapshot"] == "latest":
                        require_anothers(snapshot)
                    restore_server(snapshot, mail_dir)
                lines.append(f"Restored: {what}")
        if queue := waiting():
            if wanted["send_queue"]:
                if not module.check_mode:
                    send_queue()
                changed = True
                lines += ["This mail of the restored queue is sent now:", *queue]
            else:
                lines += ["This mail waited when it was backed up. -e mail_restore_queue=true sends it:", *queue]
    except (CommandFailed, OSError, LookupError, ValueError) as error:
        module.fail_json(msg=f"restore: {error}")
    module.exit_json(changed=changed, lines=lines)


if __name__ == "__main__":
    main()
