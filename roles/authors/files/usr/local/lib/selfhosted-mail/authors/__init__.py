# SPDX-License-Identifier: GPL-3.0-or-later
"""Who writes as whom: the one reader of addresses and the one judge, for the submission filter and the signing proxy."""
