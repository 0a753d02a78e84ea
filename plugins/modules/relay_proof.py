#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible module: send a message of each domain through the relay provider and check what comes back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: relay_proof
short_description: Send a message of each domain through the relay provider and check what comes back
version_added: "0.1.0"
description:
  - Submits one message for each domain, and one with the null sender, to C(mail-proof+TOKEN@DOMAIN). The rules of the
    role C(opensmtpd) send it through the signing proxy and the relay although the domain is local, and accept it on
    port 25 when it returns, if its token is at most an hour old.
  - Reads the verdict of the server's Rspamd, compares the message with the submitted one, and deletes it.
  - Needs C(smtpctl), C(journalctl), C(systemd-run) and C(rspamadm) on the host.
author: ["selfhosted.mail developers (!UNKNOWN)"]
options:
  hostname: {description: Name of the server and of its MX record., type: str, required: true}
  relay:
    description: Name of the relay provider. Empty with direct delivery, where nothing is sent.
    type: str
    required: true
  domains: {description: The mail domains., type: list, elements: str, required: true}
  unsigned_headers: {description: Header fields that are currently not signed., type: list, elements: str, default: []}
  patience: {description: Seconds to wait for the messages to return., type: int, default: 60}
extends_documentation_fragment: [ansible.builtin.action_common_attributes]
attributes:
  platform: {platforms: debian}
  check_mode: {support: full, details: Nothing is sent in check mode.}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Send a proof through the relay
  selfhosted.mail.relay_proof:
    hostname: mail.example.org
    relay: smtp.provider.example
    domains: [example.org]
"""

RETURN = r"""
findings:
  description:
    - Mappings with C(check), C(subject), C(status), C(required), C(text) and C(fix), as C(mail-status --json) has them.
  type: list
  elements: dict
  returned: always
"""

import email
import re
import secrets
import smtplib
import ssl
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.message import Message
from email.utils import formatdate
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.selfhosted.mail.plugins.module_utils.command import CommandFailed, run
from ansible_collections.selfhosted.mail.plugins.module_utils.finding import Finding, finding

# Records of the signing keys (RFC 6376 section 3.6.2.1), which the role dkimproxy writes. The others are "recommended".
RECORDS = Path("/etc/selfhosted-mail/records.d/dkimproxy")
SIGNING = re.compile(r"(?m)^(\S+)\._domainkey\.(\S+)\. .*\"$")
LOGIN = Path("/etc/selfhosted-mail/status-login")
TABLE = Path("/run/selfhosted-mail-proofs")
FOLDER = Path("/var/lib/selfhosted-mail/proof")
NULL = "null sender"
PUBLISH = "# publish {domain}.zone of mail_dns_output_dir"
PANEL = "# at {relay}: authenticate (verify) {domain}, with the DNS records that it names"
MESSAGE = """\
From: "Mail proof" <mail-proof@{domain}>
To: <{recipient}>
Subject: =?utf-8?q?Proof_=E2=9C=93_of_{domain}?=
Date: {date}
Message-ID: <{token}@{domain}>
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 7bit
Auto-Submitted: auto-generated

{domain} proves here that its signature survives the way through its
relay provider. The message is deleted when it is back.

https://{domain}/
"""
# Fields that are added in transit: RFC 5321 section 4.4, RFC 8601, RFC 8617.
TRACE = re.compile(r"received(-spf)?|return-path|delivered-to|dkim-signature|authentication-results|arc-.*|x-.*")
# Prints, separated by tabs: domain, priority and name of each MX record, or domain and error.
MX = """
local dns = require 'rspamd_dns'
for _, domain in ipairs({%s}) do
  local ok, found = dns.request({config = rspamd_config, session = rspamadm_session, type = 'mx', name = domain})
  if not ok then print(domain .. '\\t' .. found) end
  for _, mx in ipairs(ok and found or {}) do print(domain, mx.priority, mx.name) end
end
"""
# Amazon SES's reply to a second signature, which RFC 6376 section 4.2 allows. The text is not standardized (RFC 3463).
ONE_SIGNATURE = re.compile(r"(?i)(duplicate|multiple|more than one).*dkim-signature")
DELIVERY = re.compile(
    r'([0-9a-f]{16}) mta delivery .* to=<([^>]*)> .* relay="([^"]*)" .* result="(\w+)" stat="(.*)"$', re.M
)
# Removes a run's files and addresses after an hour, even if the run is killed.
# Has no dollar, backslash or semicolon, which systemd of Debian 12 would interpret.
FORGET = (
    "find {folder} -type f -regextype posix-extended -regex '.*/[.]?({tokens})[^/]*' -delete && "
    "sed -i -E '/[+]({tokens})0?@/d' {table} && smtpctl update table proofs"
)
HOUR = 3600  # seconds
SIGNER = "127."


@dataclass
class Proof:
    """A message in transit. ``subject``: of its finding; ``came``: the returned message, after ``seconds``."""

    subject: str
    domain: str
    came: Message | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        # Digits only, as OpenSMTPD ignores case.
        self.token = str(10**29 + secrets.randbelow(9 * 10**29))
        self.recipient = f"mail-proof+{self.token}@{self.domain}"
        # A bounce becomes a file, too, which is never read.
        self.sender = "" if self.subject == NULL else f"mail-proof+{self.token}0@{self.domain}"
        date = formatdate(localtime=True)
        self.text = MESSAGE.format(domain=self.domain, recipient=self.recipient, token=self.token, date=date)
        self.sent = email.message_from_string(self.text)

    def found(self, status: str, text: str, fix: str = "") -> Finding:
        return finding("proof", self.subject, status, text, fix, self.subject != NULL)


def elsewhere(domains: Iterable[str], hostname: str) -> dict[str, str]:
    """Map each domain whose mail does not come here to the reason. :raises CommandFailed: if the look-up fails."""
    names: dict[str, list[tuple[int, str]]] = {}
    found = {}
    for line in run(["rspamadm", "lua", "--exec", MX % ",".join(f"'{domain}'" for domain in domains)]).splitlines():
        domain, *words = line.split("\t")
        if len(words) == 2:
            names.setdefault(domain, []).append((int(words[0]), words[1].rstrip(".").lower()))
        else:
            found[domain] = f"the MX record cannot be looked up ({' '.join(words)})"
    for domain, records in names.items():
        best = sorted(name for priority, name in records if priority == min(records)[0])
        if hostname.lower() not in best:
            found[domain] = f"its MX record points to {' and '.join(best)}, not {hostname}"
    return found


def announce(proofs: Sequence[Proof]) -> None:
    """Make OpenSMTPD accept the proofs' addresses for an hour. :raises CommandFailed, OSError: if that fails."""
    tokens = "|".join(proof.token for proof in proofs)
    forget = ["sh", "-c", FORGET.format(folder=FOLDER, tokens=tokens, table=TABLE)]
    run(["systemd-run", "--quiet", "--collect", f"--on-active={HOUR}", "--timer-property=AccuracySec=1s", *forget])
    with TABLE.open("a") as table:
        table.writelines(f"{address}\n" for proof in proofs for address in (proof.recipient, proof.sender) if address)
    run(["smtpctl", "update", "table", "proofs"])


def hand_in(proofs: Iterable[Proof]) -> None:
    """Submit the proofs on port 587. :raises OSError, smtplib.SMTPException: if they are not accepted."""
    login, password = LOGIN.read_text().split()
    # Another check verifies the certificate.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with smtplib.SMTP("127.0.0.1", 587, "relay-proof", timeout=30) as session:
        session.starttls(context=context)
        session.login(login, password)
        for proof in proofs:
            session.sendmail(proof.sender, [proof.recipient], proof.text.replace("\n", "\r\n"))


@dataclass
class Fate:
    """A delivery in the journal: OpenSMTPD's result, the next hop's reply, the TLS version, the next hop."""

    result: str = ""
    reply: str = ""
    tls: str = ""
    hop: str = ""


def fates(begun: float) -> dict[str, Fate]:
    """Map each recipient to its last delivery attempt. :raises CommandFailed: if the journal cannot be read."""
    words = ["--unit=opensmtpd.service", f"--since=@{begun - HOUR:.0f}", "--output=cat", "--quiet", "--no-pager"]
    # journalctl exits with 1 if no line matches.
    lines = run(["sh", "-c", 'journalctl "$@" || [ $? = 1 ]', "sh", *words, "--grep= mta (delivery|tls) "])
    # The TLS line may be older: a session may have begun with another message.
    tls = dict(re.findall(r"(?m)^([0-9a-f]{16}) mta tls ciphers=(TLSv[\d.]+)", lines))
    return {
        to: Fate(result, reply, tls.get(session, ""), hop)
        for session, to, hop, result, reply in DELIVERY.findall(lines)
        if result == "PermFail" or not hop.startswith(SIGNER)
    }


def wait(proofs: Sequence[Proof], patience: float) -> dict[str, Fate]:
    """Wait until all proofs are back or refused; removes those that are still in the queue.

    :raises CommandFailed, OSError: if files, journal or queue cannot be read.
    """
    begun, now = time.time(), time.monotonic()
    until, looked, known = now + patience, now, fates(begun)
    while True:
        for proof in proofs:
            file = FOLDER / proof.token
            if proof.came is None and file.exists():
                proof.came, proof.seconds = email.message_from_bytes(file.read_bytes()), time.time() - begun
                file.unlink()
        now = time.monotonic()
        missing = [proof for proof in proofs if proof.came is None]
        if now - looked > 2 or not missing or now > until:
            known, looked = fates(begun), now
        if now > until or all(known.get(proof.recipient, Fate()).result == "PermFail" for proof in missing):
            break
        time.sleep(0.2)
    for row in run(["smtpctl", "show", "queue"]).splitlines() if missing else []:
        for proof in missing:
            if f"|{proof.recipient}|" in row:
                run(["smtpctl", "remove", row.partition("|")[0]])
                known.setdefault(proof.recipient, Fate("TempFail", row.rpartition("|")[2]))
    return known


def relaxed(message: Message, name: str) -> list[str]:
    """Values of a header field in relaxed canonicalization (RFC 6376 section 3.4.2)."""
    return [re.sub(r"\s+", " ", str(value)).strip() for value in message.get_all(name, [])]


def body(message: Message) -> list[str]:
    """Lines of a body without parts; like RFC 6376 section 3.4.4, it drops blanks and empty lines at the end."""
    return re.sub(r"[ \t]+\n", "\n", str(message.get_payload())).replace("\r", "").rstrip("\n").split("\n")


def results(message: Message, hostname: str) -> list[tuple[str, str, dict[str, str]]]:
    """Method, result and properties in this server's own Authentication-Results field (RFC 8601)."""
    for value in map(str, message.get_all("Authentication-Results", [])):
        server, _semicolon, rest = re.sub(r"\([^()]*\)", "", value).partition(";")
        if server.strip().lower() == hostname.lower():
            return [
                (method, result, dict(word.split("=", 1) for word in words if "=" in word))
                for part in rest.split(";")
                for first, *words in [part.split() or [""]]
                for method, _equals, result in [first.partition("=")]
            ]
    return []


def signed_fields(message: Message, domain: str, selectors: Iterable[str]) -> set[str]:
    """Lower-case field names in ``h=`` of our signature; empty without one."""
    for value in relaxed(message, "DKIM-Signature"):
        tags = {name.strip(): text for name, _equals, text in (tag.partition("=") for tag in value.split(";"))}
        if tags.get("d", "").strip().lower() == domain and tags.get("s", "").strip() in selectors:
            return set(tags.get("h", "").replace(" ", "").lower().split(":"))
    return set()


def judged(proof: Proof, fate: Fate, wanted: dict[str, Any]) -> Finding:
    """The finding about a proof, whether or not it came back."""
    relay = wanted["relay"]
    if proof.came is None:
        return not_back(proof, fate, "the signing proxy" if fate.hop.startswith(SIGNER) else relay, wanted["patience"])
    if proof.subject == NULL:
        return proof.found("ok", f"is accepted, and came back after {proof.seconds:.0f} s")
    came, domain = proof.came, proof.domain
    selectors = {selector for selector, of in wanted["signing"] if of.lower() == domain}
    said = results(came, wanted["hostname"])
    dkim = [(result, of.get("header.d", ""), of.get("header.s", "")) for method, result, of in said if method == "dkim"]
    ours = sorted((result for result, d, s in dkim if d.lower() == domain and s in selectors), key="pass".__ne__)
    own = {d for result, d, s in dkim if d and not (d.lower() == domain and s in selectors)}
    word = {method: result for method, result, _of in said if method in ("spf", "dmarc")}
    names = {name.lower() for name in [*proof.sent, *came] if not TRACE.fullmatch(name.lower())}
    changed = sorted(name for name in names if relaxed(proof.sent, name) != relaxed(came, name))
    new_body = body(proof.sent) != body(came)
    inbound = re.search(r"TLSv[\d.]+", relaxed(came, "Received")[0])
    text = f"came back after {proof.seconds:.0f} s, TLS {fate.tls[4:] or 'unknown'} out and "
    text += f"{inbound[0][4:] if inbound else 'none'} in: our signature {ours[0] if ours else 'none'}, "
    text += f"SPF {word.get('spf', 'none')}, DMARC {word.get('dmarc', 'none')}"
    text += f"; {relay} has changed {', '.join([*changed, *['the body'] * new_body])}" if changed or new_body else ""
    text += f"; {relay} adds a signature of its own ({', '.join(sorted(own))})" if own else ""
    breaking = sorted(set(changed) & signed_fields(came, domain, selectors))
    publish = PUBLISH.format(domain=domain)
    panel = PANEL.format(relay=relay, domain=domain)
    if not said:
        return proof.found("error", f"{text}; Rspamd did not scan it", "journalctl -u rspamd -n 50")
    if "from" in changed:
        return proof.found("error", f"{text}: From is now {' '.join(relaxed(came, 'From'))}", panel)
    if not ours:
        status = "warning" if word.get("dmarc") == "pass" else "error"
        return proof.found(status, f"{text}: our signature was removed", panel)
    if ours[0] == "temperror":
        return proof.found("unknown", f"{text}: the key could not be looked up")
    if ours[0] != "pass" and new_body:
        return proof.found("error", text, f"# at {relay}: switch off what changes messages (tracking, footers)")
    if ours[0] != "pass" and breaking:
        fields = sorted({*map(str.lower, wanted["unsigned_headers"]), *breaking})
        return proof.found("error", text, f"mail_relay_unsigned_headers: [{', '.join(fields)}]")
    if ours[0] != "pass":
        return proof.found("error", f"{text}: the key in DNS is different or missing", publish)
    if word.get("dmarc") != "pass" or word.get("spf") == "none":
        return proof.found("warning", text, publish)
    if word.get("spf") != "pass":
        address = re.search(r"\[(?:IPv6:)?([0-9a-fA-F.:]+)\]", relaxed(came, "Received")[0])
        kind = f"ip{6 if ':' in address[1] else 4}:{address[1]}" if address else "include:"
        return proof.found("warning", f"{text}: mail_relay_spf does not include {relay}", f"mail_relay_spf: {kind}")
    return proof.found("ok", text)


def not_back(proof: Proof, fate: Fate, relay: str, patience: int) -> Finding:
    if fate.result == "PermFail" and proof.subject == NULL:
        text = f"{relay} refuses it: {fate.reply}. Bounces, receipts and refusals of this server are lost"
        return proof.found("warning", text, f"# at {relay}: allow the null (blank) sender")
    if fate.result == "PermFail":
        one = ONE_SIGNATURE.search(fate.reply)
        fix = "dkimproxy_ed25519: false" if one else PANEL.format(relay=relay, domain=proof.domain)
        return proof.found("error", f"{relay} refuses it: {fate.reply}", fix)
    if fate.result == "Ok":
        text = f"{relay} accepted it ({fate.reply}), but it did not come back within {patience} s"
        return proof.found("unknown", text, f"-e mail_check_patience={max(600, 2 * patience)}")
    return proof.found("unknown", f"{relay} has not accepted it within {patience} s: {fate.reply or 'not tried yet'}")


def prove(wanted: dict[str, Any], check_mode: bool) -> list[Finding]:
    """Send the proofs and judge them. :raises CommandFailed, OSError, smtplib.SMTPException: if that is impossible."""
    domains = [domain.lower() for domain in wanted["domains"]]
    if not wanted["relay"]:
        text = "mail_relay_host is empty, so mail is sent directly and no test message is needed"
        return [finding("proof", "all", "ok", text, "", False)]
    if check_mode:
        return [finding("proof", "all", "unknown", "nothing is sent in check mode", "", False)]
    away = elsewhere(domains, wanted["hostname"])
    found = [
        finding("proof", domain, "unknown", f"nothing is sent: {text}", PUBLISH.format(domain=domain), False)
        for domain, text in away.items()
    ]
    proofs = [Proof(domain, domain) for domain in domains if domain not in away]
    if proofs:
        proofs.append(Proof(NULL, proofs[0].domain))
        wanted["signing"] = SIGNING.findall(RECORDS.read_text())
        announce(proofs)
        hand_in(proofs)
        known = wait(proofs, wanted["patience"])
        found += [judged(proof, known.get(proof.recipient, Fate()), wanted) for proof in proofs]
    return found


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "hostname": {"type": "str", "required": True},
            "relay": {"type": "str", "required": True},
            "domains": {"type": "list", "elements": "str", "required": True},
            "unsigned_headers": {"type": "list", "elements": "str", "default": []},
            "patience": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    try:
        findings = prove(module.params, module.check_mode)
    except (CommandFailed, OSError, ValueError, smtplib.SMTPException) as error:
        silent = isinstance(error, TimeoutError) or str(error).endswith("timed out")
        text, fix = f"this host cannot send a test message: {error}", "ansible-playbook -i inventory playbooks/site.yml"
        findings = [finding("proof", "all", "unknown" if silent else "error", text, fix)]
    module.exit_json(changed=False, findings=findings)


if __name__ == "__main__":
    main()
