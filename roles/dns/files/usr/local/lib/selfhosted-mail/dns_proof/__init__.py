# SPDX-License-Identifier: GPL-3.0-or-later
"""DNS records of the mail domains, and checks whether they are published."""
