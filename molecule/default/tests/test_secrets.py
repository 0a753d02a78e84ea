# SPDX-License-Identifier: GPL-3.0-or-later
"""Who on the host can read what should stay secret."""

from __future__ import annotations

from testbed.containers import wait_for
from testbed.servers import FRIEND, Server, both

# Every file that contains one of these strings, by any name.
SEARCH = r"""
import os, re, stat, sys
from grp import getgrgid
from pwd import getpwuid
needles = [re.compile(word.encode()) for word in sys.argv[1:]]
for top in ("/etc", "/opt", "/root", "/srv", "/usr/local", "/var", "/run", "/tmp"):
    for folder, folders, files in os.walk(top):
        for name in files:
            path = os.path.join(folder, name)
            try:
                status = os.lstat(path)
                if not stat.S_ISREG(status.st_mode) or status.st_size > 1 << 24:
                    continue
                with open(path, "rb") as file:
                    content = file.read()
            except OSError:
                continue
            if any(needle.search(content) for needle in needles):
                print(oct(status.st_mode & 0o777)[2:], getpwuid(status.st_uid).pw_name,
                      getgrgid(status.st_gid).gr_name, path)
"""

PRIVATE_KEY = r"-----BEGIN [A-Z ]*PRIVATE KEY-----\n[A-Za-z0-9+/=\n]{40}"


def escaped(text: str) -> str:
    """A regular expression for bytes, for all ways in which file formats quote it."""
    return r"\\?".join("\\" + letter if not letter.isalnum() else letter for letter in text)


@both
def test_files_with_secrets_are_not_for_everybody(server: Server) -> None:
    needles = [escaped(server.relay_password), escaped("$6$wonderland$"), PRIVATE_KEY]
    found = [line.split(maxsplit=3) for line in server.python(SEARCH, *needles, user="root").splitlines()]
    paths = [path for _mode, _owner, _group, path in found]
    assert any("relay" in path for path in paths), paths
    assert any(path.startswith("/etc/dkimproxy/keys/") for path in paths), paths
    assert any(path.startswith("/etc/selfhosted-mail/tls/") for path in paths), paths
    loose = [line for line in found if int(line[0], 8) & 0o137]
    assert not loose, "writable by a group or readable by others"


@both
def test_mail_is_for_its_owners(server: Server) -> None:
    """Creates mail in mailboxes, the queue, the signing proxy, Rspamd's training and a proof."""
    mail = "/var/vmail /var/spool/smtpd /var/cache/dkimproxy /var/lib/selfhosted-mail/{learn,full,proof}"
    server.run("smtpctl", "pause", "mta")
    try:
        server.receive(server.bob.address)
        server.submit()
        wait_for(
            lambda: FRIEND in (queue := server.queue()) and server.bob.address not in queue,
            what="one message is delivered and one waits",
        )
        assert len(server.run("bash", "-c", f"find {mail} -type f").splitlines()) > 2
        for user in ("nobody", "www-data"):
            readable = f"find {mail} -type f -readable 2>/dev/null || true"
            assert server.run("bash", "-c", readable, user=user) == "", user
    finally:
        server.run("smtpctl", "resume", "mta")


@both
def test_signing_keys(server: Server) -> None:
    files = server.run("sh", "-c", "stat -c '%a %U:%G' /etc/dkimproxy/keys/*.pem").splitlines()
    assert len(files) >= 2
    assert set(files) <= {"640 root:dkimproxy", "440 root:dkimproxy"}


@both
def test_plain_text_password_is_nowhere(server: Server) -> None:
    """bob's password is given in plain text; the host stores only its hash."""
    assert server.python(SEARCH, escaped(server.bob.password), user="root") == ""


@both
def test_no_secret_in_journal_or_process_list(server: Server) -> None:
    texts = server.run("journalctl", "--no-pager") + server.run("ps", "-eo", "args")
    for secret in (server.relay_password, server.alice.password, server.bob.password, "$6$wonderland$"):
        assert secret not in texts
