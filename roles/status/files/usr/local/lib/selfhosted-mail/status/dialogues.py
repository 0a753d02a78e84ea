# SPDX-License-Identifier: GPL-3.0-or-later
"""Complete client dialogues with the daemons; none leaves a message.

They have no timeouts: the caller abandons those that take too long.
"""

from __future__ import annotations

import base64
import http.client
import imaplib
import json
import secrets
import smtplib
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from .finding import Failed, Talk

HOST = "127.0.0.1"
NAME = "mail-status"  # in EHLO, and the local part of the account
SIGNER, SCANNER = 10027, 11333
LMTP, REDIS = "/run/dovecot/lmtp", "/run/redis-rspamd/redis.sock"
# GTUBE: the test string that every spam filter rejects.
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
# From smtpd.conf's reply: it accepts the account's address from this host, but refuses the message at its end.
OURSELVES = "This host's own mail"
END_OF_DATA = "the end of DATA"


@dataclass
class Server:
    """``certificates``: port to the certificate that it has served, DER."""

    hostname: str
    password: str
    certificates: dict[str, bytes]

    def __post_init__(self) -> None:
        self.login = f"{NAME}@{self.hostname}"
        self.postmaster = f"postmaster@{self.hostname}"
        # Another check verifies the certificate, whose name does not match the address used here.
        self.tls = ssl.create_default_context()
        self.tls.check_hostname = False
        self.tls.verify_mode = ssl.CERT_NONE

    def served(self, subject: str, secured: object) -> None:
        if isinstance(secured, ssl.SSLSocket) and (certificate := secured.getpeercert(binary_form=True)):
            self.certificates[subject] = certificate


class Smtp:
    """An SMTP session that sets the step of its talk."""

    def __init__(self, talk: Talk, session: smtplib.SMTP) -> None:
        self.talk, self.session = talk, session

    def say(self, *words: str, wanted: int = 2) -> str:
        """Send a command and return the reply. Raises Failed if its code does not begin with ``wanted``."""
        self.talk.waits_for(words[0])
        return self.checked(words[0], self.session.docmd(*words), wanted)

    def data(self, message: str, wanted: int = 5) -> str:
        """Send a message that must be refused, and return the reply. Raises Failed."""
        self.say("DATA", wanted=3)
        self.talk.waits_for(END_OF_DATA)
        self.session.send(message.replace("\n", "\r\n") + "\r\n.\r\n")
        return self.checked(END_OF_DATA, self.session.getreply(), wanted)

    def checked(self, step: str, reply: tuple[int, bytes], wanted: int) -> str:
        code, text = reply
        said = f"{code} {text.decode('ascii', 'replace')}".replace("\n", " ")
        if code // 100 != wanted:
            raise Failed(f"{step} is answered {said}")
        return said


def opened(talk: Talk, port: int) -> smtplib.SMTP:
    talk.waits_for("its greeting")
    try:
        return smtplib.SMTP(HOST, port, local_hostname=NAME)
    except smtplib.SMTPResponseException as error:
        raise Failed(f"no greeting: {error}") from None


def secured(talk: Talk, server: Server, port: int) -> Smtp:
    """A session under TLS, from the first byte on port 465."""
    if port == 465:
        talk.waits_for("the TLS handshake")
        session: smtplib.SMTP = smtplib.SMTP_SSL(HOST, port, local_hostname=NAME, context=server.tls)
    else:
        session = opened(talk, port)
    smtp = Smtp(talk, session)
    talk.waits_for("EHLO")
    smtp.checked("EHLO", session.ehlo(), 2)
    if port != 465:
        talk.waits_for("STARTTLS")
        smtp.checked("STARTTLS", session.starttls(context=server.tls), 2)
        smtp.checked("EHLO", session.ehlo(), 2)
    server.served(str(port), session.sock)
    return smtp


def message(sender: str, recipient: str, body: str) -> str:
    return f"From: <{sender}>\nTo: <{recipient}>\nSubject: mail-status\n\n{body}\n"


def inbound(talk: Talk, server: Server, judged: bool) -> str:
    """Port 25, to the end of a message that Rspamd must reject if ``judged``; else smtpd.conf refuses it."""
    smtp = secured(talk, server, 25)
    with smtp.session:
        smtp.say("MAIL", f"FROM:<{server.login}>")
        smtp.say("RCPT", f"TO:<{server.postmaster}>")
        if judged:
            # Without Rspamd the filter would log an error.
            talk.waits_for("Rspamd")
            socket.create_connection((HOST, SCANNER)).close()
        reply = smtp.data(message(server.login, server.postmaster, GTUBE))
        if judged and OURSELVES in reply:
            raise Failed("the spam test message (GTUBE) was not rejected: inbound mail is not filtered")
    return f"refuses spam: {reply}"


def plain(login: str, password: str) -> str:
    """Credentials of SASL PLAIN (RFC 4616), base64."""
    return base64.b64encode(f"\0{login}\0{password}".encode()).decode()


def submission(talk: Talk, server: Server, port: int) -> str:
    """Try a wrong password, the right one, and a sender that must be refused."""
    smtp = secured(talk, server, port)
    with smtp.session:
        smtp.say("AUTH", "PLAIN " + plain(server.login, secrets.token_hex()), wanted=5)
        smtp.say("AUTH", "PLAIN " + plain(server.login, server.password))
        smtp.say("MAIL", f"FROM:<{server.login}>", wanted=5)
    return "accepts a login, and refuses a wrong one"


def signer(talk: Talk, server: Server, code: int) -> str:
    """Send a message that must not be signed, with two From fields of a reserved domain (RFC 2606 section 2).

    ``code``: first digit of the expected reply.
    """
    smtp = Smtp(talk, opened(talk, SIGNER))
    author = f"From: <{NAME}@foreign.invalid>\n"
    with smtp.session:
        talk.waits_for("EHLO")
        smtp.checked("EHLO", smtp.session.ehlo(), 2)
        smtp.say("MAIL", f"FROM:<{server.login}>")
        smtp.say("RCPT", f"TO:<{server.postmaster}>")
        reply = smtp.data(author + author + "Subject: mail-status\n\nNot to be signed.\n", code)
    return f"refuses what it may not sign: {reply}"


def lmtp(talk: Talk, server: Server) -> str:
    talk.waits_for("its greeting")
    smtp = Smtp(talk, smtplib.LMTP(LMTP, local_hostname=NAME))
    with smtp.session:
        smtp.say("LHLO", NAME)
        smtp.say("MAIL", "FROM:<>")
        smtp.say("RCPT", f"TO:<{server.login}>")
    return "accepts mail for a mailbox"


def imap(talk: Talk, server: Server) -> str:
    talk.waits_for("its greeting")
    try:
        session = imaplib.IMAP4_SSL(HOST, 993, ssl_context=server.tls)
        server.served("993", session.sock)
        talk.waits_for("LOGIN")
        session.login(server.login, server.password)
        talk.waits_for("STATUS")
        code, said = session.status("INBOX", "(MESSAGES)")
        if code != "OK":
            raise Failed(f"STATUS is answered {said[0]!r}")
        talk.waits_for("LOGOUT")
        session.logout()
    except imaplib.IMAP4.abort:
        raise EOFError from None
    except imaplib.IMAP4.error as error:
        raise Failed(f"{talk.step}: {error}") from None
    return "accepts a login"


def managesieve(talk: Talk, server: Server) -> str:
    """STARTTLS and a login (RFC 5804)."""
    with socket.create_connection((HOST, 4190)) as plain_text:
        done(talk, plain_text, "its greeting")
        plain_text.sendall(b"STARTTLS\r\n")
        done(talk, plain_text, "STARTTLS", flat=True)
        with server.tls.wrap_socket(plain_text) as stream:
            server.served("4190", stream)
            done(talk, stream, "its capabilities")
            stream.sendall(f'AUTHENTICATE "PLAIN" "{plain(server.login, server.password)}"\r\n'.encode())
            done(talk, stream, "AUTHENTICATE")
            stream.sendall(b"LOGOUT\r\n")
            done(talk, stream, "LOGOUT")
    return "accepts a login"


def done(talk: Talk, stream: socket.socket, step: str, flat: bool = False) -> None:
    """Read up to the OK line, with ``flat`` not an octet more. Raises Failed, EOFError."""
    talk.waits_for(step)
    text = b""
    while not (text.endswith(b"\n") and text.splitlines()[-1].upper().startswith((b"OK", b"NO", b"BYE"))):
        block = stream.recv(1 if flat else 4096)
        if not block:
            raise EOFError
        text += block
    last = text.splitlines()[-1]
    if not last.upper().startswith(b"OK"):
        raise Failed(f"{step} is answered {last.decode('ascii', 'replace')}")


def rspamd(talk: Talk) -> str:
    talk.waits_for("a verdict")
    connection = http.client.HTTPConnection(HOST, SCANNER)
    text = message(f"{NAME}@foreign.invalid", f"{NAME}@foreign.invalid", GTUBE).replace("\n", "\r\n")
    try:
        connection.request("POST", "/checkv2", text.encode(), {"Flags": "no_log,no_stat"})
        verdict = json.loads(connection.getresponse().read())
    except http.client.HTTPException as error:
        raise Failed(f"{type(error).__name__}: {error}") from None
    finally:
        connection.close()
    if verdict.get("action") != "reject":
        raise Failed(f"the GTUBE test message got the verdict {verdict.get('action')!r}, expected 'reject'")
    return "refuses spam"


def redis(talk: Talk) -> str:
    talk.waits_for("PING")
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(REDIS)
        stream.sendall(b"PING\r\n")
        said = stream.recv(4096)
    if said != b"+PONG\r\n":
        raise Failed(f"PING is answered {said.decode('ascii', 'replace').strip()}")
    return "answers"


def resolver(talk: Talk, address: str, port: int, name: str) -> str:
    """Query the A record of a name (RFC 1035 section 4.1); an empty answer is one, too."""
    talk.waits_for(f"the address of {name}")
    number = secrets.token_bytes(2)
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as stream:
        stream.connect((address, port))
        stream.send(number + b"\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1")
        while not (said := stream.recv(4096)).startswith(number):
            pass
    code = said[3] & 15 if len(said) > 3 else 2
    if code not in (0, 3):
        raise Failed(f"the query for {name} got the response code {code}")
    return "answers"


def password_in(path: str) -> str:
    """Password of the login in a file. Raises Failed."""
    try:
        return Path(path).read_text().split()[1]
    except (OSError, IndexError) as error:
        raise Failed(f"{path} has no login: {error}") from None
