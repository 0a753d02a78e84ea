# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may write as whom: envelope sender against From, by the `senders` table and by domain."""

import pytest
from dkimproxy.address import parse_address, parse_authors
from dkimproxy.errors import ConfigError, Refused
from dkimproxy.policy import Rights, check_authors

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


def allowed(rights, sender, author):
    try:
        check_authors(parse_authors(author.encode()), parse_address(sender) if sender else None, rights, HOST)
    except Refused as refused:
        assert refused.code == 550
        return False
    return True


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
        # A shared address: itself, and what all who share it may use.
        ("info@example.org", "info@example.org", True),
        ("info@example.org", "bob@example.org", False),
        ("bob@example.org", "info@example.org", True),
        ("eve@example.org", "eve@example.org", False),
        ("eve@example.com", "alice@example.org", False),
        # Made on the host.
        (f"www-data@{HOST}", f"www-data@{HOST}", True),
        (f"www-data@{HOST}", f"root@{HOST}", False),
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
def test_account(rights, sender, author, expected):
    assert allowed(rights, sender, author) is expected


def test_domain_policy_leaves_the_address_to_the_signature(rights):
    assert allowed(None, "www-data@mail.example.org", "shop@example.org")
    assert not allowed(None, "www-data@mail.example.org", "shop@example.org, eve@example.com")


def test_the_refusal_names_both_addresses(rights):
    with pytest.raises(Refused, match=r"alice@example\.org may not send mail as bob@example\.org"):
        check_authors(parse_authors(b"bob@example.org"), parse_address("alice@example.org"), rights, HOST)


@pytest.mark.parametrize("line", ["alice", "alice not-an-address", "alice @", "alice a@b@c"])
def test_a_wrong_line_is_named(tmp_path, line):
    path = tmp_path / "senders"
    path.write_text(f"# head\n{line}\n")
    with pytest.raises(ConfigError, match=f"{path}:2: "):
        Rights(str(path))


def test_ten_thousand_accounts_are_read_quickly(tmp_path):
    import time

    path = tmp_path / "senders"
    path.write_text("".join(f"u{n}@example.org u{n}@example.org,alias{n}@example.org\n" for n in range(10000)))
    begun = time.process_time()
    rights = Rights(str(path))
    assert time.process_time() - begun < 2
    assert allowed(rights, "u7777@example.org", "alias7777@example.org")
