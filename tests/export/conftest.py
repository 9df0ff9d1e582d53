"""Runtimes are optional: their tests are skipped where one is missing.

GROUPNORM_RUNTIME names one whose tests may not be skipped.
"""

import os

import pytest

NEEDED = os.environ.get("GROUPNORM_RUNTIME", "")


def _must_run(name):
    return NEEDED and NEEDED in name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A skipped test of the runtime fails."""
    report = yield
    if _must_run(item.nodeid) and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped: {call.excinfo.value}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """A skipped module of the runtime, as by importorskip, likewise."""
    report = yield
    if _must_run(collector.nodeid) and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped: {report.longrepr}"
    return report
