# SPDX-License-Identifier: GPL-3.0-or-later
"""A DKIM signing SMTP proxy that reads DKIMproxy's configuration and never passes on unsigned mail.

Read in this order: `command` (how it starts), `server` and `worker` (processes and signals), `session` (one SMTP
connection) over `connection` (both its sides), `message` (what came with DATA), `policy` (who may write as whom),
`signers` (which signatures), `signature` (RFC 6376).
"""

VERSION = "1.0"
