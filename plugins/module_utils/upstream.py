# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""DKIMproxy 1.4.1 as its authors released it: its archive, its sender map, and what it cannot do."""

from __future__ import annotations

import hashlib
import io
import ipaddress
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

IMPLEMENTATIONS = ("embedded", "upstream")
# What the embedded signer alone does, with the value that asks for nothing.
EMBEDDED_ONLY = {"ed25519": False, "signature_lifetime": 0, "foreign_from": "refuse", "config_file": "",
                 "legacy": "error"}
MAX_SIZE = 2**20  # octets; the release has 109040
# What DKIMproxy cannot read as a signature becomes the text of its 450 reply, up to a comma.
NO_KEY = "the address in Sender or From is in no domain of this server or has a plus sign"
_LISTENER = re.compile(r"([0-9.]+):([0-9]{1,5})\Z")


class WrongArchive(Exception):
    """The archive is not the one that is meant; ``str()`` says why."""


def checked(data: bytes, sha256: str) -> bytes:
    """``data`` itself.

    :raises WrongArchive: when its SHA-256, in hexadecimal, is another one.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise WrongArchive(f"is not DKIMproxy's release: its SHA-256 is {found}, expected is {sha256}")
    return data


def texts(data: bytes, members: Iterable[str]) -> list[dict[str, str]]:
    """``path`` and ``content`` of each member of a gzipped tar archive, named without the archive's first folder.

    :raises WrongArchive: when it is no such archive, or a member is missing or no text.
    """
    found: list[dict[str, str]] = []
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            files = {item.name.partition("/")[2]: item for item in archive.getmembers() if item.isreg()}
            for name in members:
                stream = archive.extractfile(files[name])
                found.append({"path": name, "content": stream.read().decode() if stream else ""})
    except KeyError as error:
        raise WrongArchive(f"has no file {error.args[0]}") from error
    except (tarfile.TarError, OSError, EOFError, UnicodeDecodeError) as error:
        raise WrongArchive(f"cannot be unpacked: {error}") from error
    return found


def sender_map(keys: Iterable[Mapping[str, str]]) -> str:
    """DKIMproxy's sender map: a line for each key's ``domain`` with its ``selector`` and ``path``, and the catch-all.

    A sub-domain is signed with its parent's key. Without the catch-all, mail from any other domain would be let out
    unsigned.
    """
    rows = [(key["domain"], f"dkim(a=rsa-sha256, c=relaxed/relaxed, d={key['domain']}, s={key['selector']}, "
                            f"key={key['path']})") for key in keys]
    rows.append((".", NO_KEY))
    width = max(len(name) for name, _value in rows)
    return "".join(f"{name:{width}}  {value}\n" for name, value in rows)


def upstream_problems(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with ``implementation``, ``listen``, ``relay``, ``upstream_url`` and ``upstream_archive``, or with
    what is asked of DKIMproxy that it cannot do (:data:`EMBEDDED_ONLY`)."""
    return list(_problems(values))


def _problems(values: Mapping[str, Any]) -> Iterator[str]:
    if values["implementation"] not in IMPLEMENTATIONS:
        yield f"dkimproxy_implementation: {values['implementation']!r} is none of {', '.join(IMPLEMENTATIONS)}"
        return
    if values["implementation"] == "embedded":
        return
    for name in ("listen", "relay"):
        if not _is_ipv4_listener(values[name]):
            yield (f"dkimproxy_{name}: {values[name]!r} is no IPv4 address with a port, such as 127.0.0.1:10027; "
                   "DKIMproxy 1.4.1 knows IPv4 alone, and a name could mean IPv6")
    for name, without in EMBEDDED_ONLY.items():
        if values.get(name, without) not in (without, str(without)):
            yield f"dkimproxy_{name}: DKIMproxy 1.4.1 knows nothing of the kind; use dkimproxy_implementation: embedded"
    archive, url = values["upstream_archive"], values["upstream_url"]
    if archive and not isinstance(archive, str):
        yield "dkimproxy_upstream_archive: is no text; write the path of a file on the controller"
    elif not archive and not re.match(r"https?://[^\s/]+/\S+\Z", str(url)):
        yield f"dkimproxy_upstream_url: {url!r} is no address that begins with https:// or http://"


def _is_ipv4_listener(value: Any) -> bool:
    parts = _LISTENER.match(value) if isinstance(value, str) else None
    if not parts or not 0 < int(parts[2]) < 65536:
        return False
    try:
        ipaddress.IPv4Address(parts[1])
    except ValueError:
        return False
    return True
