# SPDX-License-Identifier: GPL-3.0-or-later
"""A user's script redirects mail: it leaves unchanged, with the account as envelope sender."""

from __future__ import annotations

import uuid

import pytest

from testbed import imap, provider, smtp
from testbed.containers import wait_for
from testbed.playbook import run_site
from testbed.servers import FRIEND, RELAY, SERVERS, STRANGER, Server, both, script
from testbed.signatures import Peer, author, fields, signatures, verifies


def copies(server: Server, marker: str) -> list[bytes]:
    """The messages of quinn's inbox with this text."""
    messages = imap.messages(server.ip, server.quinn.address, server.quinn.password)
    return [raw for raw in messages if marker.encode() in raw]


def received(server: Server, code: str, sender: str = STRANGER) -> str:
    """Message-ID of a new message for quinn, with this script, once the queue is empty."""
    message = smtp.compose(sender or "mailer-daemon@world.test", [server.quinn.address])
    with script(server, server.quinn, code):
        smtp.deliver(server.ip, sender, [server.quinn.address], message)
        server.settle()
    return str(message["Message-ID"])


@both
def test_leaves_with_the_accounts_envelope_and_the_peers_signature(server: Server) -> None:
    peer = Peer(f"redirected-by-{server.domain}")
    sender = f"writer@{peer.domain}"
    message = smtp.compose(sender, [server.quinn.address])
    with script(server, server.quinn, f'redirect "{FRIEND}";\n'):
        smtp.deliver(server.ip, sender, [server.quinn.address], peer.sign(message))
        kept = server.relayed(message)
    assert (kept.sender, kept.recipients) == (server.quinn.address, (FRIEND,))
    assert kept.auth_user == server.relay_user and kept.tls in ("TLSv1.2", "TLSv1.3")
    assert author(kept.raw) == sender
    assert [one["d"] for one in signatures(kept.raw)] == [peer.domain]
    assert verifies(kept.raw)
    assert kept.dkim == [("pass", peer.domain)]
    server.settle()
    assert len(provider.find(RELAY, str(message["Message-ID"]))) == 1
    assert copies(server, str(message["Message-ID"])) == []


@both
def test_unsigned_mail_leaves_unsigned(server: Server) -> None:
    kept = provider.wait_kept(RELAY, received(server, f'redirect "{FRIEND}";\n'))
    assert kept.sender == server.quinn.address
    assert signatures(kept.raw) == []


@both
def test_mail_of_our_own_keeps_its_signature(server: Server) -> None:
    with script(server, server.quinn, f'redirect "{FRIEND}";\n'):
        kept = server.relayed(server.submit([server.quinn.address], login=server.bob))
    assert kept.sender == server.quinn.address
    assert [one["d"] for one in signatures(kept.raw)] == [server.domain]
    assert verifies(kept.raw, key=server.key)


@both
def test_a_null_sender_stays_null(server: Server) -> None:
    kept = provider.wait_kept(RELAY, received(server, f'redirect "{FRIEND}";\n', sender=""))
    assert (kept.sender, kept.recipients) == ("", (FRIEND,))


@both
def test_to_an_own_address_it_does_not_leave(server: Server) -> None:
    identity = received(server, f'redirect "{server.alice.address}";\n')
    raw = server.mailbox(server.alice, identity)
    assert fields(raw, "X-Sieve-Redirected-From") == [server.quinn.address]
    assert signatures(raw) == []
    assert provider.find(RELAY, identity) == []


@both
def test_to_an_address_that_nobody_has_it_stays(server: Server) -> None:
    identity = received(server, f'redirect "nobody-{uuid.uuid4().hex[:8]}@{server.domain}";\n')
    assert len(copies(server, identity)) == 1
    assert provider.find(RELAY, identity) == []


@pytest.mark.parametrize("count", [4, 5])
@both
def test_four_at_most(server: Server, count: int) -> None:
    identity = received(server, "".join(f'redirect "friend{number}@far.test";\n' for number in range(count)))
    if count > 4:
        assert provider.find(RELAY, identity) == [] and len(copies(server, identity)) == 1
    else:
        wanted = [(f"friend{number}@far.test",) for number in range(count)]
        wait_for(lambda: sorted(kept.recipients for kept in provider.find(RELAY, identity)) == wanted, what=str(wanted))
        assert copies(server, identity) == []


@both
def test_a_copy_stays(server: Server) -> None:
    identity = received(server, f'require "copy";\nredirect :copy "{FRIEND}";\n')
    provider.wait_kept(RELAY, identity)
    assert len(copies(server, identity)) == 1


@both
def test_one_that_bounces_ends_after_one_round(server: Server) -> None:
    """The provider refuses the recipient, the account gets the report, and redirecting that causes no other."""
    identity = received(server, 'require "copy";\nredirect :copy "nobody@far.test";\n')
    original, report = copies(server, identity)
    assert b"No such user here" in report and b"\nFrom: Mailer Daemon" in report
    # OpenSMTPD's and Dovecot's.
    assert set(fields(original, "Return-Path")) == {f"<{STRANGER}>"}
    assert set(fields(report, "Return-Path")) == {"<>"}
    # The report has the identity too, and was redirected to nobody@ itself.
    identity = received(server, 'redirect "nobody@far.test";\n')
    assert copies(server, identity) == []
    assert provider.find(RELAY, identity) == []


@pytest.mark.disruptive
def test_where_forwarding_is_refused_it_stays() -> None:
    changes = {"mail_forward_via": "refuse", "mail_aliases": {}}
    run_site("--tags", "accounts,dovecot", variables=changes)
    try:
        for server in SERVERS:
            identity = received(server, f'redirect "{FRIEND}";\n')
            assert len(copies(server, identity)) == 1
            assert provider.find(RELAY, identity) == []
    finally:
        run_site("--tags", "accounts,dovecot")
    for server in SERVERS:
        provider.wait_kept(RELAY, received(server, f'redirect "{FRIEND}";\n'))
