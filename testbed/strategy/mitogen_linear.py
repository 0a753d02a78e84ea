# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-core's linear strategy through mitogen: one Python process on each host, instead of one for each task.

Mitogen has this itself, in a folder whose name depends on the version of Python.
"""

from __future__ import annotations

from ansible.plugins.strategy.linear import StrategyModule as Linear
from ansible_mitogen.strategy import StrategyMixin


class StrategyModule(StrategyMixin, Linear):
    """The methods of both."""
