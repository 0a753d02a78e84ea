# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificate, space and units."""

from __future__ import annotations

import json
import os
import ssl
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from status import host
from status.finding import Check, Failed, Finding, Talk

from testbed.smtp_provider import self_signed

DAY = 86400


def talk(said: str | None = None) -> Talk:
    made = Talk(Check("certificate", "file", lambda _talk: ""), 30)
    if said is not None:
        made.command = lambda *words: said  # type: ignore[method-assign]
    return made


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good for 90 days from now, with another one behind it."""
    folder = tmp_path_factory.mktemp("certificate")
    parts = [self_signed(folder, name, days=90).with_suffix(".crt").read_text() for name in ("own", "other")]
    chain = folder / "fullchain.pem"
    chain.write_text("".join(parts))
    return chain


@pytest.mark.parametrize(
    ("days", "status", "text"),
    [
        (0, "ok", "good for 90 more days"),
        (60, "ok", "good for 30 more days"),
        (69, "warning", "good for 21 more days"),
        (74, "warning", "good for 16 more days"),
        (76, "error", "good for 14 more days"),
        (85, "error", "good for 5 more days"),
        (100, "error", "expired 10 days ago"),
    ],
)
def test_days(certificate: Path, monkeypatch: pytest.MonkeyPatch, days: int, status: str, text: str) -> None:
    begin, end = host.validity(talk(), str(certificate))
    assert end - begin == 90 * DAY
    monkeypatch.setattr(host.time, "time", lambda: begin + days * DAY)
    found = host.certificate(talk(), str(certificate), {})
    assert [(one.status, one.text) for one in found] == [(status, f"{certificate}: {text}")]


def test_another_one_is_served(certificate: Path) -> None:
    own = ssl.PEM_cert_to_DER_cert((certificate.parent / "own.crt").read_text())
    other = ssl.PEM_cert_to_DER_cert((certificate.parent / "other.crt").read_text())
    found = host.certificate(talk(), str(certificate), {"25": own, "465": other, "993": other})
    assert [(one.subject, one.status) for one in found] == [("file", "ok"), ("465", "error"), ("993", "error")]


def test_why_there_is_no_newer_one(certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = tmp_path / "problems.json"
    problems.write_text('["the server is away"]')
    found = host.certificate(talk(), str(certificate), {}, problems)
    assert [(one.subject, one.status) for one in found] == [("file", "ok"), ("renewal", "warning")]
    assert "away" not in found[0].text and found[1].text == "the server is away"
    _begin, end = host.validity(talk(), str(certificate))
    monkeypatch.setattr(host.time, "time", lambda: end - 14 * DAY)
    assert host.certificate(talk(), str(certificate), {}, problems)[0].text.endswith("; the server is away")


def test_no_certificate(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="is not a PEM certificate"):
        host.validity(talk(), str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("free", "size", "status"),
    [(60, 100, "ok"), (4, 20, "ok"), (1, 20, "warning"), (0.5, 20, "error"), (6, 1000, "ok"), (4, 1000, "warning"),
     (0.9, 1000, "error")],
)  # fmt: skip
def test_space(monkeypatch: pytest.MonkeyPatch, free: float, size: float, status: str) -> None:
    """In GB."""
    space = SimpleNamespace(f_bavail=free * 2**18, f_blocks=size * 2**18, f_frsize=4096, f_favail=0, f_files=0)
    monkeypatch.setattr(os, "statvfs", lambda _path: space)
    found = host.disk(talk(), ["/", "/not/there"])
    assert [(one.subject, one.status) for one in found] == [("/", status)]


def test_inodes(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SimpleNamespace(f_bavail=2**20, f_blocks=2**20, f_frsize=4096, f_favail=200, f_files=10_000)
    monkeypatch.setattr(os, "statvfs", lambda _path: space)
    found = host.disk(talk(), ["/"])
    assert [one.status for one in found] == ["error"]
    assert "200 of 10000 inodes" in found[0].text


def test_units() -> None:
    rows = (
        "opensmtpd.service loaded active running OpenSMTPD SMTP server\n"
        "dovecot.service   loaded failed failed  Dovecot\n"
        "rspamd.service    loaded activating start-post rapid spam filtering system\n"
        "other.service     loaded failed failed  Something else\n"
        "gone.service      not-found inactive dead gone.service\n"
    )
    ours = ["opensmtpd.service", "dovecot.service", "rspamd.service", "dkimproxy.service"]
    found = {one.subject: (one.status, one.required, one.text) for one in host.units(talk(rows), ours)}
    assert found == {
        "dovecot.service": ("error", True, "is failed"),
        "dkimproxy.service": ("error", True, "is not loaded"),
        "other.service": ("warning", False, "failed"),
    }
    assert [(one.status, one.text) for one in host.units(talk(rows), ours[:1])][-1] == ("warning", "failed")


def test_units_run() -> None:
    found: list[Finding] = host.units(talk("opensmtpd.service loaded active running x\n"), ["opensmtpd.service"])
    assert [(one.status, one.text) for one in found] == [("ok", "run")]


HASHES = {
    "alice@our.test": "$6$saltsalt$" + "a" * 86,
    "bob@our.test": "$2b$12$" + "b" * 53,
    "carol@our.test": "$2b$12$" + "c" * 53,
    "dave@our.test": "$y$jCT$saltsaltsalt....$" + "d" * 43,
    "nobody@invalid": "*",
}


@pytest.mark.parametrize(("slow", "named"), [(["2b"], ["bob"]), (["2b", "y"], ["bob", "dave"]), ([], [])])
def test_passwords_that_take_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: list[str], named: list[str]
) -> None:
    credentials, clock, asked = tmp_path / "credentials", [0.0], []
    credentials.write_text("".join(f"{login} {hashed}\n" for login, hashed in HASHES.items()))

    def crypt(_word: bytes, hashed: bytes) -> None:
        asked.append(hashed.decode())
        clock[0] += 0.25 if asked[-1].split("$")[1] in slow else 0.004

    monkeypatch.setattr(host.ctypes, "CDLL", lambda _name: SimpleNamespace(crypt=crypt))
    monkeypatch.setattr(host.time, "thread_time", lambda: clock[0])
    found = host.passwords(talk(), str(credentials))
    # Once for each kind.
    assert asked == [HASHES[f"{name}@our.test"] for name in ("alice", "bob", "dave")]
    if not named:
        assert [(one.status, one.text) for one in found] == [("ok", "take 4 ms to check at most")]
    else:
        texts = [f"the hash of {name}@our.test takes 250 ms to check, and mail waits meanwhile" for name in named]
        assert [(one.status, one.text) for one in found] == [("warning", text) for text in texts]


def test_a_password_is_checked_as_crypt_does(tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text(f"alice@our.test {HASHES['alice@our.test']}\n")
    assert host.passwords(talk(), str(tmp_path / "credentials"))[0].text.endswith(" ms to check at most")


def test_a_delivery_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.pwd, "getpwnam", lambda _name: SimpleNamespace(pw_uid=os.getuid()))
    monkeypatch.setattr(host.time, "clock_gettime", lambda _clock: 1000.0)
    tick = os.sysconf("SC_CLK_TCK")
    talk = Talk(Check("deliveries", "mailboxes", lambda _talk: ""), 1)

    def process(number: int, unit: str, began: int) -> None:
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "cgroup").write_text(f"0::/system.slice/{unit}\n")
        (folder / "stat").write_text(f"{number} (a) b (c) S " + "0 " * 18 + f"{began * tick} 0 0\n")

    (tmp_path / "99").mkdir()
    process(1, "opensmtpd.service", 701)
    process(2, "dovecot.service", 1)
    assert host.deliveries(talk, tmp_path) == "none hangs"
    process(3, "opensmtpd.service", 600)
    with pytest.raises(TimeoutError):
        host.deliveries(talk, tmp_path)
    assert talk.step == "a delivery that began 400 s ago"


def kept(file: Path, age: float) -> None:
    found = {
        "check": "smtp",  # what it may not speak for
        "subject": "MX x.test",
        "status": "error",
        "required": True,
        "text": "is missing",
        "fix": "it",
    }
    file.write_text(json.dumps({"asked": time.time() - age, "findings": [found]}))


def test_dns_shows_what_the_last_look_found(tmp_path: Path) -> None:
    file = tmp_path / "findings.json"
    [first] = host.dns(talk(), str(file))
    assert first.status == "ok" and "not checked yet" in first.text
    kept(file, 2 * DAY)
    assert host.dns(talk(), str(file)) == [Finding("dns", "MX x.test", "error", True, "is missing", "it")]
    kept(file, 4 * DAY)
    assert [one.status for one in host.dns(talk(), str(file))] == ["error", "warning"]


@pytest.mark.parametrize(
    ("state", "hours", "wrong"),
    [
        (None, 1, ""),
        (None, 49, "is too old: none yet"),
        ({"finished": 47, "bytes": 3 << 30, "error": ""}, 99, ""),
        ({"finished": 49, "bytes": 3 << 30, "error": ""}, 99, "is too old: 3.00 GB, 49 hours ago"),
        (
            {"finished": 1, "bytes": 3 << 30, "error": "restic: away"},
            99,
            "restic: away; the last good one: 3.00 GB, 1 hours",
        ),
        ({"error": "restic: away"}, 1, "restic: away; the last good one: none yet"),
    ],
)
def test_backup(tmp_path: Path, state: dict[str, object] | None, hours: int, wrong: str) -> None:
    """``finished`` is hours ago, and ``hours`` ago the role began."""
    config, file = tmp_path / "config.json", tmp_path / "state.json"
    config.write_text(json.dumps({"interval": DAY}))
    os.utime(config, (0, time.time() - hours * 3600))
    if state is not None:
        if "finished" in state:
            state["finished"] = time.time() - float(str(state["finished"])) * 3600
        file.write_text(json.dumps(state))
    if wrong:
        with pytest.raises(Failed, match=wrong):
            host.backup(talk(), config, file)
    else:
        assert host.backup(talk(), config, file) in ("none yet", "3.00 GB, 47 hours ago")


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ("13", "13", [("ok", "is 13")]),
        ("", "13", [("ok", "is 13")]),
        ("12", "12", [("warning", "OpenSMTPD of Debian 12 gets no more fixes: upgrade to Debian 13")]),
        ("12", "13", [("warning", "was 12 at the last run and is 13 now: run the playbook upgrade")]),
    ],
)
def test_which_debian_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, before: str, now: str, said: list[tuple[str, str]]
) -> None:
    state = tmp_path / "state.json"
    if before:
        state.write_text(json.dumps({"version": 1, "release": before}))
    monkeypatch.setattr(host.platform, "freedesktop_os_release", lambda: {"VERSION_ID": now})
    assert [(one.status, one.text) for one in host.release(talk(), state)] == said
