# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of this mail server, as its clients use it."""
