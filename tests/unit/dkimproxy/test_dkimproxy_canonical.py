# SPDX-License-Identifier: GPL-3.0-or-later
"""Canonicalization gives what dkimpy's gives, however the body is cut into pieces."""

import hashlib

import pytest
from dkim.canonicalization import Relaxed, Simple
from dkimproxy.signature import BodyHash, relaxed_header
from hypothesis import example, given
from hypothesis import strategies as st

BODIES = st.lists(
    st.sampled_from([b" ", b"\t", b"\r\n", b"a", b".", b"\r\n\r\n\r\n", b"\xc3\xbc", b"  ", b" \r\n"]), max_size=60
).map(b"".join)


def cut(body: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(body[:size])
        body = body[size:]
    return [*pieces, body]


@given(BODIES, st.lists(st.integers(0, 9), max_size=40))
@example(b" \r\n" * 9, [1] * 30)
@example(b"a \t", [])
def test_body(body, sizes):
    body += b"" if not body or body.endswith(b"\r\n") else b"\r\n"
    for relaxed, reference in ((True, Relaxed), (False, Simple)):
        body_hash = BodyHash(relaxed)
        for piece in cut(body, sizes):
            body_hash.update(piece)
        expected = reference.canonicalize_body(body)
        assert body_hash.digest() == hashlib.sha256(expected).digest(), relaxed


@pytest.mark.parametrize("filling", [b"\r\n", b" ", b" \r\n", b"\t \t"])
def test_megabytes_of_nothing_take_no_time_and_no_memory(filling):
    import time
    import tracemalloc

    body_hash = BodyHash(True)
    piece = filling * (65536 // len(filling))
    tracemalloc.start()
    begun = time.process_time()
    for _ in range(160):
        body_hash.update(piece)
    body_hash.update(b"end\r\n")
    body_hash.digest()
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (b"Subject:  a \t b \r\n", b"subject:a b"),
        (b"SUBJECT:\r\n a\r\n\tb\r\n", b"subject:a b"),
        (b"X:\r\n", b"x:"),
        (b"X: \r\n \r\n", b"x:"),
        (b"X:a:b", b"x:a:b"),
    ],
)
def test_header(field, expected):
    assert relaxed_header(field) == expected
    name, _, value = field.partition(b":")
    assert Relaxed.canonicalize_headers([(name, value)]) == [
        (expected.partition(b":")[0], expected.partition(b":")[2] + b"\r\n")
    ]
