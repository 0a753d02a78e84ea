# SPDX-License-Identifier: GPL-3.0-or-later
"""The proxy between difficult peers: pieces of any size, false ends of data, a next hop that hangs or disconnects."""

import itertools
import re
import socket
import threading
import time

import dkimproxy_helpers
import pytest
from dkimproxy.connection import Timeouts
from dkimproxy_helpers import HEADER, MESSAGE, QUICK, Client, deliver, wait_until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EHLO, MAIL, RCPT = b"EHLO c\r\n", b"MAIL FROM:<alice@example.org>\r\n", b"RCPT TO:<bob@example.net>\r\n"
STUFFED = MESSAGE.replace(b"\r\n.", b"\r\n..") + b".\r\n"
DIALOGUE = (
    EHLO + (MAIL + RCPT + b"DATA\r\n" + STUFFED) + b"NOOP\r\n" + (MAIL + RCPT + b"DATA\r\n" + STUFFED) + b"QUIT\r\n"
)
CODES = ["220", "250", "250", "250", "354", "250", "250", "250", "250", "354", "250", "221"]


def rest(client) -> list[str]:
    """The codes of all further replies."""
    codes = []
    while reply := client.reply():
        codes.append(reply[:3].decode())
    return codes


def at_once(sock):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(1, len(DIALOGUE) - 1), max_size=30))
def test_however_the_input_is_cut(proxy, next_hop, keys, cuts):
    """Pipelined to the last command, even past 354 and the end of data."""
    next_hop.messages.clear()
    edges = [0, *sorted(set(cuts)), len(DIALOGUE)]
    with Client(proxy.port) as client:
        at_once(client.socket)
        for begin, end in itertools.pairwise(edges):
            client.socket.sendall(DIALOGUE[begin:end])
        assert rest(client) == CODES
    assert len(next_hop.messages) == 2
    assert all(message.endswith(MESSAGE) and keys.verifies(message) for message in next_hop.messages)


def test_a_byte_at_a_time_on_both_sides(proxy, next_hop, keys):
    """Slow, but never idle for as long as a timeout."""
    next_hop.drip = True
    with Client(proxy.port) as client:
        at_once(client.socket)
        for position in range(len(DIALOGUE)):
            client.socket.sendall(DIALOGUE[position : position + 1])
            if position % 100 == 0:
                time.sleep(0.05)
        assert rest(client) == CODES
    assert len(next_hop.messages) == 2 and all(map(keys.verifies, next_hop.messages))


def test_a_client_slower_than_the_next_hop_waits(proxy, next_hop, keys):
    """The message is passed on only when it is complete, so that the next hop does not wait for a slow client."""
    with Client(proxy.port) as client:
        client.begin()
        for piece in (HEADER, b"\r\nbo", b"dy\r\n.\r"):
            client.socket.sendall(piece)
            time.sleep(QUICK.client_block * 0.4)
            assert [line[:4] for line in next_hop.sessions[0]] == [b"EHLO", b"MAIL", b"RCPT"]
        assert client.send(b"\n").startswith(b"250")
    assert keys.verifies(next_hop.messages[0])


@pytest.mark.usefixtures("quick")
def test_a_client_that_never_reads_holds_up_nobody_and_is_left(proxy, next_hop):
    with Client(proxy.port) as deaf:
        deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.socket.settimeout(0.5)
        sent = 0
        with pytest.raises(OSError):
            while sent < 200_000_000:
                sent += deaf.socket.send(b"VRFY nobody\r\n" * 5000)
        # Replies are not gathered for it without end.
        assert sent < 50_000_000
        assert deliver(proxy.port).startswith(b"250")
        wait_until(lambda: next_hop._connections[0].fileno() == -1)


# Every sequence that some server accepts as a line end, on both sides of a single dot.
LINE_ENDS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\r\n",
    b"\n\r",
    b"\r\n\r",
    b"\0\r\n",
    b"\r\n\0",
    b"\x0b",
    b"\x85",
    b"\xe2\x80\xa8",
    b"",
]
DOTS = [b".", b"\0.", b".\0", b" .", b"..", b".\r"]
EVE = (
    b"MAIL FROM:<eve@example.com>\r\nRCPT TO:<victim@example.net>\r\nDATA\r\nFrom: eve@example.com\r\n\r\nsmuggled\r\n"
)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("before", LINE_ENDS, ids=repr)
def test_no_message_in_a_message(proxy, next_hop, keys, before, split):
    """Only CRLF.CRLF ends a message, for the proxy and for a more lenient next hop."""
    for dot, after in itertools.product(DOTS, LINE_ENDS):
        trick = before + dot + after
        if b"\r\n.\r\n" in trick:
            continue
        next_hop.messages.clear(), next_hop.wires.clear(), next_hop.sessions.clear()
        with Client(proxy.port) as client:
            at_once(client.socket)
            client.begin()
            client.socket.sendall(HEADER + b"\r\nbody")
            for piece in (trick[at : at + 1] for at in range(len(trick))) if split else (trick,):
                client.socket.sendall(piece)
            reply = client.send(EVE + b"\r\n.\r\n")
            assert reply[:3] in (b"250", b"554"), (trick, reply)
            assert client.send(b"NOOP\r\n").startswith(b"250")
            assert client.send(b"QUIT\r\n").startswith(b"221") and client.reply() == b""
        assert len(next_hop.messages) == len(next_hop.wires) == (reply[:3] == b"250"), trick
        commands = b"".join(itertools.chain(*next_hop.sessions))
        assert commands.count(b"MAIL") == 1 and b"eve" not in commands, (trick, commands)
        for wire, message in zip(next_hop.wires, next_hop.messages, strict=True):
            # A next hop that takes CR, LF or NUL beside a dot for an end would have to find one here.
            assert not re.search(rb"[\r\n]\0*\.\0*[\r\n]", wire), trick
            assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", wire), trick
            assert EVE.replace(b"\r\n.", b"\r\n") in message and keys.verifies(message), trick


@pytest.mark.parametrize("before", [b"\n", b"\r", b"\r\r\n", b"\0\r\n"], ids=repr)
@pytest.mark.parametrize("verb", [b"NOOP", b"MAIL FROM:<alice@example.org>", b"RCPT TO:<bob@example.net>", b"DATA"])
def test_no_command_in_a_command(proxy, next_hop, verb, before):
    with Client(proxy.port) as client:
        client.reply()
        assert client.send(EHLO).startswith(b"250")
        client.socket.sendall(verb + before + b"RCPT TO:<victim@example.net>\r\n" + b"QUIT\r\n")
        codes = rest(client)
    # Text after an LF is a separate line, which is answered too; after a CR it belongs to the refused one.
    assert len(codes) == (2 if before == b"\r" else 3)
    assert codes[0] == "500" and codes[-1] == "221", codes
    assert all(re.fullmatch(rb"[^\r\n\0]*\r\n", line) for line in next_hop.sessions[0])
    hidden = [line for line in next_hop.sessions[0] if b"victim" in line]
    assert hidden in ([], [b"RCPT TO:<victim@example.net>\r\n"]) and (before != b"\r" or not hidden)


@pytest.mark.parametrize("reply", [b"421 4.4.2 Idle for too long\r\n", b""], ids=["421", "gone"])
@pytest.mark.parametrize("stage", range(6))
def test_a_next_hop_that_goes_while_nothing_is_asked(proxy, next_hop, keys, stage, reply):
    """Unasked, between two commands: the client's next one is answered 421, and nothing is lost or sent twice."""
    steps = [EHLO, MAIL, RCPT, b"DATA\r\n", HEADER, b"\r\nbody\r\n.\r\n"]
    with Client(proxy.port) as client:
        assert client.reply().startswith(b"220")
        for step in steps[:stage]:
            client.socket.sendall(step)
            if step is not HEADER:
                assert client.reply()[:1] in (b"2", b"3")
        [connection] = next_hop._connections
        connection.sendall(reply)
        connection.shutdown(socket.SHUT_RDWR)
        time.sleep(0.05)
        answer = b""
        for step in steps[stage:]:
            client.socket.sendall(step)
            if step is not HEADER:
                answer = client.reply()
                if answer[:3] != b"354":
                    break
        assert re.fullmatch(rb"421 4\.\d\.\d [ -~]{5,}\r\n", answer), answer
        assert client.reply() == b""
    assert next_hop.messages == []
    assert deliver(proxy.port).startswith(b"250") and len(next_hop.messages) == 1


@pytest.mark.parametrize(
    "reply",
    [
        b"421 4.3.2 Going down\r\n",
        b"450 4.2.1 Later\r\n",
        b"550 5.1.1 Unknown\r\n",
        b"452-4.5.3 Too\r\n452 4.5.3 many\r\n",
    ],
)
@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "."])
def test_the_second_of_two_messages_fails(proxy, next_hop, keys, step, reply):
    with Client(proxy.port) as client:
        client.begin()
        assert client.message().startswith(b"250")
        next_hop.script = {step: reply}
        answers = []
        for line in (MAIL, RCPT, b"DATA\r\n", STUFFED.replace(b"<1@", b"<2@")):
            answers.append(client.send(line))
            if answers[-1][:1] not in (b"2", b"3"):
                break
        assert (
            answers[-1] == reply and [answer[:1] for answer in answers[:-1]] == [b"2", b"2", b"3"][: len(answers) - 1]
        )
    assert len(next_hop.messages) == 1 and keys.verifies(next_hop.messages[0])


def test_recipients_that_are_refused_take_the_others_not_along(proxy, next_hop, keys):
    with Client(proxy.port) as client:
        assert client.reply() and client.send(EHLO) and client.send(MAIL).startswith(b"250")
        for code, text in (
            (b"250", b"2.0.0 Ok"),
            (b"550", b"5.1.1 No"),
            (b"450", b"4.2.0 Later"),
            (b"250", b"2.0.0 Ok"),
        ):
            next_hop.script = {"RCPT": code + b" " + text + b"\r\n"}
            assert client.send(RCPT) == code + b" " + text + b"\r\n"
        assert client.send(b"DATA\r\n").startswith(b"354") and client.message().startswith(b"250")
    assert keys.verifies(next_hop.messages[0])


@pytest.mark.parametrize("step", ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "."])
def test_a_hung_next_hop_holds_up_its_own_session_alone(proxy, next_hop, keys, step, monkeypatch):
    # Longer than the others take, even on a busy machine.
    monkeypatch.setattr(dkimproxy_helpers, "TIMEOUTS", Timeouts(*[5] * len(QUICK)))
    next_hop.script = {step: "hang"}
    answers = []

    def hangs():
        with Client(proxy.port) as client:
            answers.append(client.reply())
            for line in (EHLO, MAIL, RCPT, b"DATA\r\n", STUFFED):
                if answers[-1][:1] in (b"2", b"3"):
                    answers.append(client.send(line))

    hanging = threading.Thread(target=hangs)
    hanging.start()
    assert next_hop.hanging.wait(60)
    next_hop.script = {}
    for _ in range(5):
        assert deliver(proxy.port).startswith(b"250")
    assert hanging.is_alive(), "they waited for the hung one"
    hanging.join(60)
    assert not hanging.is_alive(), "no timeout"
    assert answers[-1].startswith(b"421 4.4.2 "), answers
    assert len(next_hop.messages) == 5 and all(map(keys.verifies, next_hop.messages))


@pytest.mark.usefixtures("quick")
def test_a_next_hop_that_reads_no_further_is_left(proxy, next_hop):
    """Its window is shut in the middle of a large message."""
    next_hop.script = {"chunk": "hang"}
    assert deliver(proxy.port, MESSAGE + (b"x" * 900 + b"\r\n") * 20000).startswith(b"421 4.4.2 ")
    assert next_hop.messages == []
