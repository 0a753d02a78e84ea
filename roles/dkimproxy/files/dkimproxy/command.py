# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of dkimproxy.out."""

import os
import sys

from . import VERSION, config
from .errors import ConfigError
from .log import log

# sysexits.h, which systemd knows as "CONFIG".
EX_CONFIG = 78

_USAGE = """dkimproxy.out [--conf_file=FILE] [--KEY=VALUE ...] [LISTEN RELAY]
dkimproxy.out --check ...   say whether the configuration, keys and rights can be used, and start nothing
dkimproxy.out --keys ...    print domain, selector and key file of every signature that is made

"""


def main(arguments: list[str]) -> int:
    """Run with these arguments; returns the exit status."""
    options, words = config.read_arguments(arguments)
    if "help" in options:
        print(_USAGE + config.__doc__.partition("\n\n")[2])
        return 0
    if "version" in options:
        print(VERSION)
        return 0
    check, keys = options.pop("check", None), options.pop("keys", None)
    # A reload reads the file again after daemonize has changed the directory.
    options["conf_file"] = [os.path.abspath(path) for path in options.get("conf_file", ()) if path]
    try:
        loaded = config.load(options, words)
        # Both import what checking the file alone does not need.
        if check is not None or keys is not None:
            from .server import find_user
            from .session import Setup

            find_user(loaded)
            setup = Setup.load(loaded)
            if keys is not None:
                print("".join(f"{' '.join(key)}\n" for key in setup.signers.published()), end="")
                return 0
            for warning in setup.warnings():
                print(f"warning: {warning}", file=sys.stderr)
            print(f"configuration OK: {', '.join(loaded.domains) or 'by map'}")
            return 0
        from .server import Master

        Master(loaded, lambda: config.load(options, words)).run()
    except ConfigError as error:
        log("err", str(error))
        return EX_CONFIG
    return 0
