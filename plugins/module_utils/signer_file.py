# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong in a dkimproxy_out.conf on the controller, in the words of the signer that will read it on the host."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

_SIGNER = Path(__file__).resolve().parents[2] / "roles" / "dkimproxy" / "files"


def problems(wanted: str, path: str, legacy: str) -> list[str]:
    """Sentences that name the variable; none where ``wanted``, what the user wrote, is empty.

    :param path: the file that was found for it, empty where none was.
    :param legacy: ``error`` or ``ignore``.
    """
    if not wanted:
        return []
    name = "dkimproxy_config_file"
    if not path:
        return [f"{name}: {wanted!r} is no file on the controller"]
    try:
        Path(path).read_text(encoding="utf-8")
    except OSError as error:
        return [f"{name}: {path}: {error.strerror}"]
    except UnicodeDecodeError:
        return [f"{name}: {path} is no UTF-8 text"]
    if str(_SIGNER) not in sys.path:
        sys.path.append(str(_SIGNER))
    config = importlib.import_module("dkimproxy.config")
    return [f"{name}: {mistake}" for mistake in config.syntax_mistakes(path, legacy)]
