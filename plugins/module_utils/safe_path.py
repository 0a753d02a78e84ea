# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""File operations that are safe for root: no link is followed in a directory that other users can write to.

A link in a directory that only root can write to, such as an administrator's ``/var/vmail``, is followed as usual.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class UnsafePath(OSError):
    """A component of a path is a link that another user may have made, symbolic or hard."""


def user_id(name: str) -> int | None:
    """Numeric id of the user, or None if there is no such user. A numeric name is its own id."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return int(name) if name.isdigit() else None


def group_id(name: str) -> int | None:
    """Numeric id of the group, or None if there is no such group. A numeric name is its own id."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return int(name) if name.isdigit() else None


def _others_write(directory: int) -> bool:
    found = os.fstat(directory)
    return found.st_uid not in (0, os.geteuid()) or bool(found.st_mode & 0o022)


def _open(name: str, flags: int, directory: int, path: Path) -> int:
    others_write = _others_write(directory)
    nofollow = os.O_NOFOLLOW if others_write else 0
    try:
        descriptor = os.open(name, flags | nofollow | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        if nofollow and error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise UnsafePath(
                f"{path}: {name} is a symbolic link or not a directory, and users other than root can write to the "
                "directory above it"
            ) from error
        raise
    found = os.fstat(descriptor)
    if others_write and found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
        os.close(descriptor)
        raise UnsafePath(
            f"{path}: {name} has more than one hard link, and users other than root can write to its directory"
        )
    return descriptor


def _make(name: str, directory: int) -> bool:
    """Create a directory with mode 0700; returns whether it was missing."""
    try:
        os.mkdir(name, 0o700, dir_fd=directory)
    except FileExistsError:
        return False
    return True


@contextlib.contextmanager
def parent(path: Path, create: bool = False) -> Iterator[int]:
    """Open the parent directory of ``path``. With ``create``, missing directories get mode 0755, whatever the umask.

    :raises UnsafePath: if the path contains a symbolic link that must not be followed.
    :raises OSError: if there is no such directory.
    """
    directory = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in path.absolute().parts[1:-1]:
            made = create and _make(name, directory)
            inner = _open(name, os.O_RDONLY | os.O_DIRECTORY, directory, path)
            os.close(directory)
            directory = inner
            if made:
                os.fchmod(directory, 0o755)
        yield directory
    finally:
        os.close(directory)


def require_roots_directory(path: Path) -> None:
    """Require that only root can write beside ``path``, for commands that follow links.

    :raises UnsafePath: if others can write there.
    :raises OSError: as for :func:`parent`.
    """
    with parent(path) as directory:
        if _others_write(directory):
            raise UnsafePath(f"{path}: users other than root can write to its directory")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a file or directory for reading.

    :raises UnsafePath, FileNotFoundError, OSError: as for :func:`parent`.
    """
    with parent(path) as directory:
        descriptor = _open(path.name, os.O_RDONLY | os.O_NONBLOCK, directory, path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read(path: Path) -> bytes:
    """Content of a file. :raises UnsafePath, FileNotFoundError, OSError: as for :func:`parent`."""
    with opened(path) as descriptor, os.fdopen(os.dup(descriptor), "rb") as stream:
        return stream.read()


def link_target(path: Path) -> str:
    """Target of a symbolic link; empty for anything else."""
    try:
        with parent(path) as directory:
            return os.readlink(path.name, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return ""
        raise


def link(path: Path, target: str) -> None:
    """Replace ``path`` by a symbolic link atomically. :raises UnsafePath, OSError: as for :func:`parent`."""
    with parent(path) as directory:
        beside = f".{path.name}.{secrets.token_hex(4)}"
        os.symlink(target, beside, dir_fd=directory)
        os.rename(beside, path.name, src_dir_fd=directory, dst_dir_fd=directory)


def unlink(path: Path) -> None:
    """Remove a file, if it exists."""
    with contextlib.suppress(FileNotFoundError), parent(path) as directory:
        os.unlink(path.name, dir_fd=directory)


@dataclass(frozen=True)
class Access:
    """Owner, group and mode (octal text) that a path should have; by default of root and readable for all."""

    owner: str = "root"
    group: str = "root"
    mode: str = "0644"

    @classmethod
    def of(cls, path: Path) -> Access:
        """Owner, group and mode of a path. :raises FileNotFoundError: if it does not exist."""
        with opened(path) as descriptor:
            found = os.fstat(descriptor)
        return cls(str(found.st_uid), str(found.st_gid), f"{found.st_mode & 0o7777:04o}")

    def differs(self, path: Path) -> bool:
        """Whether ``path`` is absent or has another owner, group or mode."""
        try:
            found = Access.of(path)
        except FileNotFoundError:
            return True
        return found != Access(str(user_id(self.owner)), str(group_id(self.group)), f"{int(self.mode, 8):04o}")

    def apply(self, path: Path) -> None:
        """Set owner, group and mode. :raises LookupError: if the host has no such user or group."""
        with opened(path) as descriptor:
            self.apply_to(descriptor, path)

    def apply_to(self, descriptor: int, path: Path) -> None:
        uid, gid = user_id(self.owner), group_id(self.group)
        if uid is None or gid is None:
            raise LookupError(f"{path}: no user {self.owner} or group {self.group} on this host")
        os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, int(self.mode, 8))


def make_directory(path: Path, access: Access) -> None:
    """Create the directory and missing parents; an existing directory gets this access, too.

    :raises UnsafePath, OSError: as for :func:`parent`.
    :raises LookupError: if the host has no such user or group.
    """
    with parent(path, create=True) as directory:
        _make(path.name, directory)
        descriptor = _open(path.name, os.O_RDONLY | os.O_DIRECTORY, directory, path)
    try:
        access.apply_to(descriptor, path)
    finally:
        os.close(descriptor)


def write(path: Path, content: bytes, access: Access, mtime: int | None = None) -> None:
    """Write a file beside the target and rename it: no reader sees a partial file or one without its mode.

    :param mtime: modification time in nanoseconds, instead of now.
    :raises UnsafePath, OSError, LookupError: as for :func:`make_directory`.
    """
    with parent(path) as directory:
        beside = f".{path.name}.{secrets.token_hex(4)}"
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                access.apply_to(descriptor, path)
                if mtime is not None:
                    os.utime(descriptor, ns=(mtime, mtime))
                os.fsync(descriptor)
            os.rename(beside, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(beside, dir_fd=directory)
            raise
