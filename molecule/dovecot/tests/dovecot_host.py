# SPDX-License-Identifier: GPL-3.0-or-later
"""A host with the role dovecot alone: its accounts and its LMTP socket."""

from __future__ import annotations

import json

from testbed import containers

# Login and password, as in converge.yml.
ALICE = ("alice@example.org", "correct horse")
BOB = ("bob@example.net", 'bättery "staple" : #1')
CAROL = ("carol@example.org", "first")
# Has a quota of 1 MB, the others 100 MB; aliases david@ and davids@.
DAVE = ("dave@example.org", "fourth")
# Has a Sieve script from the administrator.
ERIN = ("erin@example.org", "fifth")
ODD = ("o'b_r=i~e-n.9@example.org", "sixth")

_LMTP_CLIENT = r"""
import json, smtplib, sys
recipients, message = json.loads(sys.argv[1]), sys.stdin.buffer.read()
client = smtplib.LMTP("/run/dovecot/lmtp")
client.ehlo()
client.mail("sender@world.test")
replies = {name: client.rcpt(name) for name in recipients}
taken = [name for name, reply in replies.items() if reply[0] == 250]
if taken:
    client.putcmd("DATA")
    client.getreply()
    client.send(message + b".\r\n")
    for name in taken:
        replies[name] = client.getreply()
print(json.dumps({name: [code, text.decode()] for name, (code, text) in replies.items()}))
"""


def lmtp(container: str, message: bytes, *recipients: str, user: str = "vmail") -> dict[str, tuple[int, str]]:
    """Submit a message (CRLF line endings, no dot lines) as the system user `user`.

    Code and text by recipient: of RCPT where that refused, else of the message (RFC 2033 §4.2). AssertionError with the
    client's traceback when the socket cannot be reached.
    """
    answer = containers.docker(
        "exec",
        "--interactive",
        "--user",
        user,
        container,
        "python3",
        "-c",
        _LMTP_CLIENT,
        json.dumps(recipients),
        data=message,
    )
    return {name: (code, text) for name, (code, text) in json.loads(answer).items()}
