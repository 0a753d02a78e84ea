# SPDX-License-Identifier: GPL-3.0-or-later
"""On the host: one SMTP session, passed to filter-rspamd in the protocol of smtpd-filters(7).

FILTER ADDRESS NAME SENDER MESSAGE, NAME being the reverse one of ADDRESS. Prints JSON: ``result`` of the commit phase
and ``message`` as it would be delivered.
"""

import json
import subprocess
import sys

path, address, name, sender, message = sys.argv[1:]
session, transaction, token = "7641df9771b4ed00", "d5f6ff37", "1ef1c203cc576e5d"
told = "0.7|1700000000.000000|smtp-in"

with subprocess.Popen(
    [path, "-url", "http://127.0.0.1:11333"],
    text=True,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
) as process:
    assert process.stdin and process.stdout

    def tell(*lines: str) -> None:
        for line in lines:
            print(line, file=process.stdin, flush=True)

    tell("config|smtpd-version|7.4.0", "config|ready")
    tell(
        *(
            f"report|{told}|{event}"
            for event in (
                f"link-connect|{session}|{name}|pass|{address}:33174|198.51.100.12:25",
                f"link-greeting|{session}|other.our.test",
                f"link-identify|{session}|EHLO|peer.world.test",
                f"tx-begin|{session}|{transaction}",
                f"tx-mail|{session}|{transaction}|ok|{sender}",
                f"tx-rcpt|{session}|{transaction}|ok|alice@our.test",
            )
        )
    )
    for line in message.splitlines():
        tell(f"filter|{told}|data-line|{session}|{token}|{'.' if line.startswith('.') else ''}{line}")
    tell(f"filter|{told}|data-line|{session}|{token}|.")

    start = f"filter-dataline|{session}|{token}|"
    lines = []
    for line in process.stdout:
        if line.startswith(start):
            text = line.removeprefix(start).removesuffix("\n")
            if text == ".":
                break
            lines.append(text.removeprefix("."))
    tell(f"filter|{told}|commit|{session}|{token}|")
    result = process.stdout.readline().removeprefix(f"filter-result|{session}|{token}|").strip()
    process.stdin.close()

print(json.dumps({"result": result, "message": "".join(f"{line}\n" for line in lines)}))
