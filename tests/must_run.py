"""Optional packages: where one has to be there, a skipped test of it fails."""

import pytest


def must_run(needed):
    """Two hooks for a conftest.py, `pytest_runtest_makereport` and `pytest_make_collect_report`.

    Args:
        needed: whether the test or module of a node id may not be skipped.
    """

    def failed(report, node, reason):
        if needed(node.nodeid) and report.skipped:
            report.outcome = "failed"
            report.longrepr = f"{node.nodeid} was skipped: {reason}"
        return report

    @pytest.hookimpl(wrapper=True)
    def of_test(item, call):
        report = yield
        return failed(report, item, call.excinfo and call.excinfo.value)

    @pytest.hookimpl(wrapper=True)
    def of_module(collector):  # as by importorskip
        report = yield
        return failed(report, collector, report.longrepr)

    return of_test, of_module
