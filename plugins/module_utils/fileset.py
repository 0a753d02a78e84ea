# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A set of files that is compared, deployed and rolled back as one.

The previous set is kept under :data:`PREVIOUS` until the service runs the new one, so that a configuration that passes
the daemon's checker but does not start can still be rolled back.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.selfhosted.mail.plugins.module_utils import safe_path
from ansible_collections.selfhosted.mail.plugins.module_utils.command import run
from ansible_collections.selfhosted.mail.plugins.module_utils.safe_path import Access

PREVIOUS = Path("/var/lib/selfhosted-mail/previous")
READABLE = Access()


def access_options(mode: str | None = None) -> dict[str, Any]:
    return {
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
        "mode": {"type": "str", "default": mode},
    }


ON_CHANGE: dict[str, Any] = {"type": "str", "choices": ["restart", "reload", "none"], "default": "restart"}
FILE_OPTIONS: dict[str, Any] = {
    "dest": {"type": "path", "required": True},
    "src": {"type": "str"},
    "content": {"type": "str"},
    **access_options(),
    "state": {"type": "str", "choices": ["present", "absent", "link"], "default": "present"},
    "secret": {"type": "bool", "default": False, "no_log": False},
    "on_change": ON_CHANGE,
}


@dataclass
class ManagedFile:
    """One file of the set: with ``content``, a symbolic link to ``target``, or, without either, absent."""

    path: Path
    content: bytes | None
    access: Access = READABLE
    secret: bool = False
    on_change: str = "restart"
    target: str = ""

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> ManagedFile:
        """The file of one item that has been validated against :data:`FILE_OPTIONS`."""
        present, link = options["state"] == "present", options["state"] == "link"
        return cls(
            path=Path(options["dest"]),
            content=(options["content"] or "").encode() if present else None,
            access=Access(options["owner"], options["group"], options["mode"] or "0644"),
            secret=options["secret"],
            on_change=options["on_change"],
            target=options["src"] if link else "",
        )

    @classmethod
    def of(cls, path: Path) -> ManagedFile:
        """The file as it is now."""
        if target := safe_path.link_target(path):
            return cls(path, None, Access(mode="0777"), target=target)
        try:
            return cls(path, safe_path.read(path), Access.of(path))
        except FileNotFoundError:
            return cls(path, None)

    def text(self) -> bytes | None:
        """What a diff shows; None if the file is absent."""
        return f"link to {self.target}\n".encode() if self.target else self.content

    def differs(self) -> bool:
        now = ManagedFile.of(self.path)
        return now.text() != self.text() or (self.content is not None and self.access.differs(self.path))

    def diff(self) -> dict[str, str]:
        """Ansible's diff of this file; for a secret it shows only that it changes."""
        before, after = ManagedFile.of(self.path).text(), self.text()
        if self.secret:
            hidden = "(secret, not shown)\n"
            texts = {
                "before": hidden if before is not None else "",
                "after": "" if after is None else hidden if before == after else "(new secret, not shown)\n",
            }
        else:
            texts = {
                "before": (before or b"").decode(errors="replace"),
                "after": (after or b"").decode(errors="replace"),
            }
        return {"before_header": str(self.path), "after_header": str(self.path), **texts}

    def put(self, mtime: int | None = None) -> None:
        """Write this file to the host. ``mtime``: its modification time in nanoseconds, instead of now."""
        if self.target:
            safe_path.link(self.path, self.target)
        elif self.content is None:
            safe_path.unlink(self.path)
        else:
            safe_path.write(self.path, self.content, self.access, mtime)


@dataclass
class Previous:
    """The files of a set before it changed, kept under :data:`PREVIOUS` until the new ones run."""

    name: str

    @property
    def root(self) -> Path:
        return PREVIOUS / self.name

    def _manifest(self) -> dict[str, str | None]:
        try:
            manifest: dict[str, str | None] = json.loads((self.root / "manifest.json").read_text())
        except FileNotFoundError:
            return {}
        return manifest

    def keep(self, paths: Iterable[Path]) -> None:
        """Keep ``paths`` as they are now. An older copy that is already kept is not replaced."""
        for directory in (PREVIOUS, self.root):
            safe_path.make_directory(directory, Access(mode="0700"))
        manifest = self._manifest()
        for path in paths:
            if str(path) in manifest:
                continue
            file = ManagedFile.of(path)
            manifest[str(path)] = None
            if file.text() is not None:
                copy = f"{len(manifest)}"
                ManagedFile(self.root / copy, file.content, file.access, target=file.target).put(
                    path.lstat().st_mtime_ns
                )
                manifest[str(path)] = copy
        temporary = self.root / "manifest.json.new"
        temporary.write_text(json.dumps(manifest))
        temporary.rename(self.root / "manifest.json")

    def restore(self) -> list[str]:
        """Restore the kept files and forget them; returns their paths."""
        manifest = self._manifest()
        for path, copy in manifest.items():
            if copy is None:
                safe_path.unlink(Path(path))
            else:
                kept = ManagedFile.of(self.root / copy)
                mtime = kept.path.lstat().st_mtime_ns
                ManagedFile(Path(path), kept.content, kept.access, target=kept.target).put(mtime)
        self.forget()
        return sorted(manifest)

    def forget(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def forget_if_only(self, paths: Iterable[Path]) -> None:
        """Forget the files, unless some are of another role's set for the same service, which may not run yet."""
        if set(self._manifest()) <= {str(path) for path in paths}:
            self.forget()

    def __bool__(self) -> bool:
        return bool(self._manifest())


def reload_systemd_for(paths: Iterable[str]) -> None:
    """Run ``systemctl daemon-reload`` if a unit or drop-in is among ``paths``."""
    if any(path.startswith("/etc/systemd/") for path in paths):
        run(["systemctl", "daemon-reload"])


@contextlib.contextmanager
def rolled_back_on_failure(files: list[ManagedFile], name: str) -> Iterator[None]:
    """Put ``files`` in place, and roll them back if the body raises.

    Files that an earlier, unfinished run kept under ``name`` stay kept: the service still runs them.
    """
    before = [
        (ManagedFile.of(file.path), file.path.lstat().st_mtime_ns if os.path.lexists(file.path) else None)
        for file in files
    ]
    previous = Previous(name)
    unfinished = bool(previous)
    previous.keep(file.path for file in files)
    try:
        for file in files:
            file.put()
        reload_systemd_for(str(file.path) for file in files)
        yield
    except BaseException:
        for old, mtime in before:
            old.put(mtime)
        reload_systemd_for(str(file.path) for file in files)
        if not unfinished:
            previous.forget()
        raise
