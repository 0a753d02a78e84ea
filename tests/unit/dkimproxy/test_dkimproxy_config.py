# SPDX-License-Identifier: GPL-3.0-or-later
"""DKIMproxy's configuration syntax: options, errors with their place, and the signature of a message."""

import base64
import shutil
import subprocess

import pytest
from authors.address import Address, parse_address
from authors.rights import Refusal
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from dkimproxy import config
from dkimproxy.errors import ConfigError
from dkimproxy.keys import _parse
from dkimproxy.signers import Signers
from dkimproxy_helpers import ran

BASE = "listen 127.0.0.1:10027\nrelay 127.0.0.1:10028\ndomain example.org\nselector rsa\n"


@pytest.fixture
def write(tmp_path, keys):
    """Write a file below TMP; KEYS and TMP in its text become their directories."""

    def write(name, text):
        path = tmp_path / name
        path.touch(0o600)
        path.write_text(text.replace("KEYS", str(keys.directory)).replace("TMP", str(tmp_path)))
        return path

    return write


@pytest.fixture
def load(write):
    def load(text, arguments=()):
        options, words = config.read_arguments([f"--conf_file={write('dkimproxy_out.conf', text)}", *arguments])
        return config.load(options, words)

    return load


def signatures(loaded, address, list_id=None):
    return [(s.domain, s.selector, s.key.algorithm) for s in Signers(loaded).choose(parse_address(address), list_id)]


OLD = """\
# specify what address/port DKIMproxy should listen on
listen    127.0.0.1:10027

relay     127.0.0.1:10028
domain    example.org,example.com
signature dkim(c=relaxed)
signature domainkeys(c=nofws)
keyfile   KEYS/rsa.pem
selector  rsa
  min_servers = 5
min_spare_servers: 2
reject_error 1
user dkimproxy
group dkimproxy
daemonize 1
pidfile /run/dkimproxy.pid
"""


def test_a_file_of_dkimproxy_is_taken_over(load):
    loaded = load(OLD + "legacy ignore\n")
    assert loaded.listen == ("127.0.0.1", 10027) and loaded.relay == ("127.0.0.1", 10028)
    assert loaded.domains == ("example.org", "example.com")
    assert loaded.from_policy == "domain"
    assert len(loaded.signatures) == 1 and loaded.signatures[0].relaxed == (True, False)
    assert "DomainKeys" in loaded.warnings[0] and ":7:" in loaded.warnings[0]
    assert signatures(loaded, "a@sub.example.com") == [("example.com", "rsa", "rsa-sha256")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("signature domainkeys", r"conf:5: DomainKeys .*dkim\("),
        ("signature dkim(a=rsa-sha1)", r"conf:5: rsa-sha1 .*rsa-sha256"),
        ("method nofws", "canonicalization"),
        ("nonsense 1", "conf:5: unknown key 'nonsense'"),
        ("signature dkim(q=1)", "conf:5: signature: 'q=1'"),
        ("signature dkim(c=nothing)", "conf:5: signature: must be simple, relaxed"),
        ("signature dkim(a=md5)", "conf:5: signature: a=md5"),
        ("signature arc()", r"conf:5: signature: 'arc\(\)'"),
        ("signature dkim(d=exa_mple..org)", "conf:5: signature: .*not a domain name"),
        ("signature dkim(s=a b)", "conf:5: signature: is not a valid DKIM selector"),
        ("signature dkim(h=received)", "conf:5: signature: h=: 'received'"),
        ("signature dkim(x=soon)", "conf:5: signature: must be a whole number"),
        ("from_policy any", "conf:5: from_policy 'any': must be account or domain"),
        ("from_policy account", "conf:5: from_policy account needs 'senders'"),
        ("received_auth true", "conf:5: received_auth 'true': must be yes or no"),
        ("unsigned date, From", "conf:5: unsigned 'date, From': must be names of header fields, without From"),
        ("unsigned to date", "conf:5: unsigned 'to date': must be names of header fields, without From"),
        ("foreign_from sign", "conf:5: foreign_from 'sign': must be refuse or rewrite"),
        ("host 127.0.0.1", "conf:5: 'host' is not supported: write listen"),
        ("relay_port 25", "conf:5: 'relay_port' is not supported: write relay"),
        ("cidr_allow 192.0.2.0/24", "conf:5: 'cidr_allow' .*firewall"),
        ("chroot /var", "conf:5: 'chroot' is not supported"),
        ("keyfile", "conf:5: keyfile has no value"),
        ("listen 127.0.0.1:1", "conf:5: listen was given before"),
        ("domain example..com", "conf:5: domain .*not a domain name"),
        ("spool_dir /nonexistent", "conf:5: spool_dir /nonexistent"),
        ("sender_map /nonexistent", "conf:5: sender_map /nonexistent: No such file"),
        ("?", "conf:5: not a `key value` line"),
    ],
)
def test_a_mistake_is_named_with_its_line(load, text, words):
    with pytest.raises(ConfigError, match=words):
        load(BASE + text + "\n")


def test_all_mistakes_are_named_at_once(load):
    with pytest.raises(ConfigError) as error:
        load("listen nowhere\nfoo 1\nlegacy maybe\n")
    assert len(str(error.value).splitlines()) >= 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no key file"),
        ("keyfile KEYS/none.pem", "conf:5: key file .*none.pem: No such file"),
        ("keyfile TMP/dkimproxy_out.conf", "dkimproxy_out.conf: must be an unencrypted private key in PEM"),
        ("keyfile TMP/curve.pem", "curve.pem: must be an unencrypted private key in PEM"),
        ("keyfile TMP/open.pem", "open.pem is accessible to every user"),
        ("keyfile TMP/group.pem", "group.pem is writable by its group; its mode must be 0640"),
        ("keyfile KEYS/ed.pem\nsignature dkim(a=rsa-sha256)", "is for ed25519-sha256"),
        (
            "keyfile KEYS/rsa.pem\nsignature dkim(d=example.net)\ndomain example.com",
            "conf:7: domain example.org: no signature",
        ),
        ("keyfile KEYS/rsa.pem\nsignature dkim(i=a@example.net)", "i=a@example.net lies outside"),
        ("keyfile KEYS/rsa.pem\nsignature dkim(i=$nothing)", r"unknown macro \$nothing"),
    ],
)
def test_keys_are_checked(load, keys, tmp_path, text, words):
    # Of an elliptic curve that the library does not know.
    curve = ["openssl", "ecparam", "-genkey", "-noout", "-name", "secp112r1", "-out", tmp_path / "curve.pem"]
    subprocess.run(curve, check=True)
    (tmp_path / "curve.pem").chmod(0o600)
    (tmp_path / "open.pem").write_bytes(keys.path("rsa").read_bytes())
    (tmp_path / "open.pem").chmod(0o644)
    (tmp_path / "group.pem").write_bytes(keys.path("rsa").read_bytes())
    (tmp_path / "group.pem").chmod(0o660)
    with pytest.raises(ConfigError, match=words):
        Signers(load(BASE + text + "\n"))


def test_short_keys_are_refused(load, monkeypatch):
    monkeypatch.setattr("dkimproxy.keys.MINIMUM_BITS", 4096)
    _parse.cache_clear()
    with pytest.raises(ConfigError, match="4096 bits at least"):
        Signers(load(BASE + "keyfile KEYS/rsa.pem\n"))
    _parse.cache_clear()


def test_keys_whose_parts_do_not_belong_together_are_refused(load, tmp_path, keys):
    mixed = rsa.generate_private_key(65537, 2048)
    whole = serialization.load_pem_private_key(keys.path("rsa").read_bytes(), None)
    der = whole.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    modulus = whole.public_key().public_numbers().n.to_bytes(256, "big")
    path = tmp_path / "mixed.pem"
    path.touch(0o600)
    text = base64.encodebytes(der.replace(modulus, mixed.public_key().public_numbers().n.to_bytes(256, "big"))).decode()
    path.write_text(f"-----BEGIN RSA PRIVATE KEY-----\n{text}-----END RSA PRIVATE KEY-----\n")
    with pytest.raises(ConfigError, match="this RSA key is inconsistent"):
        Signers(load(BASE + f"keyfile {path}\n"))


def test_command_line_wins_and_positions_are_listen_and_relay(load):
    words = ["--selector=s2", "--domain", "example.net", "--daemonize", "[::1]:25", "relay.example:26"]
    loaded = load("domain example.org\n", words)
    assert loaded.listen == ("::1", 25) and loaded.relay == ("relay.example", 26)
    assert loaded.domains == ("example.net",)


def test_two_domains_with_their_own_keys(load):
    loaded = load(
        "listen 127.0.0.1:1\nrelay 127.0.0.1\n"
        "signature dkim(d=example.org, s=rsa, key=KEYS/rsa.pem)\n"
        "signature dkim(d=example.net, s=other, key=KEYS/other.pem)\n"
        "signature dkim(d=deep.example.org, s=deep, key=KEYS/rsa.pem)\n"
        "signature dkim(d=example.org, s=ed, key=KEYS/ed.pem)\n"
    )
    assert loaded.relay == ("127.0.0.1", 25)
    both = [("example.org", "rsa", "rsa-sha256"), ("example.org", "ed", "ed25519-sha256")]
    assert signatures(loaded, "a@example.org") == both
    assert signatures(loaded, "a@sub.example.org") == both
    assert signatures(loaded, "a@example.net") == [("example.net", "other", "rsa-sha256")]
    assert signatures(loaded, "a@x.deep.example.org") == [("deep.example.org", "deep", "rsa-sha256")]
    for foreign in ("a@example.com", "a@notexample.org", "a@org", "a@example.org.example.com"):
        with pytest.raises(Refusal):
            signatures(loaded, foreign)


def test_macros(load, keys, tmp_path):
    for domain, key in (("example.net", "other"), ("example.org", "rsa")):
        shutil.copy(keys.path(key), tmp_path / f"{domain}.pem")
    loaded = load(BASE + "domain example.net\nsignature dkim(d=$senderdomain,i=$sender,key=TMP/$keydomain.pem)\n")
    [signer] = Signers(loaded).choose(parse_address("a@sub.example.org"))
    assert (signer.domain, signer.identity) == ("sub.example.org", "a@sub.example.org")
    assert signatures(loaded, "b@example.net") == [("example.net", "rsa", "rsa-sha256")]


def test_an_address_does_not_lead_to_other_directories(load, keys, tmp_path):
    shutil.copy(keys.path("rsa"), tmp_path / "x@example.org.pem")
    (tmp_path / "sub").mkdir()
    shutil.copy(keys.path("rsa"), tmp_path / "sub" / "postmaster@example.org.pem")
    signers = Signers(load(BASE + "signature dkim(key=TMP/sub/$sender.pem)\n"))
    assert signers.choose(parse_address("postmaster@example.org"))
    with pytest.raises(ValueError, match="with a slash"):
        signers.choose(Address("../x", "example.org"))


def test_maps(load, write):
    write(
        "senders.map",
        "; comment\n"
        "vip@example.com  dkim(s=other,key=KEYS/other.pem,d=example.com), domainkeys(c=nofws)\n"
        "example.com dkim(c=simple)\n"
        ".  dkim(d=example.org)\n",
    )
    write("lists.map", "example.com dkim(s=list)\n")
    loaded = load(BASE + "keyfile KEYS/rsa.pem\nlegacy ignore\nsender_map TMP/senders.map\nlistid_map TMP/lists.map\n")
    assert signatures(loaded, "vip+tag@example.com") == [("example.com", "other", "rsa-sha256")]
    assert signatures(loaded, "a@sub.example.com") == [("example.com", "rsa", "rsa-sha256")]
    assert signatures(loaded, "a@example.org") == [("example.org", "rsa", "rsa-sha256")]
    assert signatures(loaded, "a@example.com", "news.example.com") == [("example.com", "list", "rsa-sha256")]
    # The list's domain is not the author's: no signature of the list's, the author's own.
    assert signatures(loaded, "a@example.org", "news.example.com") == [("example.org", "rsa", "rsa-sha256")]
    with pytest.raises(Refusal):
        signatures(loaded, "a@example.net")


def test_lines_as_the_library_of_dkimproxy_reads_them(load, tmp_path):
    """Net::Server: comments behind values, an escaped `#`, three separators, names of its own; and old encodings."""
    loaded = load(
        "listen = *:10027   # everywhere\nrelay: 127.0.0.1:10028# next\ndomain example.org , example.net,\n"
        "keyfile KEYS/rsa.pem\nselector rsa\nsenders TMP/with\\#sign\npid_file /run/p\nsetsid\nuser 0\ngroup 0\n"
        "log_level 3\nsyslog_facility mail\ndebugtrace 1\nmax_dequeue 5\n  --min_servers 3\r\n\n"
        "signature dkim( a = rsa-sha256 , c=relaxed )\n"
    )
    assert (loaded.listen, loaded.relay) == (("0.0.0.0", 10027), ("127.0.0.1", 10028))
    assert loaded.domains == ("example.org", "example.net")
    assert loaded.senders == f"{tmp_path}/with#sign"
    assert loaded.signatures[0].relaxed == (True, False)
    path = tmp_path / "latin1.conf"
    path.write_bytes(b"\xef\xbb\xbf# Schl\xfcssel\nlisten 127.0.0.1:1\nrelay 127.0.0.1\ndomain example.org\n")
    assert config.load({"conf_file": [str(path)]}, []).domains == ("example.org",)


def test_long_names_in_a_signature(load):
    names = "keyfile=KEYS/rsa.pem,selector=rsa,domain=example.org,method=simple,algorithm=rsa-sha256"
    loaded = load(BASE + f"signature dkim({names},identity=@example.org,headers=x-a:x-b)\n")
    [template] = loaded.signatures
    assert (template.selector, template.relaxed, template.headers) == ("rsa", (False, False), ("x-a", "x-b"))


def test_an_empty_value_on_the_command_line_takes_the_files_away(load):
    words = ["--senders=", "--daemonize=0", "--listen=127.0.0.1:7", "--foreign_from=rewrite"]
    loaded = load(BASE + "senders /etc/senders\nforeign_from refuse\n", words)
    assert (loaded.senders, loaded.from_policy) == ("", "domain")
    assert loaded.listen == ("127.0.0.1", 7) and loaded.foreign_from == "rewrite"


@pytest.mark.parametrize("listed", ["rsa-list.example.org", "RSA-List.example.org"])
def test_a_list_that_is_a_whole_key_signs_with_what_follows_its_label(load, write, listed):
    write("lists.map", f"{listed} dkim(s=list)\nexample.net dkim(s=net)\n")
    loaded = load(BASE + "domain example.net\nsignature dkim\nkeyfile KEYS/rsa.pem\nlistid_map TMP/lists.map\n")
    assert signatures(loaded, "a@example.org", "rsa-list.example.org") == [("example.org", "list", "rsa-sha256")]
    assert signatures(loaded, "a@example.net", "any.example.net") == [("example.net", "net", "rsa-sha256")]


def test_the_key_macro_is_the_domain_of_an_address_too(load, write):
    write("senders.map", "vip@example.org dkim(i=ceo@$key)\n. dkim(d=$senderdomain)\n")
    loaded = load(BASE + "keyfile KEYS/rsa.pem\nsender_map TMP/senders.map\n")
    [signer] = Signers(loaded).choose(parse_address("vip@example.org"))
    assert (signer.domain, signer.identity) == ("example.org", "ceo@example.org")
    assert signatures(loaded, "a@elsewhere.example") == [("elsewhere.example", "rsa", "rsa-sha256")]


@pytest.mark.parametrize("line", ["vip@example.org dkim(d=example.com)", "vip@example.org dkim(d=sub.example.org)"])
def test_a_map_that_could_never_align_is_an_error(load, write, line):
    write("senders.map", f"# head\n{line}\n")
    with pytest.raises(ConfigError, match=r"senders.map:2: d=.* does not align with a From of vip@example.org"):
        load(BASE + "keyfile KEYS/rsa.pem\nsender_map TMP/senders.map\n")


def test_a_repeated_map_key_counts_last_and_is_told(load, write):
    write("senders.map", "example.org dkim(s=one)\nExample.org dkim(s=two)\n")
    loaded = load(BASE + "keyfile KEYS/rsa.pem\nsender_map TMP/senders.map\n")
    assert signatures(loaded, "a@example.org") == [("example.org", "two", "rsa-sha256")]
    assert "senders.map:2: 'example.org' is given twice; this line is used" in loaded.warnings[0]


def test_what_is_logged_about_keys_holds_no_address(load, write, keys, tmp_path):
    shutil.copy(keys.path("rsa"), tmp_path / "postmaster@example.org.pem")
    signers = Signers(load(BASE + "signature dkim(key=TMP/$sender.pem)\n"))
    with pytest.raises(ValueError, match=r"conf:5: key file .*/\$sender\.pem: No such file") as error:
        signers.choose(Address("alice", "example.org"))
    assert "alice" not in str(error.value)


def test_keys_are_listed(tmp_path, keys):
    path = tmp_path / "own.conf"
    lines = [f"signature dkim(key={keys.path('rsa')})", f"signature dkim(s=ed,key={keys.path('ed')})"]
    path.write_text(BASE + "domain example.net\n" + "\n".join(lines))
    done = ran("--keys", f"--conf_file={path}")
    wanted = [f"{d} {s} {keys.path(s)}" for d in ("example.net", "example.org") for s in ("ed", "rsa")]
    assert (done.stdout.splitlines(), done.stderr) == (wanted, "")


def test_a_host_that_could_not_send_its_own_bounces_is_told(tmp_path, keys):
    path = tmp_path / "dkimproxy_out.conf"
    path.write_text(BASE + f"keyfile {keys.path('rsa')}\nhostname mail.example.net\n")
    done = ran("--check", f"--conf_file={path}")
    assert done.returncode == 0 and "warning: no signature is for mail.example.net" in done.stderr


def test_check(tmp_path, keys):
    path = tmp_path / "dkimproxy_out.conf"
    path.write_text(BASE + f"keyfile {keys.path('rsa')}\n")
    good = ran("--check", f"--conf_file={path}")
    assert (good.returncode, good.stdout) == (0, "configuration OK: example.org\n")
    path.write_text(BASE + "keyfile /none.pem\n")
    bad = ran("--check", f"--conf_file={path}")
    assert bad.returncode == 78 and "/none.pem: No such file" in bad.stderr
    path.write_text(BASE + f"keyfile {keys.path('rsa')}\nsenders {tmp_path}/none\n")
    bad = ran("--check", f"--conf_file={path}")
    assert bad.returncode == 78 and f"{path}:6: senders: {tmp_path}/none: No such file" in bad.stderr


def test_help_explains_every_key():
    text = ran("--help").stdout
    known = (*config._KEYS, *config._WITHOUT_EFFECT)
    assert [key for key in known if key not in text] == ["domainkeys_method"]
