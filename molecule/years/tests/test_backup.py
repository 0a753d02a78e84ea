# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of a running server: content and failures."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from years import REMOVABLE, REPOSITORY, SECRETS, Server

from testbed import containers, units
from testbed.containers import wait_for

testinfra_hosts = ["docker://years-old"]
DAEMONS = ("dovecot", "opensmtpd", "redis-server@rspamd", "rspamd", "dkimproxy")
# Prints every command line that it has seen once, until its standard input ends.
SAMPLER = """
import pathlib, select, sys
seen = set()
while not select.select([sys.stdin], [], [], 0.02)[0]:
    for file in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if line not in seen:
            seen.add(line)
            print(line.replace("\\n", " "), flush=True)
"""
MOVER = "cd $1/cur; until [ -e /run/still ]; do mv moving:2, moving:2,S; mv moving:2,S moving:2,; done"
CONFIG = "/etc/selfhosted-mail/backup.json"


def test_holds_all_but_indexes_and_stops_nothing(filled: Server) -> None:
    before = {name: filled.main_pid(name) for name in DAEMONS}
    begun = int(time.time())
    state = filled.back_up()
    assert {name: filled.main_pid(name) for name in DAEMONS} == before
    assert state["error"] == "" and state["bytes"] > 0
    assert begun <= state["finished"] <= state["checked"] <= time.time()
    held = filled.restic("ls", state["snapshot"]).splitlines()
    for needed in (
        "/etc/dkimproxy/keys/years.test.mail.pem",
        "/etc/opensmtpd/srs.conf",
        "/etc/rspamd/controller_password.inc",
        "/etc/selfhosted-mail/passwd",
        "/etc/selfhosted-mail/tls/mail.years.test.acme.pem",
        "/var/lib/selfhosted-mail/backup/redis.rdb",
        "/var/lib/selfhosted-mail/full-mailboxes",
        "/var/spool/smtpd/queue",
        "/var/vmail/years.test/alice/Maildir/dovecot-keywords",
        "/var/vmail/years.test/alice/Maildir/dovecot-uidlist",
        "/var/vmail/years.test/alice/sieve/sorts.sieve",
    ):
        assert needed in held, needed
    assert [line for line in held if re.fullmatch("/var/lib/private/selfhosted-mail-lego/.*key", line)]
    assert filled.sh("find /var/vmail -name 'dovecot.index*' -print -quit")
    assert [line for line in held if "dovecot.index" in line or "dovecot.list.index" in line or "xapian" in line] == []
    found = filled.findings()["backup"]
    assert (found["status"], found["required"]) == ("ok", True)
    assert re.fullmatch(r"[\d.]+ GB, 0 hours ago", found["text"])


def test_second_one_adds_little(filled: Server) -> None:
    first = filled.back_up()
    sizes = json.loads(filled.restic("stats", "--json", "--mode=raw-data"))["total_size"]
    second = filled.back_up()
    grown = json.loads(filled.restic("stats", "--json", "--mode=raw-data"))["total_size"] - sizes
    assert second["snapshot"] != first["snapshot"]
    assert grown < second["bytes"] / 10


def test_repository_tells_a_stranger_nothing(filled: Server) -> None:
    containers.run(REPOSITORY, "sh", "-c", "! grep -rqE 'Words of|alice@' /srv/repository")


def test_units_may_do_little(filled: Server) -> None:
    assert "selfhosted-mail-backup.service" in units.services(filled.container)
    assert units.too_exposed(filled.container, {}) == {}


def test_timer(filled: Server) -> None:
    shown = filled.run(
        "systemctl", "show", "selfhosted-mail-backup.timer", "-p", "ActiveState", "-p", "RandomizedDelayUSec"
    )
    assert set(shown.split()) == {"ActiveState=active", "RandomizedDelayUSec=2h"}


def test_files_that_move_are_no_failure(filled: Server) -> None:
    folder = "/var/vmail/years.test/alice/Maildir"
    filled.sh(f"echo moving > {folder}/cur/moving:2,")
    words = ["docker", "exec", filled.container, "sh", "-c", MOVER, "sh", folder]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as mover:
        try:
            states = [filled.back_up() for _time in range(3)]
        finally:
            filled.sh("touch /run/still")
            mover.wait()
            filled.sh(f"rm -f /run/still {folder}/cur/moving:2,*")
    assert [state["error"] for state in states] == ["", "", ""]


def test_a_file_that_cannot_be_read_is_a_failure(filled: Server) -> None:
    """Root can read every file, so the error comes from a FUSE mount whose process has ended."""
    file = "/etc/selfhosted-mail/unreadable"
    filled.sh(f"touch {file}; mount --bind /proc/1/mem {file}")
    try:
        filled.sh("! systemctl start selfhosted-mail-backup.service")
        assert file in filled.state()["error"]
    finally:
        filled.sh(f"umount {file}; rm {file}")
    assert filled.back_up()["error"] == ""


@contextmanager
def repository_away() -> Iterator[None]:
    containers.run(REPOSITORY, "sh", "-c", "mv /srv/repository/mail /srv/repository/away")
    try:
        yield
    finally:
        containers.run(REPOSITORY, "sh", "-c", "mv /srv/repository/away /srv/repository/mail")


def alarm(server: Server) -> bool:
    """Whether the watch has said so, when it has looked once more."""
    server.run("systemctl", "start", "selfhosted-mail-watch.service")
    return "selfhosted-mail alarm backup/repository" in containers.journal(
        server.container, "-u", "selfhosted-mail-watch"
    )


def test_failure_is_an_alarm(filled: Server) -> None:
    good = filled.back_up()
    with repository_away():
        filled.sh("! systemctl start selfhosted-mail-backup.service")
        found = filled.findings()["backup"]
        assert (found["status"], found["required"]) == ("error", True)
        assert found["text"].startswith("restic ") and "the last good one" in found["text"]
        wait_for(lambda: alarm(filled), what="the alarm")
    state = filled.state()
    assert (state["finished"], state["snapshot"]) == (good["finished"], good["snapshot"])
    assert filled.back_up()["error"] == ""
    assert filled.findings()["backup"]["status"] == "ok"


def test_old_one_is_an_error(filled: Server) -> None:
    filled.back_up()
    keep = filled.run("cat", CONFIG)
    containers.write(filled.container, CONFIG, json.dumps({**json.loads(keep), "interval": 0}))
    try:
        found = filled.findings()["backup"]
        assert (found["status"], found["text"][:23]) == ("error", "the last one is too old")
    finally:
        containers.write(filled.container, CONFIG, keep)


def test_append_only_takes_no_removal(filled: Server) -> None:
    before = filled.sh("sha256sum /etc/selfhosted-mail/* 2>/dev/null; ls -l --time-style=full-iso /etc/selfhosted-mail")
    done = filled.site({"mail_backup_keep": {"last": 1}}, True, "--tags", "backup")
    assert "mail_backup_keep: must be empty" in done.output
    assert not [secret for secret in SECRETS if secret in done.output]
    assert before == filled.sh(
        "sha256sum /etc/selfhosted-mail/* 2>/dev/null; ls -l --time-style=full-iso /etc/selfhosted-mail"
    )
    # And where the repository was made so afterwards.
    keep = filled.run("cat", CONFIG)
    snapshots = filled.restic("snapshots", "--json")
    containers.write(filled.container, CONFIG, json.dumps({**json.loads(keep), "keep": {"last": 1}}))
    try:
        filled.sh("! systemctl start selfhosted-mail-backup.service")
        assert "mail_backup_keep: must be empty" in filled.findings()["backup"]["text"]
    finally:
        containers.write(filled.container, CONFIG, keep)
    made = filled.back_up()["snapshot"]
    now = [one["id"] for one in json.loads(filled.restic("snapshots", "--json"))]
    # The timer may have made another.
    assert {one["id"] for one in json.loads(snapshots)} < set(now)
    assert len(now) >= len(json.loads(snapshots)) + 2 and [one for one in now if one.startswith(made)]


def test_what_is_read_back_is_compared(filled: Server) -> None:
    """Only reading back finds a change in the repository."""
    largest = "f=$(ls -S /srv/repository/mail/data/*/* | head -n 1)"
    copies = "for f in $(find /srv/repository/mail/data -type f)"
    containers.run(REPOSITORY, "sh", "-c", f"{largest}; test -s $f; {copies}; do cp -p $f /tmp/$(basename $f); "
                   "printf X | dd of=$f bs=1 seek=9 conv=notrunc status=none; done")  # fmt: skip
    try:
        filled.sh("! systemctl start selfhosted-mail-backup.service")
        assert "restic check" in filled.findings()["backup"]["text"]
    finally:
        # There are new ones since.
        back = f"{copies}; do c=/tmp/$(basename $f); [ ! -e $c ] || mv $c $f || exit; done"
        containers.run(REPOSITORY, "sh", "-c", back)
    assert filled.back_up()["error"] == ""


def test_wrong_password_stops_the_run(filled: Server) -> None:
    wrong = "another one entirely"
    done = filled.site({"mail_backup_password": wrong}, True, "--tags", "backup")
    assert "wrong password" in done.output and wrong not in done.output
    assert filled.back_up()["error"] == ""


def test_without_a_repository_nothing_is_left(filled: Server) -> None:
    left = (
        "ls -d /etc/selfhosted-mail/restic.env /etc/selfhosted-mail/backup.json /var/lib/selfhosted-mail/backup.json "
        "/etc/systemd/system/selfhosted-mail-backup* /usr/local/lib/selfhosted-mail/backup 2>/dev/null || true"
    )
    filled.site({"mail_backup_repository": ""}, False, "--tags", "backup,status")
    assert filled.sh(left) == ""
    assert "selfhosted-mail-backup" not in filled.run("systemctl", "list-timers", "--all")
    assert "backup" not in filled.findings()


@contextmanager
def process_list(server: Server) -> Iterator[list[str]]:
    """Every command line there meanwhile, once it has ended."""
    found: list[str] = []
    words = ["docker", "exec", "--interactive", server.container, "python3", "-c", SAMPLER]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sampler:
        yield found
        found += sampler.communicate("")[0].splitlines()


def test_passwords_in_no_process_list_and_old_ones_removed_where_that_is_wanted(filled: Server) -> None:
    """In a repository that this run creates."""
    variables = {"mail_backup_repository": f"{REMOVABLE}{time.time_ns()}/", "mail_backup_keep": {"last": 1}}
    with process_list(filled) as lines:
        done = filled.site(variables, False, "--tags", "backup")
        states = [filled.back_up() for _time in range(2)]
    assert [state["error"] for state in states] == ["", ""]
    [kept] = json.loads(filled.restic("snapshots", "--json"))
    assert kept["id"].startswith(states[1]["snapshot"][:8])
    for started in ("restic init", "restic backup", "restic forget", "restic check"):
        assert [line for line in lines if line.startswith(started)], started
    assert [line for line in lines if any(secret in line for secret in SECRETS)] == []
    assert filled.sh("stat -c '%a %U' /etc/selfhosted-mail/restic.env") == "600 root"
    # Once: with the run that sets it up.
    assert "mail_backup_password. Without them" in done.output
    assert not [secret for secret in SECRETS if secret in done.output]


def test_back_to_the_first_repository(filled: Server) -> None:
    filled.site(None, False, "--tags", "backup,status")
    assert filled.back_up()["error"] == ""
