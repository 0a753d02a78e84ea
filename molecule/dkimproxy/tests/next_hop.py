# SPDX-License-Identifier: GPL-3.0-or-later
"""The signing proxy's next hop: keeps each message in /root/next_hop/<number>.eml. Run on the host by the tests."""

import asyncio
import itertools
from pathlib import Path

from aiosmtpd.smtp import SMTP

FOLDER = Path("/root/next_hop")
numbers = itertools.count()


class Keep:
    """Takes every message, and refuses what is for refused@."""

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("refused@"):
            return "550 5.1.1 No such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        (FOLDER / f"{next(numbers)}.eml").write_bytes(envelope.original_content)
        return "250 2.0.0 kept"


async def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: SMTP(Keep(), data_size_limit=None, enable_SMTPUTF8=False), "127.0.0.1", 10028)
    await asyncio.Event().wait()


asyncio.run(main())
