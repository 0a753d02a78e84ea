# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of dkimproxy.out."""

import os
import sys

from . import VERSION, config
from .errors import ConfigError
from .policy import Setup
from .server import Master
from .systemd import log

_USAGE = """dkimproxy.out [--conf_file=FILE] [--KEY=VALUE ...] [LISTEN RELAY]
dkimproxy.out --check ...   check the configuration, keys and rights, and start nothing
dkimproxy.out --keys ...    print domain, selector and key file of every signature that is made

"""


def main(arguments: list[str]) -> int:
    """Run with these arguments; returns the exit status: EX_OK, EX_CONFIG or EX_OSERR of sysexits.h."""
    options, words = config.read_arguments(arguments)
    if "help" in options:
        print(_USAGE + config.__doc__.partition("\n\n")[2])
        return os.EX_OK
    if "version" in options:
        print(VERSION)
        return os.EX_OK
    check, keys = "check" in options, "keys" in options
    try:
        loaded = config.load(options, words)
        if not check and not keys:
            Master(loaded, lambda: config.load(options, words)).run()
            return os.EX_OK
        setup = Setup.load(loaded)
    except ConfigError as error:
        log("err", str(error))
        return os.EX_CONFIG
    except OSError as error:
        # The system has no free process or socket.
        log("err", str(error))
        return os.EX_OSERR
    if keys:
        print("".join(f"{' '.join(key)}\n" for key in setup.signers.published()), end="")
        return os.EX_OK
    for warning in setup.warnings():
        print(f"warning: {warning}", file=sys.stderr)
    print(f"configuration OK: {', '.join(loaded.domains) or 'by map'}")
    return os.EX_OK
