# SPDX-License-Identifier: GPL-3.0-or-later
"""Failures with an SMTP reply, and invalid configurations."""


class ConfigError(Exception):
    """The configuration is invalid; the text has one line per mistake, with file and line."""


class Rejected(Exception):
    """A message that is not passed on.

    `code` is the SMTP reply code (RFC 5321 §4.2), `status` the enhanced code (RFC 3463), `text` is for the mail
    user, `reason` is one word for the log.
    """

    def __init__(self, code: int, status: str, reason: str, text: str) -> None:
        super().__init__(text)
        self.code, self.status, self.reason, self.text = code, status, reason, text

    def reply(self) -> bytes:
        """The reply line, printable ASCII, without line ends, at most 500 octets (RFC 5321 §4.5.3.1.5)."""
        text = "".join(c if " " <= c <= "~" else "?" for c in self.text)
        return f"{self.code} {self.status} {text}".encode()[:500]


class Refused(Rejected):
    """A permanent refusal (5xx): the same message will be refused again."""

    def __init__(self, reason: str, text: str, status: str = "5.7.1", code: int = 550) -> None:
        super().__init__(code, status, reason, text)


class Deferred(Rejected):
    """A temporary failure on our side (4xx): the sender's queue keeps the message and retries."""

    def __init__(self, reason: str, text: str, status: str = "4.3.0", code: int = 451) -> None:
        super().__init__(code, status, reason, text)
