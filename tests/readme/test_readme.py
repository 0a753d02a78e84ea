# SPDX-License-Identifier: GPL-3.0-or-later
"""README's ten steps and docs/recipes.md: on a machine with Debian's own ansible-core, for a fresh VPS behind SSH."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from testbed import containers, dns
from testbed.acme import AUTHORITY, Acme
from testbed.containers import run, write
from testbed.playbook import BIN, CHECKOUT
from testbed.playbook import run as play
from testbed.provider import wait_kept

HOME, VPS, RELAY = "readme-home", "readme-vps", "readme-relay"
ACME = Acme("readme-acme", "readme.acme.test")
MACHINES = {
    HOME: ["debian13"],
    VPS: ["debian13", "mail.readme.test", "198.51.100.15"],
    RELAY: ["world", "readme.provider.test", "198.51.100.29"],
    ACME.container: ["world", ACME.name, "198.51.100.37"],
}
CLONE = "/root/clone"
INVENTORY = f"{CLONE}/inventory"
MAIN = f"{INVENTORY}/group_vars/mail/main.yml"
LOGIN, PASSWORD = "customer", "the relay's password"
VAULT_PASSWORD = "a vault's password"
ALICE_PASSWORD, SHOP_PASSWORD = "alice's own", "the shop's own"
# A user reads and writes mail in a web browser.
BROWSER = """
import http.cookiejar, re, sys, time, urllib.parse, urllib.request
base, user, password = sys.argv[1:]
opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
def go(form=None, **query):
    data = urllib.parse.urlencode(form).encode() if form else None
    with opener.open(f"{base}?{urllib.parse.urlencode(query)}", data, timeout=60) as answer:
        return answer.read().decode()
def field(page, name):
    return re.search(rf'name="{name}"[^>]* value="([^"]*)"', page)[1]
page = go()
form = {"_token": field(page, "_token"), "_task": "login", "_action": "login", "_user": user, "_pass": password}
page = go(form, _task="login")
assert "logged-out" not in page and "rcmloginuser" not in page, page[-3000:]
token = re.search(r'"request_token":"([^"]+)"', page)[1]
page = go(_task="mail", _action="compose")
form = {"_token": token, "_task": "mail", "_action": "send", "_id": field(page, "_id"), "_is_html": "0"}
form |= {"_from": re.search(r'name="_from".*?<option value="(\\d+)"', page, re.S)[1], "_to": user}
form |= {"_subject": "webmail", "_message": "hello"}
page = go(form, _task="mail", _action="send")
assert "sent_successfully" in page, page[-3000:]
opener.addheaders.append(("X-Roundcube-Request", token))
deadline = time.monotonic() + 120
while "webmail" not in go(_task="mail", _action="list", _mbox="INBOX", _remote="1"):
    assert time.monotonic() < deadline, "nothing arrived"
    time.sleep(1)
print(go(_task="settings", _action="plugin.managesieve"))
"""
# Runs a command in a terminal and types the password where it is asked for.
TERMINAL = """
import os, pty, sys
command, password = sys.argv[1:]
seen = b""
def read(terminal):
    global seen
    said = os.read(terminal, 4096)
    seen = (seen + said)[-200:]
    if seen.lower().endswith(b"password: "):
        os.write(terminal, password.encode() + b"\\n")
        seen = b""
    return said
sys.exit(os.waitstatus_to_exitcode(pty.spawn(["sh", "-euc", command], read)))
"""


def commands() -> list[str]:
    """The code blocks of the ten steps, in order."""
    text = (CHECKOUT / "README.md").read_text()
    steps = text[text.index("## Set up your server") :]
    steps = steps[: steps.index("\n## ", 3)]
    return [re.sub(r"(?m)^ +", "", block) for block in re.findall(r"(?ms)^ *```\n(.*?)^ *```$", steps)]


def recipe(kind: str) -> str:
    """The first code block of that kind in docs/recipes.md."""
    found = re.search(rf"(?ms)^```{kind}\n(.*?)^```$", (CHECKOUT / "docs/recipes.md").read_text())
    assert found
    return found[1].replace("example.org", "readme.test")


def tracked() -> bytes:
    """The checkout as a tar file, without what Git ignores."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in filter(None, listed.split("\0")):
            if (file := CHECKOUT / name).exists() or file.is_symlink():
                tar.add(file, name, recursive=False)
    return packed.getvalue()


def home(directory: Path) -> None:
    """A machine that reaches the VPS by SSH, with a clone of this repository."""
    with ThreadPoolExecutor() as pool:
        install = "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends {}"
        list(
            pool.map(
                lambda one: run(one[0], "sh", "-c", f"{install.format(one[1])} >/dev/null 2>&1"),
                {HOME: "ansible-core openssh-client", VPS: "openssh-server"}.items(),
            )
        )
    run(HOME, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/.ssh/id_ed25519")
    run(VPS, "install", "-d", "-m", "0700", "/root/.ssh")
    write(VPS, "/root/.ssh/authorized_keys", run(HOME, "cat", "/root/.ssh/id_ed25519.pub"))
    run(HOME, "sh", "-c", "ssh-keyscan -t ed25519 mail.readme.test >/root/.ssh/known_hosts 2>/dev/null")
    unpack = f"mkdir {CLONE} && tar -xC {CLONE}"
    containers.docker("exec", "--interactive", HOME, "sh", "-c", unpack, data=tracked())


def provider(directory: Path) -> None:
    """A relay provider with one customer, which the VPS trusts."""
    customer = {"username": LOGIN, "password": PASSWORD}
    variables = {
        "provider_hostname": "readme.provider.test",
        "provider_customers": [customer],
        "provider_delivers_to": ["readme.test"],
    }
    docker = {"ansible_connection": "community.docker.docker", "ansible_python_interpreter": "/usr/bin/python3"}
    groups = {"provider": {"hosts": {RELAY: variables}}, "mail": {"hosts": {VPS: None}}}
    inventory = directory / "provider.yml"
    inventory.write_text(yaml.safe_dump({"all": {"vars": docker, "children": groups}}))
    play(CHECKOUT / "testbed/playbooks/provider.yml", inventory=inventory)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[None]:
    """A VPS as it is delivered, a machine at home, a relay provider, an ACME server."""
    with ThreadPoolExecutor() as pool:
        try:
            words = [[str(CHECKOUT / "testbed/host-up"), name, *rest] for name, rest in MACHINES.items()]
            list(pool.map(lambda one: subprocess.run(one, check=True), words))
            dns.publish("readme.test", "mail A 198.51.100.15\n")  # step 1
            ACME.start()
            write(VPS, AUTHORITY, ACME.authority)
            list(pool.map(lambda make: make(tmp_path), (home, provider)))
            # As the world knows Let's Encrypt's.
            write(HOME, "/usr/local/share/ca-certificates/acme.crt", ACME.root)
            run(HOME, "update-ca-certificates")
            yield
        finally:
            list(pool.map(lambda name: containers.docker("rm", "-f", name), MACHINES))


def do(command: str) -> str:
    """Output of a command in the clone; it must succeed."""
    words = ["docker", "exec", "--workdir", CLONE, "--env", "LC_ALL=C.UTF-8", "--env", "ANSIBLE_NOCOLOR=1", HOME]
    done = subprocess.run(
        [*words, "python3", "-c", TERMINAL, command, VAULT_PASSWORD],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout[-6000:]}{done.stderr}"
    return done.stdout


def edit(path: str, *changes: tuple[str, str]) -> None:
    """Replace texts as in an editor: each must exist."""
    text = run(HOME, "cat", path)
    for old, new in changes:
        assert old in text, (path, old)
        text = text.replace(old, new)
    write(HOME, path, text)


def set_up() -> None:
    """Steps 2 to 5."""
    copy, encrypt, *_others = commands()
    do(copy)
    ours = ("example.org", "readme.test")
    edit(f"{INVENTORY}/hosts.yml", ours)
    edit(
        MAIN,
        ours,
        ("smtp.provider.example", "readme.provider.test"),
        ("include:spf.provider.example", "include:_spf.provider.test"),
        (
            "# mail_tls_mode: acme",
            f"mail_tls_mode: acme\nmail_acme_directory: {ACME.directory}\nmail_acme_ca_file: {AUTHORITY}\n"
            # The test bed's world is its own.
            "rspamd_external_checks: false\nrspamd_resolver_forwarders: [198.51.100.53]",
        ),
    )
    alices, shops = (run(HOME, "openssl", "passwd", "-6", text).strip() for text in (ALICE_PASSWORD, SHOP_PASSWORD))
    edit(
        f"{INVENTORY}/group_vars/mail/vault.yml",
        ("your login at the relay provider", LOGIN),
        ("your password there", PASSWORD.replace("'", "''")),
        ("$6$...", alices),
        ("vault_bob", f"vault_shop_password_hash: '{shops}'\nvault_bob"),
    )
    do(encrypt)
    assert PASSWORD not in run(HOME, "cat", f"{INVENTORY}/group_vars/mail/vault.yml")


def test_ten_steps(world: None) -> None:
    *_others, dry_run, site, check = commands()
    set_up()
    run(VPS, "touch", "/root/begun")
    assert "changed=0" not in do(dry_run)
    where = "/etc /usr /opt /srv /var/lib /var/spool /var/mail -xdev -not -path /var/lib/systemd/*"
    assert run(VPS, "find", *where.split(), "-newer", "/root/begun") == "", "a dry run has changed the VPS"
    assert "dns" not in run(HOME, "ls", CLONE).split()
    do(site)
    served = run(HOME, "sh", "-c", "openssl s_client -connect mail.readme.test:465 </dev/null 2>&1 | grep -i issuer")
    assert "Pebble" in served
    dns.publish("readme.test", run(HOME, "cat", f"{CLONE}/dns/readme.test.zone"))  # step 8
    said = do(check)
    assert re.search(r"ok +proof +readme\.test .*our signature pass, SPF pass, DMARC pass", said), said
    assert not re.search(r'"?(error|warning) ', said), said
    do(site)


@pytest.mark.long
def test_artefact_and_recipes(world: None, tmp_path: Path) -> None:
    """The server is set up by the collection as ansible-galaxy installs it."""
    write(VPS, "/usr/local/share/ca-certificates/acme.crt", ACME.root)  # as the world knows Let's Encrypt's
    run(VPS, "update-ca-certificates")
    set_up()
    edit(MAIN, ("  # - address: shop@", "  - address: shop@"), ("  #   ", "    "))
    words: list[str | Path] = [BIN / "ansible-galaxy", "collection", "build", "--output-path", tmp_path, CHECKOUT]
    subprocess.run(words, check=True, capture_output=True)
    [artefact] = tmp_path.glob("selfhosted-mail-*.tar.gz")
    write(HOME, "/root/artefact.tar.gz", artefact.read_bytes())
    run(HOME, "ansible-galaxy", "collection", "install", "--offline", "/root/artefact.tar.gz")
    site = "cd /root; ansible-playbook -i clone/inventory selfhosted.mail.{} --ask-vault-pass"
    do(site.format("site"))
    dns.publish("readme.test", run(HOME, "cat", "/root/dns/readme.test.zone"))
    assert re.search(r"ok +proof +readme\.test .*our signature pass", do(site.format("check")))
    write(HOME, f"{CLONE}/webmail.yml", recipe("yaml"))
    webmail = "ansible-playbook -i inventory webmail.yml --ask-vault-pass"
    do(webmail)
    assert re.search(r"changed=0 .*failed=0", do(webmail))
    browser = ("python3", "-c", BROWSER, "https://mail.readme.test/", "alice@readme.test", ALICE_PASSWORD)
    filters = run(HOME, *browser)
    assert "Unable to connect to server" not in filters
    write(HOME, "/root/shop.py", recipe("python"))
    run(HOME, "env", f"SHOP_PASSWORD={SHOP_PASSWORD}", "python3", "/root/shop.py")
    sent = wait_kept(RELAY, "Subject: Your order")
    assert sent.message["Reply-To"] == "sales@readme.test"
    assert sent.dkim == [("pass", "readme.test")]
