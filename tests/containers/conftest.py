# SPDX-License-Identifier: GPL-3.0-or-later
"""One container for each Debian release, for all tests of a run."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from testbed.host import RELEASES, Host


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Host]]:
    """Both releases, started side by side."""
    directory = tmp_path_factory.mktemp("hosts")
    found = {release: Host(release, directory) for release in RELEASES}
    (directory / "ansible.cfg").write_text("[defaults]\ninternal_poll_interval = 0.02\n")
    (directory / "inventory.yml").write_text(
        yaml.safe_dump(
            {
                "all": {
                    "hosts": {host.name: None for host in found.values()},
                    "vars": {
                        "ansible_connection": "docker",
                        "ansible_python_interpreter": "/usr/bin/python3",
                    },
                }
            }
        )
    )
    with ThreadPoolExecutor() as pool:
        try:
            list(pool.map(Host.up, found.values()))
            yield found
        finally:
            list(pool.map(Host.down, found.values()))
