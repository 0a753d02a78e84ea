# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of all tests, including those of molecule."""

import pytest

# Failed assertions in this package show their values, too.
pytest.register_assert_rewrite("testbed")
pytest_plugins = ["testbed.pytest_plugin"]
