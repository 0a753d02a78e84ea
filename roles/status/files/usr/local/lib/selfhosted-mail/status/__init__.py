# SPDX-License-Identifier: GPL-3.0-or-later
"""What works on this mail server and what does not, asked as its clients ask."""
