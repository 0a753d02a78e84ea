# SPDX-License-Identifier: GPL-3.0-or-later
"""Adding, changing and removing accounts while others are logged in; send-as rights; delivery."""

from __future__ import annotations

import imaplib
import re
import smtplib
import uuid
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import pytest

from testbed import imap, smtp
from testbed.playbook import run_site
from testbed.servers import FRIEND, SERVERS, STRANGER, Login, Server, both, check_relayed, on_both
from testbed.signatures import author_domain, fields

pytestmark = pytest.mark.disruptive

PASSWORD = "correct horse battery staple"
SCHEMES = ["$2a$", "$2b$", "$2y$", "$5$", "$6$", "$y$", "$gy$", "$7$"]
HASH = "$6$wonderland$1asxSCdvXeUluRiLIqS67ZKu5aCraQTK5M7UUrNO6YL5BqCZLEI7JdZ6GAvAtprywLm/xQrzSq1tEgo7KkRGm0"

# crypt(3) of a server: a hash of the first argument for each scheme in the others, scrypt at its lowest cost.
CRYPT = r"""
import ctypes, os, sys
library = ctypes.CDLL("libcrypt.so.1")
library.crypt.restype = library.crypt_gensalt.restype = ctypes.c_char_p
for scheme in sys.argv[2:]:
    cost = 6 if scheme == "$7$" else 0
    setting = library.crypt_gensalt(scheme.encode(), cost, os.urandom(16), 16)
    print(library.crypt(sys.argv[1].encode(), setting).decode())
"""


def variables(hashes: list[str], without: str = "") -> dict[str, object]:
    """Extra variables for both servers, which include all accounts of the inventory."""
    accounts: list[dict[str, object]] = [
        {"address": "Alice@{{ mail_domain }}", "password_hash": HASH, "aliases": ["a.liddell@{{ mail_domain }}"]},
        {"address": "bob@{{ mail_domain }}", "password_hash": HASH, "send_as": ["news@{{ mail_domain }}"]},
        {"address": "leaver@{{ mail_domain }}", "password_hash": HASH},
        {"address": "shop@{{ mail_domain }}", "password_hash": HASH, "send_only": True},
        {"address": "closed@{{ mail_domain }}", "password_hash": HASH, "enabled": False},
        *(
            {"address": f"scheme{number}@{{{{ mail_domain }}}}", "password_hash": hashed}
            for number, hashed in enumerate(hashes)
        ),
    ]
    aliases = {
        "Sales@": ["bob@"],
        "nested@": ["SALES@"],
        "team@": ["alice@", "closed@"],
        "@": ["bob@"],
    }
    return {
        "mail_accounts": [account for account in accounts if not str(account["address"]).startswith(f"{without}@")],
        "mail_aliases": "{{ dict(names | zip(targets)) | combine({'out@' ~ mail_domain: ['friend@far.test']}) }}",
        "names": [f"{name}{{{{ mail_domain }}}}" for name in aliases],
        "targets": [[f"{target}{{{{ mail_domain }}}}" for target in targets] for targets in aliases.values()],
        "mail_domain_aliases": "{{ {additional_domain: mail_domain} }}",
    }


@pytest.fixture(scope="module")
def hashes() -> list[str]:
    return SERVERS[0].python(CRYPT, PASSWORD, *SCHEMES).splitlines()


def processes(server: Server) -> list[str]:
    return server.run("systemctl", "show", "-p", "MainPID", "opensmtpd", "dovecot", "dkimproxy").split()


@pytest.fixture(scope="module", autouse=True)
def accounts(hashes: list[str]) -> Generator[str]:
    """Sets the accounts above while an IMAP and an SMTP session stay open; output of the run."""
    boxes = {server: imap.session(server.ip, server.bob.address, server.bob.password) for server in SERVERS}
    clients = {
        server: smtp.login(server.ip, 587, server.bob.address, server.bob.password, smtp.tls()) for server in SERVERS
    }
    before = {server: processes(server) for server in SERVERS}
    done = run_site("--tags", "accounts", variables=variables(hashes))
    for server in SERVERS:
        assert boxes[server].noop()[0] == "OK"
        assert clients[server].noop()[0] == 250
        assert processes(server) == before[server]
    yield done.output
    run_site("--tags", "accounts")


def login(server: Server, name: str) -> Login:
    return Login(f"{name}@{server.domain}", PASSWORD)


def refused_at_rcpt(server: Server, recipient: str) -> bool:
    try:
        server.receive(recipient)
    except smtplib.SMTPRecipientsRefused as refused:
        return all(code == 550 for code, _words in refused.recipients.values())
    return False


@both
def test_every_scheme_at_both_doors(server: Server) -> None:
    addresses = [f"scheme{number}@{server.domain}" for number in range(len(SCHEMES))]
    for address in addresses:
        with imap.session(server.ip, address.upper(), PASSWORD), smtp.login(server.ip, 465, address, PASSWORD):
            pass
        with pytest.raises(smtplib.SMTPAuthenticationError):
            smtp.login(server.ip, 465, address, f"not {PASSWORD}")

    def refused(address: str) -> None:
        with pytest.raises(imaplib.IMAP4.error):
            imap.session(server.ip, address, f"not {PASSWORD}")

    # All at once: Dovecot answers each of them seconds later.
    with ThreadPoolExecutor(len(addresses)) as pool:
        list(pool.map(refused, addresses))


@pytest.mark.parametrize(
    ("local", "reader"),
    [
        ("ALICE+Tag", "alice"), ("A.Liddell", "alice"), ("sales", "bob"), ("nested", "bob"), ("team", "alice"),
        ("whoever", "bob"), ("leaver", "leaver"),
    ],
)  # fmt: skip
@both
def test_mail_finds_its_reader(server: Server, local: str, reader: str) -> None:
    """Aliases, nested ones, a list with a closed member and the catch-all, also in the alias domain."""
    for domain in (server.domain, server.additional_domain.upper()):
        message = server.receive(f"{local}@{domain}")
        server.mailbox(login(server, reader), str(message["Message-ID"]))


@pytest.mark.parametrize("local", ["closed", "closed+x", "shop", "Shop"])
@both
def test_who_takes_no_mail_is_refused_in_spite_of_the_catch_all(server: Server, local: str) -> None:
    assert refused_at_rcpt(server, f"{local}@{server.domain}")
    assert refused_at_rcpt(server, f"{local}@{server.additional_domain}")


@pytest.mark.parametrize("local", ["bob+tag", "NEWS", "news+tag", "sales", "nested", "bob"])
@both
def test_send_as(server: Server, local: str) -> None:
    for domain in (server.domain, server.additional_domain):
        sender = f"{local}@{domain}"
        kept = server.relayed(server.submit(login=login(server, "bob"), sender=sender))
        assert kept.sender.lower() == sender.lower()
        check_relayed(server, kept)


@pytest.mark.parametrize("local", ["alice", "team", "shop", "whoever", "leaver+bob", "postmaster"])
@both
def test_send_as_somebody_else_is_refused(server: Server, local: str) -> None:
    for domain in (server.domain, server.additional_domain):
        with pytest.raises(smtplib.SMTPSenderRefused) as refused:
            server.submit(login=login(server, "bob"), sender=f"{local}@{domain}")
        assert 500 <= refused.value.smtp_code < 600


@both
def test_who_only_sends(server: Server) -> None:
    shop = login(server, "shop")
    check_relayed(server, server.relayed(server.submit(login=shop)))
    with pytest.raises(imaplib.IMAP4.error):
        imap.session(server.ip, shop.address, shop.password)


@both
def test_who_is_not_enabled_has_no_login(server: Server) -> None:
    closed = login(server, "closed")
    with pytest.raises(imaplib.IMAP4.error):
        imap.session(server.ip, closed.address, closed.password)
    with pytest.raises(smtplib.SMTPAuthenticationError):
        smtp.login(server.ip, 587, closed.address, closed.password)


def test_the_run_names_what_leads_outside(accounts: str) -> None:
    for server in SERVERS:
        assert f"out@{server.domain} -> {FRIEND}" in accounts
    assert "through the relay, which may refuse" in accounts


@both
def test_forwarded_through_the_relay(server: Server) -> None:
    kept = server.relayed(server.receive(f"out@{server.additional_domain}"))
    assert kept.recipients == (FRIEND,) and kept.sender.startswith("SRS0=")
    assert STRANGER in str(kept.message["From"])


@pytest.fixture(scope="module")
def shelly() -> None:
    """A user with a shell and no rights."""
    for server in SERVERS:
        server.run("sh", "-c", "id shelly || useradd --no-create-home shelly")


@pytest.mark.parametrize("arguments", ["", "-f <>", "-f shelly+x@{host}"])
@both
def test_shell_user_sends_under_the_own_name(server: Server, shelly: None, arguments: str) -> None:
    marker = str(uuid.uuid4())
    words = arguments.format(domain=server.domain, host=server.hostname).split()
    server.sendmail(f"To: bob@{server.domain}\nSubject: {marker}\n\n{marker}\n", *words, "-t", user="shelly")
    raw = server.mailbox(login(server, "bob"), marker)
    assert author_domain(raw) == server.hostname
    [author] = re.findall(rb"(?m)^From: .*?([\w+]+)@", raw)
    assert author in (b"shelly", b"shelly+x")
    [sender, *_more] = fields(raw, "Return-Path")
    assert sender == "<>" if "<>" in words else re.fullmatch(rf"<shelly(\+x)?@{server.hostname}>", sender)


@pytest.mark.parametrize("author", ["alice@{domain}", "root@{host}", "bob@{domain}", "ceo@bank.test"])
@both
def test_shell_user_cannot_write_as_others(server: Server, shelly: None, author: str) -> None:
    address = author.format(domain=server.domain, host=server.hostname)
    with pytest.raises(AssertionError, match="shelly may not send mail as"):
        server.sendmail(f"From: {address}\nTo: {FRIEND}\nSubject: x\n\nx\n", "-f", address, "-t", user="shelly")


@both
def test_cron_of_a_shell_user(server: Server, shelly: None) -> None:
    marker = str(uuid.uuid4())
    text = f"From: root (Cron Daemon)\nTo: bob@{server.domain}\nSubject: Cron\n\n{marker}\n"
    server.sendmail(text, "-FCronDaemon", "-i", "-B8BITMIME", "-oem", f"bob@{server.domain}", user="shelly")
    assert f"shelly@{server.hostname}".encode() in server.mailbox(login(server, "bob"), marker)


# Access of an unprivileged user to OpenSMTPD's own socket and to programs with its rights.
DOORS = r"""
import socket, subprocess
for path in ("/run/smtpd.sock", "/var/run/smtpd.sock", "/run/opensmtpd/smtpd.sock"):
    with socket.socket(socket.AF_UNIX) as stream:
        try:
            stream.connect(path)
            print("open", path)
        except PermissionError:
            print("closed")
try:
    subprocess.run(["sendmail", "-f", "root", "root"], executable="/usr/sbin/smtpctl", input=b"")
    print("open smtpctl")
except PermissionError:
    print("closed")
"""


@both
def test_opensmtpds_own_socket_is_closed(server: Server, shelly: None) -> None:
    """Also smtpctl, whose group could put mail into the offline queue."""
    assert server.python(DOORS, user="shelly").split() == ["closed"] * 4


def test_removed_while_logged_in(hashes: list[str]) -> None:
    """The open session ends, logins are refused at once, others stay; the mail is kept and the run reports it."""
    messages = {server: server.receive(f"leaver@{server.domain}") for server in SERVERS}
    on_both(lambda server: server.mailbox(login(server, "leaver"), str(messages[server]["Message-ID"])))
    leavers = {server: imap.session(server.ip, f"leaver@{server.domain}", PASSWORD) for server in SERVERS}
    others = {server: imap.session(server.ip, server.alice.address, PASSWORD) for server in SERVERS}
    clients = {server: smtp.login(server.ip, 587, server.alice.address, PASSWORD, smtp.tls()) for server in SERVERS}
    writers = {server: smtp.login(server.ip, 465, f"leaver@{server.domain}", PASSWORD) for server in SERVERS}
    before = {server: processes(server) for server in SERVERS}
    done = run_site("--tags", "accounts", variables=variables(hashes, without="leaver"))

    def closed(server: Server) -> None:
        with pytest.raises((imaplib.IMAP4.abort, OSError)):
            leavers[server].noop()
        with pytest.raises(imaplib.IMAP4.error):
            imap.session(server.ip, f"leaver@{server.domain}", PASSWORD)
        with pytest.raises(smtplib.SMTPAuthenticationError):
            smtp.login(server.ip, 587, f"leaver@{server.domain}", PASSWORD)
        assert 500 <= writers[server].mail(f"leaver@{server.domain}")[0] < 600
        assert others[server].noop()[0] == "OK"
        assert clients[server].noop()[0] == 250
        assert processes(server) == before[server]
        assert server.run("find", f"/var/vmail/{server.domain}/leaver/Maildir", "-type", "f", "-name", "*mail*")
        # The catch-all has the address now.
        again = server.receive(f"leaver@{server.domain}")
        server.mailbox(login(server, "bob"), str(again["Message-ID"]))

    on_both(closed)
    for server in SERVERS:
        assert re.search(rf"Mailboxes without an account.*?leaver@{server.domain}", done.output, re.DOTALL)
