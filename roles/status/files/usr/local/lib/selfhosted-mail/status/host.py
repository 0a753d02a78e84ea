# SPDX-License-Identifier: GPL-3.0-or-later
"""The host that all runs on: processes, certificate, space, memory, clock, units."""

from __future__ import annotations

import calendar
import ctypes
import json
import os
import pwd
import re
import ssl
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from .finding import Failed, Finding, Talk

CREDENTIALS = "/etc/selfhosted-mail/credentials"
# Login, hash, and what crypt(5) has before the salt.
HASH = re.compile(r"(?m)^(\S+) ((\$(?:2[aby]\$\d\d|[56](?:\$rounds=\d+)?|g?y\$[^$\s]+|7\$[^$\s]{11}))\S*)$")
SLOW = 0.1  # seconds
FILTER_USER, MAILBOX_USER = "mailfilter", "vmail"
DELIVERY = 300  # seconds
# Of what there is, and at most so much: free space or inodes below it.
LITTLE, TOO_LITTLE = (0.10, 5 << 30), (0.03, 1 << 30)
DAY = 86400
OLD = 3 * DAY
LOOK_AT_DNS = "systemctl start selfhosted-mail-dns@3.service"
RENEWAL_PROBLEMS = Path("/var/lib/selfhosted-mail/certificate/problems.json")
NOT_SYNCHRONIZED = 5  # adjtimex(2)


def filters(_talk: Talk, wanted: Iterable[str]) -> str:
    """OpenSMTPD goes on without a filter that ended well, and its clients wait for ever."""
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
        raise Failed(f"OpenSMTPD runs without {' and '.join(missing)}")
    return "there"


def deliveries(talk: Talk, proc: Path = Path("/proc")) -> str:
    """OpenSMTPD waits for a delivery to a mailbox without end, and the message with it. Raises TimeoutError."""
    owner, now, oldest = pwd.getpwnam(MAILBOX_USER).pw_uid, time.clock_gettime(time.CLOCK_BOOTTIME), 0.0
    for process in proc.glob("[0-9]*"):
        try:
            if process.stat().st_uid == owner and "/opensmtpd.service" in (process / "cgroup").read_text():
                # proc_pid_stat(5): the name in brackets is the second field, the time of the start the 22nd.
                ticks = (process / "stat").read_text().rpartition(")")[2].split()[19]
                oldest = max(oldest, now - int(ticks) / os.sysconf("SC_CLK_TCK"))
        except OSError:
            continue  # it ended meanwhile
    if oldest > DELIVERY:
        talk.waits_for(f"a delivery that began {oldest:.0f} s ago")
        raise TimeoutError
    return "come to an end"


def validity(talk: Talk, path: str) -> tuple[float, float]:
    """From when and to when a certificate is good, seconds since the epoch. Raises Failed."""
    said = talk.command("openssl", "x509", "-noout", "-dates", "-in", path)
    found = re.findall(r"^not(?:Before|After)=(.+) GMT$", said, re.MULTILINE)
    if len(found) != 2:
        raise Failed(f"{path} is no certificate")
    begin, end = (calendar.timegm(time.strptime(text, "%b %d %H:%M:%S %Y")) for text in found)
    return begin, end


def certificate(talk: Talk, path: str, served: Mapping[str, bytes], problems: Path = RENEWAL_PROBLEMS) -> list[Finding]:
    """Its days, in parts of its whole life, why there is no newer one, and whether the ports serve it.

    ``served``: port to certificate, DER; ``problems``: what the role certificate's program has left, sentences as JSON.
    """
    begin, end = validity(talk, path)
    text = Path(path).read_text()
    ours = ssl.PEM_cert_to_DER_cert(text[: text.index("-----END CERTIFICATE-----") + 25])
    left, life = end - time.time(), end - begin
    # Renewal begins at a third of its life.
    status = "error" if left < min(life / 6, 15 * DAY) else "warning" if left < min(life / 4, 30 * DAY) else "ok"
    days = f"good for {left / DAY:.0f} more days" if left > 0 else f"expired {-left / DAY:.0f} days ago"
    why = json.loads(problems.read_text()) if problems.exists() else []
    found = [talk.found(status, "; ".join([f"{path}: {days}", *(why if status == "error" else [])]))]
    found += [Finding("certificate", "renewal", "warning", True, problem, talk.check.fix) for problem in why]
    return found + [
        Finding("certificate", port, "error", True, f"serves another one than {path}", talk.check.fix)
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
        # Some file systems make inodes as they need them.
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
    """``unit``: where there is no amount that is enough whatever the size."""
    for status, (part, enough) in (("error", TOO_LITTLE), ("warning", LITTLE)):
        if free < (size * part if unit else min(size * part, enough)):
            return status
    return "ok"


def passwords(talk: Talk, path: str = CREDENTIALS) -> list[Finding]:
    """How long a check takes on this host, of each kind of hash: OpenSMTPD does nothing else meanwhile."""
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    found, seconds = [], {}
    for login, hashed, kind in HASH.findall(Path(path).read_text()):
        if kind not in seconds:
            begun = time.thread_time()
            crypt(b"mail-status", hashed.encode())
            seconds[kind] = time.thread_time() - begun
            if seconds[kind] > SLOW:
                text = f"that of {login} takes {seconds[kind] * 1000:.0f} ms to check, and mail waits meanwhile"
                found.append(talk.found("warning", text))
    return found or [talk.found("ok", f"take {max(seconds.values(), default=0) * 1000:.0f} ms to check at most")]


def dns(talk: Talk, path: str) -> list[Finding]:
    """What the role dns's last look has found."""
    try:
        kept = json.loads(Path(path).read_text())
    except FileNotFoundError:
        return [talk.found("ok", "nobody has looked yet: the first look is some minutes after a run of the playbook")]
    old = time.time() - kept["asked"]
    found = [Finding(**one) for one in kept["findings"]]
    if old > OLD:
        found.append(talk.found("warning", f"the last look was {old / DAY:.0f} days ago"))
    return found


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
    """Signatures and logins of the world count on it."""
    if talk.command("systemd-detect-virt", "--container").strip() != "none":
        return "is that of the machine whose container this is"
    # struct timex(2) has 208 octets on 64 bits; with no mode set nothing changes.
    if ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)) == NOT_SYNCHRONIZED:
        raise Failed("nothing sets it")
    return "is synchronized"


def units(talk: Talk, ours: Iterable[str]) -> list[Finding]:
    """Which failed, or are there and do not run."""
    rows = talk.command("systemctl", "list-units", "--all", "--plain", "--no-legend", "--type=service").splitlines()
    # name, load state, active state, state of its own, description
    states = {row[0]: row[2] for row in map(str.split, rows) if len(row) > 3}
    wanted = list(ours)
    found = [
        Finding("units", name, "error", True, f"is {states.get(name, 'not there')}", f"journalctl -u {name} -n 50")
        for name in wanted
        if states.get(name) in ("failed", "inactive", None)
    ]
    found += [
        Finding("units", name, "warning", False, "failed", f"journalctl -u {name} -n 50")
        for name, state in states.items()
        if state == "failed" and name not in wanted
    ]
    return found or [talk.found("ok", "run")]
