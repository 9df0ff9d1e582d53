"""Other frameworks are optional: their tests are skipped where one is missing.

`KERAS_BACKEND` says which backend Keras has in this process, TensorFlow if it is not set. With
`GROUPNORM_ALL_FRAMEWORKS` a skipped test is an error: nothing may be missing then.
"""

import os

import pytest

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A skipped test fails where everything has to run."""
    report = yield
    if os.environ.get("GROUPNORM_ALL_FRAMEWORKS") and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped: {call.excinfo.value}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """A skipped module, as by importorskip, likewise."""
    report = yield
    if os.environ.get("GROUPNORM_ALL_FRAMEWORKS") and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped: {report.longrepr}"
    return report
