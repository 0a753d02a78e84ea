# SPDX-License-Identifier: GPL-3.0-or-later
"""A DKIM signing SMTP proxy that reads DKIMproxy's configuration and never passes unsigned mail on.

Read in this order: `config` (the file), `session` (one SMTP connection), `message` (what came with DATA),
`policy` (who may write as whom), `signature` and `canonical` (RFC 6376), `server` (processes and signals).
"""

VERSION = "1.0"
