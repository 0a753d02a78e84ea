#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: the DNS records that publish DKIM keys."""

from __future__ import annotations

DOCUMENTATION = r"""
module: dkim_records
short_description: The DNS records that publish DKIM keys
version_added: "0.1.0"
description:
  - Reads private keys on the managed host and returns the text of their DNS records. No private key leaves the host.
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  keys:
    description:
      - The keys, mappings with C(domain), C(selector) and C(path), as P(selfhosted.mail.dkim_keys#filter) gives them.
        One that is not there is left out, as in check mode on a fresh host.
    type: list
    elements: dict
    required: true
  directory:
    description:
      - Where further keys of the same domains lie as C(<domain>.<selector>.pem), such as those that signed before. They
        are published until their files are deleted.
    type: path
  command:
    description: A command that prints further keys, each a line of domain, selector and path.
    type: list
    elements: str
    default: []
  dest:
    description:
      - File on the host that gets the records in master file syntax (RFC 1035), as the role C(dns) reads them. Those of
        keys that do not sign end in C(; recommended).
    type: path
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: The DNS records of the keys are known
  selfhosted.mail.dkim_records:
    keys:
      - domain: example.org
        selector: mail
        path: /etc/dkimproxy/keys/example.org.mail.pem
"""

RETURN = r"""
records:
  description: Domain to selector to the text of the TXT record (RFC 6376 §3.6.1, RFC 8463 §4).
  type: dict
  returned: always
  sample:
    example.org:
      mail: v=DKIM1; k=rsa; p=MIIB...
changed_paths:
  description: The file, where it was not as it should be.
  type: list
  elements: str
  returned: always
"""

import base64
import os
import subprocess
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.mail.plugins.module_utils import syntax
from ansible_collections.selfhosted.mail.plugins.module_utils.fileset import ManagedFile
from ansible_collections.selfhosted.mail.plugins.module_utils.records import txt
from ansible_collections.selfhosted.mail.plugins.module_utils.safe_path import Access

# SubjectPublicKeyInfo of an Ed25519 key is this and 32 bytes (RFC 8410 §4); the record has the 32 bytes alone.
ED25519_PREFIX = bytes.fromhex("302a300506032b6570032100")


def record(path: str) -> str:
    """:raises subprocess.CalledProcessError: when openssl cannot read the key."""
    public = subprocess.run(
        ["openssl", "pkey", "-in", path, "-pubout", "-outform", "DER"], capture_output=True, check=True
    ).stdout
    if public.startswith(ED25519_PREFIX):
        return f"v=DKIM1; k=ed25519; p={base64.b64encode(public[len(ED25519_PREFIX) :]).decode()}"
    return f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode()}"


def found(directory: str, keys: list[dict[str, str]]) -> list[dict[str, str]]:
    """The keys in the directory that belong to the domains of ``keys`` and are none of them."""
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
    """:raises subprocess.CalledProcessError: when the command fails."""
    lines = subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()
    return [dict(zip(("domain", "selector", "path"), line.split(" ", 2), strict=True)) for line in lines]


def in_master_file_syntax(records: dict[str, dict[str, str]], signing: set[tuple[str, str]]) -> str:
    """``signing``: domains and selectors without whose keys signatures do not hold."""
    lines = [
        f"{selector}._domainkey.{domain}. 3600 IN TXT {txt(text)}"
        + ("" if (domain, selector) in signing else " ; recommended")
        for domain, texts in records.items()
        for selector, text in sorted(texts.items())
    ]
    return "; Made of the keys by Ansible.\n" + "".join(f"{line}\n" for line in lines)


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
        except (OSError, subprocess.CalledProcessError) as error:
            # In check mode what the command reads is not in place.
            if not module.check_mode:
                module.fail_json(msg=f"{' '.join(module.params['command'])}: {error}")
    for key in [*others, *keys]:
        if not os.path.exists(key["path"]):
            continue
        try:
            records.setdefault(key["domain"], {})[key["selector"]] = record(key["path"])
        except (OSError, subprocess.CalledProcessError) as error:
            if key not in others:
                module.fail_json(msg=f"openssl cannot read the key {key['path']}: {error}")
            module.warn(f"{key['path']} is no key that openssl can read, and is not published")
    signing = {(key["domain"], key["selector"]) for key in keys if key.get("signs", True)}
    changed, diff = [], []
    # In check mode on a fresh host there are no keys to say anything about.
    if module.params["dest"] and records:
        text = in_master_file_syntax(records, signing)
        file = ManagedFile(Path(module.params["dest"]), text.encode(), Access("root", "root", "0644"))
        if file.differs():
            changed, diff = [str(file.path)], [file.diff()]
            if not module.check_mode:
                file.put()
    module.exit_json(changed=bool(changed), changed_paths=changed, diff=diff, records=records)


if __name__ == "__main__":
    main()
