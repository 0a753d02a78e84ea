# SPDX-License-Identifier: GPL-3.0-or-later
"""A dkimproxy_out.conf of the user's is looked at before anything on the host changes."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.selfhosted.mail.plugins.module_utils.signer_file import problems

GOOD = "listen 127.0.0.1:10027\nrelay 127.0.0.1:10028\ndomain example.org\nkeyfile /etc/key.pem\nselector s1\n"


def test_none_is_fine() -> None:
    assert problems("", "", "error") == []


def test_a_good_file_whose_key_lies_on_the_host(tmp_path: Path) -> None:
    (tmp_path / "own.conf").write_text(GOOD)
    assert problems("own.conf", str(tmp_path / "own.conf"), "error") == []


def test_a_missing_file_is_named() -> None:
    assert problems("own.conf", "", "error") == ["dkimproxy_config_file: 'own.conf' is no file on the controller"]


def test_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "own.conf").write_bytes(b"# Schl\xfcssel\n")
    [problem] = problems("own.conf", str(tmp_path / "own.conf"), "error")
    assert problem.startswith("dkimproxy_config_file: ") and problem.endswith("is no UTF-8 text")


def test_mistakes_have_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "own.conf"
    path.write_text(GOOD + "nonsense 1\nsignature domainkeys\n")
    found = problems("own.conf", str(path), "error")
    assert found[0] == f"dkimproxy_config_file: {path}:6: unknown key 'nonsense'"
    assert found[1].startswith(f"dkimproxy_config_file: {path}:7: DomainKeys signatures")
    assert problems("own.conf", str(path), "ignore") == found[:1]
