# SPDX-License-Identifier: GPL-3.0-or-later
"""Known relay providers: each fact has a source, each host is recognized."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.selfhosted.mail.plugins.plugin_utils import providers, validation

RECORDS = providers.records()
# A host of each, and one that only resembles it.
HOSTS = {
    "Amazon SES": ("email-smtp.us-east-1.amazonaws.com", "email-smtp.us-east-1.amazonaws.com.example.org"),
    "SMTP2GO": ("mail-eu.smtp2go.com", "www.smtp2go.com"),
    "SendGrid": ("SMTP.sendgrid.net", "smtpXsendgrid.net"),
    "Brevo": ("smtp-relay.brevo.com", "smtp-relay.brevo.example"),
    "Postmark": ("smtp.postmarkapp.com", "smtp.postmarkapp.com.example"),
    "Mailjet": ("in-v3.mailjet.com", "mailjet.com"),
}
every_record = pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["name"])


@every_record
def test_each_fact_has_a_source_and_a_day(record: dict[str, Any]) -> None:
    facts = record.keys() - {"name", "sources"}
    assert providers.REQUIRED.keys() <= facts <= {**providers.REQUIRED, **providers.OPTIONAL}.keys()
    assert sorted(key for keys in record["sources"].values() for key in keys) == sorted(facts)
    form = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)+/.* 20\d\d-\d\d-\d\d")
    wrong = [source for source in record["sources"] if not form.fullmatch(source)]
    assert wrong == []


@every_record
def test_each_fact_is_a_right_value_of_its_variable(record: dict[str, Any]) -> None:
    assert list(validation.CHECKS["mail_relay_spf"](record.get("spf", ""))) == []
    assert list(validation.CHECKS["mail_relay_unsigned_headers"](record["rewrites"])) == []
    assert list(validation.CHECKS["mail_relay_max_messages"](record.get("max_messages", 1))) == []
    assert record["port"] in record["starttls"] + record["smtps"]
    assert record["signatures"] in (0, 1, "several")
    assert set(record["login"]) - {"username", "password"} == {"text"}


def test_a_provider_is_recognized_by_its_host() -> None:
    assert {record["name"] for record in RECORDS} == HOSTS.keys()
    for name, (host, other) in HOSTS.items():
        assert providers.relay_provider(host)["name"] == name
        assert providers.relay_provider(other) == {}
    assert providers.relay_provider("") == {}


def test_what_is_not_known_is_said() -> None:
    known = providers.relay_provider("smtp.postmarkapp.com")
    assert "null sender" in known["unknown"] and "SPF terms" not in known["unknown"]
