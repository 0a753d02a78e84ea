# SPDX-License-Identifier: GPL-3.0-or-later
"""An administrator's own smtpd.conf that includes the role's file."""

import uuid

from testbed import containers, provider

RELAY = "smtp_relay-provider"
HOST = "smtp_relay-own"
testinfra_hosts = [f"docker://{HOST}"]


def test_the_file_is_as_he_wrote_it(host):
    assert host.file("/etc/smtpd.conf").content_string.startswith("# Mine.")
    assert not host.file("/etc/mailname").exists


def test_his_opensmtpd_may_do_what_it_likes(host):
    assert not host.file("/etc/systemd/system/opensmtpd.service.d/sandbox.conf").exists


def test_his_own_listener_sends_through_the_provider():
    marker = uuid.uuid4().hex
    program = (
        "import smtplib; smtplib.SMTP('127.0.0.1', 2525).sendmail"
        f"('app@own.satellite.test', 'carol@far.test', 'Subject: {marker}\\n\\n.')"
    )
    containers.run(HOST, "python3", "-c", program)
    kept = provider.wait_kept(RELAY, marker)
    assert kept.sender == "app@own.satellite.test"
    assert kept.auth_user.partition("@")[0] == "satellite"
    assert kept.tls.startswith("TLSv1.")
