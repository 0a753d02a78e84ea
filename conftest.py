# SPDX-License-Identifier: GPL-3.0-or-later
"""For all tests, molecule's too."""

import pytest

# Its failed assertions show their values, too.
pytest.register_assert_rewrite("testbed")
pytest_plugins = ["testbed.pytest_plugin"]
