# SPDX-License-Identifier: GPL-3.0-or-later
"""The role opensmtpd alone: who may send what, and that no mail is lost."""

import re
import smtplib
import socket
import ssl
import uuid

import pytest

from testbed import containers, provider, smtp
from testbed.firewall import check_needs_the_firewall

testinfra_hosts = ["docker://opensmtpd-debian12", "docker://opensmtpd-debian13"]
MX = "opensmtpd-mx"
ALICE = ("alice@our.test", "pa:ss {{ {% {# #1")


def queue(container: str) -> str:
    return containers.run(container, "smtpctl", "show", "queue")


@pytest.mark.parametrize("port", [25, 465, 587])
@pytest.mark.parametrize("family", ["0.0.0.0", "[::]"])
def test_the_listeners(host, family, port):
    assert f"{family}:{port} " in host.check_output("ss -Hltn")


def test_signed_mail_is_taken_back_on_loopback_alone(host):
    lines = [line for line in host.check_output("ss -Hltn").splitlines() if ":10028 " in line]
    assert len(lines) == 1 and "127.0.0.1:10028 " in lines[0]


@pytest.mark.parametrize("user", ["nobody", "root", "opensmtpd"])
def test_nobody_but_the_signing_proxy_says_that_mail_is_signed(container, user):
    connect = "socket.create_connection(('127.0.0.1', 10028), 5)"
    program = f"import socket\ntry: {connect}\nexcept OSError as e: print(type(e))"
    assert "ConnectionRefusedError" in containers.run(container, "python3", "-c", program, user=user)


def test_without_the_firewall_opensmtpd_does_not_open_10028(host):
    check_needs_the_firewall(host, "opensmtpd", 10028)


def test_port_25_offers_starttls_and_no_login(address):
    with smtplib.SMTP(address, 25, timeout=60) as session:
        session.ehlo()
        assert session.has_extn("starttls")
        assert not session.has_extn("auth")
        session.starttls(context=smtp.tls())
        session.ehlo()
        assert not session.has_extn("auth")


def test_port_587_takes_neither_login_nor_mail_without_tls(address):
    with smtplib.SMTP(address, 587, timeout=60) as session:
        session.ehlo()
        assert not session.has_extn("auth")
        assert session.docmd("AUTH", "PLAIN AGFsaWNlAHg=")[0] >= 500
        assert session.docmd("MAIL", "FROM:<alice@our.test>")[0] >= 500


@pytest.mark.parametrize("port", [25, 465, 587])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_tls_is_refused(address, port, version):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with pytest.raises((ssl.SSLError, ConnectionError, smtplib.SMTPException)):
        if port == 465:
            with socket.create_connection((address, port), 60) as plain:
                context.wrap_socket(plain)
        else:
            with smtplib.SMTP(address, port, timeout=60) as session:
                session.starttls(context=context)


@pytest.mark.parametrize("port", [465, 587])
def test_a_wrong_password_is_refused(address, port):
    with pytest.raises(smtplib.SMTPAuthenticationError):
        smtp.login(address, port, "alice@our.test", "pa:ss #2")


@pytest.mark.parametrize("sender", ["bob@our.test", "alice@far.test", "root@mail.our.test"])
def test_a_login_may_use_its_own_addresses_alone(address, sender):
    with smtp.login(address, 465, *ALICE) as session:
        assert session.docmd("MAIL", f"FROM:<{sender}>")[0] >= 500


@pytest.mark.parametrize("sender", ["alice@our.test", "info@our.test"])
def test_mail_waits_for_the_signing_proxy(address, container, sender):
    message = smtp.compose(sender, ["carol@far.test"])
    smtp.submit(address, *ALICE, sender, ["carol@far.test"], message, port=465)
    wanted = f"|{sender}|carol@far.test|"
    line = containers.wait_for(lambda: next((row for row in queue(container).splitlines() if wanted in row), None))
    assert "dispatcher: SIGN\n" in containers.run(container, "smtpctl", "show", "envelope", line.split("|")[0])


def test_mail_of_the_host_goes_to_the_signing_proxy_too(container):
    recipient = f"{uuid.uuid4().hex}@far.test"
    containers.docker("exec", "-i", container, "/usr/sbin/sendmail", recipient, data=b"Subject: cron\n\n.\n")
    line = containers.wait_for(lambda: next((row for row in queue(container).splitlines() if recipient in row), None))
    assert "|root@mail.our.test|" in line
    assert "dispatcher: SIGN\n" in containers.run(container, "smtpctl", "show", "envelope", line.split("|")[0])


@pytest.mark.parametrize(
    "recipient",
    [
        "alice@our.test",
        "Alice@OUR.test",
        "alice+tag@our.test",
        "info@our.test",
        "postmaster@our.test",
        "abuse@our.test",
        "root@mail.our.test",
        "away@our.test",
        "postmaster",
    ],
)
def test_known_recipients_are_taken_at_25(address, recipient):
    with smtplib.SMTP(address, 25, timeout=60) as session:
        session.ehlo()
        session.mail("peer@world.test")
        assert session.rcpt(recipient)[0] == 250


@pytest.mark.parametrize(
    "recipient",
    [
        "nobody@our.test",
        "nobody@mail.our.test",
        "carol@far.test",
        "carol%far.test@our.test",
        "carol@far.test@our.test",
        '"carol@far.test"',
        '"carol@far.test"@our.test',
        "far.test!carol@our.test",
        "@our.test:carol@far.test",
        "vmail@our.test",
        "vmail",
    ],
)
def test_unknown_and_foreign_recipients_are_refused_at_25(address, recipient):
    with smtplib.SMTP(address, 25, timeout=60) as session:
        session.ehlo()
        assert session.docmd("MAIL", "FROM:<peer@world.test>")[0] == 250
        assert session.docmd("RCPT", f"TO:<{recipient}>")[0] >= 500


def test_unknown_recipients_of_ours_are_refused_at_submission(address):
    with smtp.login(address, 465, *ALICE) as session:
        session.mail("alice@our.test")
        assert session.rcpt("nobody@our.test")[0] == 550
        assert session.rcpt("bob+tag@our.test")[0] == 250
        assert session.rcpt("nobody@far.test")[0] == 250


def test_a_tag_of_an_own_address_is_its_own(address):
    with smtp.login(address, 465, *ALICE) as session:
        assert session.mail("alice+shop@our.test")[0] == 250


def test_without_a_relay_an_alias_to_outside_is_forwarded_to_the_mx(address):
    message = smtp.compose("stranger@world.test", ["away@our.test"])
    smtp.deliver(address, "stranger@world.test", ["away@our.test"], message)
    kept = provider.wait_kept(MX, message["Message-ID"])
    assert re.fullmatch(r"SRS0=\S+=world\.test=stranger@our\.test", kept.sender)
    assert kept.recipients == ("friend@direct.test",)
    assert kept.auth_user == ""
    assert kept.message["DKIM-Signature"] is None


@pytest.mark.parametrize("recipient", ["pat@our.test", "chain0@our.test", "chain0+tag@our.test"])
def test_an_apostrophe_and_aliases_of_aliases(address, recipient):
    message = smtp.compose("stranger@world.test", [recipient])
    smtp.deliver(address, "stranger@world.test", [recipient], message)
    assert provider.wait_kept(MX, message["Message-ID"]).recipients == ("o'hara@direct.test",)


@pytest.mark.parametrize("sender", ["o'brien@our.test", "o'neill@our.test"])
def test_an_apostrophe_in_a_login(address, sender):
    with smtplib.SMTP_SSL(address, 465, timeout=60, context=smtp.tls()) as session:
        session.login("o'brien@our.test", "o'briens-password")
        session.sendmail(sender, ["friend@direct.test"], smtp.compose(sender, ["friend@direct.test"]).as_bytes())


def test_a_list_of_a_thousand_reaches_each_once(address):
    message = smtp.compose("stranger@world.test", ["thousand@our.test"])
    smtp.deliver(address, "stranger@world.test", ["thousand@our.test"], message)

    def reached() -> list[str]:
        return sorted(name for one in provider.kept(MX, message["Message-ID"]) for name in one.recipients)

    containers.wait_for(lambda: len(reached()) >= 1000, 180, "a thousand deliveries")
    assert reached() == sorted(f"o'member{number}@direct.test" for number in range(1000))


def test_without_a_relay_signed_mail_goes_to_the_mx(container):
    marker = uuid.uuid4().hex
    text = f"From: alice@our.test\\nSubject: {marker}\\n\\n."
    program = (
        f"import smtplib; smtplib.SMTP('127.0.0.1', 10028).sendmail('alice@our.test', 'friend@direct.test', '{text}')"
    )
    containers.run(container, "python3", "-c", program, user="dkimproxy")
    kept = provider.wait_kept(MX, marker)
    assert (kept.sender, kept.client_helo) == ("alice@our.test", "mail.our.test")
    assert kept.tls.startswith("TLSv1.")


@pytest.mark.parametrize("port", [25, 465, 587])
def test_the_certificate_is_the_one_that_was_asked_for(host, address, container, port):
    file = "/etc/ssl/own.pem" if container.endswith("13") else "/etc/selfhosted-mail/tls/fullchain.pem"
    wanted = ssl.PEM_cert_to_DER_cert(host.file(file).content_string)
    if port == 465:
        with socket.create_connection((address, port), 60) as plain, smtp.tls().wrap_socket(plain) as session:
            served = session.getpeercert(binary_form=True)
    else:
        with smtplib.SMTP(address, port, timeout=60) as session:
            session.starttls(context=smtp.tls())
            served = session.sock.getpeercert(binary_form=True)
    assert served == wanted


# Over TCP, and over MPTCP, whose packets come from no process.
CONNECT = """
import socket, sys
family, *_, address = socket.getaddrinfo(sys.argv[1], 25, type=socket.SOCK_STREAM)[0]
for protocol in socket.IPPROTO_TCP, 262:
    try:
        with socket.socket(family, socket.SOCK_STREAM, protocol) as connection:
            connection.settimeout(10)
            connection.connect(address)
        print("open")
    except OSError as error:
        print(type(error).__name__)
"""


@pytest.fixture
def own_addresses(host, address):
    """All addresses of the host, two of which were added after the run."""
    new = {"198.51.100.225": "198.51.100.225/32 dev eth0", "2001:db8:25::1": "2001:db8:25::1/128 dev eth0 nodad"}
    link_local = host.check_output("ip -6 -o address show dev eth0 scope link").split()[3].split("/")[0]
    for words in new.values():
        host.run_test(f"ip address add {words}")
    yield ["127.0.0.1", "127.0.0.2", "::1", address, f"{link_local}%eth0", *new]
    for words in new.values():
        host.run_test(f"ip address delete {words.removesuffix(' nodad')}")


def test_nobody_but_root_reaches_port_25_from_the_host(host, own_addresses):
    """Mail that is forwarded from port 25 would leave unsigned."""
    for _start in "first", "second":
        for target in own_addresses:
            first, second = host.check_output("runuser -u nobody -- python3 -c %s %s", CONNECT, target).split()
            assert first == "ConnectionRefusedError" and second != "open", f"{target}: {first} {second}"
            assert host.check_output("python3 -c %s %s", CONNECT, target).startswith("open\n"), target
        host.run_test("systemctl restart opensmtpd")
        containers.wait_for(lambda: "[::]:587 " in host.check_output("ss -Hltn"), what="OpenSMTPD is back")


@pytest.mark.parametrize("target", ["127.0.0.1", "::1", "own"])
@pytest.mark.parametrize("sender", ["alice@our.test", ""])
def test_a_local_program_cannot_get_mail_out_through_port_25(address, container, target, sender):
    """Not even root's mail, nor any user's without the firewall."""
    target = address if target == "own" else target
    program = (
        f"import smtplib; s = smtplib.SMTP('{target}', 25); s.ehlo(); a = s.mail('{sender}');"
        "b = s.rcpt('carol@far.test'); print(a[0], b[0])"
    )
    mail, _recipient = containers.run(container, "python3", "-c", program).split()
    assert int(mail) == 550


def test_secrets_are_closed(host):
    assert host.file("/etc/opensmtpd/srs.conf").mode == 0o600
    assert host.file(host.file("/etc/selfhosted-mail/tls/privkey.pem").linked_to).mode == 0o600
    credentials = host.file("/etc/selfhosted-mail/credentials")
    assert (credentials.user, credentials.group, credentials.mode) == ("root", "opensmtpd", 0o440)
    assert host.run("runuser -u nobody -- cat /etc/selfhosted-mail/credentials").rc != 0
    assert host.run("journalctl --no-pager --output=export | grep -aF 'pa:ss {{'").rc != 0


def test_on_debian_12_opensmtpd_alone_comes_from_backports(host, container):
    version = host.package("opensmtpd").version
    if container.endswith("12"):
        assert "~bpo12" in version
        # The suite may leave the mirrors, and every `apt update` would fail then.
        assert "bookworm-backports" not in host.check_output("apt-get indextargets")
    else:
        assert "~bpo" not in version


def test_it_comes_back_after_a_kill(host):
    host.run_test("pkill -KILL smtpd")
    containers.wait_for(lambda: host.run("smtpctl show stats").rc == 0, what="OpenSMTPD after a kill")
    containers.wait_for(lambda: host.run("ss -Hltn sport = :465").stdout, what="its port")


CREDENTIALS = "/etc/selfhosted-mail/credentials"


@pytest.fixture
def credentials(host):
    """Change the table of credentials with a sed script, make OpenSMTPD read it, and restore it afterwards."""
    host.run_test(f"cp -p {CREDENTIALS} /root/credentials")

    def change(script):
        host.run_test(f"sed -i '{script}' {CREDENTIALS} && smtpctl update table credentials")

    yield change
    host.run_test(f"cp -p /root/credentials {CREDENTIALS} && smtpctl update table credentials && rm /root/credentials")


def test_a_removed_account_is_refused_without_a_restart(host, address, credentials):
    started = "systemctl show -P ActiveEnterTimestampMonotonic opensmtpd"
    before = host.check_output(started)
    credentials("/^bob@/d")
    with pytest.raises(smtplib.SMTPAuthenticationError):
        smtp.login(address, 465, "bob@our.test", "bobs-password")
    host.run_test(f"cp -p /root/credentials {CREDENTIALS} && smtpctl update table credentials")
    smtp.login(address, 465, "bob@our.test", "bobs-password").quit()
    assert host.check_output(started) == before


def test_ten_thousand_accounts(host, address, credentials):
    """Both a running and a starting OpenSMTPD accept them, and the last one may log in."""
    more = 'awk \'/^bob@/ { for (n = 0; n < 10000; n++) print "user" n "@our.test", $2 }\' /root/credentials'
    host.run_test(f"{more} >>{CREDENTIALS}")
    last = ("user9999@our.test", "bobs-password")
    with pytest.raises(smtplib.SMTPAuthenticationError):
        smtp.login(address, 465, *last)
    credentials("")
    smtp.login(address, 465, *last).quit()
    host.run_test("systemctl restart opensmtpd")
    containers.wait_for(lambda: host.run("smtpctl show stats").rc == 0, what="OpenSMTPD after a restart")
    containers.wait_for(lambda: host.run("ss -Hltn sport = :465").stdout, what="its port")
    smtp.login(address, 465, *last).quit()
    smtp.login(address, 465, *ALICE).quit()


def test_whatever_stands_in_a_salt(host, address, credentials):
    """Preflight accepts hashes with such salts, and OpenSMTPD's tables interpret quotes, lists and comments."""
    hashed = host.check_output("openssl passwd -6 -salt %s odd", "a'b\"#,(|=d")
    host.run_test("echo %s >>%s", f"odd@our.test {hashed}", CREDENTIALS)
    credentials("")
    smtp.login(address, 465, "odd@our.test", "odd").quit()
    smtp.login(address, 465, *ALICE).quit()


@pytest.mark.parametrize("port", [25, 465, 587])
def test_messages_of_a_session(address, port):
    """A hundred; the next one needs another session, and aborted messages do not count."""
    wire = smtp.wire(smtp.compose("alice@our.test", ["alice@our.test"]))
    session = smtplib.SMTP(address, 25, timeout=60) if port == 25 else smtp.login(address, port, *ALICE)
    with session:
        session.ehlo()
        session.mail("alice@our.test")
        session.rset()
        for _number in range(100):
            assert session.mail("alice@our.test")[0] == 250
            session.rcpt("alice@our.test")
            assert session.data(wire)[0] == 250
        code, text = session.mail("alice@our.test")
        assert code == 452 and text.startswith(b"4.5.3 "), text


def test_what_the_signing_proxy_brings_is_not_counted(container):
    """It sends as many messages in a session as OpenSMTPD has for it."""
    program = (
        "import smtplib\n"
        "session, alice = smtplib.SMTP('127.0.0.1', 10028), 'alice@our.test'\n"
        "for number in range(150): session.sendmail(alice, alice, 'From: ' + alice + '\\n\\n.')\n"
    )
    containers.run(container, "python3", "-c", program, user="dkimproxy")
