# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates: ACME orders, renewals, the administrator's files; and the served certificate of each port.

Each test begins where the one before it has ended, and the last one has all as it was.
"""

from __future__ import annotations

import json
import os
import re
import smtplib
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.selfhosted.mail.plugins.plugin_utils import outside

from testbed import containers, dns, smtp, units
from testbed.containers import wait_for
from testbed.playbook import PLAIN, Run, run_site
from testbed.servers import ACME, SERVERS, STRANGER, Server, both, on_both, unwatched

pytestmark = pytest.mark.disruptive

PORTS = (25, 465, 587, 993, 4190)
SERVED_WITHIN = 60  # seconds
SHORT = 40  # seconds
PROGRAM = "/usr/local/lib/selfhosted-mail/certificate"
SERVICE = "selfhosted-mail-certificate.service"
CERTIFICATE = "selfhosted-mail-certificate"
LEGO = "selfhosted-mail-lego.service"
LEGO_STATE = "/var/lib/private/selfhosted-mail-lego"
ORDERED_FROM = "/var/lib/selfhosted-mail/certificate/directory"
AUTHORITY = "/etc/ssl/pebble.pem"
OWN, OWN_KEY = "/etc/ssl/own.pem", "/etc/ssl/private/own.key"
BY_ACME = {"mail_tls_mode": "acme", "mail_acme_directory": ACME.directory, "mail_acme_ca_file": AUTHORITY}
BY_DNS = {**BY_ACME, "mail_acme_dns_provider": "rfc2136", "mail_acme_dns_environment": ACME.environment}
FILES = {"mail_tls_mode": "files", "mail_tls_certificate_file": OWN, "mail_tls_private_key_file": OWN_KEY}


@dataclass(frozen=True)
class Certificate:
    serial: str
    issuer: str
    key: str

    @classmethod
    def of(cls, certificate: bytes) -> Certificate:
        """``certificate``: DER."""
        words = ["openssl", "x509", "-inform", "DER", "-noout", "-serial", "-issuer", "-nameopt", "RFC2253", "-pubkey"]
        said = subprocess.run(words, input=certificate, capture_output=True, check=True).stdout.decode()
        serial, issuer, key = re.fullmatch(r"serial=(.*)\nissuer=(.*)\n(?s:(.*))", said).groups()  # type: ignore[union-attr]
        return cls(serial, issuer, key)


def served(server: Server) -> set[Certificate]:
    """The certificates of all ports, seen from outside; empty while one of them does not answer."""
    host = outside.Server(server.hostname, server.ip, "acme", patience=30)
    try:
        with ThreadPoolExecutor() as pool:
            seen = list(pool.map(lambda port: host.talk(port, outside.anybody()).certificate, PORTS))
    except (outside.Failed, OSError):
        return set()
    return set(map(Certificate.of, seen))


def on_disk(server: Server) -> Certificate:
    return Certificate.of(
        ssl.PEM_cert_to_DER_cert(server.run("openssl", "x509", "-in", "/etc/selfhosted-mail/tls/fullchain.pem"))
    )


def wait_served(server: Server, before: Certificate | None = None, timeout: float = SERVED_WITHIN) -> Certificate:
    """The one on disk, another one than ``before``, is served on all ports."""
    wait_for(
        lambda: (now := on_disk(server)) != before and served(server) == {now},
        timeout,
        f"{server.container} serves another certificate on all ports",
    )
    return on_disk(server)


def is_acmes(certificate: Certificate) -> bool:
    return "Pebble" in certificate.issuer


def certificate_run(variables: dict[str, object], *options: str, environment: Mapping[str, str] | None = None) -> Run:
    return run_site("--tags", "certificate", *options, variables=variables, environment=environment)


def findings(server: Server, subject: str) -> list[tuple[str, str]]:
    """Status and text of what mail-status finds of the certificate."""
    said = json.loads(server.sh("mail-status --json || true"))
    return [(one["status"], one["text"]) for one in said if (one["check"], one["subject"]) == ("certificate", subject)]


def starts(server: Server, since: float) -> int:
    """How often OpenSMTPD was started."""
    server.run("journalctl", "--sync")
    lines = server.run("journalctl", "--no-pager", f"--since=@{since:.6f}", "-o", "cat", "-u", "opensmtpd", "_PID=1")
    return lines.count("Started opensmtpd.service")


def problems(server: Server) -> str:
    """Why nothing could be ordered."""
    report = json.loads(server.run(PROGRAM, "--renew"))
    assert report["done"] == []
    return "\n".join(report["problems"])


def new_acme(**options: int) -> None:
    """An ACME server without accounts, so that earlier accounts are useless."""
    on_both(lambda server: server.sh(f"systemctl stop {LEGO}; rm -rf {LEGO_STATE}"))
    ACME.start(**options)


@pytest.fixture(scope="module", autouse=True)
def world() -> Iterator[None]:
    """The hosts trust the ACME server's HTTPS. All have their self-signed certificates again at the end."""
    ACME.start()
    ACME.stop()
    ACME.take_updates(*(f"_acme-challenge.{server.hostname}" for server in SERVERS))
    for server in SERVERS:
        containers.write(server.container, AUTHORITY, ACME.authority)
    yield
    ACME.stop()
    if any('"selfsigned"' not in server.run("cat", "/etc/selfhosted-mail/certificate.json") for server in SERVERS):
        run_site("--tags", "certificate")
    on_both(lambda server: server.sh(f"rm -rf {LEGO_STATE} /etc/selfhosted-mail/tls/*.acme.pem {ORDERED_FROM}"))


@contextmanager
def published(server: Server, records: str) -> Iterator[None]:
    """Publish only these records below the server's domain."""
    file = Path(f"{os.environ['MOLECULE_EPHEMERAL_DIRECTORY']}/dns/{server.domain}.zone")
    dns.publish(server.domain, records)
    try:
        yield
    finally:
        dns.publish(server.domain, file.read_text())


def test_a_server_that_is_away_is_tried_again() -> None:
    """The run succeeds with self-signed certificates; the timer orders others, although nonces are refused."""
    before = {server: on_disk(server) for server in SERVERS}
    done = certificate_run({**BY_ACME, "certificate_interval": 1})
    for server in SERVERS:
        assert f"{server.hostname}: the ACME server {ACME.directory} does not answer" in done.output
        assert served(server) == {before[server]}
        assert findings(server, "renewal")[0][0] == "warning"
        # The file is another one: its place was taken for ACME's.
        assert on_disk(server) == before[server]
    ACME.start(lifetime=SHORT, refused_nonces=30)

    def issued(server: Server) -> None:
        assert is_acmes(wait_served(server, before[server], 120))
        # It is served before the program has said so.
        wait_for(lambda: findings(server, "renewal") == [], what="no finding")
        assert units.exposure(server.container, LEGO) <= units.figures()["selfhosted-mail-lego"]

    on_both(issued)


@both
def test_what_is_about_to_expire_is_renewed_with_the_same_key(server: Server) -> None:
    held = on_disk(server)
    new = wait_served(server, held, SHORT + SERVED_WITHIN)
    assert is_acmes(new)
    assert new.key == held.key


def test_a_renewal_that_fails_is_an_alarm() -> None:
    """When a sixth of the lifetime is left, with the reason."""
    # Nothing has been told within the last hour.
    on_both(lambda server: server.run("rm", "-f", "/run/selfhosted-mail-status/state.json"))
    ACME.stop()
    begun = time.time()

    def told(server: Server) -> None:
        alarm = r"selfhosted-mail alarm certificate/file: .*does not answer"
        journal = ["journalctl", "--no-pager", "-t", "mail-status", f"--since=@{begun:.0f}", "-o", "cat"]
        wait_for(lambda: re.search(alarm, server.run(*journal)), what="the alarm")
        assert [status for status, _text in findings(server, "file")] == ["error"]

    on_both(told)
    held = {server: on_disk(server) for server in SERVERS}
    new_acme()

    def mended(server: Server) -> None:
        assert is_acmes(wait_served(server, held[server], 120))
        assert [status for status, _text in findings(server, "file")] == ["ok"]

    on_both(mended)


@both
def test_a_forced_renewal_ends_no_message(server: Server) -> None:
    """Served on all ports within a minute, by one restart, which waits for the end of DATA."""
    with unwatched(server):
        renew(server)


def renew(server: Server) -> None:
    held, begun = on_disk(server), time.time()
    message = smtp.compose(STRANGER, [server.alice.address])
    with smtplib.SMTP(server.ip, 25, timeout=SERVED_WITHIN, local_hostname=smtp.PEER) as session:
        session.ehlo()
        assert session.mail(STRANGER)[0] == 250
        assert session.rcpt(server.alice.address)[0] == 250
        assert session.docmd("DATA")[0] == 354
        session.send(smtp.wire(message)[:50])
        with ThreadPoolExecutor() as pool:
            renewed = pool.submit(server.run, PROGRAM, "--renew")
            wait_for(lambda: server.sh("ls /run/selfhosted-mail") and "paused" in server.sh("ls /run/selfhosted-mail"))
            session.send(smtp.wire(message)[50:] + b"\r\n.\r\n")
            assert session.getreply()[0] == 250
            session.quit()
            assert json.loads(renewed.result())["problems"] == []
    new = wait_served(server, held, SERVED_WITHIN - (time.time() - begun))
    assert new.key == held.key
    assert starts(server, begun) == 1
    server.mailbox(server.alice, str(message["Message-ID"]))


def test_what_is_in_the_way_is_said_before_the_server_is_asked() -> None:
    asked = ACME.sh("journalctl -u pebble | grep -c order-plz")

    def refused(server: Server) -> None:
        own = f"mail A {server.ip}\n"
        with published(server, "www A 198.51.100.1\n"):
            assert f"{server.hostname} has no address in DNS" in problems(server)
        with published(server, "mail A 198.51.100.1\n"):
            text = f"{server.hostname} resolves to 198.51.100.1, which is not an address of this host"
            assert text in problems(server)
        with published(server, own + "mail AAAA 2001:db8::25\n"):
            text = f"{server.hostname} resolves to 2001:db8::25, which is not an address of this host"
            assert text in problems(server)
        with published(server, own + '@ CAA 0 issue ";"\n'):
            assert f"CAA record of {server.domain} does not allow any authority to issue by http-01" in problems(server)

    on_both(refused)
    assert ACME.sh("journalctl -u pebble | grep -c order-plz") == asked


def forget_the_server(server: Server) -> None:
    """Makes the certificate look foreign; nothing orders another one before the next run."""
    server.sh(f"systemctl stop {CERTIFICATE}.timer {CERTIFICATE}.service {LEGO}; rm -f {ORDERED_FROM}")


@contextmanager
def port_80_is_in_the_way() -> Iterator[None]:
    """Port 80 is refused by the first firewall, and used by a program on the second. Both need a certificate."""
    first, second = (server.container for server in SERVERS)
    on_both(forget_the_server)
    nft = ["python3", "-c", "import nftables, sys; sys.exit(nftables.Nftables().cmd(sys.argv[1])[0])"]
    chain = "type filter hook input priority 0; tcp dport 80 reject with tcp reset;"
    containers.run(first, *nft, f"table inet port80 {{ chain in {{ {chain} }}; }}")
    containers.run(second, "systemd-run", "--quiet", "--unit=web", "python3", "-m", "http.server", "80")
    try:
        containers.wait_for(lambda: ":80 " in containers.run(second, "ss", "-Hltn"), what="the other program")
        yield
    finally:
        containers.run(first, *nft, "delete table inet port80")
        containers.run(second, "systemctl", "stop", "web")
        on_both(lambda server: server.run("systemctl", "start", f"{CERTIFICATE}.timer"))


def test_port_80_is_asked_from_the_controller() -> None:
    with port_80_is_in_the_way():
        done = certificate_run(BY_ACME)
    first, second = SERVERS
    assert re.search(rf"port 80 of {first.hostname} at {first.ip} cannot be reached from here: .*refused", done.output)
    assert f"port 80 of {second.hostname} at {second.ip} is answered by something else: 404" in done.output


def test_dns_challenge() -> None:
    """No output, and no file that others can read, has the DNS provider's secrets. Port 80 is not needed."""
    held = {server: on_disk(server) for server in SERVERS}
    with port_80_is_in_the_way():
        done = certificate_run(BY_DNS, "--diff", "-vvv", environment=PLAIN)
        assert ACME.environment["RFC2136_TSIG_SECRET"] not in done.output

        def renewed(server: Server) -> None:
            new = wait_served(server, held[server])
            assert is_acmes(new) and new.key == held[server].key
            assert "use dns-01 solver" in server.run("journalctl", "--no-pager", "-o", "cat", "-u", LEGO)
            assert server.sh("stat -c %U:%a /etc/selfhosted-mail/lego.env") == "root:600"

        on_both(renewed)
    certificate_run(BY_DNS).check_unchanged()


def own_pair(server: Server, folder: str = "/etc/ssl/new") -> Certificate:
    """A new pair of the administrator's, not in place yet."""
    server.sh(
        f"mkdir -p {folder}; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj /CN=own "
        f"-keyout {folder}/own.key -out {folder}/own.pem 2>/dev/null"
    )
    return Certificate.of(ssl.PEM_cert_to_DER_cert(server.sh(f"openssl x509 -in {folder}/own.pem")))


def settled(server: Server) -> None:
    """Wait until the program has ended: systemd does not watch the files while it runs."""
    # It has failed where a test has stopped it.
    states = ("inactive", "failed")
    wait_for(lambda: server.sh(f"systemctl is-active {SERVICE} || true") in states, what="the program has ended")


def test_files_that_change_are_served() -> None:
    """No hook is needed if the files are renamed, overwritten or linked one after the other."""
    for server in SERVERS:
        own_pair(server)
        server.sh(f"mv /etc/ssl/new/own.pem {OWN}; mv /etc/ssl/new/own.key {OWN_KEY}")
    certificate_run(FILES)
    ways = [
        f"mv /etc/ssl/new/own.pem {OWN}; sleep 3; mv /etc/ssl/new/own.key {OWN_KEY}",
        f"cat /etc/ssl/new/own.key > {OWN_KEY}; cat /etc/ssl/new/own.pem > {OWN}",
        # As certbot does it.
        f"cp -rT /etc/ssl/new /etc/ssl/one; ln -sf /etc/ssl/one/own.key {OWN_KEY}; ln -sf /etc/ssl/one/own.pem {OWN}",
        f"cp -rT /etc/ssl/new /etc/ssl/two; ln -sf /etc/ssl/two/own.key {OWN_KEY}; ln -sf /etc/ssl/two/own.pem {OWN}",
    ]

    def changed(server: Server) -> None:
        assert wait_served(server).issuer == "CN=own"
        for way in ways:
            new = own_pair(server)
            settled(server)
            server.sh(way)
            wait_for(lambda new=new: served(server) == {new}, SERVED_WITHIN, f"{server.container}: {way}")
        # A pair that does not match is not served.
        own_pair(server)
        settled(server)
        begun = time.time()
        server.sh(f"cat /etc/ssl/new/own.key > {OWN_KEY}")
        wait_for(lambda: "is not the key of the certificate" in str(findings(server, "renewal")), what="the finding")
        assert served(server) == {new}
        assert starts(server, begun) == 0
        new = own_pair(server)
        settled(server)
        server.sh(f"cat /etc/ssl/new/own.key > {OWN_KEY}; cat /etc/ssl/new/own.pem > {OWN}")
        wait_for(lambda: served(server) == {new}, SERVED_WITHIN, f"{server.container} serves a pair again")
        wait_for(lambda: findings(server, "renewal") == [], what="no finding")

    on_both(changed)


def test_back_to_self_signed() -> None:
    certificate_run({})
    for server in SERVERS:
        assert wait_served(server).issuer == f"CN={server.hostname}"
        assert findings(server, "renewal") == []
