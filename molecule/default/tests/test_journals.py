# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks the journals of both servers after all other tests."""

import pytest

from testbed.journals import test_no_errors as test_no_errors
from testbed.journals import test_no_failed_units as test_no_failed_units
from testbed.journals import test_no_tracebacks as test_no_tracebacks

pytestmark = pytest.mark.aftermath
