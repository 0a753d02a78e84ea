# SPDX-License-Identifier: GPL-3.0-or-later
"""Authors: mail of logins and local users under another user's address is refused at once."""

from __future__ import annotations

import os
import smtplib
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from testbed import containers, provider, smtp

testinfra_hosts = ["docker://opensmtpd-debian12", "docker://opensmtpd-debian13"]
MX = "opensmtpd-mx"
ALICE = ("alice@our.test", "pa:ss {{ {% {# #1")
HOST = "mail.our.test"
NO_NAME = "61184"  # as DynamicUser of systemd has them


@pytest.fixture(autouse=True)
def users(host):
    for name in "bobby", "carol":
        host.run_test(f"id {name} 2>/dev/null || useradd --create-home {name}")
    host.run_test("id daemonic 2>/dev/null || useradd --system daemonic")


def sendmail(container, user, text, *arguments):
    """Exit code and output."""
    command = ["docker", "exec", "--interactive", "--user", user, container, "/usr/sbin/sendmail", *arguments]
    text = text if isinstance(text, bytes) else text.encode()
    done = subprocess.run(command, input=text, capture_output=True, check=False)
    return done.returncode, done.stderr.decode()


# A session over TCP: port, then MAIL's sender, the recipient, the message. Prints the last reply.
SESSION = """
import smtplib, sys
port, sender, recipient, message = sys.argv[1:]
try:
    session = smtplib.SMTP("127.0.0.1", int(port), timeout=60)
    session.ehlo()
    answer = session.docmd(f"MAIL FROM:<{sender}>")
    if answer[0] == 250:
        answer = session.docmd(f"RCPT TO:<{recipient}>")
    if answer[0] == 250:
        answer = session.data(message.replace("\\n", "\\r\\n"))
except smtplib.SMTPResponseException as error:
    answer = error.args
except OSError as error:
    answer = type(error).__name__, b""
print(answer[0], answer[1].decode())
"""


def session(container, user, port, sender, recipient, message):
    return containers.run(container, "python3", "-c", SESSION, str(port), sender, recipient, message, user=user)


def somebody():
    return f"{uuid.uuid4().hex}@far.test"


def waiting(container, recipient):
    """Sender and text of the queued message, and its action."""
    rows = containers.run(container, "smtpctl", "show", "queue").splitlines()
    row = next(row for row in rows if recipient in row)
    envelope = row.split("|")[0]
    shown = containers.run(container, "smtpctl", "show", "envelope", envelope)
    action = next(line.split()[1] for line in shown.splitlines() if line.startswith("dispatcher:"))
    sender = next(line.partition(": ")[2] for line in shown.splitlines() if line.startswith("sender:"))
    sender = sender.strip().removeprefix("@")  # the null sender is shown as an @
    return sender, containers.run(container, "smtpctl", "show", "message", envelope), action


def queued(container, recipient):
    return recipient in containers.run(container, "smtpctl", "show", "queue")


@pytest.mark.parametrize(
    ("user", "sender", "author", "wanted"),
    [
        ("bobby", None, None, f"bobby@{HOST}"),
        ("bobby", "bobby", None, f"bobby@{HOST}"),
        ("bobby", f"bobby+shop@{HOST}", f"Bob <Bobby@{HOST}>", f"bobby+shop@{HOST}"),
        ("bobby", None, f"bobby+x@{HOST}", f"bobby+x@{HOST}"),
        ("bobby", "<>", f"bobby@{HOST}", ""),
        ("carol", None, "root (Cron Daemon)", f"carol@{HOST}"),
        ("nobody", None, None, f"nobody@{HOST}"),
        ("daemonic", None, None, f"daemonic@{HOST}"),
        ("daemonic", "root", f"postmaster@{HOST}", f"root@{HOST}"),
        ("root", None, None, f"root@{HOST}"),
        ("root", f"anybody@{HOST}", f"someone@{HOST}", f"anybody@{HOST}"),
    ],
)
def test_users_of_the_host_write_as_themselves(container, user, sender, author, wanted):
    to = somebody()
    text = (f"From: {author}\n" if author else "") + "Subject: s\n\n.\n..\nx\n"
    assert sendmail(container, user, text, "-i", *(["-f", sender] if sender is not None else []), to) == (0, "")
    sender, text, action = waiting(container, to)
    assert (sender, action) == (wanted, "SIGN")
    head, _, body = text.partition("\n\n")
    assert body == ".\n..\nx\n"
    assert f"<{wanted}>" in head or (author and "@" in author and author in head)


@pytest.mark.parametrize(
    ("user", "sender", "author", "code", "words"),  # codes of sysexits.h: 64 usage, 77 no permission
    [
        ("bobby", "alice@our.test", None, 77, "550 5.7.1 bobby may not send mail as alice@our.test.\n"),
        ("bobby", f"carol@{HOST}", None, 77, f"550 5.7.1 bobby may not send mail as carol@{HOST}.\n"),
        ("bobby", f"root@{HOST}", None, 77, f"550 5.7.1 bobby may not send mail as root@{HOST}.\n"),
        ("bobby", None, "alice@our.test", 77, "550 5.7.1 bobby may not send mail as alice@our.test.\n"),
        ("bobby", "bobby", "alice@our.test", 77, "550 5.7.1 bobby may not send mail as alice@our.test. Choose "),
        ("bobby", "<>", "alice@our.test", 77, "550 5.7.1 bobby may not send mail as alice@our.test. Choose "),
        ("bobby", "bobby", f'"alice@our.test" <bobby@{HOST}>', 77, "550 5.7.1 The From line shows alice@our.test"),
        ("bobby", "bobby", f"bobby@{HOST}\nFrom: alice@our.test", 77, "550 5.7.1 The message has several From"),
        ("bobby", "bobby", f"bobby@{HOST}\nSender: alice@our.test", 77, "550 5.7.1 The Sender line shows alice"),
        ("daemonic", None, f"carol@{HOST}", 77, "550 5.7.1 daemonic may not "),
        ("daemonic", "alice@our.test", None, 77, "550 5.7.1 daemonic may not "),
        ("nobody", f"root@{HOST}", None, 77, "550 5.7.1 nobody may not "),
        ("nobody", "nobody", f"postmaster@{HOST}", 77, "550 5.7.1 nobody may not "),
        ("root", "alice@our.test", None, 77, "550 5.7.1 root may not send mail as alice@our.test."),
        ("root", "root", "alice@our.test", 77, "550 5.7.1 root may not send mail as alice@our.test."),
        (NO_NAME, None, None, 77, f"user id {NO_NAME} has no user name, so it cannot send mail\n"),
        ("bobby", f"bobby+:alice@our.test> SIZE=1@{HOST}", "alice@our.test", 64, "'bobby+:alice@our.test> SIZE=1"),
        ("bobby", "bobby\nx", None, 64, ""),
    ],
)
def test_nobody_writes_as_somebody_else(container, user, sender, author, code, words):
    to = somebody()
    text = (f"From: {author}\n" if author else "") + "Subject: s\n\nx\n"
    done, said = sendmail(container, user, text, "-i", *(["-f", sender] if sender is not None else []), to)
    assert done == code and said.startswith(f"sendmail: {words}"), said
    assert not queued(container, to)


def test_a_bare_cr_does_not_hide_from(container):
    to = somebody()
    text = b"X-Note: a\rb\nFrom: The CEO <alice@our.test>\nSubject: invoice\n\nplease pay\n"
    code, said = sendmail(container, "bobby", text, "-i", "-f", f"bobby@{HOST}", to)
    assert code == os.EX_UNAVAILABLE and said.startswith("sendmail: 554 5.6.0 "), said
    assert not queued(container, to)


@pytest.mark.parametrize(
    ("sender", "message", "answer"),
    [
        (f"bobby@{HOST}", f"From: bobby@{HOST}\n\nx\n", "250 "),
        (f"bobby+:alice@our.test> SIZE=1@{HOST}", "From: alice@our.test\n\nx\n", "555 "),
        (f"bobby+:root@{HOST}", f"From: root@{HOST}\n\nx\n", "553 5.1.7 "),
        ("alice@our.test", "From: alice@our.test\n\nx\n", "550 5.7.1 bobby may not "),
        (f"bobby@{HOST}", f"X: y\n.\rFrom: alice@our.test\nFrom: bobby@{HOST}\n\nx\n", "554 5.6.0 "),
        # It would be a part of OpenSMTPD's own field, where the signing proxy looks for a login.
        (f"bobby@{HOST}", f"\tauth=yes user=alice@our.test\nFrom: bobby@{HOST}\n\nx\n", "554 5.6.0 "),
        (f"bobby@{HOST}", "x\n", "554 5.6.0 "),
    ],
)
def test_a_user_who_speaks_smtp(container, sender, message, answer):
    to = somebody()
    said = session(container, "bobby", 10025, sender, to, message)
    assert said.startswith(answer), said
    assert queued(container, to) is (answer == "250 ")


@pytest.mark.parametrize("port", [10025, 10026])
def test_who_has_no_name_is_not_greeted(container, port):
    said = session(container, NO_NAME, port, "", somebody(), "From: x\n\n")
    if port == 10026:
        assert said.startswith("ConnectionRefusedError")
    else:
        assert said == f"550 5.7.1 User id {NO_NAME} has no user name on this host, so it cannot send mail\n"


@pytest.mark.parametrize(
    ("sender", "author", "answer"),
    [
        ("alice@our.test", "Alice <info@our.test>", "250 "),
        ("alice+tag@our.test", "alice@our.test", "250 "),
        ("alice@our.test", "bob@our.test", "550 5.7.1 alice@our.test may not send mail as bob@our.test."),
        ("alice@our.test", f"postmaster@{HOST}", "550 5.7.1 alice@our.test may not "),
        ("", f"Mail server <postmaster@{HOST}>", "250 "),
        ("", "alice@our.test", "550 5.7.1 "),
        ("carol@our.test", "carol@our.test", "550 5.7.1 vmail may not send mail as carol@our.test."),
        (f"vmail@{HOST}", f"vmail@{HOST}", f"550 5.7.1 vmail may not send mail as vmail@{HOST}."),
    ],
)
def test_what_dovecot_says_for_an_account(container, sender, author, answer):
    to = somebody()
    said = session(container, "vmail", 10025, sender, to, f"From: {author}\n\nx\n")
    assert said.startswith(answer), said
    assert queued(container, to) is (answer == "250 ")


def redirected(container, sender, recipient):
    """Its Subject."""
    marker = uuid.uuid4().hex
    text = f"X-Sieve-Redirected-From: alice@our.test\nFrom: Jane <jane@world.test>\nSubject: {marker}\n\nx\n"
    said = session(container, "vmail", 10026, sender, recipient, text)
    assert said.startswith("250 "), said
    return marker


@pytest.mark.parametrize("sender", ["alice+x@our.test", ""])
def test_what_sieve_redirects_leaves_as_it_is_and_unsigned(container, sender):
    kept = provider.wait_kept(MX, redirected(container, sender, "friend@direct.test"))
    assert (kept.sender, kept.recipients) == (sender, ("friend@direct.test",))
    assert kept.message["From"] == "Jane <jane@world.test>"
    assert kept.message["DKIM-Signature"] is None


def test_what_sieve_redirects_to_another_account_is_delivered(container):
    """Without Dovecot the message stays in the queue."""
    marker = redirected(container, "alice@our.test", "bob@our.test")

    def waits():
        for row in containers.run(container, "smtpctl", "show", "queue").splitlines():
            envelope = row.split("|")[0]
            if "|bob@our.test|" in row and marker in containers.run(container, "smtpctl", "show", "message", envelope):
                return containers.run(container, "smtpctl", "show", "envelope", envelope)
        return None

    assert "dispatcher: RECV\n" in containers.wait_for(waits, what="the redirected message in the queue")


def test_a_redirect_needs_an_account_and_who_keeps_the_mailboxes(container):
    text = "From: jane@world.test\n\nx\n"
    said = session(container, "vmail", 10026, "jane@world.test", somebody(), text)
    assert said.startswith("550 5.7.1 vmail may not "), said
    assert session(container, "vmail", 10026, "alice@our.test", "nobody@our.test", text).startswith("550 ")
    for user in "bobby", "daemonic", "nobody", "mailfilter", "opensmtpd":
        said = session(container, user, 10026, "alice@our.test", somebody(), text)
        assert said.startswith("ConnectionRefusedError"), f"{user}: {said}"


@pytest.mark.parametrize("port", [465, 587])
def test_a_login_has_its_own_envelope_sender_or_none(address, port):
    with smtp.login(address, port, *ALICE) as login:
        for sender in "bob@our.test", "alice@far.test", f"root@{HOST}":
            code, text = login.docmd("MAIL", f"FROM:<{sender}>")
            assert (code, text.decode()) == (550, f"5.7.1 alice@our.test may not send mail as {sender}.")
        for sender in "alice@our.test", "info@our.test", "":
            assert login.docmd("MAIL", f"FROM:<{sender}>")[0] == 250
            login.rset()


def test_the_trace_names_the_login_where_the_signing_proxy_asks_for_it(address, container):
    to = somebody()
    with smtp.login(address, 587, *ALICE) as login:
        login.mail("")
        login.rcpt(to)
        assert login.data("From: alice@our.test\r\n\r\nx\r\n")[0] == 250
    trace = waiting(container, to)[1].partition("\nFrom:")[0]
    assert trace.startswith("Received: \n\tby mail.our.test (OpenSMTPD) with ESMTPSA id ")
    assert (" auth=yes user=alice@our.test\n" in trace) is container.endswith("13")


@pytest.mark.parametrize("port", [465, 587])
@pytest.mark.parametrize("sender", ["alice@our.test", ""])
@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("From: bob@our.test", "5.7.1 alice@our.test may not send mail as bob@our.test."),
        ("From: ceo@far.test", "5.7.1 alice@our.test may not send mail as ceo@far.test."),
        ("Subject: no author", "5.7.1 The message has no From line"),
        ("From: alice@our.test\r\nFrom: bob@our.test", "5.7.1 The message has several From lines"),
        ("From: alice@our.test, bob@our.test", "5.7.1 alice@our.test may not send mail as bob@our.test."),
    ],
)
def test_from_of_somebody_else_is_refused_at_the_end_of_data(address, container, port, sender, header, words):
    to = somebody()
    with smtp.login(address, port, *ALICE) as login:
        login.docmd("MAIL", f"FROM:<{sender}>")
        login.rcpt(to)
        code, text = login.data(f"{header}\r\n\r\nx\r\n")
        assert code == 550 and text.decode().startswith(words), text
        # The session goes on.
        login.docmd("MAIL", f"FROM:<{sender}>")
        login.rcpt(to)
        assert login.data("From: alice@our.test\r\n\r\nx\r\n")[0] == 250
    rows = containers.run(container, "smtpctl", "show", "queue").splitlines()
    assert sum(to in row for row in rows) == 1


SPELLINGS = {
    "alice@our.test <alice@our.test>": '"alice@our.test" <alice@our.test>',
    '"alice@our.test" <alice@our.test>': '"alice@our.test" <alice@our.test>',
    "Dr. A. B. <alice@our.test>": "Dr. A. B. <alice@our.test>",
    "Last, First <alice@our.test>": '"Last, First" <alice@our.test>',
    "[Shop] A <alice@our.test>": '"[Shop] A" <alice@our.test>',
    "A; Sales <alice@our.test>": '"A; Sales" <alice@our.test>',
    "A < alice@our.test >": '"A" <alice@our.test>',
    "=?utf-8?q?B=C3=BCcher=2C_A?= <alice@our.test>": "=?utf-8?q?B=C3=BCcher=2C_A?= <alice@our.test>",
    "ALICE@OUR.TEST": "ALICE@OUR.TEST",
    "alice@our.test (A)": "alice@our.test (A)",
    "<alice@our.test>": "<alice@our.test>",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_from_as_people_write_it(address, container, spelling):
    to = somebody()
    with smtp.login(address, 465, *ALICE) as login:
        login.mail("alice@our.test")
        login.rcpt(to)
        code, text = login.data(f"From: {spelling}\r\nTo: {to}\r\n\r\nx\r\n")
    assert code == 250, text
    header = waiting(container, to)[1].partition("\n\n")[0]
    assert f"\nFrom: {SPELLINGS[spelling]}\n" in header


def test_what_is_written_properly_before_opensmtpd_reads_it(address, container):
    to = somebody()
    header = f"From: alice@our.test\r\nTo: Doe, Jane <{to}>\r\nCc : Roe, R\r\n\t<r@far.test>,b@far.test\r\nSubject : x"
    with smtp.login(address, 587, *ALICE) as login:
        login.mail("alice@our.test")
        login.rcpt(to)
        assert login.data(f"{header}\r\n\r\nx\r\n")[0] == 250
    header = waiting(container, to)[1].partition("\n\n")[0] + "\n"
    assert f'\nTo: "Doe, Jane" <{to}>\n' in header
    assert '\nCc: "Roe, R" <r@far.test>,\n b@far.test\n' in header
    assert "\nSubject: x\n" in header
    assert header.count(f"@{HOST}") == header.count("Message-ID")


def test_nothing_is_added_to_the_field_that_names_the_login(address):
    """OpenSMTPD before 7.5 makes a first line that begins with a blank a part of its Received."""
    with smtp.login(address, 465, *ALICE) as login:
        login.mail("alice@our.test")
        login.rcpt("alice@our.test")
        code, words = login.data("\tauth=yes user=bob@our.test\r\nFrom: alice@our.test\r\n\r\nx\r\n")
    assert code == 554 and words.endswith(b"begins with a blank"), words


@pytest.mark.parametrize("own", ["127.0.0.1", "::1"])
def test_the_host_itself_is_known_at_port_25(host, own):
    """Addresses of IPv6 too, which OpenSMTPD before 7.8 does not find in every table."""
    program = f"import smtplib; s = smtplib.SMTP('{own}', 25); s.ehlo('peer.test'); print(s.mail('bob@far.test'))"
    assert host.check_output("python3 -c %s", program).startswith("(550, b\"5.7.1 This host's own mail")


def test_control_characters_in_a_header_are_refused_everywhere(address):
    text = b"From: alice@our.test\r\nX: a\rb\r\n\r\nx\r\n"
    with smtplib.SMTP(address, 25, timeout=60) as world, smtp.login(address, 465, *ALICE) as login:
        world.ehlo()
        for peer in world, login:
            peer.mail("alice@our.test")
            peer.rcpt("alice@our.test")
            code, words = peer.data(text)
            assert code == 554 and words.startswith(b"5.6.0 "), words


def test_filters_are_a_user_who_reads_no_secret(host):
    assert host.check_output("ps -o user:20= -C filter-message") == "mailfilter"
    assert host.check_output("id -nG mailfilter") == "mailfilter"
    host.run_test("runuser -u mailfilter -- cat /etc/selfhosted-mail/senders")
    for secret in "/etc/selfhosted-mail/credentials", "/etc/selfhosted-mail/passwd", "/etc/opensmtpd/srs.conf":
        assert host.file(secret).exists
        assert host.run(f"runuser -u mailfilter -- cat {secret}").rc != 0, secret


def test_opensmtpds_own_socket_is_roots(host):
    directory = host.file("/run/opensmtpd")
    assert (directory.user, directory.mode) == ("root", 0o700)
    for command in "exec -a sendmail /usr/sbin/smtpctl x@far.test", "/usr/sbin/sendmail -bp":
        assert host.run("runuser -u bobby -- bash -c %s", f"{command} </dev/null").rc not in (0, 127), command
    assert host.check_output("find /var/spool/smtpd/offline -type f") == ""


WAIT_IN_ITS_PLACE = """
import socket, sys
with socket.create_server(("127.0.0.1", 10025)):
    print("there", flush=True)
    sys.stdin.read()
"""
CONNECT = """
import socket
try:
    socket.create_connection(("127.0.0.1", 10025), 5)
except OSError as error:
    print(type(error).__name__)
"""


def stop(host):
    """systemd of a container does not wait for the processes that it has killed."""
    host.run_test("systemctl stop opensmtpd")
    containers.wait_for(lambda: host.run("pgrep -x smtpd").rc, what="OpenSMTPD's processes have ended")


def test_nobody_waits_in_its_place(host, container):
    """While OpenSMTPD is down, sendmail connects to no other process; only root's mail is queued."""
    to = somebody()
    stop(host)
    try:
        command = ["docker", "exec", "-i", "--user", "nobody", container, "python3", "-c", WAIT_IN_ITS_PLACE]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as mallory:
            assert mallory.stdout.readline() == b"there\n"
            assert containers.run(container, "python3", "-c", CONNECT) == "TimeoutError\n"
            mallory.stdin.close()
        with ThreadPoolExecutor() as pool:
            his = pool.submit(sendmail, container, "bobby", "Subject: his\n\nx\n", to)
            roots = pool.submit(sendmail, container, "root", "Subject: roots\n\nx\n", to)
            code, words = his.result()
            assert code == os.EX_TEMPFAIL and words.startswith("sendmail: the mail service does not answer: "), words
            roots.result()
    finally:
        host.run_test("systemctl start opensmtpd")
    containers.wait_for(lambda: queued(container, to), what="what root's sendmail has put aside")
    sender, text, action = waiting(container, to)
    assert (sender, action) == (f"root@{HOST}", "SIGN") and "\nSubject: roots\n" in text


def test_sendmail_waits_while_opensmtpd_starts_anew(host, container):
    to = somebody()
    host.run_test("systemctl stop opensmtpd")
    with ThreadPoolExecutor() as pool:
        done = pool.submit(sendmail, container, "bobby", "Subject: s\n\nx\n", to)
        # It is running, and has no answer yet.
        containers.wait_for(lambda: host.run("pgrep -u bobby -f sendmail").rc == 0)
        host.run_test("systemctl start opensmtpd")
        assert done.result() == (0, "")
    assert waiting(container, to)[0] == f"bobby@{HOST}"
