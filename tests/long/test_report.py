"""What came of the tests in a guest is read as it was, and a guest that cannot be is an error."""

from pathlib import Path

import pytest

from support.guest import Guest, Outcome, read_report
from support.guest_image import MissingError

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" tests="4">
<testcase classname="tests.long.guest.test_rules" name="test_a[4]" time="1.0" />
<testcase classname="tests.long.guest.test_rules" name="test_b"><failure message="assert 1 == 2">test_b.py:7</failure>
</testcase>
<testcase classname="tests.long.guest.test_split" name="test_c"><skipped type="pytest.skip" message="no" /></testcase>
<testcase classname="" name="tests.long.guest.test_gone"><error message="collection failure">ImportError</error>
</testcase>
</testsuite></testsuites>
"""


def test_a_report_tells_what_passed_failed_and_was_left_out() -> None:
    assert read_report(REPORT) == [
        Outcome("test_rules", "test_a[4]", "passed", ""),
        Outcome("test_rules", "test_b", "failed", "assert 1 == 2\ntest_b.py:7"),
        Outcome("test_split", "test_c", "skipped", "no"),
        Outcome("test_gone", "tests.long.guest.test_gone", "failed", "collection failure\nImportError"),
    ]


def test_a_report_that_ends_early_is_an_error() -> None:
    with pytest.raises(AssertionError, match="cannot be read"):
        read_report(REPORT[:200])


def test_a_kernel_that_has_not_been_fetched_is_an_error_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"kernel 4\.4 is not under .*: run make test-long"):
        Guest("4.4", tmp_path, [])
