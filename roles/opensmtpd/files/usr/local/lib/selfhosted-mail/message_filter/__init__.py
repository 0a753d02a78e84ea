# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of filter-message: `protocol` hears and answers for each `session`, whose `content` passes line by line.

`writers` knows who may write as whom. `header`, `memory`, `peers`, `recipients`, `replies` and `turns` know no session.
"""
