# SPDX-License-Identifier: GPL-3.0-or-later
"""Published keys: the requested ones, others in their directory, and those that the signer names."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dns.zonefile
import pytest
from ansible_collections.selfhosted.mail.plugins.modules import dkim_records

Records = Callable[..., dict[str, Any]]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A directory with keys and other files."""
    for name in ("example.org.mail", "example.org.old", "sub.example.org.mail", "example.com.mail"):
        genpkey(tmp_path / f"{name}.pem", "EC", "ec_paramgen_curve:P-256")
    genpkey(tmp_path / "example.org.mail-ed25519.pem", "ED25519")
    (tmp_path / "example.org.broken.pem").write_text("no key")
    (tmp_path / "example.org.a b.pem").write_text("no selector")
    (tmp_path / "example.org.folder.pem").mkdir()
    return tmp_path


def genpkey(path: Path, algorithm: str, *options: str) -> None:
    more = [word for option in options for word in ("-pkeyopt", option)]
    command = ["openssl", "genpkey", "-algorithm", algorithm, *more, "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def records(run_module: Callable[..., dict[str, Any]], keys: Path) -> Records:
    def run(wanted: list[tuple[str, str]], check: bool = False, **options: Any) -> dict[str, Any]:
        listed = [{"domain": d, "selector": s, "path": f"{keys}/{d}.{s}.pem"} for d, s in wanted]
        return run_module(dkim_records.main, check, keys=listed, **options)

    return run


def published(result: dict[str, Any]) -> dict[str, list[str]]:
    return {domain: sorted(selectors) for domain, selectors in result["records"].items()}


def test_keys_asked_for_alone(records: Records) -> None:
    assert published(records([("example.org", "mail"), ("example.net", "none")])) == {"example.org": ["mail"]}


def test_keys_of_the_domains_that_lie_there(records: Records, keys: Path) -> None:
    result = records([("example.org", "mail"), ("sub.example.org", "mail")], directory=str(keys))
    assert published(result) == {"example.org": ["mail", "mail-ed25519", "old"], "sub.example.org": ["mail"]}
    assert any("example.org.broken.pem, so it is not published" in str(warning) for warning in result["warnings"])
    (keys / "example.org.old.pem").unlink()
    assert "old" not in published(records([("example.org", "mail")], directory=str(keys)))["example.org"]


def test_an_ed25519_record_has_the_bare_key(records: Records, keys: Path) -> None:
    text = records([("example.org", "mail-ed25519")])["records"]["example.org"]["mail-ed25519"]
    kind, _, public = text.partition("; p=")
    assert kind == "v=DKIM1; k=ed25519" and len(base64.b64decode(public)) == 32


def test_keys_that_a_command_names(records: Records, keys: Path) -> None:
    command = ["echo", f"own.example s1 {keys}/example.com.mail.pem"]
    assert published(records([], command=command)) == {"own.example": ["s1"]}


def test_a_command_that_fails(records: Records) -> None:
    assert records([], command=["false"])["failed"]
    assert records([], check=True, command=["/nonexistent"])["records"] == {}


def test_a_key_asked_for_must_be_one(records: Records) -> None:
    assert "example.org.broken.pem" in records([("example.org", "broken")])["msg"]


def test_the_file_of_the_role(records: Records, tmp_path: Path) -> None:
    """A key that signs is required; one that is only published, and one of before, are recommended."""
    file = tmp_path / "records"
    listed: dict[str, Any] = {"directory": str(tmp_path), "dest": str(file)}
    assert records([("example.org", "mail")], check=True, **listed)["changed_paths"] == [str(file)]
    assert not file.exists()
    result = records([("example.org", "mail")], **listed)
    assert result["changed"] and f"{file}" in str(result["diff"])
    found = {one.name.to_text(): one for one in dns.zonefile.read_rrsets(file.read_text(), rdclass=None)}
    assert {name.split(".")[0]: (one[0].rdcomment or "").strip() for name, one in found.items()} == {
        "mail": "",
        "mail-ed25519": "recommended",
        "old": "recommended",
    }
    [key] = found["mail._domainkey.example.org."]
    assert b"".join(key.strings).decode() == result["records"]["example.org"]["mail"]
    assert not records([("example.org", "mail")], **listed)["changed"]
