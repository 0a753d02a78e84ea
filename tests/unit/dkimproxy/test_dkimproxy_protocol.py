# SPDX-License-Identifier: GPL-3.0-or-later
"""The proxy over real sockets, between a bare client and a scripted next hop."""

import re

import pytest
from dkimproxy_helpers import HEADER, MESSAGE, Client, Proxy, deliver, wait_until

ENVELOPE = b"MAIL FROM:<alice@example.org>\r\nRCPT TO:<bob@example.net>\r\nDATA\r\n"


def verbs(session):
    return [line[:4].strip().decode() for line in session]


def test_a_message_arrives_signed_and_otherwise_unchanged(proxy, next_hop, keys):
    assert deliver(proxy.port) == b"250 2.0.0 1a2b3c4d Message accepted for delivery\r\n"
    [message] = next_hop.messages
    assert message.startswith(b"DKIM-Signature: ") and message.endswith(MESSAGE)
    assert message.count(b"DKIM-Signature:") == 1 and keys.verifies(message)
    assert next_hop.envelopes == [(b"MAIL FROM:<alice@example.org>\r\n", [b"RCPT TO:<bob@example.net>\r\n"])]


def test_only_extensions_that_work_are_offered(proxy, next_hop):
    with Client(proxy.port) as client:
        assert client.reply() == b"220 next.example.org ESMTP\r\n"
        offered = client.send(b"EHLO client\r\n").split(b"\r\n")
        assert offered[1:-1] == [
            b"250-8BITMIME", b"250-SIZE 36691968", b"250-DSN", b"250-PIPELINING", b"250 ENHANCEDSTATUSCODES"
        ]  # fmt: skip
        for command in (b"STARTTLS", b"AUTH PLAIN AGEAYg==", b"BDAT 5 LAST", b"BURL x", b"XCLIENT NAME=x",
                        b"XFORWARD A=b", b"ETRN x", b"TURN", b"", b"\xff"):  # fmt: skip
            assert client.send(command + b"\r\n").startswith(b"502 5.5.1 "), command
        for parameter in (b"BODY=BINARYMIME", b"AUTH=<>", b"REQUIRETLS", b"SIZE=x"):
            assert client.send(b"MAIL FROM:<alice@example.org> %s\r\n" % parameter).startswith(b"555 5.5.4 ")
    assert verbs(next_hop.sessions[0]) == ["EHLO"]


def test_parameters_and_replies_pass_unchanged(proxy, next_hop):
    next_hop.script = {"VRFY": b"252 2.5.2 Perhaps\r\n", "HELP": b"214-one\r\n214 two\r\n", "NOOP": b"250 OK\r\n"}
    with Client(proxy.port) as client:
        client.reply()
        assert client.send(b"HELO client\r\n") == b"250 2.0.0 Ok\r\n"
        assert client.send(b"VRFY bob\r\n") == b"252 2.5.2 Perhaps\r\n"
        assert client.send(b"HELP\r\n") == b"214-one\r\n214 two\r\n"
        mail = b"mail from:<alice@example.org> SIZE=1000 BODY=8BITMIME RET=HDRS ENVID=x\r\n"
        assert client.send(mail) == b"250 2.0.0 Ok\r\n"
        rcpt = b"RCPT TO:<bob@example.net> NOTIFY=FAILURE ORCPT=rfc822;bob@example.net\r\n"
        assert client.send(rcpt) == b"250 2.0.0 Ok\r\n"
        assert client.send(b"QUIT\r\n") == b"221 2.0.0 Bye\r\n"
        assert client.reply() == b""
    assert next_hop.sessions[0][3:5] == [mail, rcpt]


def test_pipelined_messages_in_one_piece(proxy, next_hop, keys):
    second = MESSAGE.replace(b"Greetings", b"Again")
    data = (b"\r\n" + MESSAGE).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"
    everything = (
        b"EHLO c\r\n" + ENVELOPE + data + b"RSET\r\n" + ENVELOPE + data.replace(b"Greetings", b"Again") + b"QUIT\r\n"
    )
    with Client(proxy.port) as client:
        client.socket.sendall(everything)
        codes = []
        while reply := client.reply():
            codes.append(reply[:3].decode())
    assert codes == ["220", "250", "250", "250", "354", "250", "250", "250", "250", "354", "250", "221"]
    assert [message.partition(b"From: ")[2] for message in next_hop.messages] == [
        sent.partition(b"From: ")[2] for sent in (MESSAGE, second)
    ]
    assert all(map(keys.verifies, next_hop.messages))


def test_byte_by_byte(proxy, next_hop, keys):
    with Client(proxy.port) as client:
        client.begin()
        wire = HEADER + b"\r\n..dot\r\n\r\n.\r\n"
        for position in range(len(wire)):
            client.socket.sendall(wire[position : position + 1])
        assert client.reply().startswith(b"250")
    assert next_hop.messages[0].endswith(HEADER + b"\r\n.dot\r\n\r\n") and keys.verifies(next_hop.messages[0])


@pytest.mark.parametrize(
    ("sender", "message", "code"),
    [
        (b"alice@example.org", MESSAGE.replace(b"alice@example.org>\r\nTo", b"eve@example.net>\r\nTo"), b"550 5.7.1 "),
        (b"alice@example.org", MESSAGE.replace(b"From:", b"Sender:", 1), b"550 5.7.1 "),
        (b"alice@example.org", b"From: eve@example.net\r\n" + MESSAGE, b"550 5.7.1 "),
        (b"alice@example.org", MESSAGE.replace(b"Alice <alice@example.org>", b"friends:;"), b"550 5.6.0 "),
        (b"alice@example.org", MESSAGE.replace(b"Bob", b"Bob\0"), b"554 5.6.0 "),
        (b"alice@example.org", b"no header\r\n", b"554 5.6.0 "),
        (b"alice@example.org", b"", b"550 5.7.1 "),
    ],
)
def test_what_is_refused_never_begins_at_the_next_hop(proxy, next_hop, keys, sender, message, code):
    with Client(proxy.port) as client:
        client.begin(sender)
        assert client.message(message).startswith(code)
        assert client.send(b"DATA\r\n").startswith(b"503 ")
        client.transaction()
        assert client.message().startswith(b"250")
    assert len(next_hop.messages) == 1 and keys.verifies(next_hop.messages[0])
    session = verbs(next_hop.sessions[0])
    assert session == ["EHLO", "MAIL", "RCPT", "RSET", "MAIL", "RCPT", "DATA"]


def test_bare_lf_in_a_message_is_refused_and_does_not_end_it(proxy, next_hop):
    with Client(proxy.port) as client:
        client.begin()
        client.socket.sendall(HEADER + b"\r\nbody\n.\nMAIL FROM:<eve@example.net>\r\n.\r\n")
        assert client.reply().startswith(b"554 5.6.0 ")
        assert client.send(b"NOOP\r\n").startswith(b"250")
    assert next_hop.messages == [] and verbs(next_hop.sessions[0]) == ["EHLO", "MAIL", "RCPT", "RSET", "NOOP"]


@pytest.mark.parametrize("line", [b"NOOP\n", b"NO\rOP\r\n", b"NOOP\0\r\n", b"MAIL FROM:<a@example.org>\r RCPT\r\n"])
def test_command_lines_hold_no_stray_line_ends(proxy, next_hop, line):
    with Client(proxy.port) as client:
        client.reply()
        assert client.send(line).startswith(b"500 5.5.2 ")
        assert client.send(b"NOOP\r\n").startswith(b"250")
    assert verbs(next_hop.sessions[0]) == ["NOOP"]


def test_long_command_lines(proxy, next_hop):
    with Client(proxy.port) as client:
        client.reply()
        assert client.send(b"NOOP " + b"x" * 300000 + b"\r\n").startswith(b"500 5.5.2 ")
        assert client.send(b"NOOP\r\n").startswith(b"250")


@pytest.mark.parametrize("sender", [b"alice", b"@example.net:a@example.org", b"a b@example.org", b"a@[192.0.2.1]"])
def test_unreadable_senders(proxy, next_hop, sender):
    with Client(proxy.port) as client:
        client.reply()
        client.send(b"EHLO c\r\n")
        assert client.send(b"MAIL FROM:<%s>\r\n" % sender).startswith(b"501 5.1.7 ")
        assert client.send(b"MAIL TO:<a@example.org>\r\n").startswith(b"501 5.5.4 ")


def test_data_wants_a_sender_and_a_recipient(proxy, next_hop):
    next_hop.script = {"RCPT": b"550 5.1.1 Unknown\r\n"}
    with Client(proxy.port) as client:
        client.reply()
        client.send(b"EHLO c\r\n")
        assert client.send(b"DATA\r\n").startswith(b"503 5.5.1 ")
        client.send(b"MAIL FROM:<alice@example.org>\r\n")
        assert client.send(b"RCPT TO:<bob@example.net>\r\n") == b"550 5.1.1 Unknown\r\n"
        assert client.send(b"DATA\r\n").startswith(b"554 5.5.1 ")
        assert client.send(b"DATA x\r\n").startswith(b"501 ")


@pytest.mark.parametrize("reply", [b"451 4.7.1 Later\r\n", b"550-5.7.1 No\r\n550 5.7.1 Never\r\n"])
@pytest.mark.parametrize("step", ["EHLO", "MAIL", "RCPT", "DATA", "."])
def test_refusals_of_the_next_hop_come_back(proxy, next_hop, keys, step, reply):
    next_hop.script = {step: reply}
    with Client(proxy.port) as client:
        client.reply()
        replies = [client.send(line) for line in (b"EHLO c\r\n", *ENVELOPE.splitlines(keepends=True)[:2])]
        if step in ("DATA", "."):
            assert client.send(b"DATA\r\n").startswith(b"354")
            replies.append(client.message())
        assert replies[{"EHLO": 0, "MAIL": 1, "RCPT": 2, "DATA": 3, ".": 3}[step]] == reply
        assert next_hop.messages == []
        next_hop.script = {}
        client.send(b"EHLO c\r\n")
        client.transaction()
        assert client.message().startswith(b"250")
    assert len(next_hop.messages) == 1 and keys.verifies(next_hop.messages[0])


FAILURES = ["close", "hang", b"421 4.3.2 Going down\r\n", b"nonsense\r\n", b"250-a\r\n350 b\r\n", b"\n", b"999 x\r\n"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("failure", FAILURES, ids=str)
@pytest.mark.parametrize("step", ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "."])
def test_failures_of_the_next_hop_are_421_and_lose_nothing(proxy, next_hop, step, failure):
    next_hop.script = {step: failure}
    with Client(proxy.port) as client:
        reply = client.reply()
        for line in (b"EHLO c\r\n", *ENVELOPE.splitlines(keepends=True), None):
            if reply[:1] == b"4":
                break
            reply = client.send(line) if line else client.message()
        assert re.fullmatch(rb"421 4\.[0-9]\.[0-9] [ -~]{5,}\r\n", reply), reply
        assert client.reply() == b""
    assert next_hop.messages == []


@pytest.mark.parametrize("code", [b"250 2.0.0 What\r\n", b"354 Go on\r\n"])
@pytest.mark.parametrize("step", ["DATA", "."])
def test_answers_out_of_place_are_failures(proxy, next_hop, step, code):
    if (step == "DATA") == code.startswith(b"354"):
        code = b"220 hello\r\n" if step == "DATA" else b"354 Go on\r\n"
    next_hop.script = {step: code}
    if step == "." and code.startswith(b"250"):
        assert deliver(proxy.port) == code
    else:
        assert deliver(proxy.port).startswith(b"421 4.5.0 ")
        assert next_hop.messages == []


def test_the_next_hop_is_away(proxy, next_hop):
    next_hop.away()
    with Client(proxy.port) as client:
        assert client.reply().startswith(b"421 4.4.1 The next mail server cannot be reached: ")
        assert client.reply() == b""


def test_the_next_hop_is_not_ready(proxy, next_hop):
    next_hop.script = {"greeting": b"554 5.3.2 No service\r\n"}
    with Client(proxy.port) as client:
        assert client.reply().startswith(b"421 4.3.2 ")


def test_the_next_hop_goes_while_the_client_sends(proxy, next_hop):
    with Client(proxy.port) as client:
        client.begin()
        client.socket.sendall(HEADER)
        next_hop.away()
        assert client.send(b"\r\nbody\r\n.\r\n").startswith(b"421 4.4.2 ")
    assert next_hop.messages == []


@pytest.mark.parametrize("what", [b"552 5.3.4 Too big\r\n", b"451 4.3.1 Full\r\n", b"250 2.0.0 Early\r\n", b""])
def test_the_next_hop_ends_in_the_middle_of_a_message(proxy, next_hop, what):
    next_hop.script = {"chunk": what or "close"}
    reply = deliver(proxy.port, MESSAGE + b"word " * 200 + b"\r\n" + (b"x" * 500 + b"\r\n") * 20000)
    assert reply == what if what[:1] in (b"4", b"5") else reply.startswith(b"421 4.4.2 ")
    assert next_hop.messages == []


@pytest.mark.parametrize("sent", [0, 1, 2, 3, 4, 5])
def test_a_client_that_goes_leaves_nothing_behind(proxy, next_hop, sent):
    steps = [b"EHLO c\r\n", *ENVELOPE.splitlines(keepends=True), HEADER + b"\r\nbody\r\n.\r"]
    with Client(proxy.port) as client:
        client.reply()
        for line in steps[:sent]:
            client.socket.sendall(line)
            if line in steps[:4]:
                client.reply()
    wait_until(lambda: next_hop._connections[0].fileno() == -1)
    assert next_hop.messages == [] and "DATA" not in verbs(next_hop.sessions[0])
    assert deliver(proxy.port).startswith(b"250")


@pytest.mark.usefixtures("quick")
def test_a_silent_client_is_told(proxy, next_hop):
    with Client(proxy.port) as client:
        client.begin()
        client.socket.sendall(b"From: alice@exa")
        assert client.reply().startswith(b"421 4.4.2 ")
    assert next_hop.messages == []


def test_a_next_hop_that_fails_at_rset_is_left(proxy, next_hop):
    next_hop.script = {"RSET": "close"}
    with Client(proxy.port) as client:
        client.begin()
        assert client.message(b"From: eve@example.net\r\n\r\n").startswith(b"550 5.7.1 ")
        assert client.send(b"MAIL FROM:<alice@example.org>\r\n").startswith(b"421 4.4.2 ")


def test_larger_than_the_next_hop_takes(proxy, next_hop):
    next_hop.EHLO = b"250-next\r\n250 SIZE 20000\r\n"
    with Client(proxy.port) as client:
        client.reply()
        assert client.send(b"EHLO c\r\n") == b"250-next\r\n250 SIZE 11808\r\n"
        client.transaction()
        assert client.message(MESSAGE + b"x\r\n" * 11000).startswith(b"552 5.3.4 ")
        client.transaction()
        assert client.message().startswith(b"250")
        # With one octet for each line's end, as OpenSMTPD counts, this is not too large: the next hop decides.
        client.transaction()
        assert client.message(MESSAGE + b"x\r\n" * 9000).startswith(b"250")
        next_hop.script = {".": b"552 5.3.4 Too large\r\n"}
        client.transaction()
        assert client.message(MESSAGE + b"x\r\n" * 9000) == b"552 5.3.4 Too large\r\n"
    assert len(next_hop.messages) == 2


def test_an_exception_is_a_451_and_no_pass(proxy, next_hop, monkeypatch, capfd):
    def fails(*_):
        raise ZeroDivisionError("secret content")

    monkeypatch.setattr("dkimproxy.policy.judge", fails)
    with Client(proxy.port) as client:
        client.begin()
        assert client.message().startswith(b"451 4.3.0 ")
        monkeypatch.undo()
        client.transaction()
        assert client.message().startswith(b"250")
    assert len(next_hop.messages) == 1
    log = capfd.readouterr().err
    assert "ZeroDivisionError at fails" in log and "secret" not in log


def test_a_key_that_fails_is_a_451(proxy, next_hop, monkeypatch):
    def fails(*_):
        raise RuntimeError

    monkeypatch.setattr("dkimproxy.keys.SigningKey.sign", fails)
    assert deliver(proxy.port).startswith(b"451 4.3.0 ")
    assert next_hop.messages == []


def test_a_full_disk_is_a_452(keys, next_hop, tmp_path, monkeypatch):
    with Proxy(keys, next_hop, tmp_path) as proxy:

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("tempfile.TemporaryFile", full)
        assert deliver(proxy.port, MESSAGE + b"x" * 5000 + b"\r\n").startswith(b"452 4.3.1 ")
        assert deliver(proxy.port).startswith(b"250")
    assert len(next_hop.messages) == 1


def test_rights(keys, next_hop, tmp_path):
    (tmp_path / "senders").write_text("alice alice@example.org,sales@example.org\nbob bob@example.org\n")
    with Proxy(keys, next_hop, tmp_path, {"senders": str(tmp_path / "senders")}) as proxy:
        as_bob = MESSAGE.replace(b"Alice <alice@", b"<bob@")
        assert deliver(proxy.port).startswith(b"250")
        assert deliver(proxy.port, as_bob).startswith(
            b"550 5.7.1 alice@example.org may not send mail as bob@example.org"
        )
        assert deliver(proxy.port, as_bob, b"bob@example.org").startswith(b"250")
        assert deliver(proxy.port, MESSAGE, b"").startswith(b"550 5.7.1 This server may not send mail as alice@")
        bounce = MESSAGE.replace(b"alice@example.org>\r", b"MAILER-DAEMON@mail.example.org>\r")
        assert deliver(proxy.port, bounce, b"").startswith(b"250")
    assert all(map(keys.verifies, next_hop.messages)) and len(next_hop.messages) == 3


FOREIGN = MESSAGE.replace(b"Alice <alice@example.org>", b"Shop\r\n <shop@example.com>")


def header(message, name):
    """Values of the fields of that name."""
    head = message.partition(b"\r\n\r\n")[0].replace(b"\r\n ", b" ")
    return [line.partition(b": ")[2] for line in head.split(b"\r\n") if line.lower().startswith(name + b":")]


@pytest.mark.parametrize("policy", ["account", "domain"])
def test_a_foreign_from_is_refused_or_becomes_the_envelope_sender(keys, next_hop, tmp_path, policy, capfd):
    (tmp_path / "senders").write_text("alice alice@example.org\nbob bob@example.org\n")
    settings = {"senders": str(tmp_path / "senders"), "from_policy": policy}
    with Proxy(keys, next_hop, tmp_path, settings) as proxy:
        assert deliver(proxy.port, FOREIGN).startswith(b"550 5.7.1 ")
    with Proxy(keys, next_hop, tmp_path, settings | {"foreign_from": "rewrite"}) as proxy:
        assert deliver(proxy.port, FOREIGN).startswith(b"250")
        assert deliver(proxy.port, FOREIGN, b"root@mail.example.org").startswith(b"250")
        with_reply_to = b"Reply-To: us@example.net\r\n" + FOREIGN
        assert deliver(proxy.port, with_reply_to).startswith(b"250")
        sender_alone = FOREIGN.replace(b"From:", b"Sender:")
        assert deliver(proxy.port, sender_alone).startswith(b"250")
        assert deliver(proxy.port).startswith(b"250")
        # Who may not write under the envelope sender either, whom the host knows, and what nobody could read.
        for message, sender in (
            (FOREIGN, b"eve@example.com"),
            (FOREIGN, b""),
            (sender_alone, b"eve@example.com"),
            (MESSAGE.partition(b"\r\n")[2], b"alice@example.org"),
            (FOREIGN.replace(b"<shop@example.com>", b"<shop@example.com>, <alice@example.org>"), b"alice@example.org"),
            (b"From: other@example.com\r\n" + FOREIGN, b"alice@example.org"),
            (FOREIGN.replace(b"<shop@example.com>", b"<shop@example.com"), b"alice@example.org"),
        ):
            assert deliver(proxy.port, message, sender).startswith(b"550 5."), (message, sender)
        if policy == "account":
            as_bob = MESSAGE.replace(b"Alice <alice@", b"<bob@")
            assert deliver(proxy.port, as_bob).startswith(b"550 5.7.1 ")
            answer = deliver(proxy.port, FOREIGN, b"eve@example.org")
            assert answer.startswith(b"550 5.7.1 eve@example.org may not send mail as shop@example.com. "), answer
    assert all(map(keys.verifies, next_hop.messages))
    assert [(header(m, b"from"), header(m, b"reply-to")) for m in next_hop.messages] == [
        ([b"alice@example.org"], [b"Shop <shop@example.com>"]),
        ([b"root@mail.example.org"], [b"Shop <shop@example.com>"]),
        ([b"alice@example.org"], [b"us@example.net"]),
        ([b"alice@example.org"], []),
        ([b"Alice <alice@example.org>"], []),
    ]
    assert header(next_hop.messages[3], b"sender") == [b"Shop <shop@example.com>"]
    log = capfd.readouterr().err
    assert log.count(" from=rewritten") == 4 and "shop" not in log and "alice" not in log


def test_a_rewritten_from_is_covered_by_the_signature(keys, next_hop, tmp_path):
    with Proxy(keys, next_hop, tmp_path, {"foreign_from": "rewrite"}) as proxy:
        deliver(proxy.port, FOREIGN)
    [message] = next_hop.messages
    assert keys.verifies(message)
    for change in ((b"From: alice@", b"From: mallory@"), (b"Reply-To: Shop", b"Reply-To: Shap")):
        assert change[0] in message and not keys.verifies(message.replace(*change))


def test_two_signatures_the_rsa_one_first(keys, next_hop, tmp_path):
    both = [f"dkim(s=rsa,x=864000,key={keys.path('rsa')})", f"dkim(s=ed,x=864000,key={keys.path('ed')})"]
    with Proxy(keys, next_hop, tmp_path, {"signature": both}) as proxy:
        assert deliver(proxy.port).startswith(b"250")
    [message] = next_hop.messages
    algorithms = re.findall(rb"DKIM-Signature: v=1; a=([a-z0-9-]+);", message)
    assert algorithms == [b"rsa-sha256", b"ed25519-sha256"]
    assert keys.verifies(message, 0) and keys.verifies(message, 1)
    times = re.findall(rb"t=(\d+); x=(\d+);", message)
    assert len(times) == 2 and all(int(end) - int(begin) == 864000 for begin, end in times)


@pytest.mark.parametrize(
    ("reply", "queue_id"),
    [
        # OpenSMTPD 7.4 and 7.6 (one format), Postfix, Exim, and a reply without one.
        (b"250 2.0.0 5f6a1b2c Message accepted for delivery", "5f6a1b2c"),
        (b"250 2.0.0 Ok: queued as 4XyZ12abcdz", "4XyZ12abcdz"),
        (b"250 OK id=1tFxyz-00000000abc-2DEF", "1tFxyz-00000000abc-2DEF"),
        (b"250 2.0.0 kept", "-"),
        (b"550 5.7.1 alice@example.org is not welcome here", "-"),
    ],
)
def test_the_next_hops_queue_id_is_logged(proxy, next_hop, capfd, reply, queue_id):
    next_hop.script = {".": reply + b"\r\n"}
    deliver(proxy.port)
    log = capfd.readouterr().err
    assert f"queue_id={queue_id} " in log and "alice" not in log


def test_no_refusal_logs_what_the_message_holds(keys, next_hop, tmp_path, capfd):
    (tmp_path / "senders").write_text("alice alice@example.org\n")
    with Proxy(keys, next_hop, tmp_path, {"senders": str(tmp_path / "senders")}) as proxy:
        for line in (
            b"From: mallory@secret.example",
            b"From: mallory@example.org",
            b"From: secret <secret",
            b"From: secret@example.org, secret@secret.example",
            b"Sender: secret@example.org",
            b"From: alice@example.org\r\nsecret\r\nX: y",
            b"From: alice@example.org\r\nX: secret\0",
        ):
            assert deliver(proxy.port, line + b"\r\nSubject: secret\r\n\r\nsecret\r\n").startswith(b"55"), line
    log = capfd.readouterr().err
    assert log.count("verdict=refused reason=") == 7
    assert not re.search("secret|mallory|alice", log)


def test_one_log_line_for_each_message_without_content(proxy, next_hop, capfd):
    deliver(proxy.port)
    deliver(proxy.port, MESSAGE.replace(b"alice@example.org>", b"eve@example.net>"))
    lines = [line.partition("]: ")[2] for line in capfd.readouterr().err.splitlines()]
    assert len(lines) == 2
    assert re.fullmatch(
        r"verdict=signed code=250 queue_id=1a2b3c4d d=example\.org s=rsa a=rsa-sha256 size=\d+ "
        r"sign_ms=[\d.]+ ms=[\d.]+",
        lines[0],
    )
    assert re.fullmatch(r"verdict=refused reason=foreign-from code=550 size=\d+", lines[1])


def test_fifty_connections_at_once(proxy, next_hop, keys):
    clients = [Client(proxy.port) for _ in range(50)]
    for client in clients:
        client.begin()
    for number, client in enumerate(clients):
        client.socket.sendall(MESSAGE.replace(b"<1@", b"<%d@" % number).replace(b"\r\n.", b"\r\n..") + b".\r\n")
    assert all(client.reply().startswith(b"250") for client in clients)
    for client in clients:
        client.__exit__()
    assert len(next_hop.messages) == 50 and all(map(keys.verifies, next_hop.messages))
