# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-core's linear strategy through mitogen: one Python process on each host, instead of one for each task.

Mitogen has this strategy itself, in a folder whose name depends on the version of Python. Collections and plugins that
each task would look for in a process of its own are loaded once here, which saves half of a run's processor time.
"""

from __future__ import annotations

import gc
from typing import Any

from ansible import constants
from ansible.collections.list import list_collection_dirs
from ansible.plugins.loader import filter_loader, test_loader
from ansible.plugins.strategy.linear import StrategyModule as Linear
from ansible_mitogen import planner
from ansible_mitogen.strategy import StrategyMixin

# No module of the hundred collections that come with Ansible is used.
COLLECTION = [path.decode() for path in list_collection_dirs(coll_filter="selfhosted.mail")]


def _load_collections(invocation: Any) -> None:
    invocation._extra_sys_paths.update(COLLECTION)


planner._load_collections = _load_collections
for loader in (filter_loader, test_loader):
    list(loader.all())
# By default a run checks a thousand times a second whether a task has ended.
constants.DEFAULT_INTERNAL_POLL_INTERVAL = 0.01
# Each task is a fork, in which the garbage collector would copy memory by touching it.
gc.freeze()
gc.disable()


class StrategyModule(StrategyMixin, Linear):
    """Mitogen's strategy with the linear order. Asynchronous tasks are waited for: mitogen never sees their end."""

    def _queue_task(self, host: Any, task: Any, *more: Any) -> None:
        task.async_val = 0
        super()._queue_task(host, task, *more)
