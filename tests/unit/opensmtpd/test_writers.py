# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may write as whom."""

from __future__ import annotations

import os
import pwd
import queue
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filter_helpers import (
    HOST,
    TABLE,
    TOLD,
    TRACE,
    Running,
    asked,
    built,
    client,
    connected,
    lines,
    logged_in,
    mail,
    message,
    results,
)
from message_filter import writers


@pytest.mark.parametrize(
    ("address", "rest", "answer"),
    [
        ("alice@our.test", "", "proceed"),
        ("Alice+shop@OUR.test", " SIZE=5 BODY=8BITMIME RET=HDRS ENVID=x AUTH=<>", "proceed"),
        ("info@our.test", "", "proceed"),
        ("", "", "proceed"),
        ("bob@our.test", "", "reject|550 5.7.1 alice@our.test may not send mail as bob@our.test."),
        ("alice@far.test", "", "reject|550 5.7.1 "),
        ("root@mail.our.test", "", "reject|550 5.7.1 "),
        ("alice", "", "reject|553 5.1.7 "),
        ("bob@our.test:alice@our.test", "", "reject|553 5.1.7 "),
        ("@far.test:alice@our.test", "", "reject|553 5.1.7 "),
        ("alice@our.test> SIZE=1@x", "", "reject|555 5.5.4 "),
        ("alice @our.test", "", "reject|553 5.1.7 "),
        ("alice@our.test", " SMTPUTF8", "reject|555 5.5.4 "),
        ("alice@our.test", " SIZE=1\tx", "reject|501 5.5.4 "),
        ("\xe4lice@our.test", "", "reject|553 5.1.7 "),
    ],
)
def test_the_envelope_sender_of_a_login(said: Callable[..., list[str]], address: str, rest: str, answer: str) -> None:
    assert results(said(*logged_in("Alice@our.test"), *mail(address, rest=rest)))[0].startswith(answer)


@pytest.mark.parametrize(
    ("header", "answer"),
    [
        (["From: Alice <alice@our.test>"], "proceed"),
        (["From: info@our.test"], "proceed"),
        (["From : Alice <alice@our.test>"], "proceed"),
        (["From: bob@our.test"], "reject|550 5.7.1 alice@our.test may not send mail as bob@our.test. Choose one of "),
        (["From: ceo@far.test"], "reject|550 5.7.1 "),
        (["From: alice@our.test, bob@our.test"], "reject|550 5.7.1 "),
        (["From: alice@our.test", "From: bob@our.test"], "reject|550 5.7.1 The message has several From lines"),
        (["from:alice@our.test", ".FROM: bob@our.test"], "reject|550 5.7.1 The message has several From lines"),
        (["Subject: x"], "reject|550 5.7.1 The message has no From line"),
        (["From: alice@our.test <bob@our.test>"], "reject|550 5.7.1 "),
        (["From: bob@our.test <alice@our.test>"], "reject|550 5.7.1 The From line shows bob@our.test"),
        (["From: team: alice@our.test;"], "reject|550 5.6.0 "),
        (["From: b\xfccher <alice@our.test> x"], "reject|550 5.6.0 "),
        (["From:", " bob@our.test"], "reject|550 5.7.1 "),
        (["From: alice@our.test", "Sender: bob@our.test"], "reject|550 5.7.1 "),
    ],
)
@pytest.mark.parametrize("sender", ["alice@our.test", ""])
def test_from_of_a_login(said: Callable[..., list[str]], header: list[str], answer: str, sender: str) -> None:
    told = said(*logged_in(), *mail(sender), *message(*header, "", "body"))
    assert results(told)[1].startswith(answer)
    assert ("body" in lines(told)) is (answer == "proceed")
    # The session goes on.
    told = said(*logged_in(), *mail(sender), *message(*header, ""), *mail(), *message("From: alice@our.test", ""))
    assert results(told)[2:] == ["proceed", "proceed"]


@pytest.mark.parametrize("author", ["b\xfccher@our.test", f"{'x' * 900}@our.test", f"{'x' * 400}@{'y' * 60}.test"])
def test_a_refusal_is_one_printable_line(said: Callable[..., list[str]], author: str) -> None:
    answer = results(said(*logged_in(), *mail(), *message(f"From: {author}", "")))[1]
    assert re.fullmatch(r"reject\|5\d\d 5\.\d\.\d [ -~]{1,490}", answer)


def test_what_opensmtpd_reads_otherwise_is_no_sender(said: Callable[..., list[str]]) -> None:
    told = said(*logged_in(), client("MAIL FROM:<alice@our.test>"), asked("mail-from", "bob@our.test"))
    assert results(told)[0].startswith("reject|501 5.5.4 ")


def test_with_the_policy_domain_from_is_left_to_the_signing_proxy(said: Callable[..., list[str]]) -> None:
    told = said(*logged_in(), *mail(), *message("From : ceo@far.test", ""), *mail("bob@our.test"), policy="domain")
    assert [result[:10] for result in results(told)] == ["proceed", "proceed", "reject|550"]
    assert "From: ceo@far.test" in lines(told)


def test_who_has_not_logged_in_says_nothing(said: Callable[..., list[str]]) -> None:
    failed = f"report|{TOLD}|link-auth|s|fail|alice@our.test"
    for begun in [[connected(port=465)], [connected(port=465), failed], [connected(port=2525)], []]:
        for address in "alice@our.test", "":
            assert results(said(*begun, *mail(address)))[0].startswith("reject|4" if begun else "reject|")


def test_rights_are_read_again(senders: Path, tmp_path: Path) -> None:
    table = tmp_path / "senders"
    table.write_text(TABLE)
    with Running(table) as running:
        assert running.says(*logged_in(), *mail("new@our.test"))[0].startswith("reject|550")
        for text, wanted in [
            (TABLE + "alice@our.test new@our.test\n", "proceed"),
            (TABLE, "reject|550"),
            # One that cannot be read changes nothing.
            ("alice\n", "reject|550"),
        ]:
            table.write_text(text)
            assert running.until(wanted, *mail("new@our.test"))
        assert running.says(*mail()) == ["proceed"]


def test_without_a_table_nothing_is_taken_until_it_is_there(tmp_path: Path) -> None:
    table = tmp_path / "senders"
    with Running(table) as running:
        assert running.says(*logged_in(), *mail())[0].startswith("reject|451 4.3.0 ")
        assert running.says(connected("w"), *mail("a@b", "w")) == ["proceed"]
        table.write_text(TABLE)
        assert running.until("proceed", *mail())


@pytest.fixture
def local(senders: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The replies to a local user; the test replaces the kernel's answer."""

    def run(uid: int | None, user: str, *told: str, port: int = 10025, policy: str = "account") -> list[str]:
        running = built(senders, from_policy=policy)

        def getpwuid(uid: int) -> object:
            if not user:
                raise KeyError(uid)
            return type("Entry", (), {"pw_name": user})

        monkeypatch.setattr(writers, "peer_uid", lambda source, destination: uid)
        monkeypatch.setattr(pwd, "getpwuid", getpwuid)
        answers: list[bytes] = []
        monkeypatch.setattr(running, "write", answers.append)
        for line in [connected(port=port), asked("connect", "localhost|127.0.0.1"), *told]:
            running.told(line.encode("latin-1").split(b"|", 7))
            while line.startswith("filter|") and "|connect|" in line and not answers:
                time.sleep(0.001)  # it is answered aside
        return b"".join([*answers, *running.answers]).decode("latin-1").splitlines()

    return run


@pytest.mark.parametrize(
    ("uid", "user", "address", "taken"),
    [
        (1001, "bob", f"bob@{HOST}", True),
        (1001, "bob", f"Bob+tag@{HOST}", True),
        (1001, "bob", "", True),
        (1001, "bob", f"root@{HOST}", False),
        (1001, "bob", f"postmaster@{HOST}", False),
        (1001, "bob", "bob@our.test", False),
        (1001, "bob", f"bob@x@{HOST}", False),
        (33, "www-data", f"www-data@{HOST}", True),
        (33, "www-data", f"postmaster@{HOST}", True),
        (33, "www-data", f"carol@{HOST}", False),
        (65534, "nobody", f"nobody@{HOST}", True),
        (65534, "nobody", f"root@{HOST}", False),
        (61184, "dynamic", f"root@{HOST}", False),
        (0, "root", f"anybody@{HOST}", True),
        (0, "root", "alice@our.test", False),
        (999, "vmail", "alice@our.test", True),
        (999, "vmail", "alice+tag@our.test", True),
        (999, "vmail", "", True),
        (999, "vmail", f"vmail@{HOST}", False),
        (999, "vmail", f"root@{HOST}", False),
        (999, "vmail", "carol@far.test", False),
        (999, "vmail", "carol@our.test", False),
    ],
)
def test_the_envelope_sender_of_a_user(
    local: Callable[..., list[str]], uid: int, user: str, address: str, taken: bool
) -> None:
    greeting, answer = results(local(uid, user, *mail(address)))
    assert greeting == "proceed"
    assert (answer == "proceed") is taken, answer
    if not taken:
        assert re.match(rf"reject\|550 5\.7\.1 {user} may not send mail as |reject\|553 5\.1\.7 ", answer)


@pytest.mark.parametrize(
    ("uid", "user", "sender", "author", "taken"),
    [
        (1001, "bob", f"bob@{HOST}", f"Bob <bob+x@{HOST}>", True),
        (1001, "bob", "", f"bob@{HOST}", True),
        (1001, "bob", f"bob@{HOST}", "alice@our.test", False),
        (1001, "bob", "", "alice@our.test", False),
        (1001, "bob", "", f"root@{HOST}", False),
        (1001, "bob", f"bob@{HOST}", f'"alice@our.test" <bob@{HOST}>', False),
        (33, "www-data", f"www-data@{HOST}", f"postmaster@{HOST}", True),
        (0, "root", f"root@{HOST}", f"Cron <cron@{HOST}>", True),
        (0, "root", "", "alice@our.test", False),
        (999, "vmail", "alice@our.test", "info@our.test", True),
        (999, "vmail", "alice@our.test", "bob@our.test", False),
        (999, "vmail", "alice@our.test", f"postmaster@{HOST}", False),
        (999, "vmail", "", f"postmaster@{HOST}", True),
        (999, "vmail", "", "alice@our.test", False),
    ],
)
@pytest.mark.parametrize("policy", ["account", "domain"])
def test_from_of_a_user(
    local: Callable[..., list[str]], uid: int, user: str, sender: str, author: str, taken: bool, policy: str
) -> None:
    told = local(uid, user, *mail(sender), *message(f"From: {author}", "", "body"), policy=policy)
    assert (results(told)[2] == "proceed") is taken, results(told)
    assert ("body" in lines(told)) is taken


def test_a_peer_whom_the_kernel_does_not_know_is_sent_away(local: Callable[..., list[str]]) -> None:
    assert results(local(None, "bob", *mail("")))[0].startswith("disconnect|421 4.7.0 ")


def test_a_user_without_a_name_is_sent_away(local: Callable[..., list[str]]) -> None:
    greeting, answer = results(local(200001, "", *mail("")))
    assert greeting == "disconnect|550 5.7.1 User id 200001 has no user name on this host, so it cannot send mail"
    assert answer.startswith("reject|4")


@pytest.mark.parametrize(
    ("uid", "user", "sender", "answer"),
    [
        (999, "vmail", "alice+x@our.test", "proceed"),
        (999, "vmail", "", "proceed"),
        (0, "root", "alice@our.test", "proceed"),
        (999, "vmail", "carol@far.test", "reject|550 5.7.1 vmail may not send mail as carol@far.test."),
        (999, "vmail", f"root@{HOST}", "reject|550 5.7.1 "),
        (0, "root", f"root@{HOST}", "reject|550 5.7.1 "),
    ],
)
def test_redirects(local: Callable[..., list[str]], uid: int, user: str, sender: str, answer: str) -> None:
    as_it_is = ["Subject : x", "From: Doe, Jane <jane@far.test>", "", "body"]
    told = local(uid, user, *mail(sender), *message(*as_it_is), port=10026)
    assert results(told)[1].startswith(answer)
    assert lines(told) == [*TRACE, *as_it_is, "."]


def test_redirects_are_the_mailboxes_users_alone(local: Callable[..., list[str]]) -> None:
    for uid, user in [(1001, "bob"), (33, "www-data"), (200001, "eve")]:
        greeting = results(local(uid, user, port=10026))[0]
        assert greeting == f"disconnect|550 5.7.1 {user} may not submit mail on this port; use sendmail"


def test_a_directory_that_takes_its_time_keeps_nobody_else_waiting(
    senders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, answers, goes_on = built(senders), queue.SimpleQueue[bytes](), threading.Event()
    who = {"127.0.0.1:1": 200001, "127.0.0.1:2": os.getuid()}
    known = pwd.getpwuid

    def getpwuid(uid: int) -> object:
        return known(uid) if uid == os.getuid() else goes_on.wait(60) and known(os.getuid())

    monkeypatch.setattr(writers, "peer_uid", lambda source, destination: who[source])
    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    monkeypatch.setattr(running, "write", answers.put)
    for session, source in ("a", "127.0.0.1:1"), ("b", "127.0.0.1:2"):
        for line in connected(session, 10025, source), asked("connect", "localhost|127.0.0.1", session):
            running.told(line.encode().split(b"|", 7))
    assert answers.get(timeout=60) == b"filter-result|b|t|proceed\n"
    goes_on.set()
    assert answers.get(timeout=60) == b"filter-result|a|t|proceed\n"
