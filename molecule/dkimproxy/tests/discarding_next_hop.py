# SPDX-License-Identifier: GPL-3.0-or-later
"""A next hop for large messages, which accepts all and keeps none. Run on the host by the tests."""

import asyncio


async def serve(reader, writer):
    writer.write(b"220 sink ESMTP\r\n")
    while line := await reader.readline():
        verb = line[:4].upper().strip()
        if verb == b"EHLO":
            writer.write(b"250-sink\r\n250-SIZE 100000000\r\n250 8BITMIME\r\n")
        elif verb == b"DATA":
            writer.write(b"354 Go\r\n")
            end = b""
            while not end.endswith(b"\r\n.\r\n"):
                data = await reader.read(1 << 16)
                if not data:
                    return
                end = (end + data)[-5:]
            writer.write(b"250 2.0.0 1a2b3c4d Message accepted for delivery\r\n")
        elif verb == b"QUIT":
            break
        else:
            writer.write(b"250 2.0.0 Ok\r\n")
    writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 10028)
    await server.serve_forever()


asyncio.run(main())
