# SPDX-License-Identifier: GPL-3.0-or-later
"""Temporary failures, and invalid configurations."""

from authors.rights import Refusal


class ConfigError(Exception):
    """The configuration is invalid; the text has one line per mistake, with file and line."""


class Deferred(Refusal):
    """A temporary failure on our side (4xx): the sender's queue keeps the message and retries."""

    def __init__(self, reason: str, text: str, status: str = "4.3.0", code: int = 451) -> None:
        super().__init__(reason, text, status, code)
