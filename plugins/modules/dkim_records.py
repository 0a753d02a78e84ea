#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: render the DNS records that publish DKIM keys."""

from __future__ import annotations

DOCUMENTATION = r"""
module: dkim_records
short_description: Render the DNS records that publish DKIM keys
version_added: "0.1.0"
description:
  - Reads private keys on the managed host and returns the text of their DNS records. No private key leaves the host.
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  keys:
    description:
      - The keys, mappings with C(domain), C(selector) and C(path), as returned by P(selfhosted.mail.dkim_keys#filter).
        A missing key file is skipped, as in check mode on a fresh host.
    type: list
    elements: dict
    required: true
  directory:
    description:
      - Directory with further keys of the same domains as C(<domain>.<selector>.pem), such as former signing keys. They
        are published until their files are deleted.
    type: path
  command:
    description: Command that prints further keys, one per line as domain, selector and path.
    type: list
    elements: str
    default: []
  dest:
    description:
      - File on the host for the records in master file syntax (RFC 1035), which the role C(dns) reads. Records of keys
        that do not sign end in C(; recommended).
    type: path
extends_documentation_fragment: [ansible.builtin.action_common_attributes]
attributes:
  platform: {platforms: debian}
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Render the DNS records of the keys
  selfhosted.mail.dkim_records:
    keys:
      - domain: example.org
        selector: mail
        path: /etc/dkimproxy/keys/example.org.mail.pem
"""

RETURN = r"""
records:
  description: Mapping of domain to selector to the text of the TXT record (RFC 6376 §3.6.1, RFC 8463 §4).
  type: dict
  returned: always
  sample:
    example.org:
      mail: v=DKIM1; k=rsa; p=MIIB...
changed_paths: {description: "O(dest), if it was changed.", type: list, elements: str, returned: always}
"""

import base64
import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.mail.plugins.module_utils import syntax
from ansible_collections.selfhosted.mail.plugins.module_utils.command import CommandFailed, run
from ansible_collections.selfhosted.mail.plugins.module_utils.fileset import ManagedFile
from ansible_collections.selfhosted.mail.plugins.module_utils.records import txt

# SubjectPublicKeyInfo of an Ed25519 key is this prefix and 32 bytes (RFC 8410 §4); the record has only the 32 bytes.
ED25519_PREFIX = bytes.fromhex("302a300506032b6570032100")


def record(path: str) -> str:
    """Text of the TXT record of a private key. :raises CommandFailed: if openssl cannot read it."""
    _begin, *lines, _end = run(["openssl", "pkey", "-in", path, "-pubout"]).splitlines()
    public = base64.b64decode("".join(lines))
    if public.startswith(ED25519_PREFIX):
        return f"v=DKIM1; k=ed25519; p={base64.b64encode(public[len(ED25519_PREFIX) :]).decode()}"
    return f"v=DKIM1; k=rsa; p={''.join(lines)}"


def found(directory: str, keys: list[dict[str, str]]) -> list[dict[str, str]]:
    """Keys in the directory that belong to the domains of ``keys`` but are not in ``keys``."""
    known = {key["path"] for key in keys}
    domains = sorted({key["domain"] for key in keys}, key=len, reverse=True)
    others = []
    for path in sorted(Path(directory).glob("*.pem")):
        domain = next((name for name in domains if path.name.startswith(f"{name}.")), None)
        selector = path.name[len(domain) + 1 : -len(".pem")] if domain else ""
        if domain and syntax.is_selector(selector) and str(path) not in known and path.is_file():
            others.append({"domain": domain, "selector": selector, "path": str(path)})
    return others


def printed(command: list[str]) -> list[dict[str, str]]:
    """Keys that the command prints. :raises CommandFailed: if it fails."""
    names = ("domain", "selector", "path")
    return [dict(zip(names, line.split(" ", 2), strict=True)) for line in run(command).splitlines()]


def in_master_file_syntax(records: dict[str, dict[str, str]], signing: set[tuple[str, str]]) -> str:
    """``signing``: pairs of domain and selector whose keys sign; all other records are only recommended."""
    lines = [
        f"{selector}._domainkey.{domain}. 3600 IN TXT {txt(text)}"
        + ("" if (domain, selector) in signing else " ; recommended")
        for domain, texts in records.items()
        for selector, text in sorted(texts.items())
    ]
    return "; Generated from the keys by Ansible.\n" + "".join(f"{line}\n" for line in lines)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "keys": {"type": "list", "elements": "dict", "required": True, "no_log": False},
            "directory": {"type": "path"},
            "command": {"type": "list", "elements": "str", "default": []},
            "dest": {"type": "path"},
        },
        supports_check_mode=True,
    )
    records: dict[str, dict[str, str]] = {}
    keys = module.params["keys"]
    others = found(module.params["directory"], keys) if module.params["directory"] else []
    if module.params["command"]:
        try:
            keys = keys + printed(module.params["command"])
        except CommandFailed as error:
            # In check mode the files that the command reads may be missing.
            if not module.check_mode:
                module.fail_json(msg=f"{' '.join(module.params['command'])}: {error}")
    for key in [*others, *keys]:
        if not os.path.exists(key["path"]):
            continue
        try:
            records.setdefault(key["domain"], {})[key["selector"]] = record(key["path"])
        except CommandFailed as error:
            if key not in others:
                module.fail_json(msg=f"openssl cannot read the key {key['path']}: {error}")
            module.warn(f"openssl cannot read the key {key['path']}, so it is not published")
    signing = {(key["domain"], key["selector"]) for key in keys if key.get("signs", True)}
    changed, diff = [], []
    # In check mode on a fresh host there are no keys.
    if module.params["dest"] and records:
        text = in_master_file_syntax(records, signing)
        file = ManagedFile(Path(module.params["dest"]), text.encode())
        if file.differs():
            changed, diff = [str(file.path)], [file.diff()]
            if not module.check_mode:
                file.put()
    module.exit_json(changed=bool(changed), changed_paths=changed, diff=diff, records=records)


if __name__ == "__main__":
    main()
