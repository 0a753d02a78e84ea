#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: a certificate and its private key are there and belong together."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tls_pair
short_description: A certificate and its private key are there and belong together
version_added: "0.1.0"
description:
  - Fails, naming the variable, when a file is missing, no PEM, or when the key is not the certificate's.
  - Changes nothing.
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  certificate_file:
    description: PEM file of the certificate and its chain on the managed host.
    type: path
    required: true
  private_key_file:
    description: PEM file of the key, without a pass phrase.
    type: path
    required: true
  variables:
    description: Names of the variables that hold the two paths.
    type: list
    elements: str
    default: [mail_tls_certificate_file, mail_tls_private_key_file]
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: The certificate and its key belong together
  selfhosted.mail.tls_pair:
    certificate_file: /etc/ssl/mail.pem
    private_key_file: /etc/ssl/private/mail.key
"""

RETURN = r""" # """

import os  # noqa: E402
import ssl  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402


def pair_problem(certificate: str, key: str, variables: list[str]) -> str | None:
    """What is wrong with the two files, or None."""
    for path, variable in zip((certificate, key), variables, strict=True):
        if not os.path.isfile(path):
            return f"{variable}: there is no file {path} on this host"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    refused: list[str] = []

    def no_pass_phrase() -> str:
        refused.append(key)
        return ""

    try:
        context.load_cert_chain(certificate, key, no_pass_phrase)
    except (OSError, ValueError) as error:
        if refused:
            return f"{variables[1]}: {key} has a pass phrase, which daemons cannot type"
        if "KEY_VALUES_MISMATCH" in str(error):
            return f"{variables[1]}: {key} is not the key of the certificate {certificate} ({variables[0]})"
        return f"{variables[0]}, {variables[1]}: {certificate} and {key} are no usable PEM certificate and key: {error}"
    status = os.stat(key)
    if status.st_uid != 0 or status.st_mode & 0o037:
        return f"{variables[1]}: {key} must belong to root and have the mode 0640 or a tighter one"
    return None


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "certificate_file": {"type": "path", "required": True},
            "private_key_file": {"type": "path", "required": True},
            "variables": {"type": "list", "elements": "str",
                          "default": ["mail_tls_certificate_file", "mail_tls_private_key_file"]},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    problem = pair_problem(wanted["certificate_file"], wanted["private_key_file"], wanted["variables"])
    if problem:
        module.fail_json(msg=problem)
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
