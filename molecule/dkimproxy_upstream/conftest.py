# SPDX-License-Identifier: GPL-3.0-or-later
from testbed.signer import next_hop

__all__ = ["next_hop"]
