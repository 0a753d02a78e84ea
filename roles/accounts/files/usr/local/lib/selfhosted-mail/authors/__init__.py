# SPDX-License-Identifier: GPL-3.0-or-later
"""Address parser and check of From, shared by the submission filter, the signing proxy and sendmail."""
