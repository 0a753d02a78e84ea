# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests share: containers, the name server, a relay provider, clients of SMTP and IMAP, runs of playbooks.

The tests run on the Docker host, which the containers see as 198.51.100.1, peer.world.test.
"""
