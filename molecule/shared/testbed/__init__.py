# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests see of the test bed from outside: SMTP, IMAP, DNS, the relay provider, containers.

The tests run on the Docker host: to the containers they come from 198.51.100.1, peer.world.test.
"""
