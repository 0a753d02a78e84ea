# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders, searches and moves of messages; storage, load, and power failures."""

from __future__ import annotations

import base64
import imaplib
import json
import re
import secrets
import time
import uuid
from collections.abc import Callable

from dovecot_host import ALICE, BOB, CAROL, DAVE, lmtp
from testinfra.host import Host

from testbed import imap, smtp
from testbed.containers import docker, wait_for
from testbed.playbook import run_role

testinfra_hosts = ["docker://dovecot-debian12", "docker://dovecot-debian13"]

ZOO = "Zoë’s Ordner/日本"


def utf7(name: str) -> str:
    """A folder's name as IMAP has it (RFC 3501 §5.1.3), in quotes."""
    coded = re.sub(
        r"[^\x20-\x7e]+",
        lambda found: "&" + base64.b64encode(found[0].encode("utf-16-be")).decode().rstrip("=").replace("/", ",") + "-",
        name.replace("&", "&-"),
    )
    return f'"{coded}"'


def session(address: str) -> imaplib.IMAP4_SSL:
    """Bob's, whose password is not ASCII."""
    box = imaplib.IMAP4_SSL(address, 993, ssl_context=smtp.tls(), timeout=30)
    box.authenticate("PLAIN", lambda _challenge: "\0".join(["", *BOB]).encode())
    return box


def search(box: imaplib.IMAP4_SSL, key: str, words: str) -> list[bytes]:
    box.literal = words.encode()
    found: list[bytes] = box.uid("SEARCH", "CHARSET", "UTF-8", key)[1][0].split()
    return found


def test_utf8_everywhere(container: str, address: str) -> None:
    """Headers, body, folder's name and password; found, moved and copied by it."""
    word = f"Grüße{uuid.uuid4().hex[:8]}"
    message = smtp.compose("Jürgen <sender@world.test>", [BOB[0]], f"{word} aus Köln, 東京\n", subject=f"{word} ☃")
    assert lmtp(container, smtp.wire(message), BOB[0])[BOB[0]][0] == 250
    with session(address) as box:
        box.select("INBOX")
        uid = search(box, "BODY", word)
        assert len(uid) == 1
        assert search(box, "SUBJECT", word) == uid
        box.create(utf7(ZOO))
        try:
            assert box.uid("MOVE", uid[0].decode(), utf7(ZOO))[0] == "OK"
            assert search(box, "BODY", word) == []
            assert box.select(utf7(ZOO))[0] == "OK"
            assert len(search(box, "BODY", word)) == 1
            assert utf7(ZOO).encode() in b"\n".join(line for line in box.list()[1] if isinstance(line, bytes))
        finally:
            box.select("INBOX")
            box.delete(utf7(ZOO))


WAYS = [
    "../alice/Maildir",
    "../../alice/Maildir",
    "/var/vmail/example.org/alice/Maildir",
    "~alice",
    "user/alice",
    "shared/alice@example.org",
    "INBOX/../../../alice/Maildir",
    "..",
]


def test_others_mailboxes_are_out_of_reach(host: Host, address: str, deliver: Callable[..., str]) -> None:
    """All mailboxes belong to one system user, so only Dovecot separates them."""
    deliver(ALICE[0])
    others = "find /var/vmail /var/lib /tmp -path '*alice*' -path '*/[nc][eu][wr]/*' -printf '%p %s %T@\\n' | sort"
    before = host.check_output(others)
    assert "/alice/Maildir/" in before
    with imap.session(address, *CAROL) as box:
        for way in WAYS:
            assert box.select(f'"{way}"')[0] == "NO", way
            assert box.list('""', f'"{way}/*"')[1] == [None], way
            # However the name is interpreted, it is one of her own folders.
            if box.create(f'"{way}/new"')[0] == "OK":
                assert box.delete(f'"{way}/new"')[0] == "OK", way
    assert host.check_output(others) == before


def test_copy_in_sent_is_the_message(address: str) -> None:
    message = smtp.wire(smtp.compose(CAROL[0], ["friend@far.test"], "Grüße\n"))
    with imap.session(address, *CAROL) as box:
        assert box.append("Sent", r"(\Seen)", None, message)[0] == "OK"
    assert message in imap.messages(address, *CAROL, "Sent")


def test_words_are_found_by_the_index(host: Host, container: str, address: str) -> None:
    word = f"w{uuid.uuid4().hex[:10]}"
    message = smtp.compose("sender@world.test", [CAROL[0]], f"Once upon a time {word} lived in a shoe.\n")
    assert lmtp(container, smtp.wire(message), CAROL[0])[CAROL[0]][0] == 250

    def indexed() -> bool:
        with imap.session(address, *CAROL) as box:
            box.select("INBOX", readonly=True)
            return len(box.search(None, "BODY", word)[1][0].split()) == 1

    wait_for(indexed, what="the word is found")
    index = host.check_output("find /var/vmail/example.org/carol/Maildir -name '*.glass' | head -1")
    assert bool(index) == container.endswith("13")


def test_a_message_of_different_words_holds_up_no_search(container: str, address: str) -> None:
    """Any sender can cause this."""
    words = "\n".join(secrets.token_hex(10) for _ in range(2000))
    message = smtp.compose("sender@world.test", [CAROL[0]], words)
    assert lmtp(container, smtp.wire(message), CAROL[0])[CAROL[0]][0] == 250

    def found() -> bool:
        with imap.session(address, *CAROL) as box:
            box.select("INBOX", readonly=True)
            return len(box.search(None, "BODY", words[-20:])[1][0].split()) == 1

    wait_for(found, what="its last word is found")


def test_compressed_messages_are_read_as_before(host: Host, container: str, address: str) -> None:
    host.check_output("touch /root/begun")
    plain, packed = (smtp.compose("sender@world.test", [CAROL[0]], "the same words\n" * 500) for _ in range(2))
    assert lmtp(container, smtp.wire(plain), CAROL[0])[CAROL[0]][0] == 250
    try:
        run_role(container, variables={"dovecot_compression": "zstd"})
        assert lmtp(container, smtp.wire(packed), CAROL[0])[CAROL[0]][0] == 250
        wait_for(lambda: not imap_missing(address, packed) or None)
    finally:
        run_role(container)
    for message in (plain, packed):
        assert imap.wait_message(address, *CAROL, str(message["Message-ID"])).endswith(smtp.wire(message))
    sizes = host.check_output(
        "find /var/vmail/example.org/carol/Maildir/new /var/vmail/example.org/carol/Maildir/cur "
        "-type f -newer /root/begun -printf '%s %f\\n'"
    )
    squeezed = [line for line in sizes.splitlines() if int(line.split()[0]) * 5 < int(re.search(r",S=(\d+)", line)[1])]
    assert len(squeezed) == 1, sizes


def imap_missing(address: str, message: smtp.EmailMessage) -> bool:
    return not any(str(message["Message-ID"]).encode() in raw for raw in imap.messages(address, *CAROL))


def test_last_login_is_kept(host: Host, address: str, deliver: Callable[..., str]) -> None:
    path = "/var/vmail/example.org/alice/last-login"
    begun = int(time.time())
    imap.session(address, *ALICE).logout()
    key, stamp = host.check_output(f"cat {path}").splitlines()[-2:]
    assert key == "shared/last-login/alice@example.org"
    assert begun <= int(stamp) <= time.time()
    wait_for(lambda: time.time() >= int(stamp) + 1, what="a stamp of its own")
    deliver(ALICE[0])
    assert host.check_output(f"cat {path}").splitlines()[-1] == stamp, "mail that comes is no login"


# Opens sessions of three accounts from eleven addresses; prints how many answer in the end.
_MANY = r"""
import imaplib, json, socket, ssl, sys
accounts, count = json.loads(sys.argv[1]), int(sys.argv[2])
context = ssl.create_default_context(); context.check_hostname = False; context.verify_mode = ssl.CERT_NONE
class Session(imaplib.IMAP4_SSL):
    def _create_socket(self, timeout):
        plain = socket.create_connection((self.host, self.port), 30, (self.source, 0))
        return context.wrap_socket(plain)
sessions = []
for number in range(count):
    Session.source = f"127.0.0.{2 + number // 20}"
    box = Session("127.0.0.1", 993, ssl_context=context)
    box.login(*accounts[number % len(accounts)])
    box.select("INBOX")
    sessions.append(box)
print(sum(box.noop()[0] == "OK" for box in sessions))
"""


def test_two_hundred_sessions(container: str, address: str) -> None:
    words = ["exec", "--interactive", container, "python3", "-", json.dumps([ALICE, CAROL, DAVE]), "210"]
    assert docker(*words, data=_MANY.encode()).decode().strip() == "210"
    imap.session(address, *ALICE).logout()
