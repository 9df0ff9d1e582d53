"""Runtimes are optional: their tests are skipped where one is missing.

GROUPNORM_RUNTIME names those whose tests may not be skipped, with commas between.
"""

import os

from tests.must_run import must_run

NEEDED = [name for name in os.environ.get("GROUPNORM_RUNTIME", "").split(",") if name]

pytest_runtest_makereport, pytest_make_collect_report = must_run(
    lambda node: any(name in node for name in NEEDED)
)
