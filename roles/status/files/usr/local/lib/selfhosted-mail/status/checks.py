# SPDX-License-Identifier: GPL-3.0-or-later
"""All checks of this host."""

from __future__ import annotations

from functools import partial
from typing import Any

from . import dialogues, host, queue
from .finding import Answer, Check, run

OPENSMTPD, DOVECOT, SIGNER = "opensmtpd.service", "dovecot.service", "dkimproxy.service"
RSPAMD, REDIS = "rspamd.service", "redis-server@rspamd.service"
CERTIFICATE = "/etc/selfhosted-mail/tls/fullchain.pem"


def look(config: dict[str, Any], state: dict[str, Any], patience: float) -> list[Answer]:
    """Run all checks. ``config``: status.json; ``state``: of the last run, updated; ``patience``: in seconds.

    Raises Failed if the login of the checks is missing.
    """
    server = dialogues.Server(config["hostname"], dialogues.password_in(config["login_file"]), {})
    judged = "filter-rspamd" in config["filters"]
    paths = ["/", "/var/spool/smtpd", config["mail_dir"], "/var/lib/redis", "/var/log"]
    found = [
        Check("smtp", "25", partial(dialogues.inbound, server=server, judged=judged), OPENSMTPD),
        Check("smtp", "465", partial(dialogues.submission, server=server, port=465), OPENSMTPD),
        Check("smtp", "587", partial(dialogues.submission, server=server, port=587), OPENSMTPD),
        Check(
            "filters",
            "OpenSMTPD",
            partial(host.filters, wanted=config["filters"]),
            fix=f"systemctl restart {OPENSMTPD}",
        ),
        Check("imap", "993", partial(dialogues.imap, server=server), DOVECOT),
        Check("managesieve", "4190", partial(dialogues.managesieve, server=server), DOVECOT),
        Check("lmtp", "mailboxes", partial(dialogues.lmtp, server=server), DOVECOT),
        Check("signer", "10027", partial(dialogues.signer, server=server, code=config["signer_refuses_with"]), SIGNER),
        Check("rspamd", "11333", dialogues.rspamd, RSPAMD),
        Check("redis", "Rspamd's", dialogues.redis, REDIS),
        Check("deliveries", "mailboxes", host.deliveries, OPENSMTPD),
        Check("queue", "waiting", queue.queue, OPENSMTPD, fix="smtpctl show queue"),
        Check("relay", config["relay"] or "MX hosts", partial(queue.relay, state=state, provider=config["relay"])),
        Check("disk", "all", partial(host.disk, paths=paths)),
        Check("passwords", "OpenSMTPD", host.passwords, required=False, fix="openssl passwd -6"),
        Check("memory", "host", host.memory, required=False),
        Check("clock", "host", host.clock, required=False, fix="apt-get install systemd-timesyncd"),
        Check("release", "Debian", host.release, required=False, fix=host.UPGRADE),
        Check("units", "all", partial(host.units, ours=config["units"])),
    ]
    if config["dns"]:
        found.append(
            Check("dns", "records", partial(host.dns, path=config["dns"]), required=False, fix=host.LOOK_AT_DNS)
        )
    if config["backup"]:
        found.append(Check("backup", "repository", host.backup, fix=host.BACK_UP))
    if config["resolver"]:
        address, port = config["resolver"]
        # Our own resolver knows this name even if it cannot reach other servers.
        name = "localhost" if config["resolver_unit"] else config["hostname"]
        ask = partial(dialogues.resolver, address=address, port=port, name=name)
        found.append(Check("resolver", address, ask, config["resolver_unit"]))
    answers = run(found, patience)
    served = partial(host.certificate, path=CERTIFICATE, served=server.certificates)
    fix = "systemctl start selfhosted-mail-certificate; journalctl -u selfhosted-mail-certificate -n 20"
    return answers + run([Check("certificate", "file", served, fix=fix)], patience)
