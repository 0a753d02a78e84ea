# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A set of files that belongs together: compared, put in place together, taken back together.

The set that was in place before is kept under :data:`PREVIOUS` until the service is known to run the new one, so that a
configuration that passes the daemon's checker but not its start can still be taken back.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PREVIOUS = Path("/var/lib/selfhosted-mail/previous")

FILE_OPTIONS: dict[str, Any] = {
    "path": {"type": "path", "required": True},
    "content": {"type": "str"},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
    "mode": {"type": "str", "default": "0644"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "secret": {"type": "bool", "default": False, "no_log": False},
    "on_change": {"type": "str", "choices": ["restart", "reload", "none"], "default": "restart"},
}


class CommandFailed(Exception):
    """A command ended with an error; ``str()`` is what it said."""


def run(argv: list[str], *, umask: int | None = None) -> str:
    """Run ``argv`` without a shell, return its standard output.

    :raises CommandFailed: with the program's own words, when it cannot be run or exits non-zero.
    """
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
            umask=-1 if umask is None else umask, check=False,
        )
    except OSError as error:
        raise CommandFailed(f"{argv[0]}: {error.strerror}") from error
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}")
        raise CommandFailed(words)
    return done.stdout


def user_id(name: str) -> int | None:
    """Numeric id of the user, or None where there is no such user. A number stands for itself."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return int(name) if name.isdigit() else None


def group_id(name: str) -> int | None:
    """Numeric id of the group, or None where there is no such group. A number stands for itself."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return int(name) if name.isdigit() else None


@dataclass(frozen=True)
class Access:
    """Owner, group and mode (octal text) that a path should have."""

    owner: str
    group: str
    mode: str

    def differs(self, path: Path) -> bool:
        """Whether ``path`` is absent or has another owner, group or mode."""
        try:
            found = path.lstat()
        except FileNotFoundError:
            return True
        return (found.st_uid, found.st_gid, found.st_mode & 0o7777) != (
            user_id(self.owner), group_id(self.group), int(self.mode, 8))

    def apply(self, path: Path) -> None:
        """:raises LookupError: when the host has no such user or group."""
        uid, gid = user_id(self.owner), group_id(self.group)
        if uid is None or gid is None:
            raise LookupError(f"{path}: no user {self.owner} or group {self.group} on this host")
        os.chown(path, uid, gid)
        os.chmod(path, int(self.mode, 8))


@dataclass
class ManagedFile:
    """One file of the set; ``content`` None means that the file shall be absent."""

    path: Path
    content: bytes | None
    access: Access
    secret: bool = False
    on_change: str = "restart"

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> ManagedFile:
        """Take one item that has been validated against :data:`FILE_OPTIONS`."""
        absent = options["state"] == "absent"
        return cls(
            path=Path(options["path"]),
            content=None if absent else (options["content"] or "").encode(),
            access=Access(options["owner"], options["group"], options["mode"]),
            secret=options["secret"],
            on_change=options["on_change"],
        )

    def current(self) -> bytes | None:
        """Content of the file as it is now, None where it is absent."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None

    def differs(self) -> bool:
        if self.content is None:
            return self.path.is_symlink() or self.path.exists()
        return self.path.is_symlink() or self.current() != self.content or self.access.differs(self.path)

    def diff(self) -> dict[str, str]:
        """Ansible's diff of this file; of a secret only that it changes."""
        before, after = self.current(), self.content
        if self.secret:
            hidden = "(secret, not shown)\n"
            texts = {"before": hidden if before is not None else "",
                     "after": "" if after is None else hidden if before == after else "(new secret, not shown)\n"}
        else:
            texts = {"before": (before or b"").decode(errors="replace"),
                     "after": (after or b"").decode(errors="replace")}
        return {"before_header": str(self.path), "after_header": str(self.path), **texts}

    def put(self) -> None:
        """Write beside the target and rename, so that no reader ever sees half a file."""
        if self.content is None:
            self.path.unlink(missing_ok=True)
            return
        handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(self.content)
                stream.flush()
                os.fsync(stream.fileno())
            self.access.apply(Path(name))
            os.rename(name, self.path)
        except BaseException:
            os.unlink(name)
            raise


@dataclass
class Previous:
    """What was in place of a set before it changed, kept under :data:`PREVIOUS` until the new one runs."""

    name: str
    root: Path = field(init=False)

    def __post_init__(self) -> None:
        self.root = PREVIOUS / self.name

    def _manifest(self) -> dict[str, str | None]:
        try:
            manifest: dict[str, str | None] = json.loads((self.root / "manifest.json").read_text())
        except FileNotFoundError:
            return {}
        return manifest

    def keep(self, paths: Iterable[Path]) -> None:
        """Add ``paths`` as they are now; what is kept already is older, and stays."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.chmod(PREVIOUS, 0o700)
        manifest = self._manifest()
        for path in paths:
            if str(path) in manifest:
                continue
            if path.is_file():
                copy = f"{len(manifest)}"
                shutil.copy2(path, self.root / copy)
                found = path.stat()
                os.chown(self.root / copy, found.st_uid, found.st_gid)
                manifest[str(path)] = copy
            else:
                manifest[str(path)] = None
        temporary = self.root / "manifest.json.new"
        temporary.write_text(json.dumps(manifest))
        temporary.rename(self.root / "manifest.json")

    def restore(self) -> list[str]:
        """Put back what is kept and forget it; returns the paths."""
        manifest = self._manifest()
        for path, copy in manifest.items():
            if copy is None:
                Path(path).unlink(missing_ok=True)
            else:
                beside = Path(path).with_name(f".{Path(path).name}.previous")
                kept = (self.root / copy).stat()
                shutil.copy2(self.root / copy, beside)
                os.chown(beside, kept.st_uid, kept.st_gid)
                beside.rename(path)
        self.forget()
        return sorted(manifest)

    def forget(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def __bool__(self) -> bool:
        return bool(self._manifest())


def reload_systemd_for(paths: Iterable[str]) -> None:
    """``systemctl daemon-reload`` where a unit or drop-in is among ``paths``."""
    if any(path.startswith("/etc/systemd/") for path in paths):
        run(["systemctl", "daemon-reload"])


@contextlib.contextmanager
def taken_back_on_failure(files: list[ManagedFile], name: str) -> Iterator[None]:
    """Put ``files`` in place; when the body raises, everything is as it was before.

    What an earlier, unfinished run kept under ``name`` stays kept: it is what the service still runs.
    """
    before = [(file, file.current(), Access(*_access_of(file.path))) for file in files]
    times = {file.path: file.path.stat().st_mtime_ns for file, content, _access in before if content is not None}
    previous = Previous(name)
    unfinished = bool(previous)
    previous.keep(file.path for file in files)
    try:
        for file in files:
            file.put()
        reload_systemd_for(str(file.path) for file in files)
        yield
    except BaseException:
        for file, content, access in before:
            ManagedFile(file.path, content, access).put()
            if content is not None:
                os.utime(file.path, ns=(times[file.path], times[file.path]))
        reload_systemd_for(str(file.path) for file in files)
        if not unfinished:
            previous.forget()
        raise


def _access_of(path: Path) -> tuple[str, str, str]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return "root", "root", "0600"
    return str(found.st_uid), str(found.st_gid), f"{found.st_mode & 0o7777:04o}"
