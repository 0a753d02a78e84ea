# SPDX-License-Identifier: GPL-3.0-or-later
"""Mailboxes together with the whole server: full mailboxes, vacation answers, and spam training."""

from __future__ import annotations

import random
import re
import smtplib
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parseaddr

import pytest

from testbed import imap, managesieve, provider, smtp
from testbed.containers import docker, wait_for
from testbed.servers import RELAY, STRANGER, Login, Server, both, check_relayed, on_both, script, unwatched
from testbed.signatures import author, author_domain, check_signed

# Enough words for Bayes to learn from, in English: Rspamd takes back what it has learned by the stems of words, and
# takes nonsense for another language each time.
PROSE = """The train to the coast leaves at seven in the morning, and we have to be at the station half an hour before.
Please bring the tickets, a warm jacket and something to read, because the journey takes most of the day. My sister will
wait for us at the other end with her car, and she has already cooked dinner. On Sunday we would like to walk along the
beach as far as the old lighthouse, if the weather is good enough, and come back in the evening before it gets dark.
"""


def taken(server: Server, login: Login) -> str:
    """Message-ID of a new message in the inbox, with words to learn from."""
    message = smtp.compose(STRANGER, [login.address], f"{uuid.uuid4()}\n{PROSE}")
    marker = str(server.receive(login.address, message=message)["Message-ID"])
    server.mailbox(login, marker)
    return marker


def answer_to(server: Server, recipient: str) -> tuple[int, str]:
    """Port 25's reply to an external sender's RCPT."""
    with smtplib.SMTP(server.ip, 25, timeout=60, local_hostname=smtp.PEER) as session:
        session.ehlo()
        session.mail(STRANGER)
        code, text = session.rcpt(recipient)
        return code, text.decode()


def expunge(server: Server, login: Login) -> None:
    with imap.session(server.ip, login.address, login.password) as box:
        if box.select("INBOX")[1] != [b"0"]:
            box.store("1:*", "+FLAGS", r"\Deleted")
            box.expunge()


@pytest.fixture(autouse=True)
def quinn_has_space() -> Iterator[None]:
    """Mail for a full mailbox always stays in the queue."""
    yield
    on_both(lambda server: expunge(server, server.quinn))


@both
def test_full_mailbox_is_refused_at_rcpt(server: Server) -> None:
    """All its addresses, from outside and from our users; others are reached, and so is it with space again."""
    quinn = server.quinn
    leads_there = [f"{name}@{server.domain}" for name in ("quinn", "Quinn+tag", "q", "quota")]
    for address in leads_there:
        assert answer_to(server, address)[0] == 250
    kilobytes = "\n".join("x" * 63 for _ in range(16)) + "\n"
    for size, percentage in ((1700, 80), (250, 95)):
        server.receive(quinn.address, message=smtp.compose(STRANGER, [quinn.address], kilobytes * size))
        warning = server.mailbox(quinn, f"Your mailbox is {percentage} % full")
        check_signed(server, warning)
        assert author_domain(warning) == server.hostname
    server.receive(quinn.address, message=smtp.compose(STRANGER, [quinn.address], kilobytes * 200))
    wait_for(lambda: answer_to(server, quinn.address)[0] == 552 or None, what="quinn is full")
    for address in leads_there:
        code, text = answer_to(server, address)
        assert code == 552, f"{address}: {code} {text}"
        assert re.match(r"5\.2\.2 .*mailbox is full", text)
    for address in (server.alice.address, f"sales@{server.domain}", f"x@{server.additional_domain}"):
        assert answer_to(server, address)[0] == 250
    with smtp.login(server.ip, 587, server.bob.address, server.bob.password) as session:
        session.mail(server.bob.address)
        assert session.rcpt(quinn.address)[0] == 552
    # No bounces follow, and members of the same list with space get their mail.
    shared = server.receive(f"crew@{server.domain}")
    server.mailbox(server.bob, str(shared["Message-ID"]))
    expunge(server, quinn)
    wait_for(lambda: answer_to(server, quinn.address)[0] == 250 or None, what="quinn has space")
    late = server.receive(f"quota@{server.domain}")
    server.mailbox(quinn, str(late["Message-ID"]))


@both
def test_vacation_answers_once_and_signed(server: Server) -> None:
    marker = f"Gone fishing {uuid.uuid4()}"
    sender = f"curious-{uuid.uuid4().hex[:8]}@world.test"
    text = f'require "vacation";\nvacation :days 7 :subject "Fort" "{marker} – bis Montag, Grüße";\n'
    with script(server, server.quinn, text):
        for _ in range(2):
            message = smtp.compose(sender, [server.quinn.address])
            smtp.deliver(server.ip, sender, [server.quinn.address], message)
            server.mailbox(server.quinn, str(message["Message-ID"]))
        # One of our own is answered too.
        server.submit([server.quinn.address], login=server.bob)
        answer = server.mailbox(server.bob, marker)
    check_signed(server, answer)
    kept = provider.wait_kept(RELAY, marker)
    assert (kept.sender, kept.recipients) == (server.quinn.address, (sender,))
    assert author_domain(kept.raw) == server.domain
    assert "Grüße" in kept.message.get_content()
    check_relayed(server, kept)
    server.settle()
    assert len(provider.find(RELAY, marker)) == 1


@pytest.mark.parametrize(
    ("to", "options", "sender", "author"),
    [
        ("q@{domain}", ':addresses "q@{domain}"', "quinn@{domain}", "q@{domain}"),
        ("quinn@{domain}", ':from "Günter Q. <q@{domain}>"', "quinn@{domain}", "q@{domain}"),
        ("Quinn+club@{domain}", "", "quinn+club@{domain}", "quinn+club@{domain}"),
        ("quota@{domain}", ':addresses "quota@{domain}"', "quinn@{domain}", "quota@{domain}"),
    ],
)
@both
def test_vacation_answers_under_an_own_name(server: Server, to: str, options: str, sender: str, author: str) -> None:
    """An alias only of this account is its own address; the envelope sender is the account."""
    marker, curious = f"Gone fishing {uuid.uuid4()}", f"curious-{uuid.uuid4().hex[:8]}@world.test"
    to, options, sender, author = (text.format(domain=server.domain) for text in (to, options, sender, author))
    with script(server, server.quinn, f'require "vacation";\nvacation {options} "{marker}";\n'):
        smtp.deliver(server.ip, curious, [to], smtp.compose(curious, [to]), patience=20)
        kept = provider.wait_kept(RELAY, marker)
    check_relayed(server, kept)
    assert (kept.sender.lower(), kept.recipients) == (sender, (curious,))
    assert parseaddr(str(kept.message["From"]))[1].lower() == author


@pytest.mark.parametrize(
    ("to", "action", "reason"),
    [
        ("{bob}", 'vacation :from "The CEO <{alice}>" {rest}', "{bob} may not send mail as {alice}"),
        ("{bob}", 'set "all" "{bob}, {alice}"; vacation :from "${{all}}" {rest}', "{bob} may not send mail as {alice}"),
        ("{alice}", 'vacation :addresses "{alice}" {rest}', "{bob} may not send mail as {alice}"),
        ("sales@{domain}", 'vacation :addresses "sales@{domain}" {rest}', "{bob} may not send mail as sales@{domain}"),
        ("{bob}", 'vacation :mime :subject "{marker}" "From: {alice}\n\nplease pay";', "several From lines"),
    ],
)
@both
def test_nobody_answers_as_somebody_else(server: Server, to: str, action: str, reason: str) -> None:
    """The answer is not sent, and the script's owner gets the reason."""
    marker, victim = f"Invoice {uuid.uuid4()}", f"victim-{uuid.uuid4().hex[:8]}@world.test"
    words = {"alice": server.alice.address, "bob": server.bob.address, "domain": server.domain, "marker": marker}
    words["rest"] = f':subject "{marker}" "please pay";'
    message = smtp.compose(victim, [to.format(**words)])
    with script(server, server.bob, f'require ["vacation", "variables"];\n{action.format(**words)}\n'):
        smtp.deliver(server.ip, victim, [server.bob.address], message, patience=20)
        server.mailbox(server.bob, str(message["Message-ID"]))
        report = server.mailbox(server.bob, f"has answered {victim}")
    assert reason.format(**words) in re.sub(r"\s+", " ", report.decode())
    assert author(report) == f"postmaster@{server.hostname}"
    server.settle()
    assert provider.find(RELAY, marker) == []


@both
def test_no_script_notifies(server: Server) -> None:
    """A notification would have any sender and author; even a script that is there already writes none."""
    marker, victim = f"Invoice {uuid.uuid4()}", f"victim-{uuid.uuid4().hex[:8]}@far.test"
    ceo = server.alice.address
    text = f'require "enotify";\nnotify :from "{ceo}" :message "{marker}" "mailto:{victim}?body=pay";\n'
    with pytest.raises(managesieve.Refused, match="enotify"), script(server, server.bob, text):
        pass
    path = f"/var/vmail/{server.domain}/bob/.dovecot.sieve"
    write = ("exec", "--interactive", "--user", "vmail", server.container)
    docker(*write, "tee", path, data=text.encode())
    try:
        message = server.receive(server.bob.address)
        server.mailbox(server.bob, str(message["Message-ID"]))
    finally:
        server.run("rm", path)
    server.settle()
    assert provider.find(RELAY, marker) == []
    assert provider.find(RELAY, victim) == []


@both
def test_what_a_script_refuses_is_answered_by_the_host(server: Server) -> None:
    """Not with the administrator's address; and signed, to external and own recipients."""
    marker, sender = f"No thanks {uuid.uuid4()}", f"curious-{uuid.uuid4().hex[:8]}@world.test"
    with script(server, server.quinn, f'require "reject";\nreject "{marker}";\n'):
        message = smtp.compose(sender, [server.quinn.address])
        smtp.deliver(server.ip, sender, [server.quinn.address], message, patience=20)
        server.submit([server.quinn.address], login=server.bob)
        answer = server.mailbox(server.bob, marker)
    check_signed(server, answer)
    kept = provider.wait_kept(RELAY, marker)
    check_relayed(server, kept)
    assert (kept.sender, kept.recipients) == ("", (sender,))
    assert author_domain(answer) == author_domain(kept.raw) == server.hostname


@both
def test_no_vacation_answer_to_spam(server: Server) -> None:
    """Spam is filed before the user's script runs."""
    marker = f"Gone fishing {uuid.uuid4()}"
    sender = f"seller-{uuid.uuid4().hex[:8]}@world.test"
    message = smtp.compose(
        f'"service@bank.test" <{sender}>',
        ["undisclosed-recipients:;"],
        body=f"Dear winner {uuid.uuid4()}\n",
        subject="YOU HAVE WON A LOT OF MONEY",
    )
    text = f'require "vacation";\nvacation :addresses "{server.quinn.address}" "{marker}";\n'
    with script(server, server.quinn, text):
        smtp.deliver(server.ip, sender, [server.quinn.address], message)
        server.mailbox(server.quinn, str(message["Message-ID"]), folder="Junk")
    server.settle()
    assert provider.find(RELAY, marker) == []


def learned(server: Server) -> tuple[int, int]:
    """How many messages Rspamd has learned as spam, and as ham."""
    # Rspamd itself tells with a minute's delay.
    redis = ("redis-cli", "-s", "/run/redis-rspamd/redis.sock", "hmget", "RS", "learns_spam", "learns_ham")
    spam, ham = server.run(*redis).split("\n")[:2]
    return int(spam or 0), int(ham or 0)


def move(server: Server, login: Login, marker: str, source: str, target: str) -> float:
    """Move the message with this Message-ID. Returns the seconds that the user waited."""
    with imap.session(server.ip, login.address, login.password) as box:
        box.select(source)
        uids = box.uid("SEARCH", "HEADER", "Message-ID", f'"{marker}"')[1][0].decode().split()
        assert len(uids) == 1, f"{marker} in {source}"
        begun = time.monotonic()
        assert box.uid("MOVE", uids[0], target)[0] == "OK"
        return time.monotonic() - begun


@both
def test_moving_teaches_rspamd(server: Server) -> None:
    """Into Junk: spam; out of it: ham; out into Trash: nothing."""
    login = server.bob
    wait_for(lambda: not waiting(server) or None, what="all is learned that was moved before")
    spam_before, _ham = learned(server)
    marker = taken(server, login)
    move(server, login, marker, "INBOX", "Junk")
    wait_for(lambda: learned(server)[0] == spam_before + 1 or None, what="learned as spam")
    _spam, ham_before = learned(server)
    move(server, login, marker, "Junk", "INBOX")

    def is_ham() -> bool:
        """Rspamd automatically learns some inbound messages as ham."""
        spam, ham = learned(server)
        return spam == spam_before and ham > ham_before

    wait_for(is_ham, what="learned as ham")
    move(server, login, marker, "INBOX", "Junk")
    wait_for(lambda: learned(server)[0] == spam_before + 1 or None, what="learned as spam again")
    wait_for(lambda: not waiting(server) or None, what="all is learned")
    spam, _ham = learned(server)
    move(server, login, marker, "Junk", "Trash")
    # What is put aside is learned in its order, so after this one nothing of the other is to come. As ham it would
    # have been taken out of what is known as spam.
    other = taken(server, login)
    move(server, login, other, "INBOX", "Junk")
    wait_for(lambda: not waiting(server) or None, what="all is learned")
    wait_for(lambda: learned(server)[0] == spam + 1 or None, what="one more is spam, and no other was ham")
    server.mailbox(login, marker, "Trash")


@contextmanager
def judging_after(server: Server, count: int) -> Iterator[None]:
    """Makes Bayes add to the score after this few messages."""
    override = "/etc/rspamd/override.d/classifier-bayes.conf"
    server.run("sh", "-c", f"echo 'min_learns = {count};' > {override}; systemctl reload rspamd")
    try:
        yield
    finally:
        server.run("sh", "-c", f"rm {override}; systemctl reload rspamd")


def bayes_says(server: Server, text: str) -> str:
    """BAYES_SPAM, BAYES_HAM, or nothing."""
    message = smtp.wire(smtp.compose(STRANGER, [server.bob.address], text))
    words = ["exec", "--interactive", server.container, "rspamc", "--connect", "127.0.0.1:11333", "symbols"]
    found = re.search(r"BAYES_(SPAM|HAM)", docker(*words, data=message).decode())
    return found[0] if found else ""


@both
def test_verdict_on_a_twin(server: Server) -> None:
    """Moved messages change Rspamd's verdict on the next similar one."""
    login = server.bob
    words = {kind: [f"{kind}{uuid.uuid4().hex[:6]}" for _ in range(60)] for kind in ("pills", "novel")}

    def text(kind: str) -> str:
        """Nearly the same each time."""
        left_out = set(random.sample(words[kind], 3))
        return " ".join(word for word in words[kind] if word not in left_out) + "\n"

    def taken_in(kind: str) -> list[str]:
        messages = [smtp.compose(STRANGER, [login.address], text(kind)) for _ in range(4)]
        markers = [str(server.receive(login.address, message=message)["Message-ID"]) for message in messages]
        for marker in markers:
            server.mailbox(login, marker)
        return markers

    with judging_after(server, 3):
        assert [bayes_says(server, text(kind)) for kind in words] == ["", ""]
        for marker in taken_in("pills"):
            move(server, login, marker, "INBOX", "Junk")
        good = taken_in("novel")
        for marker in good:
            move(server, login, marker, "INBOX", "Junk")
        for marker in good:
            move(server, login, marker, "Junk", "INBOX")
        wait_for(lambda: not waiting(server) or None, 60, "all is learned")
        wait_for(lambda: bayes_says(server, text("pills")) == "BAYES_SPAM" or None, what="spam is known")
        assert bayes_says(server, text("novel")) == "BAYES_HAM"


def waiting(server: Server) -> list[str]:
    return server.run("find", "/var/lib/selfhosted-mail/learn", "-type", "f").splitlines()


@both
def test_moving_waits_for_nobody(server: Server) -> None:
    """While Rspamd is down the message is moved at once, and is learned later."""
    login = server.alice
    marker = taken(server, login)
    spam_before = learned(server)[0]
    # A filter that the watch asks while Rspamd ends logs an error, which test_journals would find.
    with unwatched(server):
        server.run("systemctl", "stop", "rspamd")
        try:
            # Long enough for a busy machine; a move that waits for Rspamd would take as long as it is down.
            assert move(server, login, marker, "INBOX", "Junk") < 20
            server.mailbox(login, marker, "Junk")
            assert len(waiting(server)) == 1
        finally:
            server.run("systemctl", "start", "rspamd")
    wait_for(lambda: learned(server)[0] == spam_before + 1 or None, what="learned as spam")
    wait_for(lambda: not waiting(server) or None, what="all is learned")
    server.mailbox(login, marker, "Junk")


@both
def test_learning_may_begin_each_second(server: Server) -> None:
    """systemd's own limit is 5 starts in 10 s. A folder keeps something there that it does not remove."""
    folder = "/var/lib/selfhosted-mail/learn/folder"
    server.run("mkdir", folder)
    try:
        server.sh("for try in 1 2 3 4 5 6 7 8; do systemctl start --wait selfhosted-mail-learn || exit; done")
    finally:
        server.run("rmdir", folder)
