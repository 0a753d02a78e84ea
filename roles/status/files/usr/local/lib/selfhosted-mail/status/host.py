# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of the host: processes, certificate, disk, passwords, memory, clock, units, and results of other programs."""

from __future__ import annotations

import calendar
import ctypes
import json
import os
import platform
import pwd
import re
import ssl
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from .finding import Failed, Finding, Talk

CREDENTIALS = "/etc/selfhosted-mail/credentials"
# Login, hash, and the part of the hash before the salt (crypt(5)).
HASH = re.compile(r"(?m)^(\S+) ((\$(?:2[aby]\$\d\d|[56](?:\$rounds=\d+)?|g?y\$[^$\s]+|7\$[^$\s]{11}))\S*)$")
SLOW = 0.1  # seconds
FILTER_USER, MAILBOX_USER = "mailfilter", "vmail"
DELIVERY = 300  # seconds
# Limits of free space or inodes: a part of the size, and at most so many octets.
LITTLE, TOO_LITTLE = (0.10, 5 << 30), (0.03, 1 << 30)
DAY = 86400
OLD = 3 * DAY
UPGRADE = "ansible-playbook -i inventory playbooks/upgrade.yml"
LOOK_AT_DNS = "systemctl start selfhosted-mail-dns@3.service"
BACKUP, BACKUP_STATE = Path("/etc/selfhosted-mail/backup.json"), Path("/var/lib/selfhosted-mail/backup.json")
BACK_UP = "systemctl start selfhosted-mail-backup; journalctl -u selfhosted-mail-backup -n 20"
RENEWAL_PROBLEMS = Path("/var/lib/selfhosted-mail/certificate/problems.json")
STATE = Path("/var/lib/selfhosted-mail/state.json")  # written by the last run of the playbook
NOT_SYNCHRONIZED = 5  # adjtimex(2)


def filters(_talk: Talk, wanted: Iterable[str]) -> str:
    """Require all filters: OpenSMTPD keeps running without one that exited with 0, and its clients wait forever."""
    owner = pwd.getpwnam(FILTER_USER).pw_uid
    running: Counter[str] = Counter()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == owner:
                running[(process / "comm").read_text().strip()] += 1
        except OSError:
            continue  # it ended meanwhile
    missing = [name for name in wanted if not running[name]]
    if missing:
        raise Failed(f"not running: {', '.join(missing)}")
    return "all running"


def deliveries(talk: Talk, proc: Path = Path("/proc")) -> str:
    """Find deliveries to mailboxes that hang: OpenSMTPD has no timeout for them. Raises TimeoutError."""
    owner, now, oldest = pwd.getpwnam(MAILBOX_USER).pw_uid, time.clock_gettime(time.CLOCK_BOOTTIME), 0.0
    for process in proc.glob("[0-9]*"):
        try:
            if process.stat().st_uid == owner and "/opensmtpd.service" in (process / "cgroup").read_text():
                # proc_pid_stat(5): the second field is the name in brackets, the 22nd the start time.
                ticks = (process / "stat").read_text().rpartition(")")[2].split()[19]
                oldest = max(oldest, now - int(ticks) / os.sysconf("SC_CLK_TCK"))
        except OSError:
            continue  # it ended meanwhile
    if oldest > DELIVERY:
        talk.waits_for(f"a delivery that began {oldest:.0f} s ago")
        raise TimeoutError
    return "none hangs"


def validity(talk: Talk, path: str) -> tuple[float, float]:
    """Begin and end of a certificate's validity, seconds since the epoch. Raises Failed."""
    said = talk.command("openssl", "x509", "-noout", "-dates", "-in", path)
    found = re.findall(r"^not(?:Before|After)=(.+) GMT$", said, re.MULTILINE)
    if len(found) != 2:
        raise Failed(f"{path} is not a PEM certificate")
    begin, end = (calendar.timegm(time.strptime(text, "%b %d %H:%M:%S %Y")) for text in found)
    return begin, end


def certificate(talk: Talk, path: str, served: Mapping[str, bytes], problems: Path = RENEWAL_PROBLEMS) -> list[Finding]:
    """Its remaining validity, why a renewal failed, and whether the ports serve it.

    ``served``: port to certificate, DER; ``problems``: file of the certificate program, a JSON list of sentences.
    """
    begin, end = validity(talk, path)
    text = Path(path).read_text()
    ours = ssl.PEM_cert_to_DER_cert(text[: text.index("-----END CERTIFICATE-----") + 25])
    left, life = end - time.time(), end - begin
    # Renewal begins when a third of its lifetime is left.
    status = "error" if left < min(life / 6, 15 * DAY) else "warning" if left < min(life / 4, 30 * DAY) else "ok"
    days = f"good for {left / DAY:.0f} more days" if left > 0 else f"expired {-left / DAY:.0f} days ago"
    why = json.loads(problems.read_text()) if problems.exists() else []
    found = [talk.found(status, "; ".join([f"{path}: {days}", *(why if status == "error" else [])]))]
    found += [Finding("certificate", "renewal", "warning", True, problem, talk.check.fix) for problem in why]
    return found + [
        Finding("certificate", port, "error", True, f"serves another certificate than {path}", talk.check.fix)
        for port, other in sorted(served.items())
        if other != ours
    ]


def disk(_talk: Talk, paths: Iterable[str]) -> list[Finding]:
    """Space and inodes of the file systems under the paths."""
    found, seen = [], set()
    for path in paths:
        try:
            device, space = os.stat(path).st_dev, os.statvfs(path)
        except FileNotFoundError:
            continue
        if device in seen:
            continue
        seen.add(device)
        free, size = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
        status = grade(free, size)
        # Some file systems create inodes on demand.
        inodes = grade(space.f_favail, space.f_files, 1.0) if space.f_files else "ok"
        text = f"{free / 2**30:.1f} of {size / 2**30:.1f} GB free"
        if inodes != "ok":
            text += f", {space.f_favail} of {space.f_files} inodes"
        worst = min(status, inodes, key=("error", "warning", "ok").index)
        found.append(
            Finding("disk", path, worst, True, text, "" if worst == "ok" else f"du -xh {path} | sort -h | tail")
        )
    return found


def grade(free: float, size: float, unit: float | None = None) -> str:
    """``unit``: set if only the part of the size counts, and no absolute limit."""
    for status, (part, enough) in (("error", TOO_LITTLE), ("warning", LITTLE)):
        if free < (size * part if unit else min(size * part, enough)):
            return status
    return "ok"


def passwords(talk: Talk, path: str = CREDENTIALS) -> list[Finding]:
    """The time to verify each kind of hash on this host: OpenSMTPD does nothing else meanwhile."""
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    found, seconds = [], {}
    for login, hashed, kind in HASH.findall(Path(path).read_text()):
        if kind not in seconds:
            begun = time.thread_time()
            crypt(b"mail-status", hashed.encode())
            seconds[kind] = time.thread_time() - begun
            if seconds[kind] > SLOW:
                text = f"the hash of {login} takes {seconds[kind] * 1000:.0f} ms to check, and mail waits meanwhile"
                found.append(talk.found("warning", text))
    return found or [talk.found("ok", f"take {max(seconds.values(), default=0) * 1000:.0f} ms to check at most")]


def dns(talk: Talk, path: str) -> list[Finding]:
    """Findings of the role dns's last check."""
    try:
        kept = json.loads(Path(path).read_text())
    except FileNotFoundError:
        return [talk.found("ok", "not checked yet: the first check runs some minutes after the playbook")]
    old = time.time() - kept["asked"]
    # The user that looks wrote the file, and may not speak for other checks.
    found = [Finding(**{**one, "check": "dns"}) for one in kept["findings"]]
    if old > OLD:
        found.append(talk.found("warning", f"the last check was {old / DAY:.0f} days ago"))
    return found


def backup(_talk: Talk, config: Path = BACKUP, state: Path = BACKUP_STATE) -> str:
    """Age and size of the last backup. Raises Failed if it is too old or had an error."""
    kept = json.loads(state.read_text()) if state.exists() else {}
    age = time.time() - kept.get("finished", config.stat().st_mtime)
    text = f"{kept['bytes'] / 2**30:.2f} GB, {age / 3600:.0f} hours ago" if "finished" in kept else "none yet"
    if kept.get("error"):
        raise Failed(f"{kept['error']}; the last good one: {text}")
    if age > 2 * json.loads(config.read_text())["interval"]:
        raise Failed(f"the last one is too old: {text}")
    return text


def memory(_talk: Talk) -> str:
    values = {
        name: int(words.split()[0]) << 10
        for name, _colon, words in (line.partition(":") for line in Path("/proc/meminfo").read_text().splitlines())
    }
    text = f"{values['MemAvailable'] >> 20} of {values['MemTotal'] >> 20} MB available"
    if values["MemAvailable"] < max(values["MemTotal"] * 0.03, 32 << 20):
        raise Failed(text)
    return text


def clock(talk: Talk) -> str:
    """Require a synchronized clock, on which signatures and logins depend."""
    if talk.command("systemd-detect-virt", "--container").strip() != "none":
        return "is that of the machine whose container this is"
    # struct timex of adjtimex(2) has 208 octets on 64-bit systems; with no mode set nothing changes.
    if ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)) == NOT_SYNCHRONIZED:
        raise Failed("is not synchronized")
    return "is synchronized"


def release(talk: Talk, state: Path = STATE) -> list[Finding]:
    """Whether OpenSMTPD is maintained in this Debian, and whether it is the Debian of the last run."""
    now = platform.freedesktop_os_release()["VERSION_ID"]
    before = json.loads(state.read_text())["release"] if state.exists() else now
    found = []
    if before != now:
        text = f"was {before} at the last run and is {now} now: run the playbook upgrade"
        found.append(talk.found("warning", text))
    if now == "12":
        found.append(talk.found("warning", "OpenSMTPD of Debian 12 gets no more fixes: upgrade to Debian 13"))
    return found or [talk.found("ok", f"is {now}")]


def units(talk: Talk, ours: Iterable[str]) -> list[Finding]:
    """Our units that do not run, and other services that failed."""
    rows = talk.command("systemctl", "list-units", "--all", "--plain", "--no-legend", "--type=service").splitlines()
    # Columns: unit, load, active, sub, description
    states = {row[0]: row[2] for row in map(str.split, rows) if len(row) > 3}
    wanted = list(ours)
    found = [
        Finding("units", name, "error", True, f"is {states.get(name, 'not loaded')}", f"journalctl -u {name} -n 50")
        for name in wanted
        if states.get(name) in ("failed", "inactive", None)
    ]
    found += [
        Finding("units", name, "warning", False, "failed", f"journalctl -u {name} -n 50")
        for name, state in states.items()
        if state == "failed" and name not in wanted
    ]
    return found or [talk.found("ok", "run")]
