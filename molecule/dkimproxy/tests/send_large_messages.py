# SPDX-License-Identifier: GPL-3.0-or-later
"""`send_large_messages.py COUNT BYTES`: so many messages of that size at once; prints each reply.

Run on the host by the tests.
"""

import socket
import sys
import threading

COUNT, SIZE = int(sys.argv[1]), int(sys.argv[2])
BLOCK = (b"x" * 76 + b"\r\n") * 1000
COMMANDS = (b"EHLO flood", b"MAIL FROM:<alice@our.test>", b"RCPT TO:<carol@far.test>", b"DATA")


def reply(file) -> str:
    while (line := file.readline())[3:4] == b"-":
        pass
    return line.decode().strip()


def one(replies: list[str]) -> None:
    with socket.create_connection(("127.0.0.1", 10027), 400) as sock, sock.makefile("rb") as file:
        reply(file)
        for command in COMMANDS:
            sock.sendall(command + b"\r\n")
            reply(file)
        sock.sendall(b"From: alice@our.test\r\nSubject: large\r\n\r\n")
        for _ in range(SIZE // len(BLOCK)):
            sock.sendall(BLOCK)
        sock.sendall(b".\r\n")
        replies.append(reply(file))


answers: list[str] = []
threads = [threading.Thread(target=one, args=(answers,)) for _ in range(COUNT)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("\n".join(answers))
