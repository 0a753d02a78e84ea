# SPDX-License-Identifier: GPL-3.0-or-later
"""DKIMproxy's release: the right archive or none, a sender map that lets nothing out unsigned, refusals by name."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import os
import socket
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.selfhosted.mail.plugins.module_utils import upstream
from ansible_collections.selfhosted.mail.plugins.modules import dkimproxy_release
from hypothesis import given
from hypothesis import strategies as st

Run = Callable[..., dict[str, Any]]
Playbook = Callable[..., subprocess.CompletedProcess[str]]

MEMBERS = {"scripts/program": "#!/bin/sh\n", "lib/Deep/Module.pm": "package Deep;\n1;\n"}
GOOD: dict[str, Any] = {
    "implementation": "upstream",
    "listen": "127.0.0.1:10027",
    "relay": "192.0.2.1:25",
    "upstream_url": "https://files.example/release.tar.gz",
    "upstream_archive": "",
}
KEYS = [
    {"domain": "example.org", "selector": "mail", "path": "/keys/example.org.mail.pem"},
    {"domain": "news.example.org", "selector": "s2", "path": "/keys/news.example.org.s2.pem"},
    {"domain": "other.example", "selector": "mail", "path": "/keys/other.example.mail.pem"},
]


@pytest.fixture(scope="session")
def archive() -> bytes:
    """A release with one folder around everything, and files that are not wanted."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as out:
        for name, text in {**MEMBERS, "README": "no\n"}.items():
            item = tarfile.TarInfo(f"release-1/{name}")
            item.size = len(text)
            out.addfile(item, io.BytesIO(text.encode()))
    return packed.getvalue()


@pytest.fixture
def served(archive: bytes, tmp_path: Path) -> Iterator[str]:
    """Address of a directory with the ``release`` and something ``else``, given over HTTP."""
    directory = tmp_path / "www"
    directory.mkdir()
    (directory / "release").write_bytes(archive)
    (directory / "else").write_text("else")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def looked_up(table: str, address: str) -> str | None:
    """What DKIMproxy finds in a map for an address: all of it, its domain, each parent domain, the catch-all."""
    rows = dict(line.split(None, 1) for line in table.splitlines() if line and not line.startswith("#"))
    labels = address.lower().rpartition("@")[2].split(".")
    names = [address.lower(), *(".".join(labels[number:]) for number in range(len(labels))), "."]
    return next((rows[name] for name in names if name in rows), None)


@pytest.mark.parametrize(
    ("address", "domain"),
    [
        ("alice@example.org", "example.org"),
        ("alice@SUB.Example.org", "example.org"),
        ("alice@news.example.org", "news.example.org"),
        ("alice@deep.news.example.org", "news.example.org"),
        ("alice@other.example", "other.example"),
    ],
)
def test_the_sender_map_signs_with_the_nearest_domain(address: str, domain: str) -> None:
    [key] = [key for key in KEYS if key["domain"] == domain]
    assert looked_up(upstream.sender_map(KEYS), address) == (
        f"dkim(a=rsa-sha256, c=relaxed/relaxed, d={domain}, s={key['selector']}, key={key['path']})"
    )


@given(st.from_regex(r"[a-z.@+-]{0,12}(@[a-z-]{0,12}(\.[a-z]{1,8}){0,3})?", fullmatch=True))
def test_the_sender_map_knows_an_answer_to_every_address(address: str) -> None:
    found = looked_up(upstream.sender_map(KEYS), address)
    domain = address.rpartition("@")[2]
    ours = any(f".{domain}".endswith(f".{key['domain']}") for key in KEYS)
    assert (found != upstream.NO_KEY) is ours


def test_the_catch_all_is_no_signature() -> None:
    """DKIMproxy takes a word, alone or with parentheses right behind it."""
    assert " " in upstream.NO_KEY and not set(upstream.NO_KEY) & set(",()")


def test_good_input_has_no_problems() -> None:
    assert upstream.upstream_problems(GOOD) == []
    assert upstream.upstream_problems({**GOOD, "upstream_url": "", "upstream_archive": "release.tar.gz"}) == []
    assert upstream.upstream_problems({**GOOD, "implementation": "embedded", "listen": "[::1]:10027"}) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("implementation", "Upstream"),
        ("implementation", None),
        *((name, value) for name in ("listen", "relay") for value in (
            "[::1]:10027", "localhost:10027", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:70000", "127.0.0.256:1", 10027, "",
            "127.0.0.1:10027\n", ":10027",
        )),
        ("upstream_url", ""),
        ("upstream_url", "ftp://files.example/release.tar.gz"),
        ("upstream_url", "release.tar.gz"),
        ("upstream_url", None),
        ("upstream_archive", 5),
    ],
)
def test_bad_input_is_named(name: str, value: Any) -> None:
    [problem] = upstream.upstream_problems({**GOOD, name: value})
    assert problem.startswith(f"dkimproxy_{name}: ")


def test_texts_of_the_release(archive: bytes) -> None:
    found = upstream.texts(archive, MEMBERS)
    assert {item["path"]: item["content"] for item in found} == MEMBERS


@pytest.mark.parametrize(
    ("data", "members", "said"),
    [
        (b"", ["a"], "cannot be unpacked"),
        (b"no archive", ["a"], "cannot be unpacked"),
        (None, ["lib/Missing.pm"], "has no file lib/Missing.pm"),
    ],
)
def test_another_archive_is_refused(archive: bytes, data: bytes | None, members: list[str], said: str) -> None:
    with pytest.raises(upstream.WrongArchive, match=said):
        upstream.texts(archive if data is None else data, members)


def test_a_cut_archive_is_refused(archive: bytes) -> None:
    with pytest.raises(upstream.WrongArchive):
        upstream.texts(archive[: len(archive) // 2], MEMBERS)


def test_download_is_kept_and_checked_again(run_module: Run, served: str, archive: bytes, tmp_path: Path) -> None:
    kept = tmp_path / "cache" / "release"
    options = {"url": f"{served}/release", "sha256": sha256(archive), "members": list(MEMBERS), "keep": str(kept)}
    dry = run_module(dkimproxy_release.main, check=True, **options)
    assert dry["changed"] and len(dry["files"]) == 2 and not kept.exists()
    first = run_module(dkimproxy_release.main, **options)
    assert first["changed"] and first["files"] == dry["files"]
    assert kept.read_bytes() == archive
    (tmp_path / "www" / "release").unlink()
    assert run_module(dkimproxy_release.main, **options) == {**first, "changed": False}
    kept.write_text("else")
    refused = run_module(dkimproxy_release.main, **options)
    assert refused["failed"] and "404" in refused["msg"]


@pytest.mark.parametrize(
    ("file", "said"), [("else", "is not DKIMproxy's release"), ("nothing", "cannot be downloaded by this host")]
)
def test_wrong_download_leaves_nothing(run_module: Run, served: str, archive: bytes, tmp_path: Path, file: str,
                                       said: str) -> None:
    result = run_module(dkimproxy_release.main, url=f"{served}/{file}", sha256=sha256(archive), members=list(MEMBERS),
                        keep=str(tmp_path / "cache" / "release"))
    assert result["failed"]
    assert result["msg"].startswith("dkimproxy_upstream_url: ") and said in result["msg"]
    assert not (tmp_path / "cache").exists()


def test_a_file_of_the_controller(playbook: Playbook, archive: bytes, tmp_path: Path) -> None:
    (tmp_path / "release.tar.gz").write_bytes(archive)

    def run(name: str, checksum: str) -> subprocess.CompletedProcess[str]:
        keep = str(tmp_path / "cache/release")
        release = {"archive": name, "sha256": checksum, "members": list(MEMBERS), "keep": keep}
        return playbook([
            {"selfhosted.mail.dkimproxy_release": release, "register": "release"},
            {"ansible.builtin.debug": {"msg": "{{ release.files | map(attribute='path') | join(' and ') }}"}},
        ], "--check")

    done = run("release.tar.gz", sha256(archive))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "scripts/program and lib/Deep/Module.pm" in done.stdout
    for name, checksum, said in [
        ("release.tar.gz", sha256(b"else"), f"is not DKIMproxy's release: its SHA-256 is {sha256(archive)}"),
        ("nowhere.tar.gz", sha256(archive), "on the controller: No such file or directory"),
    ]:
        refused = run(name, checksum)
        assert refused.returncode != 0
        assert f"dkimproxy_upstream_archive: {name} {said}" in refused.stdout + refused.stderr
        assert "Traceback" not in refused.stdout + refused.stderr


def test_the_configuration_reads_like_dkimproxys(playbook: Playbook, checkout: Path, tmp_path: Path) -> None:
    templates = checkout / "roles/dkimproxy/templates/upstream"
    done = playbook([
        {"ansible.builtin.set_fact": {"dkimproxy_listen": "127.0.0.1:10027", "dkimproxy_relay": "127.0.0.1:10028",
                                      "__dkimproxy_keys": KEYS}},
        *({"ansible.builtin.copy": {"content": f"{{{{ lookup('ansible.builtin.template', '{templates}/{name}.j2') }}}}",
                                    "dest": str(tmp_path / name), "mode": "0600"}}
          for name in ("dkimproxy_out.conf", "sender_map")),
    ])
    assert done.returncode == 0, done.stdout + done.stderr
    options = [line.split() for line in (tmp_path / "dkimproxy_out.conf").read_text().splitlines()
               if line and not line.startswith("#")]
    assert dict(options) == {
        "listen": "127.0.0.1:10027", "relay": "127.0.0.1:10028", "sender_map": "/etc/dkimproxy/sender_map",
        "reject_error": "1", "user": "dkimproxy", "group": "dkimproxy",
    }
    table = (tmp_path / "sender_map").read_text()
    assert table.endswith(upstream.sender_map(KEYS))
    assert all(line.startswith("#") for line in table.removesuffix(upstream.sender_map(KEYS)).splitlines())


def test_systemd_is_told_of_the_start(checkout: Path, tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(10)
        subprocess.run(
            ["perl", "-I", checkout / "roles/dkimproxy/files/upstream", "-MSelfhostedMail=start", "-e",
             "MySmtpProxyServer->pre_loop_hook"],
            env={**os.environ, "NOTIFY_SOCKET": str(path)}, check=True,
        )
        assert listener.recv(100) == b"READY=1"


def test_the_scenario_is_skipped_without_a_tarball(checkout: Path) -> None:
    program = [checkout / "tools/with-tarball", "sh", "-c", "echo ran with $DKIMPROXY_ARCHIVE"]

    def run(**more: str) -> tuple[int, str]:
        environment = {name: value for name, value in os.environ.items() if name != "DKIMPROXY_ARCHIVE"}
        done = subprocess.run(program, env={**environment, **more}, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    code, said = run()
    assert code == 3 and said.startswith("skipped: no tarball")
    code, said = run(DKIMPROXY_ARCHIVE="/nowhere/release.tar.gz")
    assert code == 1 and "there is no file /nowhere/release.tar.gz" in said
    assert run(DKIMPROXY_ARCHIVE=str(checkout / "LICENSE")) == (0, f"ran with {checkout / 'LICENSE'}\n")
