# SPDX-License-Identifier: GPL-3.0-or-later
"""Hands messages to the queue until /root/feed_end is there, and writes down in /root/fed what the queue has taken.

/root/feed_ended says that it has ended well.
"""

import itertools
import smtplib
import time
import uuid
from pathlib import Path

END = Path("/root/feed_end")

with Path("/root/fed").open("a", buffering=1) as fed:
    for number in itertools.count():
        if END.exists() or number == 5000:
            break
        marker = uuid.uuid4().hex
        head = f"From: alice@our.test\r\nTo: carol@far.test\r\nSubject: fed {marker}\r\n"
        message = f"{head}Message-ID: <{marker}@our.test>\r\n\r\n{number}\r\n"
        # One session for each message: the queue accepts at most a hundred messages in one.
        with smtplib.SMTP("127.0.0.1", 2525, timeout=60) as session:
            session.sendmail("alice@our.test", "carol@far.test", message)
        fed.write(f"{marker}\n")
        time.sleep(0.03)

Path("/root/feed_ended").touch()
