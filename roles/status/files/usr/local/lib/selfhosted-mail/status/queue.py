# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of OpenSMTPD's queue and of the relay's last answers."""

from __future__ import annotations

import re
import time
from typing import Any

from .finding import Finding, Talk
from .refusals import GRAVE, NULL_SENDER, kind

HOUR, DAY = 3600, 86400  # seconds
# smtpctl(8): id, source, agent, flags, three addresses, created, expires, tried, count, state, seconds, the last error.
# A local part may contain the separator but no "@"; a domain does not contain the separator.
ROW = re.compile(r"(?m)^[0-9a-f]{16}\|(?:[^|\n]*\|){3}(?:[^@\n]*@[^|\n]*\|){3}(\d+)\|(?:\d+\|){3}\w+\|\d+\|(.*)$")
ANSWERED = re.compile(r"\W*[45]\d\d[ -]")
SESSIONS = 500  # with the relay that are remembered
MTA = re.compile(
    r"(?m)^(\d+\.\d+) .*? ([0-9a-f]+) mta (?:connecting address=(?:smtps|smtp\+tls)(:)//.*"
    r'|delivery evpid=\w+ from=<(.*?)> to=<(.*?)> .*relay="([^"]*)".* result="(\w+)" stat="(.*)"|error reason=(.*))$'
)
REASONS = {
    "": "not tried yet",
    "Network error on destination MXs": "no server of the destination could be reached, or it refused the login",
    "Network error on all routes": "no server of the destination could be reached",
}


def age(seconds: float) -> str:
    """A duration in words."""
    for unit, name in ((DAY, "days"), (HOUR, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"


def queue(talk: Talk) -> list[Finding]:
    """Queued mail by reason and age: a warning after one hour, an error after four if no server has answered.

    Raises TimeoutError if a process of OpenSMTPD hangs.
    """
    talk.waits_for("smtpctl show queue")
    reasons: dict[str, list[int]] = {}
    for created, error in ROW.findall(talk.command("smtpctl", "show", "queue")):
        reasons.setdefault(error, []).append(int(created))
    found = []
    for error, created in sorted(reasons.items(), key=lambda item: -len(item[1])):
        oldest = time.time() - min(created)
        status = "ok" if oldest < HOUR else "warning" if ANSWERED.match(error) or oldest < 4 * HOUR else "error"
        why = REASONS.get(error, error)
        found.append(talk.found(status, f"{len(created)} queued, the oldest for {age(oldest)}: {why}"))
    return found or [talk.found("ok", "is empty")]


def relay(talk: Talk, state: dict[str, Any], provider: str) -> list[Finding]:
    """The last success, the last refusal, and each kind of refusal that needs action.

    ``state`` of the last call is updated; ``lines`` in it are new lines for the journal.
    """
    talk.waits_for("journalctl")
    begun, seen = time.time(), state.get("seen_until", 0.0)
    # Findings of the first call were reported before the host was started.
    first = "read" not in state
    since = ["--since=-1d", "--lines=5000"] if first else [f"--since=@{state['read'] - 1:.0f}"]
    words = ["journalctl", "--unit=opensmtpd.service", "--output=short-unix", "--no-pager", "--quiet"]
    said = talk.command(*words, *since, "--grep= mta (connecting|delivery|error) ")
    if state.get("provider") != provider:
        state.update(provider=provider, sessions=[], refusals={})
    state["read"], sessions, refusals = begun, state["sessions"], state["refusals"]
    # With --lines and --grep journalctl prints the newest first.
    for moment, session, ours, sender, recipient, host, result, reply, reason in sorted(MTA.findall(said)):
        when = float(moment)
        if when <= seen:
            continue
        state["seen_until"] = when
        if ours:
            sessions.append(session)
        elif session in sessions or (not provider and not host.startswith("127.")):
            state["success" if result == "Ok" else "refusal"] = when, reply or reason
            domain = sender.rpartition("@")[2]
            if result == "Ok":
                for what, refused in refusals.items():
                    if domain == refused["domain"] or not GRAVE[what].one_domain:
                        refused["good"] = when
            elif provider and (what := kind(reply or reason, sender if result else "-")) in GRAVE:
                refusals[what] = {"when": when, "said": reply or reason, "domain": domain, "good": 0.0}
                if what == NULL_SENDER and not first:
                    line = f"the relay refused a message with the null sender (<>) to <{recipient}>: {reply}"
                    state.setdefault("lines", []).append(line)
        if reason and session in sessions:
            sessions.remove(session)
    del sessions[:-SESSIONS]
    last = {name: state.get(name, (0.0, "")) for name in ("success", "refusal")}
    text = [f"last {name} {age(begun - when)} ago: {reply}" for name, (when, reply) in last.items() if when]
    found = [talk.found("ok", "; ".join(text) or "nothing was sent yet")]
    for what, refused in refusals.items():
        when, grave = refused["when"], GRAVE[what]
        # An alarm is reported once, even if mail was accepted afterwards.
        if refused["good"] < when > begun - DAY or (when > seen > 0 and grave.status == "error"):
            whose = f" to mail from {refused['domain']}" if refused["domain"] else ""
            words_of = f"{provider} said {age(begun - when)} ago{whose}: {refused['said']}"
            found.append(Finding("relay", what, grave.status, True, words_of, grave.fix))
    return found
