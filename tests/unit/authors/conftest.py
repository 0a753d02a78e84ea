# SPDX-License-Identifier: GPL-3.0-or-later
"""The judge's package can be imported."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "roles/accounts/files/usr/local/lib/selfhosted-mail"))
