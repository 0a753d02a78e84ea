# SPDX-License-Identifier: GPL-3.0-or-later
"""Rspamd through Debian's filter-rspamd, and what other users of the host can reach."""

from __future__ import annotations

import email
import json
import re
import uuid
from email.message import Message
from typing import Any

import pytest
from rspamd_host import OURS, PEER, REDIS, STRANGER, message, on_host, scan, wait_for

from testbed import containers, smtp

testinfra_hosts = ["docker://rspamd-debian12", "docker://rspamd-debian13"]


@pytest.fixture(name="filter_path", scope="module")
def fixture_filter_path(host: Any) -> str:
    """The release's own filter-rspamd, unpacked, not installed."""
    host.check_output("cd /tmp && apt-get download -qq opensmtpd-filter-rspamd")
    host.check_output("dpkg -x /tmp/opensmtpd-filter-rspamd_*.deb /opt")
    return "/opt/usr/libexec/opensmtpd/filter-rspamd"


def filtered(
    host: Any, path: str, text: str, client: tuple[str, str] = PEER, sender: str = "bob@world.test"
) -> tuple[str, Message]:
    """What the filter tells OpenSMTPD to answer, and the message that it hands back."""
    answer = json.loads(on_host(host, "smtp_session_to_filter.py", path, *client, sender, text))
    return answer["result"], email.message_from_string(answer["message"])


def let_in(
    host: Any, path: str, text: str, client: tuple[str, str], sender: str = "bob@world.test"
) -> tuple[str, Message]:
    """The result for a deferred message when its sender retries."""

    def taken() -> tuple[str, Message] | None:
        answer = filtered(host, path, text, client, sender)
        return None if answer[0].startswith("reject|451 ") else answer

    return containers.wait_for(taken, what="it is deferred no longer")


def test_clean_mail_gets_our_verdict_and_a_score_and_loses_forged_ones(host: Any, filter_path: str) -> None:
    forged = (
        f"Authentication-Results: {OURS};\n\tdkim=pass header.d=bank.test\n"
        f"authentication-RESULTS: {OURS}; dkim=pass header.d=bank.test\n"
        "x-spam-status: No, score=-100\n"
    )
    result, received = filtered(host, filter_path, message(more=forged, body="One\n.two\n\n.\nend\n"))
    assert result == "proceed"
    verdicts = received.get_all("Authentication-Results", [])
    assert len(verdicts) == 1
    assert verdicts[0].startswith(f"{OURS};")
    assert "dkim=none" in verdicts[0]
    assert "spf=pass" in verdicts[0]
    assert "dmarc=pass" in verdicts[0]
    assert "\r" not in verdicts[0]
    assert [re.match(r"-?[0-9.]+ / 15", score) is not None for score in received.get_all("X-Spam-Score", [])] == [True]
    assert [status[:3] for status in received.get_all("X-Spam-Status", [])] == ["No,"]
    assert "X-Spam" not in received
    assert "bank.test" not in received.as_string()
    assert received.get_payload() == "One\n.two\n\n.\nend\n"


def test_spam_is_marked_after_it_was_deferred_once(host: Any, filter_path: str) -> None:
    # A client without a reverse name, whose provider marked the message as spam.
    sender = f"{uuid.uuid4()}@nowhere.test"
    text = message(body=f"Buy {sender}\n", sender=sender, more="X-Spam-Flag: YES\nX-Spam: no\n")
    result, _same = filtered(host, filter_path, text, STRANGER, sender)
    assert result.startswith("reject|451 ")
    result, received = let_in(host, filter_path, text, STRANGER, sender)
    assert result == "proceed"
    assert received.get_all("X-Spam", []) == ["yes"]
    assert len(received.get_all("X-Spam-Score", [])) == 1
    assert [status[:4] for status in received.get_all("X-Spam-Status", [])] == ["Yes,"]
    assert "HFILTER_HOSTNAME_UNKNOWN" in received["X-Spam-Status"]
    assert "X-Spam-Flag" not in received
    assert len(received.get_all("Authentication-Results", [])) == 1


def test_the_worst_is_refused(host: Any, filter_path: str) -> None:
    result, _received = filtered(host, filter_path, message(body=f"{smtp.GTUBE}\nend\n"))
    assert result.startswith("reject|550 ")


@pytest.mark.parametrize("text", ["", "no header at all\n"])
def test_odd_messages_are_judged_too(host: Any, text: str) -> None:
    added = scan(host, text)["milter"]["add_headers"]
    assert added["Authentication-Results"]["value"].startswith(f"{OURS};")
    assert "\r" not in json.dumps(added).replace("\\r", "\r")


def test_peers_on_private_networks_are_not_left_out(host: Any, filter_path: str) -> None:
    text = message(body=f"From a private network, {uuid.uuid4()}\n")
    # SPF does not know them, which makes them doubtful at first.
    result, _same = filtered(host, filter_path, text, ("10.1.2.3", "lan.world.test"))
    assert result.startswith("reject|451 ")
    _result, received = let_in(host, filter_path, text, ("10.1.2.3", "lan.world.test"))
    assert "spf=fail" in received["Authentication-Results"]
    assert received["Authentication-Results"].startswith(f"{OURS};")
    assert "X-Spam-Score" in received


def test_nothing_is_signed(host: Any) -> None:
    # Where rspamd would find a key if its signer were on.
    key = "/var/lib/rspamd/dkim/world.test.dkim.key"
    host.check_output("mkdir -p /var/lib/rspamd/dkim")
    host.check_output("rspamadm dkim_keygen -d world.test -s dkim -k %s", key)
    host.check_output("chown -R _rspamd /var/lib/rspamd/dkim")
    try:
        answer = scan(host, message(), User="bob", Ip="127.0.0.1")
    finally:
        host.check_output("rm -r /var/lib/rspamd/dkim")
    assert "dkim-signature" not in answer
    assert "ARC-Seal" not in json.dumps(answer)
    assert "enabled = false;" in host.check_output("runuser -u _rspamd -- rspamadm configdump dkim_signing")


def test_only_loopback_is_listened_on(host: Any) -> None:
    lines = host.check_output("ss -Hltnp").splitlines()
    ours = {line.split()[3] for line in lines if '"rspamd"' in line or '"redis-server"' in line}
    assert ours == {"127.0.0.1:11333", "127.0.0.1:11334"}


def test_web_interface_wants_the_password_even_from_loopback(host: Any) -> None:
    # Without any, and with the one that the package has.
    for password in ("", "-P q1"):
        assert "Unauthorized" in host.run(f"rspamc {password} --connect 127.0.0.1:11334 stat").stdout
    assert host.run("rspamc --connect /run/rspamd/controller.sock stat").rc == 0
    assert "denied" in host.run("runuser -u nobody -- rspamc --connect /run/rspamd/controller.sock stat 2>&1").stdout


def test_controller_password_is_a_hash_in_a_closed_file(host: Any) -> None:
    for path in ("/etc/rspamd/controller_password.inc", "/etc/rspamd/local.d/worker-controller.inc"):
        file = host.file(path)
        assert (file.user, file.group, file.mode) == ("root", "_rspamd", 0o640)
    passwords = re.findall(r"password = .*", host.check_output("runuser -u _rspamd -- rspamadm configdump worker"))
    assert len(passwords) == 1
    assert re.fullmatch(r'password = "\$2\$[a-z0-9]+\$[a-z0-9]+";', passwords[0])


def test_redis_is_rspamds_alone(host: Any) -> None:
    assert host.check_output(f"runuser -u _rspamd -- {REDIS} ping") == "PONG"
    assert "denied" in host.run(f"runuser -u nobody -- {REDIS} ping 2>&1").stdout
    assert host.run("runuser -u nobody -- ls /var/lib/redis/rspamd").rc != 0
    assert not host.service("redis-server").is_running
    assert not host.service("redis-server").is_enabled


def test_redis_memory_is_bounded_and_learned_tokens_stay(host: Any) -> None:
    settings = host.check_output(f"{REDIS} config get maxmemory*").split()
    assert settings[settings.index("maxmemory") + 1] == str(128 * 1024**2)
    assert settings[settings.index("maxmemory-policy") + 1] == "volatile-ttl"


def test_history_is_kept_and_bounded(host: Any) -> None:
    scan(host, message())
    key = host.check_output(f"{REDIS} --scan --pattern 'rs_history*'").strip()
    containers.wait_for(lambda: 0 < int(host.check_output(f"{REDIS} llen {key}").split()[-1]) <= 200)
    assert "nrows = 200" in host.check_output("rspamadm configdump history_redis 2>/dev/null")


def test_journal_has_no_errors(host: Any) -> None:
    journal = host.check_output("journalctl -b --no-pager -o cat -u rspamd -u redis-server@rspamd")
    bad = [
        line
        for line in journal.splitlines()
        if re.search(r"\b(error|failed|invalid|denied|unknown)\b", line, re.IGNORECASE)
        and not re.search(
            # the test bed's cgroups, the words of symbols, Redis' advice on memory
            r"compat systemd cgroup|rspamd_task_write_log|overcommit",
            line,
        )
    ]
    assert bad == []


@pytest.mark.parametrize("end", ["systemctl restart redis-server@rspamd", "systemctl kill -s KILL redis-server@rspamd"])
def test_redis_comes_back_with_what_it_knew(host: Any, end: str) -> None:
    value = uuid.uuid4().hex
    written = f"until {REDIS} info persistence | grep -q '^aof_buffer_length:0'; do sleep 0.1; done"
    host.check_output(f"{REDIS} set test {value} && {written} && {end}")
    wait_for(host, f"{REDIS} ping | grep -q PONG")
    assert host.check_output(f"{REDIS} get test") == value
    assert scan(host, message())["action"] == "no action"


def test_a_reload_refuses_no_message(host: Any) -> None:
    answers = on_host(host, "scan_during_reload.py").split()
    assert len(answers) > 10
    assert set(answers) == {"200"}


def test_rspamd_comes_back_when_killed(host: Any) -> None:
    before = host.check_output("systemctl show -P MainPID rspamd")
    host.check_output("systemctl kill -s KILL rspamd")
    wait_for(host, f"systemctl is-active rspamd && [ $(systemctl show -P MainPID rspamd) != {before} ]")
    # Active means that it judges.
    assert scan(host, message())["action"] == "no action"


def test_it_starts_at_boot_after_its_redis(host: Any) -> None:
    assert host.service("rspamd").is_enabled
    shown = host.check_output("systemctl show -p After,Wants rspamd")
    assert shown.count("redis-server@rspamd.service") == 2


def test_no_third_party_is_asked(host: Any) -> None:
    body = "Look at http://shop.bank.test/login and mail me at someone@bank.test, " + "word " * 80 + "\n"
    text = message(body=body, more="Received: from a.bank.test (a.bank.test [198.51.100.77]) by peer.world.test\n")
    seen = json.loads(on_host(host, "outgoing_packets.py", text))
    assert seen["names"], "no packet was seen"
    strangers = [name for name in seen["names"] if not name.endswith((".test", "100.51.198.in-addr.arpa"))]
    assert not strangers
    assert set(seen["peers"]) == {"198.51.100.53"}
