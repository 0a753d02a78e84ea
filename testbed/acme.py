# SPDX-License-Identifier: GPL-3.0-or-later
"""An ACME server (pebble, Let's Encrypt's test server) and a name server that accepts updates (knot), in one container.

python -m testbed.acme CONTAINER NAME HOST... starts pebble for these hosts and prints its root certificate.

knot notifies the test bed's own name server, which serves the updated zones.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from dataclasses import dataclass

from testbed import containers, dns, smtp
from testbed.containers import wait_for

AUTHORITY = "/etc/ssl/pebble.pem"
KEY_NAME, KEY_SECRET = "lego.", "bm90IGEgc2VjcmV0LCBhIHRlc3QncyBrZXkgYWxvbmU="
UPDATES = 5353  # port
YEARS = 5 * 365 * 86400  # seconds, pebble's own default

_KNOT = """
server:
    listen: 0.0.0.0@{port}
key:
  - id: {key}
    algorithm: hmac-sha256
    secret: {secret}
remote:
  - id: world
    address: {server}
acl:
  - id: lego
    key: {key}
    action: update
  - id: world
    address: {server}
    action: transfer
template:
  - id: default
    storage: /var/lib/knot
    notify: world
    acl: [lego, world]
zone:
{zones}
"""


@dataclass(frozen=True)
class Acme:
    """``name``: host name in the certificate of pebble's HTTPS."""

    container: str
    name: str

    @property
    def directory(self) -> str:
        return f"https://{self.name}:14000/dir"

    @property
    def authority(self) -> str:
        """Certificate of pebble's own HTTPS, PEM."""
        return containers.run(self.container, "cat", AUTHORITY)

    @property
    def root(self) -> str:
        """Root certificate of all chains, PEM; a new one after each start."""
        url = f"https://{containers.address(self.container)}:15000/roots/0"
        with urllib.request.urlopen(url, context=smtp.tls()) as answer:
            return str(answer.read().decode())

    @property
    def environment(self) -> dict[str, str]:
        """lego's environment variables for updates of the zones."""
        return {
            "RFC2136_NAMESERVER": f"{containers.address(self.container)}:{UPDATES}",
            "RFC2136_TSIG_KEY": KEY_NAME,
            "RFC2136_TSIG_SECRET": KEY_SECRET,
            "RFC2136_TSIG_ALGORITHM": "hmac-sha256.",
            "RFC2136_POLLING_INTERVAL": "1",
        }

    def sh(self, script: str) -> str:
        return containers.run(self.container, "sh", "-c", script)

    def start(self, *, lifetime: int = YEARS, refused_nonces: int = 0) -> None:
        """Restart pebble. ``lifetime``: of certificates, in seconds; ``refused_nonces``: in percent."""
        self.stop()
        config = {
            "listenAddress": "0.0.0.0:14000",
            "managementListenAddress": "0.0.0.0:15000",
            "certificate": AUTHORITY,
            "privateKey": "/etc/ssl/private/pebble.key",
            "httpPort": 80,
            "tlsPort": 443,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": False,
            "retryAfter": {"authz": 1, "order": 1},
            "certificateValidityPeriod": lifetime,
        }
        containers.write(self.container, "/etc/pebble.json", json.dumps({"pebble": config}))
        self.sh(
            f"test -e {AUTHORITY} || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 30 "
            f"-subj /CN={self.name} -addext subjectAltName=DNS:{self.name} -keyout /etc/ssl/private/pebble.key "
            f"-out {AUTHORITY} 2>/dev/null; systemctl reset-failed pebble 2>/dev/null; "
            f"systemd-run --quiet --unit=pebble --setenv=PEBBLE_VA_NOSLEEP=1 --setenv=PEBBLE_AUTHZREUSE=0 "
            f"--setenv=PEBBLE_WFE_NONCEREJECT={refused_nonces} "
            f"pebble -config /etc/pebble.json -dnsserver {dns.SERVER}:53"
        )
        for port in (14000, 15000):
            wait_for(lambda port=port: self.sh(f"ss -Hltn sport = :{port}"), what=f"pebble's port {port}")  # type: ignore[misc]

    def stop(self) -> None:
        self.sh("! systemctl is-active --quiet pebble || systemctl stop pebble")

    def take_updates(self, *zones: str) -> None:
        """Accept updates of these zones, which the test bed's name server transfers from here."""
        text = "@ 5 SOA ns.test. hostmaster.ns.test. 1 3600 600 86400 1\n@ 5 NS ns.test.\n"
        for zone in zones:
            containers.write(self.container, f"/var/lib/knot/{zone}.zone", f"$ORIGIN {zone}.\n{text}")
        listed = "\n".join(f"  - domain: {zone}" for zone in zones)
        values = {"port": UPDATES, "key": KEY_NAME, "secret": KEY_SECRET, "server": dns.SERVER, "zones": listed}
        containers.write(self.container, "/etc/knot/knot.conf", _KNOT.format(**values))
        self.sh("chown -R knot:knot /var/lib/knot; systemctl restart knot")
        for zone in zones:
            dns.secondary(zone)


def main(container: str, name: str, *hosts: str) -> None:
    acme = Acme(container, name)
    acme.start()
    for host in hosts:
        containers.write(host, AUTHORITY, acme.authority)
    print(acme.root, end="")


if __name__ == "__main__":
    main(*sys.argv[1:])
