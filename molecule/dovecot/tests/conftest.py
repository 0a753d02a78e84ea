# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from dovecot_host import lmtp

from testbed import managesieve, smtp


@pytest.fixture
def deliver(container: str) -> Callable[..., str]:
    """`deliver(recipient, …, X_Spam="Yes")`: a new message is taken for all recipients. Returns its Message-ID."""

    def deliver(*recipients: str, **headers: str) -> str:
        message = smtp.compose("sender@world.test", recipients, **headers)
        replies = lmtp(container, smtp.wire(message), *recipients)
        assert {code for code, _text in replies.values()} == {250}, replies
        return str(message["Message-ID"])

    return deliver


@pytest.fixture
def own_script(address: str) -> Iterator[Callable[..., None]]:
    """`own_script(login, text)` is a user's active script until the end of the test."""
    logins = []

    def put(login: tuple[str, str], text: str) -> None:
        logins.append(login)
        with managesieve.Session(address, *login) as session:
            session.put("own", text)

    yield put
    for login in logins:
        with managesieve.Session(address, *login) as session:
            session.remove("own")
