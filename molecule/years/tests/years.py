# SPDX-License-Identifier: GPL-3.0-or-later
"""The server with years of mail, the hosts to which it is restored, and all state that must be the same there."""

from __future__ import annotations

import imaplib
import json
import os
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate
from pathlib import Path
from typing import Any, NamedTuple

from testbed import containers, imap, managesieve, playbook, provider, server, smtp

REPOSITORY = "years-repository"
REMOVABLE = "rest:http://mail:deposit-password@deposit.test:8001/"
PASSWORD = 'restic "$`\\ password'
SECRETS = ("deposit-password", PASSWORD)
FRIEND, STRANGER = "friend@far.test", "stranger@world.test"
ALICE, BOB = ("alice@years.test", "alices-password"), ("bob@years.test", "correct horse battery staple")
RESTORE = playbook.CHECKOUT / "playbooks/restore.yml"
# In IMAP's encoding (RFC 3501 section 5.1.3): a dot in a name, a subfolder, non-ASCII characters.
FOLDERS = ("INBOX", "Work/2020.final", "&ANw-bung", "a.b/c", "Archive")
FLAGS = ("", r"\Seen", r"\Seen \Answered $Forwarded", r"\Flagged Wichtig project", r"\Draft", r"\Deleted \Seen")
SCRIPT = 'require "fileinto";\nif header :contains "Subject" "to the archive" { fileinto "Archive"; }\n'
YEARS = 10 * 365 * 86400


class Mail(NamedTuple):
    """A message in a folder. ``uid``: with the folder's UIDVALIDITY."""

    message_id: str
    date: str
    flags: frozenset[str]
    uid: tuple[int, int]


def folders(box: imaplib.IMAP4_SSL) -> list[str]:
    _state, lines = box.list()
    found = [re.fullmatch(rb'\(([^)]*)\) "/" "?(.*?)"?', line) for line in lines if isinstance(line, bytes)]
    return sorted(one[2].decode() for one in found if one and b"\\Noselect" not in one[1])


@dataclass(frozen=True)
class Server(server.Server):
    def mail(self, login: tuple[str, str], below: str = "") -> dict[str, set[Mail]]:
        """Folder to what is in it, of the folders whose names begin so."""
        found = {}
        with imap.session(self.ip, *login) as box:
            for folder in folders(box):
                if not folder.startswith(below):
                    continue
                _state, [count] = box.select(f'"{folder}"', readonly=True)
                _kind, [validity] = box.response("UIDVALIDITY")
                found[folder] = set()
                if count == b"0":
                    continue
                _state, lines = box.fetch("1:*", "(UID FLAGS INTERNALDATE BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")
                found[folder] = {self._message(line, int(validity)) for line in lines if isinstance(line, tuple)}
        return found

    @staticmethod
    def _message(line: tuple[bytes, bytes], validity: int) -> Mail:
        fields = re.search(rb'UID (\d+) FLAGS \(([^)]*)\) INTERNALDATE "([^"]+)"', line[0])
        assert fields, line
        flags = frozenset(fields[2].decode().split()) - {r"\Recent"}
        return Mail(line[1].decode().strip(), fields[3].decode(), flags, (validity, int(fields[1])))

    def fill(self) -> None:
        """Mail in every state, for both accounts, and their Sieve scripts."""
        for login in (ALICE, BOB):
            with imap.session(self.ip, *login) as box:
                for number, folder in enumerate(FOLDERS):
                    if folder not in ("INBOX", "Archive"):
                        assert box.create(f'"{folder}"')[0] == "OK"
                    for place, flags in enumerate(FLAGS):
                        date = time.time() - YEARS * (number * len(FLAGS) + place) / 30
                        message = smtp.compose(STRANGER, [login[0]], f"Words of {uuid.uuid4()}.\n" * 20)
                        # Most of it is the same in all backups.
                        message.add_attachment(os.urandom(20_000), maintype="application", subtype="octet-stream")
                        message.replace_header("Date", formatdate(date))
                        when = imaplib.Time2Internaldate(date)
                        done = box.append(f'"{folder}"', f"({flags})", when, message.as_bytes())
                        assert done[0] == "OK", done
            with managesieve.Session(self.ip, *login) as session:
                session.put("sorts", SCRIPT)

    def learn(self) -> None:
        """Train Bayes."""
        for kind in ("spam", "ham"):
            text = f"Subject: {kind}\n\n" + " ".join(f"{kind}{number}" for number in range(100))
            self.sh(f"printf '%s' '{text}' | rspamc -d {ALICE[0]} --connect /run/rspamd/controller.sock learn_{kind}")

    def bayes(self) -> str:
        """Rspamd's whole database, but for what passes: without keys that end by themselves soon."""
        return self.sh(
            "cd /; runuser -u _rspamd -- redis-cli -s /run/redis-rspamd/redis.sock --raw eval "
            "\"local t={}; for _,k in ipairs(redis.call('keys','RS*')) do if redis.call('type',k).ok=='hash' then "
            "local h=redis.call('hgetall',k); local s={}; for i=1,#h,2 do s[#s+1]=h[i]..'='..h[i+1] end; "
            "table.sort(s); t[#t+1]=k..' '..table.concat(s,',') end end; table.sort(t); return t\" 0"
        )

    def write(self, recipient: str = FRIEND, login: tuple[str, str] = ALICE) -> EmailMessage:
        """Submit a message on 587, and return it."""
        message = smtp.compose(login[0], [recipient])
        smtp.submit(self.ip, *login, login[0], [recipient], message)
        return message

    def relayed(self, message: EmailMessage) -> provider.Kept:
        return provider.wait_kept(REPOSITORY, str(message["Message-ID"]))

    def back_up(self) -> dict[str, Any]:
        """The state file afterwards."""
        self.run("systemctl", "start", "selfhosted-mail-backup.service")
        return self.state()

    def state(self) -> dict[str, Any]:
        """The state file."""
        state: dict[str, Any] = json.loads(self.run("cat", "/var/lib/selfhosted-mail/backup.json"))
        return state

    def restic(self, *words: str, repository: str = "") -> str:
        given = f"RESTIC_REPOSITORY={repository}; " if repository else ""
        return self.sh(f"set -a; . /etc/selfhosted-mail/restic.env; {given}restic --no-lock {' '.join(words)}")

    def secrets(self) -> str:
        """Files that must stay the same: keys, hashes and certificate, with their owners and modes."""
        return self.sh(
            "cd /; find etc/dkimproxy/keys etc/opensmtpd/srs.conf etc/selfhosted-mail/passwd etc/selfhosted-mail/tls "
            "etc/selfhosted-mail/status-login etc/rspamd/controller_password.inc var/lib/private/selfhosted-mail-lego "
            "var/vmail -name 'dovecot*index*' -o -name fts-flatcurve -prune -o -name xapian-indexes -prune "
            "-o -type f -not -path 'var/lib/private/*' -not -path 'var/vmail/*/Maildir/*' -not -name '*.svbin' "
            "-not -path 'var/vmail/*/last-login' -printf '%p %m %u %g ' -exec sha256sum -b {} ';' | sort"
        )

    def findings(self) -> dict[str, Any]:
        """Findings of ``mail-status``, by check."""
        return {one["check"]: one for one in json.loads(self.sh("mail-status --json || true"))}

    def playbook(
        self,
        file: Path,
        variables: Mapping[str, object] | None = None,
        fails: bool = False,
        *options: str,
        environment: Mapping[str, str] | None = None,
    ) -> playbook.Run:
        """Run on this host, which has the variables of the server."""
        inventory = Path("/tmp") / f"{self.container}.yml"
        inventory.write_text(f"mail:\n  hosts:\n    {self.container}:\n")
        words = ["-i", str(inventory), "--limit", self.container, *options]
        return playbook.run(file, *words, variables=variables, fails=fails, environment=environment)

    def site(self, variables: Mapping[str, object] | None = None, fails: bool = False, *options: str) -> playbook.Run:
        return self.playbook(playbook.CHECKOUT / "playbooks/site.yml", variables, fails, *options)

    def publish(self) -> None:
        """The administrator's part after a move: the names point here."""
        self.playbook(playbook.CHECKOUT / "testbed/playbooks/publish.yml")


OLD, NEW12, NEW13 = (Server(f"years-{name}", "years.test") for name in ("old", "new12", "new13"))


def same(now: Mapping[str, set[Mail]], then: Mapping[str, set[Mail]]) -> None:
    """UIDs are part of it. AssertionError with what is different."""
    assert any(then.values())
    assert {name: mail ^ then.get(name, set()) for name, mail in now.items() if mail != then.get(name)} == {}
    assert set(now) == set(then)


def relay(verb: str) -> None:
    containers.run(REPOSITORY, "systemctl", verb, "postfix")
