# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters on the mail server's data; the work is done in module_utils, where it can be tested and used by modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.selfhosted.mail.plugins.module_utils import addresses, problems, signer_file, upstream, zone


def with_options(keys: list[dict[str, str]], options: dict[str, Any]) -> list[dict[str, Any]]:
    """Items of M(selfhosted.mail.daemon_config)'s ``made_once`` that make these keys."""
    return [{"path": key["path"], **options} for key in keys]


class FilterModule:
    """What Ansible asks a file of filters for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "domain_names": addresses.domain_names,
            "first_address": addresses.first_address,
            "further_keys": addresses.further_keys,
            "plain": addresses.plain,
            "problems": problems.problems,
            "public_addresses": zone.public_addresses,
            "sender_map": upstream.sender_map,
            "sieve_files": addresses.sieve_files,
            "signer_file_problems": signer_file.problems,
            "signing_keys": addresses.signing_keys,
            "size_bytes": addresses.size_bytes,
            "upstream_problems": upstream.upstream_problems,
            "with_options": with_options,
            "zones": zone.zones,
        }
