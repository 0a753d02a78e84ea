# SPDX-License-Identifier: GPL-3.0-or-later
"""Bayes: training, statistics per account, and eviction when Redis is full; and a hung Rspamd."""

from __future__ import annotations

import random
import uuid
from typing import Any

from rspamd_host import REDIS, message, scan, wait_for

from testbed import containers

testinfra_hosts = ["docker://rspamd-debian12", "docker://rspamd-debian13"]
LEARN = "/run/rspamd/controller.sock"
WORDS = {
    "spam": ["pills", "casino", "cheap", "winner", "lottery", "prize", "money", "click", "offer", "bonus", "loan"],
    "ham": ["meeting", "report", "friday", "project", "team", "attached", "review", "budget", "minutes", "agenda"],
}


def text(kind: str, run: str) -> str:
    """A unique message, similar to the others of its kind and run, with words that are new to Rspamd."""
    body = " ".join(random.choice(WORDS[kind]) + run for _ in range(60))
    return message(body=f"{body}\n{uuid.uuid4()}\n").replace("Subject: hello", f"Subject: {kind}")


# Mailboxes' programs have the socket's group as a further one.
MEMBER = "setpriv --reuid=nobody --regid=nogroup --groups=_rspamd"


def teach(host: Any, kind: str, mail: str, who: str = MEMBER, account: str = "alice@our.test") -> str:
    """What rspamc prints."""
    done = host.run(f"printf %%s %s | {who} rspamc -d %s --connect %s learn_%s", mail, account, LEARN, kind)
    return str(done.stdout + done.stderr)


def bayes(host: Any, mail: str, recipient: str) -> float:
    """Its score, above 0 for spam."""
    symbols = scan(host, mail, Rcpt=recipient)["symbols"]
    return float(sum(symbols[name]["score"] for name in ("BAYES_SPAM", "BAYES_HAM") if name in symbols))


def test_who_has_the_sockets_group_teaches_and_a_twin_is_judged(host: Any) -> None:
    # From nothing, so that both kinds weigh the same.
    host.check_output(f"{REDIS} flushall")
    run = uuid.uuid4().hex[:6]
    assert bayes(host, text("spam", run), "alice@our.test") == 0
    for number in range(5):
        for kind in WORDS:
            said = teach(host, kind, text(kind, run))
            # Rspamd does not learn a message that it already classifies clearly.
            assert "success = true" in said or (number and "denied" in said), f"{kind}: {said}"
    for address in ("alice@our.test", "Alice+tag@our.test", "a@our.test"):
        # Rspamd answers the training request before Redis has all data.
        containers.wait_for(lambda address=address: bayes(host, text("spam", run), address) > 0, what="spam is known")
        containers.wait_for(lambda address=address: bayes(host, text("ham", run), address) <= 0, what="ham is known")
    # Not those of other accounts.
    assert bayes(host, text("spam", run), "bob@our.test") == 0
    # A message moved out of Junk changes the verdict on similar ones.
    before = bayes(host, text("spam", run), "alice@our.test")
    for _number in range(5):
        teach(host, "ham", text("spam", run))
    containers.wait_for(
        lambda: bayes(host, text("spam", run), "alice@our.test") < before, what="it is judged otherwise"
    )


def test_what_was_learned_wrongly_is_unlearned(host: Any) -> None:
    mail = text("spam", uuid.uuid4().hex[:6]) + f"{uuid.uuid4()} {uuid.uuid4()}\n"
    for kind in ("ham", "spam"):
        assert "success = true" in teach(host, kind, mail), kind


def test_others_do_not_teach(host: Any) -> None:
    mail = text("spam", uuid.uuid4().hex[:6])
    assert "success" not in teach(host, "spam", mail, "runuser -u nobody --")
    done = host.run(f"printf %%s %s | {MEMBER} rspamc --connect 127.0.0.1:11334 learn_spam", mail)
    assert "Unauthorized" in done.stdout


def test_full_redis_forgets_greylisting_before_bayes(host: Any) -> None:
    """Half as much again as the memory allows, of what lasts a day."""
    tokens = int(host.check_output(f"{REDIS} --scan --pattern 'RS*' | wc -l"))
    assert tokens > 100
    fill = "for i = 1, 200 do redis.call('SET', 'rgfull' .. ARGV[1] .. i, string.rep('x', 10000), 'EX', 86400) end"
    for number in range(100):
        host.check_output(f'{REDIS} eval "{fill}" 0 {number}_')
    used = host.check_output(f"{REDIS} info memory")
    assert int(used.partition("used_memory:")[2].split()[0]) < 140 * 1024**2
    assert int(host.check_output(f"{REDIS} dbsize").split()[-1]) < 100 * 200
    assert int(host.check_output(f"{REDIS} --scan --pattern 'RS*' | wc -l")) == tokens
    assert host.check_output(f"{REDIS} set rgone 1 ex 60") == "OK"
    host.check_output(f"{REDIS} --scan --pattern 'rgfull*' | xargs -n 500 {REDIS} unlink >/dev/null")
    host.check_output(f"{REDIS} bgrewriteaof")
    wait_for(host, f"{REDIS} info persistence | grep -q aof_rewrite_in_progress:0")
