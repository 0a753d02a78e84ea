# SPDX-License-Identifier: GPL-3.0-or-later
"""Which addresses are full, of which accounts; what the program asks a real Dovecot is the scenarios' business."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "roles/dovecot/files/usr/local/lib/selfhosted-mail/full-mailboxes"

VIRTUALS = """\
@example.net alice@example.org
alice@example.org vmail
info@example.org alice@example.org
postmaster@example.org info@example.org
bob@example.org vmail
tagged@example.org alice+list@example.org
team@example.org alice@example.org, bob@example.org
away@example.org alice@example.org, friend@far.example
caught@example.org any@example.net
round@example.org turn@example.org
turn@example.org round@example.org
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    loader = SourceFileLoader("full_mailboxes", str(PROGRAM))
    spec = spec_from_loader(loader.name, loader)
    assert spec
    module = module_from_spec(spec)
    loader.exec_module(module)
    monkeypatch.setattr(module, "VIRTUALS", tmp_path / "virtuals")
    (tmp_path / "virtuals").write_text(VIRTUALS)
    return module


ALICES = ["alice", "caught", "info", "postmaster", "tagged"]


@pytest.mark.parametrize(
    ("full", "names"),
    [
        (set(), []),
        ({"alice@example.org"}, ALICES),
        ({"bob@example.org"}, ["bob"]),
        ({"alice@example.org", "bob@example.org"}, sorted([*ALICES, "bob", "team"])),
        ({"nobody@example.org"}, []),
    ],
)
def test_an_address_is_full_when_all_it_leads_to_is(program: ModuleType, full: set[str], names: list[str]) -> None:
    """A catch-all never is, nor what leads elsewhere too, nor a loop."""
    assert program.full_addresses(full, program.virtuals()) == [f"{name}@example.org" for name in names]
