"""Skipped tests fail where they may not be skipped, and there alone."""

import pytest

CONFTEST = """
from tests.must_run import must_run

pytest_runtest_makereport, pytest_make_collect_report = must_run(
    lambda node: any(name in node for name in {needed})
)
"""
TESTS = """
import pytest

def test_there():
    pass

def test_skipped():
    pytest.skip("no device")

@pytest.mark.skipif(True, reason="no chip")
def test_marked():
    pass
"""
MODULE = """
import pytest

pytest.importorskip("a_module_that_is_not_there")
"""


@pytest.mark.parametrize(
    ("needed", "outcomes"),
    [
        ([], {"passed": 2, "skipped": 5}),
        (["one"], {"passed": 2, "failed": 1, "errors": 1, "skipped": 3}),
        (["one", "two"], {"passed": 2, "failed": 2, "errors": 2, "skipped": 1}),
    ],
    ids=["none", "one", "several"],
)
def test_what_is_needed_may_not_be_skipped(needed, outcomes, pytester):
    pytester.makeconftest(CONFTEST.format(needed=needed))
    pytester.makepyfile(test_one=TESTS, test_two=TESTS, test_three=MODULE)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(**outcomes)


def test_a_module_that_is_needed_may_not_be_skipped(pytester):
    pytester.makeconftest(CONFTEST.format(needed=["three"]))
    pytester.makepyfile(test_three=MODULE)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*test_three.py was skipped*could not import*"])
