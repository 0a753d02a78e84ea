# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Callable

import pytest
from dovecot_host import lmtp
from testbed import containers, smtp
from testinfra.host import Host


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What looks at the journal of all the others, and then breaks things, comes last."""
    items.sort(key=lambda item: item.path.stem == "test_operation")


@pytest.fixture
def container(host: Host) -> str:
    """Name of the host's container."""
    return str(host.backend.get_hostname())


@pytest.fixture
def address(container: str) -> str:
    """The host's IPv4 address."""
    return containers.address(container)


@pytest.fixture
def deliver(container: str) -> Callable[..., str]:
    """`deliver(recipient, …, X_Spam="Yes")`: a new message is taken for all recipients. Returns its Message-ID."""

    def deliver(*recipients: str, **headers: str) -> str:
        message = smtp.compose("sender@world.test", recipients, **headers)
        replies = lmtp(container, smtp.wire(message), *recipients)
        assert {code for code, _text in replies.values()} == {250}, replies
        return str(message["Message-ID"])

    return deliver
