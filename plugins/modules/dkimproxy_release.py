#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: the files of DKIMproxy's release are at hand and are the ones that are meant."""

from __future__ import annotations

DOCUMENTATION = r"""
module: dkimproxy_release
short_description: The files of DKIMproxy's release are at hand and are the ones that are meant
version_added: "0.1.0"
description:
  - Reads the release's archive from a file on the controller, or has the managed host download it, and returns the
    texts of its files when its checksum is right.
  - With the wrong checksum it fails, naming the variable, and nothing is left on the host.
  - What was downloaded is kept, so that later runs need no network. It is checked again in each of them.
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  archive:
    description: File on the controller. Empty means download.
    type: str
    default: ""
  url:
    description: Where the managed host downloads it from.
    type: str
    default: ""
  sha256:
    description: The archive's checksum in hexadecimal.
    type: str
    required: true
  members:
    description: The files wanted, named without the archive's first folder.
    type: list
    elements: str
    required: true
  keep:
    description: File on the managed host that a download is kept in.
    type: path
    required: true
attributes:
  check_mode: {support: full, details: "It downloads, and keeps nothing."}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: DKIMproxy's release is at hand
  selfhosted.mail.dkimproxy_release:
    archive: "{{ dkimproxy_upstream_archive }}"
    url: "{{ dkimproxy_upstream_url }}"
    sha256: "{{ __dkimproxy_upstream_sha256 }}"
    members: [scripts/dkimproxy.out]
    keep: /var/cache/selfhosted-mail/dkimproxy-1.4.1.tar.gz
  register: __dkimproxy_release
"""

RETURN = r"""
files:
  description: The members, each with C(path) and C(content).
  type: list
  elements: dict
  returned: success
"""

import os  # noqa: E402
import tempfile  # noqa: E402
from http.client import HTTPException  # noqa: E402
from pathlib import Path  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible.module_utils.urls import open_url  # noqa: E402
from ansible_collections.selfhosted.mail.plugins.module_utils.upstream import (  # noqa: E402
    MAX_SIZE,
    WrongArchive,
    checked,
    texts,
)


def kept(path: Path, sha256: str) -> bytes | None:
    """The download of an earlier run, when it is still what it should be."""
    try:
        return checked(path.read_bytes(), sha256)
    except (OSError, WrongArchive):
        return None


def keep(path: Path, data: bytes) -> None:
    """Write beside the target and rename, so that a killed run leaves no half archive."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.chmod(name, 0o644)
        os.rename(name, path)
    except BaseException:
        os.unlink(name)
        raise


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "archive": {"type": "str", "default": ""},
            "url": {"type": "str", "default": ""},
            "sha256": {"type": "str", "required": True},
            "members": {"type": "list", "elements": "str", "required": True},
            "keep": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    url, sha256, path = module.params["url"], module.params["sha256"], Path(module.params["keep"])
    data, changed = kept(path, sha256), False
    try:
        if data is None:
            data = checked(open_url(url, timeout=30, http_agent="selfhosted.mail").read(MAX_SIZE), sha256)
            changed = True
        files = texts(data, module.params["members"])
        if changed and not module.check_mode:
            keep(path, data)
    except WrongArchive as error:
        module.fail_json(msg=f"dkimproxy_upstream_url: what {url} gives {error}")
    except (OSError, ValueError, HTTPException) as error:
        module.fail_json(msg=f"dkimproxy_upstream_url: {url} cannot be downloaded by this host: {error}. A file on the "
                             "controller does as well: dkimproxy_upstream_archive")
    module.exit_json(changed=changed, files=files)


if __name__ == "__main__":
    main()
