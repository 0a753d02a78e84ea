# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests before these leave in the journals of both servers."""

import pytest

from testbed.journals import test_no_errors as test_no_errors
from testbed.journals import test_no_failed_units as test_no_failed_units
from testbed.journals import test_no_tracebacks as test_no_tracebacks

pytestmark = pytest.mark.aftermath
