# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules of filter-message: `protocol` reads and answers events of each `session`, `content` checks its messages.

`writers` checks who may write as whom. `header`, `memory`, `peers`, `recipients`, `replies` and `turns` use no session.
"""
