# SPDX-License-Identifier: GPL-3.0-or-later
"""The role installs the whole program."""

import os

import yaml
from dkimproxy_helpers import FILES

ROLE = FILES.parents[4]


def test_every_module_is_installed():
    [render] = [
        task["selfhosted.mail.daemon_config"]
        for task in yaml.safe_load((ROLE / "tasks/configure.yml").read_text())
        if "selfhosted.mail.daemon_config" in task
    ]
    installed = {file["dest"] for file in render["files"]}
    ours = {f"/{path.relative_to(ROLE / 'files')}" for path in (FILES / "dkimproxy").glob("*.py")}
    assert ours == {path for path in installed if path.endswith(".py")}
    assert "/usr/local/sbin/dkimproxy.out" in installed
    assert os.access(ROLE / "files/usr/local/sbin/dkimproxy.out", os.X_OK)
