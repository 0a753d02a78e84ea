# SPDX-License-Identifier: GPL-3.0-or-later
"""Shipped files name no address that others may register: users would run, as root, what they find there."""

from __future__ import annotations

import re
from pathlib import Path

SHIPPED = (
    "README.md",
    "CHANGELOG.md",
    "galaxy.yml",
    "changelogs",
    "docs",
    "inventory.example",
    "meta",
    "playbooks",
    "plugins",
    "roles",
)
# Upstream projects and standards that the text refers to.
KNOWN = {
    "acme-v02.api.letsencrypt.org",
    "archive.debian.org",
    "downloads.sourceforge.net",
    "rspamd.com",
    "www.gnu.org",
}
OURS = re.compile(r"([a-z0-9-]+\.)*(example(\.(org|com|net))?|test|invalid)|127\.0\.0\.1|localhost")
ADDRESS = re.compile(r"\b(?:https?|git|ssh)://(?:[^\s/@]*@)?([^\s/:`'\"<>)\]{}|]+)|\bgit@([\w.-]+):")
# A name on a forge is an address too.
HANDLE = re.compile(r"^(?:author|  - ).*\(@[\w-]+\)|git clone\b")


def foreign(text: str) -> list[str]:
    """Hosts that are neither known nor reserved, and lines that name an account on a public site."""
    hosts = [one or other for one, other in ADDRESS.findall(text)]
    found = [host for host in hosts if host.lower() not in KNOWN and not OURS.fullmatch(host.lower())]
    return found + [line for line in text.splitlines() if HANDLE.search(line)]


def test_no_address_is_somebody_elses(checkout: Path) -> None:
    tops = [checkout / name for name in SHIPPED]
    files = [file for top in tops for file in ([top] if top.is_file() else top.rglob("*")) if file.is_file()]
    texts = {file: file.read_text() for file in files if file.suffix != ".pyc" and "collections" not in file.parts}
    assert len(texts) > 100
    found = {str(file.relative_to(checkout)): foreign(text) for file, text in texts.items()}
    assert {file: hosts for file, hosts in found.items() if hosts} == {}


def test_what_is_looked_for_is_found() -> None:
    assert foreign("https://git.somewhere.example.io/x http://me@host.io:80 git@host.io:us/mail.git") == [
        "git.somewhere.example.io",
        "host.io",
        "host.io",
    ]
    assert foreign('author: ["us (@us)"]\ngit clone what-ever') == ['author: ["us (@us)"]', "git clone what-ever"]
    assert foreign("https://x.example.org/ http://127.0.0.1:8080 https://acme.test/dir https://rspamd.com") == []
