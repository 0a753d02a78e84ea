# SPDX-License-Identifier: GPL-3.0-or-later
"""Who writes as whom: one reader of addresses and one judge, for the submission filter and the signing proxy."""
