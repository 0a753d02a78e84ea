# SPDX-License-Identifier: GPL-3.0-or-later
"""Real replies of providers, from documentation or published logs, and their classification.

Where a source has a reply of several lines, it is here as OpenSMTPD logs it: in one line, with the first code alone. A
reply to AUTH begins with OpenSMTPD's own "AUTH rejected: ". Sources are projects with the number of an issue, or pages.
"""

from __future__ import annotations

import pytest
from status.refusals import GRAVE, NULL_SENDER, kind

SES = "docs.aws.amazon.com/ses/latest/dg/troubleshoot-smtp.html"
SENDGRID = "twilio.com/docs/sendgrid/for-developers/sending-email/smtp-errors-and-troubleshooting"
EMAILIT = "emailit.com/docs/smtp/troubleshooting"
ORACLE = "docs.oracle.com/iaas/Content/Email/Concepts/troubleshooting.htm"
GOOGLE = "knowledge.workspace.google.com/admin/support/troubleshooting/gmail-smtp-errors-and-codes"
REPLIES = [
    # Class, reply, provider, source.
    ("login", "AUTH rejected: 535 Authentication Credentials Invalid", "SES", SES),
    ("login", "530 Authentication required", "SES", "Billionmail/BillionMail#156"),
    ("login", "AUTH rejected: 535 5.7.0 Mailgun is not loving your login or password", "Mailgun",
     "mailgun/documentation#132"),
    ("login", "421 Domain sandbox1.mailgun.org is not allowed to send: Please activate your Mailgun account. Check "
     "your inbox or log in to your control panel to resend the activation email.", "Mailgun",
     "Monstarrrr/rebutify#162"),
    ("login", "550 5.7.1 Relaying denied", "Mailgun", "n8n-io/n8n#13269"),
    ("login", "AUTH rejected: 535 5.7.0 Invalid login or password", "Brevo", "marcpope/borgbackupserver#16"),
    ("login", "502 5.7.0 Please authenticate first", "Brevo", "frappe/frappe#38806"),
    ("login", "AUTH rejected: 451 Authentication failed: Could not authenticate", "SendGrid", "sendgrid/docs#2191"),
    ("login", "550 Unauthenticated senders not allowed", "SendGrid", "sendgrid/docs#6473"),
    ("login", "550 that IP address is not allowed to send", "SMTP2GO", "gophish/gophish#1701"),
    ("login", "552 Your account has been suspended. Please contact us to reactivate", "SMTP2GO", "gophish/gophish#720"),
    ("login", "AUTH rejected: 535 5.7.8 Sorry. *** No authentication type succeeded", "SparkPost",
     "SparkPost/support-docs#190"),
    ("login", "AUTH rejected: 535 Incorrect authentication data", "Exim", "n8n-io/n8n#19390"),
    ("login", "AUTH rejected: 535 5.7.3 Authentication unsuccessful", "Microsoft 365",
     "Azure/Commercial-Marketplace-SaaS-Accelerator#777"),
    ("login", "421 Too many auth failures, try again later", "Oracle", ORACLE),
    ("unverified", "554 Message rejected: Email address is not verified. The following identities failed the check in "
     "region EU-WEST-1: alice@example.org", "SES", "repost.aws/knowledge-center/ses-554-400-message-rejected-error"),
    ("unverified", "550 From header sender domain not verified. On your Settings > Sender Domains page verify the "
     "sender domain to be allowed to send.", "SMTP2GO", "PHPMailer/PHPMailer#2683"),
    ("unverified", "550 The from address does not match a verified Sender Identity. Mail cannot be sent until this "
     "error is resolved. Visit https://sendgrid.com/docs/for-developers/sending-email/sender-identity/ to see the "
     "Sender Identity requirements", "SendGrid", "mbentley/docker-omada-controller#253"),
    ("unverified", "550 This domain is not associated with your account", "Plunk", "useplunk/plunk#164"),
    ("unverified", "530 From/Sender name is not valid", "Postal", "postalserver/postal#570"),
    ("unverified", "553 Relaying disallowed as test@example.com", "Zoho", "getgrav/grav-plugin-email#77"),
    ("unverified", "550 5.7.60 SMTP; Client does not have permissions to send as this sender [MW2.outlook.com]",
     "Microsoft 365", "swiftmailer/swiftmailer#1030"),
    ("unverified", "554 5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied; Failed to "
     "process message due to a permanent exception with message Cannot submit message.", "Microsoft 365",
     "MicrosoftDocs/OfficeDocs-Support#1187"),
    ("unverified", "550 5.5.0 Emetteur invalide. Invalid Sender. LPN104_415", "La Poste",
     "thunderbird/thunderbird-android#938"),
    ("quota", "454 Throttling failure: Daily message quota exceeded", "SES", SES),
    ("quota", "AUTH rejected: 451 Authentication failed: Maximum credits exceeded", "SendGrid", SENDGRID),
    ("quota", "452 4.5.3 Daily message limit exceeded", "Emailit", EMAILIT),
    ("quota", "455 Maximum messages sent per day reached : limit is 200", "Oracle", ORACLE),
    ("quota", "550 5.4.5 Daily user sending quota exceeded. o65sm25351206pga.71 - gsmtp", "Google",
     "gen-smtp/gen_smtp#140"),
    ("quota", "550 5.7.1 Daily SMTP relay limit exceeded for customer. For more information on SMTP relay sending "
     "limits please contact your administrator", "Google", "wazuh/wazuh#15825"),
    ("quota", "554 5.7.1 Reached address outgoing limits for ", "Migadu", "freescout-help-desk/freescout#4005"),
    ("quota", "550 5.4.6 <bob@example.com>: Recipient address rejected: Sender Hourly Quota Exceeded", "Neo",
     "support.neo.space/hc/en-us/articles/37327516188441"),
    ("quota", "550 5.4.6 Unusual sending activity detected. To unblock click here.", "Zoho", "cachethq/cachet#3052"),
    ("quota", "462 Daily send limit reached. Please try again tomorrow", "PolarisMail",
     "wiki.polarismail.com/display/Support/Common+Problems"),
    ("rate", "454 Throttling failure: Maximum sending rate exceeded.", "SES", SES),
    ("rate", "421 Too many concurrent SMTP connections", "SES", SES),
    ("rate", "452 4.4.5 Messages per second limit exceeded", "Emailit", EMAILIT),
    ("rate", "455 Maximum messages sent per minute reached : limit is 10", "Oracle", ORACLE),
    ("rate", "450 4.2.1 Peak SMTP relay limit exceeded for this customer.", "Google", GOOGLE),
    ("rate", "452 Too many recipients received this hour (throttled)", "SendGrid", SENDGRID),
    ("rate", "550 5.7.0 Requested action not taken: too many emails per second", "Mailtrap", "izmjs/izmjs#26"),
    ("rate", "550 Too many messages. Try again in 92 seconds.", "msndr",
     "client.cloud4u.com/index.php/knowledgebase/1041"),
    ("content", "554 Transaction failed: Duplicate header 'DKIM-Signature'.", "SES", "mailcow/mailcow-dockerized#1802"),
    ("content", "552 Message is too long.", "SES", SES),
    ("content", "550 5.7.1 Message rejected as spam by Content Filtering.", "Exchange", "swiftmailer/swiftmailer#1244"),
    ("content", "554 Transaction failed Reject due to policy restrictions.", "web.de",
     "bluetiger9/SmtpClient-for-Qt#133"),
    ("content", "550 5.7.26 Your email has been blocked because the sender is unauthenticated.", "Google",
     "hmailserver/hmailserver#491"),
    ("recipient", "552 5.2.2 <bob@example.com>: Recipient address rejected: User over quota", "web.de",
     "anonaddy/anonaddy#749"),
    ("recipient", "550 Requested action not taken: mailbox unavailable", "SendGrid", SENDGRID),
    ("recipient", "551 User does not exist", "SendGrid", SENDGRID),
    ("recipient", "450 4.1.1 <bob@example.com>: Recipient address rejected: unverified address", "Postfix",
     "postfix.org/ADDRESS_VERIFICATION_README.html"),
    ("temporary", "451 Temporary service failure", "SES", SES),
    ("temporary", "AUTH rejected: 454 Temporary authentication failure", "Emailit", EMAILIT),
    ("unknown", "BANNER rejected: 554 5.7.1 You are not allowed to connect.", "Exim", "mail-in-a-box/mailinabox#1194"),
    ("unknown", "503 Bad sequence of commands", "any", "RFC 5321 section 4.2.2"),
]  # fmt: skip


@pytest.mark.parametrize(("meant", "reply", "provider", "source"), REPLIES, ids=[row[1][:60] for row in REPLIES])
def test_replies_of_providers(meant: str, reply: str, provider: str, source: str) -> None:
    assert kind(reply, "alice@example.org") == meant, f"{provider}, {source}"


def test_the_table_is_what_was_promised() -> None:
    kinds = {row[0] for row in REPLIES}
    assert len(REPLIES) >= 30
    assert kinds >= {"login", "unverified", "quota", "rate", "content", "recipient", "unknown"}
    assert {name for name, grave in GRAVE.items() if grave.status == "error"} == {"login", "unverified", "quota"}


@pytest.mark.parametrize(
    ("meant", "reason"),
    [
        ("login", "AUTH not advertised"),
        ("login", "no supported AUTH method"),
        ("content", "message too large for peer"),
        ("connection", "IO Error: certificate verification failed: certificate has expired"),
        ("connection", "IO Error: name `smtp.provider.test' not present in server certificate"),
        ("connection", "IO Error: handshake failed: error:0A000126:SSL routines::unexpected eof while reading"),
        ("connection", "TLS required but not supported by remote host"),
        ("temporary", "STARTTLS rejected: 454 4.7.0 TLS not available"),
    ],
)
def test_words_of_opensmtpd(meant: str, reason: str) -> None:
    assert kind(reason, "-") == meant


@pytest.mark.parametrize(
    ("meant", "reply"),
    [
        # SMTP2GO (sefinek/Cloudflare-WAF-Expressions#9), SES (docker-mailserver#2403).
        (NULL_SENDER, "550 to send email from a blank sender, enable blank senders"),
        (NULL_SENDER, "501 Invalid MAIL FROM address provided"),
        ("recipient", "550 5.1.1 <bob@far.test>: Recipient address rejected: No such user here"),
        ("quota", "454 Throttling failure: Daily message quota exceeded"),
    ],
)
def test_the_null_sender(meant: str, reply: str) -> None:
    assert kind(reply, "") == meant
