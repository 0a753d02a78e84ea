# SPDX-License-Identifier: GPL-3.0-or-later
"""What the mail domains need in DNS, and whether it is published."""
