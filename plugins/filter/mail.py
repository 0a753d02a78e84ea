# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters on the mail server's data; each is documented in a file of its name beside this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.selfhosted.mail.plugins.module_utils import address_book, records
from ansible_collections.selfhosted.mail.plugins.plugin_utils import providers


class FilterModule:
    """The filters, in the form that Ansible loads."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "dkim_keys": address_book.dkim_keys,
            "domain_names": address_book.domain_names,
            "first_address": address_book.first_address,
            "public_addresses": records.public_addresses,
            "relay_provider": providers.relay_provider,
            "reverse_name": records.reverse_name,
            "sieve_files": address_book.sieve_files,
            "txt": records.txt,
            "zone_names": address_book.with_host,
        }
