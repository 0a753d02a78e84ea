# SPDX-License-Identifier: GPL-3.0-or-later
"""Findings about queue and relay, from lines of OpenSMTPD 7.4 and 7.6."""

from __future__ import annotations

import time
from typing import Any

import pytest
from status import queue
from status.finding import Check, Finding, Talk

NOW = 1_795_875_226.0
HOUR = 3600


class Answers(Talk):
    def __init__(self, text: str) -> None:
        super().__init__(Check("queue", "waiting", lambda _talk: ""), 1)
        self.text, self.words = text, list[tuple[str, ...]]()

    def command(self, *words: str) -> str:
        self.words.append(words)
        return self.text


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)


def row(number: int, age: float, state: str, error: str, sender: str = "alice@example.org") -> str:
    made = int(NOW - age)
    words = [f"{number:016x}", "inet4", "mta", "auth", sender, "b|c@far.test", "b|c@far.test"]
    return "|".join([*words, str(made), str(made + 4 * 86400), "0", "3", state, "5", error]) + "\n"


def found(text: str) -> list[tuple[str, str]]:
    return [(one.status, one.text) for one in queue.queue(Answers(text))]


def test_empty() -> None:
    assert found("") == [("ok", "is empty")]


@pytest.mark.parametrize(
    ("age", "error", "status"),
    [
        (60, "Network error on destination MXs", "ok"),
        (2 * HOUR, "Network error on destination MXs", "warning"),
        (5 * HOUR, "Network error on destination MXs", "error"),
        (90 * HOUR, "451 4.7.1 come again", "warning"),
        (90 * HOUR, "550 5.1.1 nobody", "warning"),
    ],
)
def test_age_and_answers(age: float, error: str, status: str) -> None:
    assert [one[0] for one in found(row(1, age, "pending", error))] == [status]


def test_by_reason_most_first() -> None:
    rows = [row(1, 100, "inflight", ""), row(2, 7300, "pending", "451 busy", "@"), row(3, 60, "pending", "451 busy")]
    assert found("".join(rows)) == [
        ("warning", "2 queued, the oldest for 2 hours: 451 busy"),
        ("ok", "1 queued, the oldest for 100 seconds: not tried yet"),
    ]


PROVIDER = "smtp.provider.test"
OURS, OTHERS = "c289d982fd7279f6", "c289d97aa339a073"
CONNECTING = "{when:.6f} mail smtpd[7]: {session} mta connecting address={scheme}://198.51.100.25:587 host=x\n"
DELIVERY = (
    "{when:.6f} mail smtpd[7]: {session} mta delivery evpid=73c94d4453856e76 from=<{sender}> to=<d@e.f> rcpt=<-> "
    'source="192.168.0.1" relay="{relay}" delay=1s result="{result}" stat="{stat}"\n'
)


def connected(when: float, session: str = OURS, scheme: str = "smtp+tls") -> str:
    return CONNECTING.format(when=when, session=session, scheme=scheme)


def delivery(
    when: float, result: str, stat: str, sender: str = "a@b.c", session: str = OURS, relay: str = "198.51.100.25 (x)"
) -> str:
    return DELIVERY.format(when=when, session=session, sender=sender, relay=relay, result=result, stat=stat)


def error(when: float, reason: str, session: str = OURS) -> str:
    return f"{when:.6f} mail smtpd[7]: {session} mta error reason={reason}\n"


def looked(state: dict[str, Any], text: str, provider: str = PROVIDER) -> list[Finding]:
    # As journalctl has it in a first look.
    lines = text.splitlines(keepends=True)
    return queue.relay(Answers("".join(lines if "read" in state else reversed(lines))), state, provider)


def kinds(findings: list[Finding]) -> list[tuple[str, str]]:
    """All but the line of what was last."""
    assert (findings[0].check, findings[0].subject, findings[0].status) == ("queue", "waiting", "ok")
    return [(one.subject, one.status) for one in findings[1:]]


@pytest.mark.parametrize("provider", ["", PROVIDER])
def test_relay_remembers_the_last_of_each(provider: str) -> None:
    state: dict[str, Any] = {}
    scheme = "smtp+tls" if provider else "smtp"
    proxy = delivery(NOW - 5, "Ok", "250 signed", session=OTHERS, relay="127.0.0.1 (localhost)")
    refused = connected(NOW - 7201, scheme=scheme) + delivery(NOW - 7200, "PermFail", "550 5.1.1 no user")
    sent = delivery(NOW - 300, "Ok", "250 taken")
    assert [one.text for one in looked(state, refused + sent + proxy, provider)] == [
        "last success 5 minutes ago: 250 taken; last refusal 2 hours ago: 550 5.1.1 no user"
    ]
    later = Answers("")
    assert queue.relay(later, state, provider)[0].text.startswith("last success 5 minutes ago")
    assert f"--since=@{NOW - 1:.0f}" in later.words[0]


def test_a_refused_login_is_an_error_until_mail_is_taken() -> None:
    state: dict[str, Any] = {}
    looked(state, connected(NOW - 70) + delivery(NOW - 60, "Ok", "250 taken"))
    said = connected(NOW - 9) + error(NOW - 8, "AUTH rejected: 535 wrong password")
    found = looked(state, said)
    assert kinds(found) == [("login", "error")]
    assert found[1].text == f"{PROVIDER} said 8 seconds ago: AUTH rejected: 535 wrong password"
    assert "mail_relay_username" in found[1].fix
    assert found[1].required
    assert kinds(looked(state, said)) == [("login", "error")]
    assert kinds(looked(state, connected(NOW - 5) + delivery(NOW - 4, "Ok", "250 taken"))) == []


def test_what_a_success_makes_good_in_the_same_look_is_told_once() -> None:
    state: dict[str, Any] = {}
    looked(state, connected(NOW - 70) + delivery(NOW - 60, "Ok", "250 taken"))
    quota = delivery(NOW - 8, "TempFail", "452 4.5.3 Daily message limit exceeded") + delivery(
        NOW - 7, "Ok", "250 taken"
    )
    assert kinds(looked(state, quota)) == [("quota", "error")]
    assert kinds(looked(state, quota)) == []
    # A warning is no alarm.
    assert kinds(looked(state, delivery(NOW - 6, "TempFail", "451 later") + delivery(NOW - 5, "Ok", "250 taken"))) == []


@pytest.mark.parametrize(
    ("sender", "reply", "found"),
    [
        ("alice@example.org", "550 From header sender domain not verified.", ("unverified", "error")),
        ("alice@example.org", "554 No", ("unknown", "warning")),
        ("", "501 Invalid MAIL FROM address provided", ("null sender", "warning")),
    ],
)
def test_mail_of_another_domain_makes_nothing_good(sender: str, reply: str, found: tuple[str, str]) -> None:
    state: dict[str, Any] = {}
    looked(state, connected(NOW - 90) + delivery(NOW - 80, "Ok", "250 taken", sender))
    refused = delivery(NOW - 60, "PermFail", reply, sender)
    for lines in (refused, delivery(NOW - 50, "Ok", "250 taken", "alice@example.net"), ""):
        assert kinds(looked(state, lines)) == [found]
    whose = " to mail from example.org" if sender else ""
    assert looked(state, "")[1].text == f"{PROVIDER} said 60 seconds ago{whose}: {reply}"
    assert kinds(looked(state, delivery(NOW - 40, "Ok", "250 taken", sender))) == []


def test_what_was_said_a_day_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    state: dict[str, Any] = {}
    said = connected(NOW - 9) + error(NOW - 8, "AUTH rejected: 535 wrong password")
    assert kinds(looked(state, said)) == [("login", "error")]
    monkeypatch.setattr(time, "time", lambda: NOW + 24 * HOUR)
    assert kinds(looked(state, "")) == []


def test_each_kind_of_refusal_is_a_finding_of_its_own() -> None:
    state: dict[str, Any] = {}
    replies = ["454 Throttling failure: Maximum sending rate exceeded.", "550 5.1.1 nobody", "552 Message is too long.",
               "451 later", "503 what", "452 4.5.3 Daily message limit exceeded"]  # fmt: skip
    lines = "".join(delivery(NOW - 9 + number, "TempFail", reply) for number, reply in enumerate(replies))
    assert kinds(looked(state, connected(NOW - 10) + lines)) == [
        ("rate", "warning"), ("temporary", "warning"), ("unknown", "warning"), ("quota", "error")
    ]  # fmt: skip


def test_other_peoples_mx_hosts_are_no_provider() -> None:
    """Mail that is forwarded directly."""
    said = connected(NOW - 9, scheme="smtp") + delivery(NOW - 8, "PermFail", "550 Daily quota exceeded")
    assert kinds(looked({}, said)) == []
    assert kinds(looked({}, said, "")) == []


def test_another_provider_has_said_nothing() -> None:
    state: dict[str, Any] = {}
    looked(state, connected(NOW - 9) + error(NOW - 8, "AUTH rejected: 535 wrong password"))
    assert kinds(looked(state, "", "smtp.another.test")) == []


def test_each_refusal_of_the_null_sender_is_a_line() -> None:
    state: dict[str, Any] = {}
    reply = "550 to send email from a blank sender, enable blank senders"
    lines = connected(NOW - 9) + delivery(NOW - 8, "PermFail", reply, "") + delivery(NOW - 7, "PermFail", reply, "")
    # Findings of the first call are old.
    before: dict[str, Any] = {}
    assert kinds(looked(before, lines)) == [("null sender", "warning")]
    assert "lines" not in before
    looked(state, "")
    assert kinds(looked(state, lines)) == [("null sender", "warning")]
    assert state.pop("lines") == [f"the relay refused a message with the null sender (<>) to <d@e.f>: {reply}"] * 2
    # The journal is read with an overlap.
    looked(state, lines + delivery(NOW - 6, "PermFail", "550 5.1.1 nobody", ""))
    assert "lines" not in state


def test_nothing_sent() -> None:
    assert [one.text for one in looked({}, "")] == ["nothing was sent yet"]
