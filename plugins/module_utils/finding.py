# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The result of a check, in the format of ``mail-status --json``."""

from __future__ import annotations

from typing import Any

Finding = dict[str, Any]


def finding(check: str, subject: str, status: str, text: str, fix: str = "", required: bool = True) -> Finding:
    """``status``: ok, warning, error or unknown; ``fix``: text to paste; ``required``: whether mail depends on it."""
    shown = {"check": check, "subject": subject, "status": status, "required": required}
    return {**shown, "text": text, "fix": fix}
