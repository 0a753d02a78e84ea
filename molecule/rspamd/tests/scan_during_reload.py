# SPDX-License-Identifier: GPL-3.0-or-later
"""On the host: messages to Rspamd, one after the other, while it reloads; prints the status of each answer."""

import http.client
import subprocess
import time

end, count = None, 0
while end is None or time.monotonic() < end or count < 20:
    count += 1
    connection = http.client.HTTPConnection("127.0.0.1", 11333, timeout=120)
    connection.request("POST", "/checkv2", b"Subject: reload\n\nreload\n")
    print(connection.getresponse().status, flush=True)
    if end is None:
        subprocess.run(["systemctl", "reload", "rspamd"], check=True)
        end = time.monotonic() + 5
    time.sleep(0.05)
