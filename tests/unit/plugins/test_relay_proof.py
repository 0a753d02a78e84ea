# SPDX-License-Identifier: GPL-3.0-or-later
"""Findings about returned proofs, with logs and headers of real OpenSMTPD and Rspamd."""

from __future__ import annotations

import email
import smtplib
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.selfhosted.mail.plugins.modules import dkim_records, relay_proof
from ansible_collections.selfhosted.mail.plugins.modules.relay_proof import NULL, Fate, Proof, judged

RELAY = "smtp.provider.example"
WANTED: dict[str, Any] = {
    "hostname": "mail.example.org",
    "relay": RELAY,
    "signing": [("mail", "example.org"), ("mail-ed25519", "example.org")],
    "unsigned_headers": ["Reply-To"],
    "patience": 60,
}
TAKEN = Fate("Ok", "250 queued as 1", "TLSv1.3", "198.51.100.25 (198.51.100.25)")
TRACE = """\
Return-Path: <bounces@provider.example>
X-Spam-Score: 0.10 / 15.00
Authentication-Results: mail.example.org;
\tdkim={dkim} header.d=example.org header.s=mail header.b=ktG0EBnt;{more}
\tspf={spf} (mail.example.org: domain of bounces@provider.example; it says so) smtp.mailfrom=bounces@provider.example;
\tdmarc={dmarc} (policy=none) header.from=example.org
Authentication-Results: elsewhere.example; dkim=pass header.d=example.org header.s=mail; spf=pass; dmarc=pass
Received: from smtp.provider.example (<unknown> [198.51.100.25])
\tby mail.example.org (OpenSMTPD) with ESMTPS id bc1da263 (TLSv1.2:ECDHE-ECDSA-AES256-GCM-SHA384:256:NO)
DKIM-Signature: v=1; a=rsa-sha256; d=example.org; s=mail;
\th=from:from:subject:date:message-id:
\tmime-version; bh=x; b=y
"""


def back(
    change: Callable[[str], str] = str, *, dkim: str = "pass", spf: str = "pass", dmarc: str = "pass", more: str = ""
) -> dict[str, Any]:
    """The finding on one that is back, changed."""
    proof = Proof("example.org", "example.org", seconds=3.2)
    text = change(TRACE.format(dkim=dkim, spf=spf, dmarc=dmarc, more=more) + proof.text)
    proof.came = email.message_from_string(text)
    return judged(proof, TAKEN, WANTED)


def new(name: str, value: str) -> Callable[[str], str]:
    """The field of that name has another value."""
    return lambda text: "\n".join(
        f"{name}: {value}" if line.startswith(f"{name}:") else line for line in text.split("\n")
    )


def test_all_is_well() -> None:
    found = back()
    assert (found["check"], found["subject"], found["status"], found["required"]) == (
        "proof",
        "example.org",
        "ok",
        True,
    )
    assert found["text"] == "came back after 3 s, TLS 1.3 out and 1.2 in: our signature pass, SPF pass, DMARC pass"
    assert found["fix"] == ""


PUBLISH = "# publish example.org.zone"


@pytest.mark.parametrize(
    ("change", "results", "status", "text", "fix"),
    [
        (
            new("Date", "now"),
            {"dkim": "fail"},
            "error",
            "changed date",
            "mail_relay_unsigned_headers: [date, reply-to]",
        ),
        # Unsigned fields may change.
        (new("Date", "now"), {}, "ok", "changed date", ""),
        (new("Auto-Submitted", "no"), {"dkim": "fail"}, "error", "the key in DNS is different", PUBLISH),
        (lambda text: text + "A free account.\n", {"dkim": "fail"}, "error", "changed the body", "switch off"),
        (new("From", "<a@b.example>"), {"dkim": "fail"}, "error", "From is now <a@b.example>", "authenticate"),
        (str, {"dkim": "temperror"}, "unknown", "could not be looked up", ""),
        (str, {"dkim": "permerror"}, "error", "or missing", PUBLISH),
        (str, {"dmarc": "none"}, "warning", "DMARC none", PUBLISH),
        (str, {"spf": "fail"}, "warning", f"spf does not include {RELAY}", "mail_relay_spf: ip4:198.51.100.25"),
        (str, {"more": " dkim=pass header.d=x.example header.s=own;"}, "ok", "of its own (x.example)", ""),
        (lambda text: text.replace("header.s=mail ", "header.s=x "), {}, "warning", "was removed", "authenticate"),
        (new("X-None", ""), {"dkim": "none", "more": " dkim=pass"}, "error", "is different", PUBLISH),
        (lambda text: text.replace("mail.example.org;\n", "other;\n"), {}, "error", "did not scan it", "journalctl"),
    ],
)
def test_findings(change: Callable[[str], str], results: dict[str, str], status: str, text: str, fix: str) -> None:
    found = back(change, **results)
    assert found["status"] == status
    assert text in found["text"]
    assert fix in found["fix"]
    assert bool(fix) == bool(found["fix"])


def test_folds_and_trailing_blanks_are_no_changes() -> None:
    """RFC 6376 section 3.4."""
    found = back(
        lambda text: text.replace("; charset", ";\n\tcharset").replace("proves here", "proves here  \n", 0) + "\n"
    )
    assert "changed" not in found["text"]


def missing(fate: Fate, subject: str = "example.org") -> dict[str, Any]:
    return judged(Proof(subject, "example.org"), fate, WANTED)


def test_what_is_not_back() -> None:
    refused = Fate("PermFail", "554 Transaction failed: Duplicate header 'DKIM-Signature'.", "", "198.51.100.25 (x)")
    assert missing(refused)["status"] == "error"
    assert missing(refused)["fix"] == "dkimproxy_ed25519: false"
    assert missing(Fate("PermFail", "550 no", "", "198.51.100.25 (x)"))["text"] == f"{RELAY} refuses it: 550 no"
    assert missing(Fate("PermFail", "550 no", "", "127.0.0.1 (x)"))["text"] == "the signing proxy refuses it: 550 no"
    late = missing(TAKEN)
    assert (late["status"], late["fix"]) == ("unknown", "-e mail_check_patience=600")
    assert missing(Fate("TempFail", "421 later"))["status"] == "unknown"
    assert "not tried yet" in missing(Fate())["text"]


def test_the_null_sender() -> None:
    found = missing(Fate("PermFail", "550 blank sender", "", "198.51.100.25 (x)"), NULL)
    assert (found["status"], found["required"]) == ("warning", False)
    assert "Bounces" in found["text"]


def test_nothing_is_sent_where_mail_leaves_directly_or_in_check_mode(run_module: Callable[..., dict[str, Any]]) -> None:
    """Neither asks this machine anything."""
    options = {"hostname": "mail.example.org", "domains": ["example.org"]}
    [direct] = run_module(relay_proof.main, relay="", **options)["findings"]
    assert (direct["status"], "is sent directly" in direct["text"]) == ("ok", True)
    [checked] = run_module(relay_proof.main, True, relay=RELAY, **options)["findings"]
    assert (checked["status"], checked["required"]) == ("unknown", False)


def test_a_host_that_cannot_send(run_module: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    result = run_module(relay_proof.main, relay=RELAY, hostname="h", domains=["example.org"])
    [found] = result["findings"]
    assert (found["status"], found["required"]) == ("error", True)
    assert "rspamadm" in found["text"]


def test_our_signatures_are_those_of_the_published_signing_keys() -> None:
    """Also with dkimproxy_config_file, whose selectors no variable names."""
    texts = {
        "example.org": {"own": "v=DKIM1; p=a", "next": "v=DKIM1; p=b"},
        "x.example": {"own": "v=DKIM1; p=" + "c" * 392},
    }
    signing = {("example.org", "own"), ("x.example", "own")}
    text = dkim_records.in_master_file_syntax(texts, signing)
    assert sorted(relay_proof.SIGNING.findall(text)) == [("own", "example.org"), ("own", "x.example")]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TimeoutError("timed out"), "unknown"),
        (smtplib.SMTPServerDisconnected("Connection unexpectedly closed: timed out"), "unknown"),
        (ConnectionRefusedError("refused"), "error"),
    ],
)
def test_no_answer_is_unknown(
    run_module: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, error: Exception, status: str
) -> None:
    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(relay_proof, "elsewhere", fail)
    [found] = run_module(relay_proof.main, relay=RELAY, hostname="h", domains=["example.org"])["findings"]
    assert found["status"] == status
