# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may write as whom, by the `senders` table: logins, envelope senders and users of the host."""

import pytest
from authors.address import parse_address
from authors.rights import Refusal, Rights, RightsError, host_writer, judge, login_writer, sender_writer

HOST = "mail.example.org"
SENDERS = """\
# who may write as whom
alice@example.org Alice@Example.org,sales@example.org,alice@example.net
bob@example.org\tbob@example.org, info@example.org
carol@example.org carol@example.org info@example.org
admin @example.net,admin@example.org
"""


@pytest.fixture(scope="module")
def rights(tmp_path_factory):
    path = tmp_path_factory.mktemp("rights") / "senders"
    path.write_text(SENDERS)
    return Rights(str(path))


def judged(rights, writer, author, *senders):
    """The reason for the refusal, or what is allowed."""
    values = [author.encode()] if author is not None else []
    ours = rights.domains | {HOST}
    try:
        return [str(found) for found in judge(values, [sender.encode() for sender in senders], writer, ours)]
    except Refusal as refusal:
        assert refusal.code == 550 and refusal.status in ("5.7.1", "5.6.0")
        return refusal.reason


def allowed(rights, sender, author):
    writer = sender_writer(rights, parse_address(sender) if sender else None, HOST)
    return isinstance(judged(rights, writer, author), list)


@pytest.mark.parametrize(
    ("sender", "author", "expected"),
    [
        ("alice@example.org", "alice@example.org", True),
        ("ALICE@example.org", "Alice@EXAMPLE.org", True),
        ("alice@example.org", "sales@example.org", True),
        ("alice@example.org", "alice@example.net", True),
        ("alice@example.org", "alice+news@example.org", True),
        ("alice+bounce@example.org", "alice@example.org", True),
        ("alice@example.org", "bob@example.org", False),
        ("alice@example.org", "bob+alice@example.org", False),
        ("alice@example.org", "alicex@example.org", False),
        ("alice@example.org", "eve@example.com", False),
        ("alice@example.org", "alice@sub.example.org", False),
        ("alice@example.org", f"root@{HOST}", False),
        ("alice@example.org", "alice@example.org, sales@example.org", True),
        ("alice@example.org", "alice@example.org, bob@example.org", False),
        ("alice@example.org", "alice@example.org, alice@example.net", False),
        # A domain's owner may write as all of it; that gives its users no further right.
        ("admin@example.org", "anyone@example.net", True),
        ("anyone@example.net", "other@example.net", True),
        ("alice@example.net", "other@example.net", False),
        ("alice@example.net", "alice@example.org", True),
        # A shared address: itself, and what all its users may use.
        ("info@example.org", "info@example.org", True),
        ("info@example.org", "bob@example.org", False),
        ("bob@example.org", "info@example.org", True),
        ("eve@example.org", "eve@example.org", False),
        ("eve@example.com", "alice@example.org", False),
        # Made on the host. Which user's it is, is judged where he is known.
        (f"www-data@{HOST}", f"www-data@{HOST}", True),
        (f"www-data@{HOST}", f"root@{HOST}", True),
        (f"www-data@{HOST}", "alice@example.org", False),
        (f"root@{HOST}", f"logwatch@{HOST}", True),
        (f"root@{HOST}", "alice@example.org", False),
        # The null sender: bounces, warnings and refusals of the host's own, nothing of an account's.
        (None, f"MAILER-DAEMON@{HOST}", True),
        (None, f"postmaster@{HOST}", True),
        (None, f"postmaster@{HOST}, alice@{HOST}", True),
        (None, "alice@example.org", False),
        (None, "alice+tag@example.org", False),
        (None, "anyone@example.net", False),
        (None, "postmaster@example.org", False),
        (None, f"postmaster@sub.{HOST}", False),
        (None, "eve@example.org", False),
        (None, "eve@example.com", False),
        # Vacation answers: sent from the account, with or without a tag, as an address of its own.
        ("alice+club@example.org", "alice+club@example.org", True),
        ("alice@example.org", "carol@example.org", False),
    ],
)
def test_envelope_sender(rights, sender, author, expected):
    assert allowed(rights, sender, author) is expected


@pytest.mark.parametrize(
    ("login", "author", "result"),
    [
        ("alice@example.org", "Alice <alice@example.org>", ["alice@example.org"]),
        ("Alice@Example.org", "sales+x@example.org", ["sales+x@example.org"]),
        ("alice@example.org", "alice@example.org, sales@example.org", ["alice@example.org", "sales@example.org"]),
        # Of the two users of info@, the writer may use his own addresses.
        ("bob@example.org", "bob@example.org", ["bob@example.org"]),
        ("bob@example.org", "carol@example.org", "from-not-allowed"),
        ("admin", "anyone@example.net", ["anyone@example.net"]),
        ("nobody", "alice@example.org", "from-not-allowed"),
        ("alice@example.org", "eve@example.com", "from-not-allowed"),
        ("alice@example.org", "alice@example.org, alice@example.net", "several-domains"),
        ("alice@example.org", "alice@example.org, bob@example.org", "from-not-allowed"),
        ("alice@example.org", "Alice", "from-syntax"),
        ("alice@example.org", None, "from-count"),
    ],
)
def test_login(rights, login, author, result):
    assert judged(rights, login_writer(rights, login), author) == result


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ('"bob@example.org"', "bob@example.org"),
        ("(bob@example.org)", "bob@example.org"),
        ("=?utf-8?b?PGJvYkBleGFtcGxlLm9yZz4=?=", "bob@example.org"),
        ("=?utf-8?q?bob=40example?= =?utf-8?q?=2Eorg?=", "bob@example.org"),
        ('"=?us-ascii?Q?bob=40example.org?="', "bob@example.org"),
        ("=?utf-8?q?bob=40example.org_€?=", "bob@example.org"),
        ("=?x-unknown?q?bob=40example.org?=", "bob@example.org"),
        ('"bob\\@example.org"', "bob@example.org"),
        ('"bob@EXAMPLE.org."', "bob@example.org"),
        ("=?utf-8?q?b=E2=80=8Bob=40exam=C2=ADple.org?=", "bob@example.org"),
        ("=?utf-8?q?bob=EF=BC=A0example.org?=", "bob@example.org"),
        ("=?utf-8?q?=EF=BD=82ob=40example.org?=", "bob@example.org"),
        ('"root@mail.example.org"', "root@mail.example.org"),
    ],
)
def test_a_name_that_shows_another_address_of_ours(rights, name, shown):
    writer = login_writer(rights, "alice@example.org")
    with pytest.raises(Refusal, match=f"shows {shown}"):
        judge([f" {name} <alice@example.org>".encode()], [], writer, rights.domains | {HOST})


@pytest.mark.parametrize("domain", ["m\u00fcnchen.example", "M\u00dcNCHEN.example", "xn--mnchen-3ya.example"])
def test_a_name_that_shows_another_address_of_a_domain_outside_of_ascii(tmp_path, domain):
    table = tmp_path / "senders"
    table.write_text("bob@xn--mnchen-3ya.example bob@xn--mnchen-3ya.example\n")
    rights = Rights(str(table))
    writer = login_writer(rights, "bob@xn--mnchen-3ya.example")
    own = "bob@xn--mnchen-3ya.example"
    assert judged(rights, writer, f'"chef@{domain}" <{own}>') == "from-display"
    assert judged(rights, writer, f'"bob@{domain}" <{own}>') == [own]


@pytest.mark.parametrize("code", ["=00", "=0A", "=0D=0AX", "=1B", "=09", "=C2=85"])
def test_a_name_that_holds_control_characters(rights, code):
    writer = login_writer(rights, "alice@example.org")
    assert judged(rights, writer, f"=?utf-8?q?a{code}?= <alice@example.org>") == "from-display"


@pytest.mark.parametrize(
    "name",
    ['"sales@example.org"', "alice@example.org", '"eve@example.com"', "A\tB", "=?utf-8?q?B=C3=BCro?=", "a @ b", "@"],
)
def test_a_name_that_may_stay(rights, name):
    writer = login_writer(rights, "alice@example.org")
    if "@" in name and not name.startswith('"'):
        name = f'"{name}"'
    assert judged(rights, writer, f"{name} <alice@example.org>") == ["alice@example.org"]


def test_sender_shows_an_address_too(rights):
    writer = login_writer(rights, "alice@example.org")
    assert judged(rights, writer, "alice@example.org", " Bob <bob@example.org>") == "from-display"
    assert judged(rights, writer, "alice@example.org", " sales@example.org", " eve@example.com") == [
        "alice@example.org"
    ]


@pytest.mark.parametrize(
    ("user", "uid", "local", "allowed"),
    [
        ("shelly", 1001, "shelly", True),
        ("Shelly", 1001, "shelly+cron", True),
        ("shelly", 1001, "root", False),
        ("shelly", 1001, "postmaster", False),
        ("www-data", 33, "www-data", True),
        ("www-data", 33, "postmaster", True),
        ("www-data", 33, "backup", False),
        # None is a system user: nobody, DynamicUser, a user of a directory service.
        ("nobody", 65534, "root", False),
        ("dynamic", 61500, "root", False),
        ("directory", 200000, "root", False),
        ("root", 0, "logwatch", True),
    ],
)
def test_users_of_the_host(rights, user, uid, local, allowed):
    writer = host_writer(user, uid, HOST)
    assert writer.may_use(parse_address(f"{local}@{HOST}")) is allowed
    assert not writer.may_use(parse_address(f"{local}@example.org"))
    assert not writer.may_use(parse_address("alice@example.org"))


def test_without_rights_the_signature_decides():
    assert judge([b"shop@example.com"], [], None, frozenset())
    with pytest.raises(Refusal):
        judge([b"shop@example.org, eve@example.com"], [], None, frozenset())


def test_the_refusal_names_both_addresses(rights):
    with pytest.raises(Refusal, match=r"alice@example\.org may not send mail as bob@example\.org"):
        judge([b"bob@example.org"], [], login_writer(rights, "alice@example.org"), rights.domains)


def test_the_table_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr("authors.rights.CHECK_EVERY", 0)
    path = tmp_path / "senders"
    path.write_text("alice a@example.org\n")
    first, said = Rights(str(path)), []
    assert first.current(lambda *words: said.append(words)) is first
    path.write_text("alice b@example.org x\n")
    for _ in range(3):
        assert first.current(lambda *words: said.append(words)) is first
    assert [level for level, _text in said] == ["err"]
    path.write_text("alice b@example.org, c@example.org\n")
    second = first.current(lambda *words: said.append(words))
    assert second.may_use("alice", parse_address("b@example.org"))
    assert not second.may_use("alice", parse_address("a@example.org"))
    path.unlink()
    assert second.current(lambda *words: said.append(words)) is second


@pytest.mark.parametrize("line", ["alice", "alice not-an-address", "alice @", "alice a@b@c"])
def test_a_wrong_line_is_named(tmp_path, line):
    path = tmp_path / "senders"
    path.write_text(f"# head\n{line}\n")
    with pytest.raises(RightsError, match=f"{path}:2: "):
        Rights(str(path))


def test_ten_thousand_accounts_are_read_quickly(tmp_path):
    import time

    path = tmp_path / "senders"
    path.write_text("".join(f"u{n}@example.org u{n}@example.org,alias{n}@example.org\n" for n in range(10000)))
    begun = time.process_time()
    rights = Rights(str(path))
    assert time.process_time() - begun < 2
    assert allowed(rights, "u7777@example.org", "alias7777@example.org")
