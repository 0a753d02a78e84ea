# SPDX-License-Identifier: GPL-3.0-or-later
"""On the host: HEADERS (JSON) MESSAGE to Rspamd's normal worker; its answer as JSON."""

import http.client
import json
import sys

connection = http.client.HTTPConnection("127.0.0.1", 11333, timeout=120)
connection.request("POST", "/checkv2", sys.argv[2].encode(), {"Pass": "All", **json.loads(sys.argv[1])})
print(connection.getresponse().read().decode())
