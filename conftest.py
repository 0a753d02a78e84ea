# SPDX-License-Identifier: GPL-3.0-or-later
"""For all tests, molecule's too."""

pytest_plugins = ["testbed.pytest_plugin"]
