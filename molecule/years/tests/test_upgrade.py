# SPDX-License-Identifier: GPL-3.0-or-later
"""Upgrade of Debian 12 to 13 in place: refusals before it starts, power failures, and no loss."""

from __future__ import annotations

import contextlib
import hashlib
import imaplib
import json
import os
import re
import signal
import smtplib
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import pytest

from testbed import containers, imap, managesieve, playbook, provider, smtp
from testbed.containers import wait_for
from testbed.server import Server
from testbed.signatures import check_signed

T = TypeVar("T")
testinfra_hosts = ["docker://years-upgrade"]
SERVER = Server("years-upgrade", "elder.test")
RELAY = "years-upgrade-relay"
ALICE, BOB = ("alice@elder.test", "alices-password"), ("bob@elder.test", "correct horse battery staple")
# The relay provider puts its mail off.
LATER = "later@far.test"
STRANGER = "stranger@world.test"
UPGRADE = playbook.CHECKOUT / "playbooks/upgrade.yml"
LIMIT = ("--limit", SERVER.container)
BACKUP, UNDER_WAY = "/var/lib/selfhosted-mail/backup.json", "/var/lib/selfhosted-mail/upgrade"
DAEMONS = ["opensmtpd", "dovecot", "rspamd", "redis-server@rspamd", "dkimproxy", "fail2ban"]
EVERY = 5  # seconds
DPKG = 900  # seconds
PROJECT = "Projects/2019.old"
SCRIPT = f'require "fileinto";\nif header :contains "subject" "invoice" {{ fileinto "{PROJECT}"; }}\n'
STATES = [
    ("INBOX", ""),
    ("INBOX", r"\Seen \Answered"),
    ("INBOX", r"\Flagged $Label1 later"),
    ("INBOX", r"\Deleted"),
    (f'"{PROJECT}"', r"\Seen NonJunk"),
    ("Sent", r"\Seen"),
    ("Drafts", r"\Draft"),
]


def backup(age: float) -> None:
    """Make the last good backup this many seconds old."""
    report = {"finished": int(time.time() - age), "snapshot": "4f1d", "bytes": 1, "error": ""}
    containers.write(SERVER.container, BACKUP, json.dumps(report))


def upgrade(fails: bool = False) -> playbook.Run:
    """A run without interruption."""
    return playbook.run(UPGRADE, *LIMIT, variables={"address": SERVER.ip}, fails=fails, environment=playbook.PLAIN)


def killed(task: str, when: Callable[[], object] = lambda: None, paused: bool = True) -> str:
    """Output of a run until this task has begun and ``when`` has returned: then host and controller lose power.

    ``paused``: the run begins no further task while ``when`` looks, which takes longer on a busy machine.
    """
    command = [playbook.BIN / "ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], *LIMIT, UPGRADE]
    run = subprocess.Popen(
        [*command, "--extra-vars", json.dumps({"address": SERVER.ip})],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **playbook.ENVIRONMENT, **playbook.PLAIN},
        start_new_session=True,
    )
    assert run.stdout
    lines = []
    for line in run.stdout:
        lines.append(line)
        if line.startswith(f"TASK [{task}"):
            if paused:
                os.killpg(run.pid, signal.SIGSTOP)
            when()
            # It would end as soon as the host is down.
            os.killpg(run.pid, signal.SIGSTOP)
            containers.docker("kill", SERVER.container)
            os.killpg(run.pid, signal.SIGKILL)
            break
    run.stdout.close()
    assert run.wait() == -signal.SIGKILL, "".join(lines)[-4000:]
    containers.boot(SERVER.container)
    return "".join(lines)


def there(path: str) -> bool:
    return SERVER.sh(f"test -e {path} && echo yes || true") == "yes"


def answered(ask: Callable[[], T]) -> T:
    """Output of a command on the host; retried, as dpkg may be replacing systemd or the C library."""

    def once() -> tuple[T] | None:
        with contextlib.suppress(AssertionError):
            return (ask(),)
        return None

    return wait_for(once, what="the host answers")[0]


def running() -> list[str]:
    return answered(lambda: [daemon for daemon in DAEMONS if SERVER.main_pid(daemon)])


def closed() -> bool:
    """Whether an external client is refused on port 25."""
    try:
        socket.create_connection((SERVER.ip, 25), timeout=10).close()
    except ConnectionRefusedError:
        return True
    return False


class Client(threading.Thread):
    """An external sender with a message for bob every five seconds, which retries."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.sent: list[str] = []
        self.refused: list[str] = []
        self.put_off = 0
        self.ended = threading.Event()

    def run(self) -> None:
        waiting = []
        while waiting or not self.ended.is_set():
            if not self.ended.is_set():
                waiting.append(smtp.compose(STRANGER, [BOB[0]], subject=f"Every five seconds {uuid.uuid4().hex}"))
            for message in list(waiting):
                try:
                    smtp.deliver(SERVER.ip, STRANGER, [BOB[0]], message, patience=0)
                except (smtplib.SMTPException, OSError) as error:
                    self.put_off += 1
                    if not smtp.temporary(error):
                        self.refused.append(str(error))
                    break
                waiting.remove(message)
                self.sent.append(str(message["Message-ID"]))
            time.sleep(EVERY)

    def wait_for_the_rest(self) -> None:
        """Wait for its last message; AssertionError if none is accepted for a while."""
        while self.is_alive():
            sent = len(self.sent)
            self.join(containers.PATIENCE)
            assert len(self.sent) > sent or not self.is_alive(), self.refused


def flags(answer: bytes) -> list[bytes]:
    r"""Sorted, but for \Recent, which the first one to look takes away."""
    [listed] = re.findall(rb"FLAGS \(([^)]*)\)", answer)
    return sorted(set(listed.split()) - {rb"\Recent"})


def mailbox(login: tuple[str, str]) -> dict[str, object]:
    """All that a mail program sees: folders with validity, and each message's UID, flags, time and text."""
    seen: dict[str, object] = {}
    with imap.session(SERVER.ip, *login) as box:
        listed = [line for line in box.list()[1] if isinstance(line, bytes) and b"\\Noselect" not in line]
        seen["subscribed"] = sorted(line for line in box.lsub()[1] if isinstance(line, bytes))
        for folder in (re.sub(rb'.* "?([^"]+)"?$', rb"\1", line).decode() for line in listed):
            box.select(f'"{folder}"', readonly=True)
            validity = box.response("UIDVALIDITY")[1]
            _state, parts = box.uid("FETCH", "1:*", "(FLAGS INTERNALDATE BODY.PEEK[])")
            heads = [part for part in parts if isinstance(part, tuple)]
            tails = [part for part in parts if isinstance(part, bytes)]
            seen[folder] = (
                validity,
                [
                    (
                        flags(head + tail),
                        re.findall(rb'UID \d+|INTERNALDATE "[^"]+"', head),
                        hashlib.sha256(text).hexdigest(),
                    )
                    for (head, text), tail in zip(heads, tails, strict=True)
                ],
            )
    with managesieve.Session(SERVER.ip, *login) as session:
        seen["scripts"] = session.command("LISTSCRIPTS")
    return seen


def found(login: tuple[str, str], word: str) -> int:
    """How many messages of INBOX have the word, as the server's search finds."""
    with imap.session(SERVER.ip, *login) as box:
        box.select("INBOX", readonly=True)
        return len(box.search(None, "TEXT", word)[1][0].split())


def learned() -> list[int]:
    """What Rspamd has learned: messages of spam, and words."""
    redis = "redis-cli -s /run/redis-rspamd/redis.sock"
    said = SERVER.sh(f"{redis} hget RS learns_spam; {redis} --scan --pattern 'RS_*' | wc -l")
    return [int(number) for number in said.split()]


def keys() -> str:
    """State that must not be created again."""
    files = "dkimproxy/keys/* opensmtpd/srs.conf selfhosted-mail/status-login selfhosted-mail/tls/*.pem"
    return SERVER.sh(f"cd /etc; sha256sum {files}")


def fill() -> None:
    """Mail in several states, a Sieve script, and spam of which Rspamd learns."""
    with imap.session(SERVER.ip, *ALICE) as box:
        box.create(f'"{PROJECT}"')
        box.subscribe(f'"{PROJECT}"')
        for number, (folder, state) in enumerate(STATES):
            text = smtp.compose(ALICE[0], [BOB[0]], body=f"walrus{number} and carpenter\n").as_bytes()
            when = imaplib.Time2Internaldate(1e9 + number * 1e6)
            assert box.append(folder, f"({state})", when, text)[0] == "OK"
    with managesieve.Session(SERVER.ip, *ALICE) as session:
        session.put("own", SCRIPT)
    message = smtp.compose(STRANGER, [ALICE[0]], body="cheap watches and good friends for you\n" * 9)
    smtp.deliver(SERVER.ip, STRANGER, [ALICE[0]], message)
    imap.wait_message(SERVER.ip, *ALICE, str(message["Message-ID"]))
    with imap.session(SERVER.ip, *ALICE) as box:
        box.select("INBOX")
        uid = box.uid("SEARCH", "HEADER", "Message-ID", f'"{message["Message-ID"]}"')[1][0].decode()
        assert box.uid("MOVE", uid, "Junk")[0] == "OK"
    wait_for(lambda: len(learned()) == 2 and min(learned()) > 0, what="something is learned")
    assert found(ALICE, "walrus1") == 1


@dataclass
class Story:
    """What was before, and what came of it."""

    mailbox: dict[str, object]
    learned: list[int]
    keys: str
    waiting: str
    client: Client = field(default_factory=Client)
    outputs: list[str] = field(default_factory=list)


def nothing_has_started() -> None:
    """Neither when the host started, nor by dpkg."""
    assert running() == []
    assert closed()
    units = " ".join(f"--unit={daemon}" for daemon in DAEMONS)
    since = f"--since=@$(stat -c %Y {UNDER_WAY}/dovecot.service)"
    assert "Started" not in answered(lambda: SERVER.sh(f"journalctl --output=cat {units} {since}"))


def upgraded() -> int:
    """Number of packages. Read from outside, as no program starts while the C library is replaced."""
    return containers.docker("cp", f"{SERVER.container}:/var/log/dpkg.log", "-").count(b" upgrade ")


def half_of_dpkg() -> None:
    wait_for(lambda: upgraded() > 110, DPKG, "half of the packages")
    nothing_has_started()


def sources_changed() -> None:
    assert "trixie" in SERVER.sh("cat /etc/apt/sources.list.d/*")
    nothing_has_started()


def packages_half_way() -> None:
    assert not there(f"{UNDER_WAY}/packages")
    assert SERVER.sh("dpkg --audit; apt-get -sqq full-upgrade || true")
    nothing_has_started()


def packages_done() -> None:
    assert there(f"{UNDER_WAY}/packages")
    assert "mail_location" in SERVER.sh("cat /etc/dovecot/dovecot.conf")
    nothing_has_started()


def all_runs() -> None:
    assert running() == DAEMONS
    assert closed()


Check = Callable[[], object]
# The task that has begun, a condition before the power failure, and the host's state after it.
POINTS: dict[str, tuple[str, Check, Check]] = {
    "sources changed": ("Write the unit that upgrades the packages", lambda: None, sources_changed),
    # Here, or in a later task where there is nothing yet to go on with.
    "half of dpkg": ("Resume the package upgrade", half_of_dpkg, packages_half_way),
    "packages done": ("Gather the facts of the upgraded host", nothing_has_started, packages_done),
    "before the reboot": ("Record this boot of the host", all_runs, all_runs),
    "after the reboot": ("Wait until everything works", all_runs, all_runs),
}


def journey(points: Iterable[str]) -> Story:
    """An upgrade, killed at these points, while a client sends."""
    backup(age=3600)
    fill()
    message = smtp.compose(ALICE[0], [LATER])
    smtp.submit(SERVER.ip, *ALICE, ALICE[0], [LATER], message)
    wait_for(lambda: LATER in SERVER.queue(), what="it waits in the queue")
    story = Story(mailbox(ALICE), learned(), keys(), str(message["Message-ID"]))
    # A container that has shut itself down starts again.
    containers.docker("update", "--restart", "always", SERVER.container)
    story.client.start()
    try:
        wait_for(lambda: len(story.client.sent) > 1, what="the client sends")
        for point in points:
            task, before, after = POINTS[point]
            story.outputs.append(killed(task, before, paused=before is not half_of_dpkg))
            after()
        story.outputs.append(upgrade().output)
    finally:
        story.client.ended.set()
        containers.docker("update", "--restart", "no", SERVER.container)
    story.client.wait_for_the_rest()
    return story


@pytest.fixture(scope="module")
def story() -> Story:
    """One upgrade for all of the tests, killed at three of the points."""
    return journey(("sources changed", "half of dpkg", "before the reboot"))


def test_refused_without_a_backup() -> None:
    SERVER.run("rm", "-f", BACKUP)
    assert "mail_backup_repository: the last good backup is missing" in upgrade(fails=True).output
    backup(age=90000)
    assert "mail_backup_repository: the last good backup was 20" in upgrade(fails=True).output
    assert not there(UNDER_WAY)
    assert running() == DAEMONS


def test_refused_by_what_is_on_the_host() -> None:
    """It names foreign sources and held packages, and changes nothing."""
    backup(age=3600)
    state = "sha256sum /etc/apt/sources.list.d/*; ls /var/lib/apt/lists; ls /var/tmp | grep -v ^systemd-private || true"
    before = SERVER.sh(state)
    SERVER.sh("apt-mark hold procps; mkdir -p /srv/foreign; touch /srv/foreign/Packages")
    SERVER.sh("echo 'deb [trusted=yes] file:/srv/foreign ./' > /etc/apt/sources.list.d/foreign.list")
    try:
        said = upgrade(fails=True).output
    finally:
        SERVER.sh("apt-mark unhold procps; rm -r /srv/foreign /etc/apt/sources.list.d/foreign.list")
    assert "held packages: procps" in said
    assert re.search(r"apt source file:/srv/foreign/? .*/foreign\.list:1\) is not Debian's bookworm", said)
    assert SERVER.sh(state) == before
    assert not there(UNDER_WAY)
    assert not closed()


def test_it_goes_on_each_time(story: Story) -> None:
    """Completed steps are not repeated."""
    begun = r"TASK \[Check that the host can be upgraded to Debian 13\][ *]*\n"
    assert re.search(begun + "ok: ", story.outputs[0])
    # The second is not read so far.
    assert all(re.search(begun + "skipping: ", output) for output in story.outputs[2:])
    assert SERVER.sh("cut -d. -f1 /etc/debian_version") == "13"
    assert SERVER.sh("dpkg --audit; apt-get -sqq full-upgrade") == ""


def test_everything_sent_arrives_once(story: Story) -> None:
    client = story.client
    assert not client.is_alive()
    assert client.refused == []
    assert client.put_off > 10
    wait_for(lambda: BOB[0] not in SERVER.queue(), what="the queue has nothing for bob")
    arrived = [
        re.findall(rb"(?im)^Message-ID: (\S+)", raw)[0].decode()
        for folder in ("INBOX", "Junk")
        for raw in imap.messages(SERVER.ip, *BOB, folder)
    ]
    assert sorted(arrived) == sorted(client.sent)


def test_mailbox_is_the_same(story: Story) -> None:
    """Flags, keywords, UIDs, times, Sieve scripts: nothing that a mail program would have to fetch again."""
    assert mailbox(ALICE) == story.mailbox
    assert "own" in str(story.mailbox["scripts"])


def test_bayes_and_keys_are_the_same(story: Story) -> None:
    """Rspamd may have learned more since, automatically."""
    assert all(now >= before for now, before in zip(learned(), story.learned, strict=True))
    assert keys() == story.keys


def test_what_was_queued_leaves(story: Story) -> None:
    """Once, and signed."""
    assert LATER in SERVER.queue()
    containers.write(RELAY, "/etc/postfix/recipients", "")
    containers.run(RELAY, "systemctl", "reload", "postfix")

    def left() -> list[provider.Kept]:
        # Again, as a try may have met the relay before its reload.
        SERVER.run("smtpctl", "schedule", "all")
        return provider.find(RELAY, story.waiting)

    check_signed(SERVER, wait_for(left, what="it leaves")[0].raw)
    SERVER.settle()
    assert len(provider.find(RELAY, story.waiting)) == 1


def test_nothing_of_debian_12_is_left(story: Story) -> None:
    assert SERVER.sh("grep -rl bookworm /etc/apt/sources.list* /etc/apt/preferences.d || true") == ""
    assert SERVER.sh("find /var/vmail -name xapian-indexes") == ""
    assert SERVER.sh("find /etc/systemd /etc/selfhosted-mail -name '*mail-upgrade*' -o -name upgrade.nft") == ""
    assert not there(UNDER_WAY)
    assert not there("/usr/sbin/policy-rc.d")
    assert SERVER.sh("apt-get -sqq purge dovecot-fts-xapian '~o~g'") == ""


def test_search_has_its_index(story: Story) -> None:
    wait_for(lambda: SERVER.sh("find /var/vmail/elder.test/alice -name fts-flatcurve"), what="a new index")
    assert found(ALICE, "walrus1") == 1


def test_everything_works_as_before(story: Story) -> None:
    """A second upgrade, with site and check in it, changes nothing; mail comes, leaves, and Sieve files it."""
    upgrade().check_unchanged()
    message = smtp.compose(STRANGER, [ALICE[0]], subject="invoice 1")
    smtp.deliver(SERVER.ip, STRANGER, [ALICE[0]], message)
    imap.wait_message(SERVER.ip, *ALICE, str(message["Message-ID"]), PROJECT)
    message = smtp.compose(BOB[0], ["friend@far.test"])
    smtp.submit(SERVER.ip, *BOB, BOB[0], ["friend@far.test"], message)
    check_signed(SERVER, provider.wait_kept(RELAY, str(message["Message-ID"])).raw)
    SERVER.run("mail-status")


@pytest.mark.long
@pytest.mark.parametrize("point", POINTS)
def test_killed_once(point: str) -> None:
    """Each point separately, on a server that has just been set up."""
    host_up = playbook.CHECKOUT / "testbed/host-up"
    subprocess.run([host_up, SERVER.container, "debian12", SERVER.hostname, SERVER.ip], check=True)
    playbooks = playbook.CHECKOUT / "testbed/playbooks"
    playbook.run(playbooks / "provider.yml")
    playbook.run_site(*LIMIT)
    playbook.run(playbooks / "publish.yml", *LIMIT)
    story = journey([point])
    test_it_goes_on_each_time(story)
    test_everything_sent_arrives_once(story)
    test_mailbox_is_the_same(story)
    test_bayes_and_keys_are_the_same(story)
    test_nothing_of_debian_12_is_left(story)
    test_everything_works_as_before(story)
