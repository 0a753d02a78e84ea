# SPDX-License-Identifier: GPL-3.0-or-later
"""DKIMproxy's release: only the right archive is used; its sender map refuses mail without a key."""

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
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment, StrictUndefined

Playbook = Callable[..., subprocess.CompletedProcess[str]]

ROLE = Path(__file__).resolve().parents[3] / "roles/dkimproxy_upstream"
RELEASE = {"scripts/dkimproxy.out": "#!/bin/sh\n", "lib/MSDW/SMTP/Client.pm": "package Client;\n1;\n"}
KEYS = [
    {"domain": "example.org", "selector": "mail", "path": "/keys/example.org.mail.pem"},
    {"domain": "news.example.org", "selector": "s2", "path": "/keys/news.example.org.s2.pem"},
    {"domain": "other.example", "selector": "mail", "path": "/keys/other.example.mail.pem"},
]
NO_KEY = "the address in Sender or From is in no domain of this server or has a plus sign"


def rendered(name: str) -> list[str]:
    """The lines of a template of /etc/dkimproxy without comments."""
    jinja = Environment(trim_blocks=True, undefined=StrictUndefined)
    jinja.filters["comment"] = lambda text: f"# {text}"
    template = jinja.from_string((ROLE / f"templates/etc/dkimproxy/{name}.j2").read_text())
    text = template.render(
        ansible_managed="Managed",
        __dkimproxy_signing_keys=KEYS,
        dkimproxy_listen="127.0.0.1:10027",
        dkimproxy_relay="127.0.0.1:10028",
    )
    return [line for line in text.splitlines() if line and not line.startswith("#")]


SENDER_MAP = dict(line.split(None, 1) for line in rendered("sender_map"))


def looked_up(address: str) -> str | None:
    """What DKIMproxy finds in its map for an address: all of it, its domain, each parent domain, the catch-all."""
    labels = address.lower().rpartition("@")[2].split(".")
    names = [address.lower(), *(".".join(labels[number:]) for number in range(len(labels))), "."]
    return next((SENDER_MAP[name] for name in names if name in SENDER_MAP), None)


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
    assert looked_up(address) == (
        f"dkim(a=rsa-sha256, c=relaxed/relaxed, d={domain}, s={key['selector']}, key={key['path']})"
    )


@given(st.from_regex(r"[a-z.@+-]{0,12}(@[a-z-]{0,12}(\.[a-z]{1,8}){0,3})?", fullmatch=True))
def test_the_sender_map_knows_an_answer_to_every_address(address: str) -> None:
    domain = address.rpartition("@")[2]
    ours = any(f".{domain}".endswith(f".{key['domain']}") for key in KEYS)
    assert (looked_up(address) != NO_KEY) is ours


def test_the_catch_all_is_no_signature() -> None:
    """DKIMproxy parses a word as a signature, alone or followed by parentheses; a comma would end the text."""
    assert " " in SENDER_MAP["."] and not set(SENDER_MAP["."]) & set(",()")


def test_the_configuration_reads_like_dkimproxys() -> None:
    assert dict(line.split() for line in rendered("dkimproxy_out.conf")) == {
        "listen": "127.0.0.1:10027",
        "relay": "127.0.0.1:10028",
        "sender_map": "/etc/dkimproxy/sender_map",
        "reject_error": "1",
        "user": "dkimproxy",
        "group": "dkimproxy",
    }


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A release with one folder around everything, and something ``else`` beside it."""
    directory = tmp_path / "www"
    directory.mkdir()
    with tarfile.open(directory / "release", mode="w:gz") as out:
        for name, text in RELEASE.items():
            item = tarfile.TarInfo(f"dkimproxy-1.4.1/{name}")
            item.size = len(text)
            out.addfile(item, io.BytesIO(text.encode()))
    (directory / "else").write_text("else")
    return directory / "release"


@pytest.fixture
def served(archive: Path) -> Iterator[str]:
    """Address of the directory of the release, given over HTTP."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(archive.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def run(playbook: Playbook, archive: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``run(tasks, *options, **variables)`` runs tasks of the role on this machine, in temporary directories."""

    (tmp_path / "library").mkdir()
    internals = {
        "__dkimproxy_upstream_sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
        "__dkimproxy_upstream_download": str(tmp_path / "download"),
        "__dkimproxy_upstream_library": str(tmp_path / "library"),
    }

    def run(tasks: list[dict[str, Any]], *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        files = [f"@{ROLE}/{name}/main.yml" for name in ("defaults", "vars")]
        given = [f"{name}={value}" for name, value in {**internals, **variables}.items()]
        done = playbook(tasks, *(word for text in [*files, *given] for word in ("-e", text)), *options)
        assert "Traceback" not in done.stdout + done.stderr
        return done

    return run


PREFLIGHT = [{"ansible.builtin.include_tasks": str(ROLE / "tasks/preflight.yml")}]
INSTALL = yaml.safe_load((ROLE / "tasks/install.yml").read_text())
UNPACK = [task for task in INSTALL if "ansible.builtin.unarchive" in task]


def test_a_download_is_checked_and_kept(run: Playbook, served: str, archive: Path, tmp_path: Path) -> None:
    url = f"{served}/release"
    dry = run(PREFLIGHT, "--check", dkimproxy_upstream_url=url)
    assert dry.returncode == 0 and "changed=1 " in dry.stdout and not (tmp_path / "download").exists(), dry.stdout
    assert "changed=1 " in run(PREFLIGHT, dkimproxy_upstream_url=url).stdout
    assert (tmp_path / "download").read_bytes() == archive.read_bytes()
    archive.unlink()
    again = run(PREFLIGHT, dkimproxy_upstream_url=url)
    assert again.returncode == 0 and "changed=0 " in again.stdout, "no network is needed"


@pytest.mark.parametrize(("file", "said"), [("else", "checksum"), ("nothing", "404")])
def test_a_wrong_download_leaves_nothing(run: Playbook, served: str, tmp_path: Path, file: str, said: str) -> None:
    done = run(PREFLIGHT, dkimproxy_upstream_url=f"{served}/{file}")
    assert done.returncode != 0 and "dkimproxy_upstream_url" in done.stdout and said in done.stdout
    assert not (tmp_path / "download").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [("release", None), ("else", f"but has {hashlib.sha256(b'else').hexdigest()}"), ("nothing", "but is not a file")],
)
def test_an_archive_of_the_controller_is_checked(run: Playbook, archive: Path, name: str, said: str | None) -> None:
    path = archive.with_name(name)
    done = run(PREFLIGHT, dkimproxy_upstream_archive=str(path))
    assert "changed=0 " in done.stdout
    assert (done.returncode == 0) is (said is None), done.stdout
    if said:
        assert f"dkimproxy_upstream_archive: {path} on the controller must be DKIMproxy's release" in done.stdout
        assert said in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to root")
@pytest.mark.parametrize("where", ["controller", "host"])
def test_it_is_unpacked_once(run: Playbook, archive: Path, tmp_path: Path, where: str) -> None:
    if where == "host":
        (tmp_path / "download").write_bytes(archive.read_bytes())
    variables = {"dkimproxy_upstream_archive": str(archive)} if where == "controller" else {}
    dry = run(UNPACK, "--check", **variables)
    assert dry.returncode == 0 and list((tmp_path / "library").iterdir()) == []
    for changed in (1, 0):
        done = run(UNPACK, **variables)
        assert done.returncode == 0 and f"changed={changed} " in done.stdout, done.stdout
    found = {name: (tmp_path / "library/dkimproxy-1.4.1" / name) for name in RELEASE}
    assert {name: path.read_text() for name, path in found.items()} == RELEASE
    assert {path.stat().st_mode & 0o7777 for path in found.values()} == {0o644}
    assert (tmp_path / "library/dkimproxy-1.4.1").stat().st_mode & 0o7777 == 0o755


def test_systemd_is_told_of_the_start(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(10)
        modules = ROLE / "files/usr/local/lib/selfhosted-mail/dkimproxy-1.4.1"
        subprocess.run(
            ["perl", "-I", modules, "-MSelfhostedMail=start", "-e", "MySmtpProxyServer->pre_loop_hook"],
            env={**os.environ, "NOTIFY_SOCKET": str(path)},
            check=True,
        )
        assert listener.recv(100) == b"READY=1"
