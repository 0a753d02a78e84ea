# SPDX-License-Identifier: GPL-3.0-or-later
"""A move to another host, a restore after the loss of the server, and a restore of one mailbox.

The tests follow each other.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from years import ALICE, BOB, NEW12, NEW13, REPOSITORY, RESTORE, STRANGER, Server, relay, same

from testbed import containers, imap, playbook, provider, smtp
from testbed.signatures import check_signed

pytestmark = pytest.mark.disruptive
testinfra_hosts = ["docker://years-old"]
LATEST = {"mail_restore_snapshot": "latest"}
# State of the old server when it ended.
GONE: dict[str, Any] = {}
QUEUE = "-e mail_restore_queue=true sends it"
# As in docs/operating.md: commands on the old server between the two restores, and their variables.
MOVE = (playbook.CHECKOUT / "docs/operating.md").read_text().partition("## Move to another host")[2]
ON_THE_OLD_ONE = re.findall(r"(?m)^ +(systemctl .*)$", MOVE)
FIRST, SECOND = (dict(re.findall(r"-e (\w+)=(\w+)", line)) for line in re.findall(r"restore\.yml .*", MOVE))


def owners(server: Server) -> str:
    """Owners of files by name, without links."""
    return server.sh(
        "find /var/vmail /etc/selfhosted-mail /etc/dkimproxy /var/lib/selfhosted-mail "
        "-not -type l -not -name 'dovecot*' -not -path '*index*' -not -path '*flatcurve*' -not -path '*/certificate/*' "
        "-not -path '/var/lib/selfhosted-mail/restore*' -printf '%U %u %g %p\\n' | cut -d' ' -f2-3 | sort -u"
    )


def delivered(server: Server, *login: str) -> None:
    """Mail is sent and received, signed with the published keys."""
    message = smtp.compose(STRANGER, [login[0]])
    smtp.deliver(server.ip, STRANGER, [login[0]], message)
    imap.wait_message(server.ip, login[0], login[1], str(message["Message-ID"]))
    kept = server.relayed(server.write())
    assert kept.client_address == server.ip
    signature = check_signed(server, kept.raw)
    assert (signature["d"], signature["s"]) == ("years.test", "mail")


# The port's state each time that restic was seen at work on the mailboxes.
_PORT_25 = """
until [ -e /run/restored ]; do
    if pgrep -f '^restic restore .*--target / ' >/dev/null; then
        if [ "$(ss -Hltn 'sport = :25')" ]; then echo open; else echo closed; fi
    fi
    sleep 0.1
done
"""


@contextlib.contextmanager
def closed_meanwhile(server: Server) -> Iterator[None]:
    """Nothing listens on port 25 while files are restored."""
    server.run("systemd-run", "--collect", "--unit=port25", "sh", "-c", _PORT_25)
    try:
        yield
    finally:
        server.sh("touch /run/restored")
    containers.wait_for(lambda: server.main_pid("port25") == 0)
    server.sh("rm /run/restored")
    assert set(server.run("journalctl", "-u", "port25", "--output=cat", "-t", "sh").split()) == {"closed"}


def test_an_empty_host_becomes_the_server_while_that_runs(filled: Server) -> None:
    """The first half of a move: from Debian 12 to 13."""
    for login in (ALICE, BOB):
        filled.sh(f"doveadm mailbox status -u {login[0]} messages '*'")
    assert filled.back_up()["error"] == ""
    mail = {login: filled.mail(login) for login in (ALICE, BOB)}
    bayes, secrets, before = filled.bayes(), filled.secrets(), owners(filled)
    assert "RS_" in bayes and "sorts.sieve" in secrets
    done = NEW13.playbook(RESTORE, FIRST, environment=playbook.PLAIN)
    assert "Restored: the backup" in done.output
    for login in (ALICE, BOB):
        same(NEW13.mail(login), mail[login])
    assert NEW13.bayes() == bayes
    assert NEW13.secrets() == secrets
    assert owners(NEW13) == before
    NEW13.site().check_unchanged()
    delivered(NEW13, *ALICE)


def test_another_restore_brings_what_has_changed(filled: Server) -> None:
    """The second half of a move: port 25 of the old server is closed, and mail removed there is removed here."""
    before = {one.message_id for one in filled.mail(ALICE)["INBOX"]}
    arrived = {one.message_id for one in NEW13.mail(ALICE)["INBOX"]} - before
    assert arrived
    with imap.session(filled.ip, *ALICE) as box:
        box.select("INBOX")
        box.store("1", "+FLAGS", r"(\Deleted)")
        box.store("3", "-FLAGS", r"(\Seen)")
        box.store("3", "+FLAGS", "(later)")
        box.expunge()
        box.select("Archive")
        box.copy("1:2", '"Work/2020.final"')
        box.store("1:2", "+FLAGS", r"(\Deleted)")
        box.expunge()
        box.select("INBOX")
        assert box.delete('"a.b/c"')[0] == "OK"
    relay("stop")
    waits = filled.write()
    containers.wait_for(lambda: "friend@far.test" in filled.queue(), what="the message waits")
    mail = {login: filled.mail(login) for login in (ALICE, BOB)}
    assert len(ON_THE_OLD_ONE) == 2
    begun = int(time.time())
    for command in ON_THE_OLD_ONE:
        filled.sh(command)
    state = filled.state()
    assert state["error"] == "" and state["finished"] >= begun
    relay("start")
    GONE.update(mail=mail, snapshot=state["snapshot"], waits=str(waits["Message-ID"]))
    GONE.update(bayes=filled.bayes(), secrets=filled.secrets(), owners=owners(filled))
    containers.docker("stop", "--time", "5", filled.container)
    with closed_meanwhile(NEW13):
        done = NEW13.playbook(RESTORE, SECOND)
    assert re.search(r"from <alice@years.test> to <friend@far.test>", done.output)
    now = NEW13.mail(ALICE)
    late = {one for one in now["INBOX"] if one.message_id in arrived}
    assert {one.message_id for one in late} == arrived, "what has come to the new one stays"
    same({**now, "INBOX": now["INBOX"] - late}, mail[ALICE])
    assert NEW13.relayed(waits).client_address == NEW13.ip
    NEW13.publish()
    NEW13.site().check_unchanged()
    delivered(NEW13, *BOB)


def test_a_server_that_is_gone_comes_back(filled: Server) -> None:
    """On an empty host of the same release, which does not know what happened to the queue since."""
    mail, snapshot, waits = GONE["mail"], GONE["snapshot"], GONE["waits"]
    done = NEW12.playbook(RESTORE, {"mail_restore_snapshot": snapshot})
    for login in (ALICE, BOB):
        same(NEW12.mail(login), mail[login])
    assert (NEW12.bayes(), NEW12.secrets(), owners(NEW12)) == (GONE["bayes"], GONE["secrets"], GONE["owners"])
    NEW12.publish()
    delivered(NEW12, *BOB)
    # A day later it would send yesterday's mail again.
    assert f"from <{ALICE[0]}> to <friend@far.test>" in done.output and QUEUE in done.output
    NEW12.settle()
    assert len(provider.find(REPOSITORY, waits)) == 1
    again = NEW12.playbook(RESTORE, {"mail_restore_snapshot": snapshot})
    again.check_unchanged()
    assert QUEUE in again.output


def test_the_queue_is_sent_where_that_is_asked_for() -> None:
    done = NEW12.playbook(RESTORE, {"mail_restore_queue": True})
    assert "is sent now" in done.output
    containers.wait_for(lambda: len(provider.find(REPOSITORY, GONE["waits"])) == 2, what="it is sent once more")
    NEW12.settle()
    assert "restored queue" not in NEW12.playbook(RESTORE, {"mail_restore_queue": True}).output


def test_one_mailbox_comes_back_beside_the_one_that_is_there() -> None:
    NEW12.back_up()
    then = NEW12.mail(ALICE)
    with imap.session(NEW12.ip, *ALICE) as box:
        box.select('"Work/2020.final"')
        box.store("1:*", "+FLAGS", r"(\Deleted)")
        box.expunge()
    now, bobs = NEW12.mail(ALICE), NEW12.mail(BOB)
    assert now["Work/2020.final"] == set() != then["Work/2020.final"]
    done = NEW12.playbook(RESTORE, {"mail_restore_mailbox": ALICE[0]})
    assert f"{ALICE[0]} has the backup" in done.output
    # The test may pass midnight.
    [date] = set(re.findall(r"Restored/(\d{4}-\d\d-\d\d)", done.output))
    after = NEW12.mail(ALICE)
    back = {
        name.removeprefix(f"Restored/{date}/"): mail for name, mail in after.items() if name.startswith("Restored/")
    }
    same({name: mail for name, mail in after.items() if not name.startswith("Restored")}, now)
    assert {name: {one[:3] for one in mail} for name, mail in back.items() if mail} == {
        name: {one[:3] for one in mail} for name, mail in then.items() if mail
    }
    same(NEW12.mail(BOB), bobs)
    with imap.session(NEW12.ip, *ALICE) as box:
        assert any(f"Restored/{date}/INBOX".encode() in line for line in box.lsub()[1])
    again = NEW12.playbook(RESTORE, {"mail_restore_mailbox": ALICE[0]}, True)
    assert f"the folder Restored/{date} is there already" in again.output
    assert NEW12.mail(ALICE) == after
    assert "has no mailbox" in NEW12.playbook(RESTORE, {"mail_restore_mailbox": "nobody@years.test"}, True).output


def test_a_host_with_mail_of_its_own_is_refused() -> None:
    """A mistake must not overwrite today's state with yesterday's."""
    NEW12.sh("mv /var/lib/selfhosted-mail/restore.json /root/")
    mail, pid = NEW12.mail(ALICE), NEW12.main_pid("dovecot")
    try:
        done = NEW12.playbook(RESTORE, LATEST, True)
        assert "already contains mail that did not come from a restore" in done.output
        assert (NEW12.mail(ALICE), NEW12.main_pid("dovecot")) == (mail, pid)
    finally:
        NEW12.sh("mv /root/restore.json /var/lib/selfhosted-mail/")


def test_nothing_to_restore_is_refused() -> None:
    assert "mail_restore_snapshot" in NEW12.playbook(RESTORE, None, True).output
    assert "mail_backup_repository" in NEW12.playbook(RESTORE, {**LATEST, "mail_backup_repository": ""}, True).output
    elsewhere = {**LATEST, "mail_hostname": "mail.elsewhere.test"}
    assert "has no such backup" in NEW12.playbook(RESTORE, elsewhere, True).output
