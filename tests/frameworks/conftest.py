"""Other frameworks are optional: their tests are skipped where one is missing.

`KERAS_BACKEND` says which backend Keras has in this process, TensorFlow if it is not set. With
`GROUPNORM_ALL_FRAMEWORKS` a skipped test is an error: nothing may be missing then.
"""

import contextlib
import os
from pathlib import Path

import pytest

from tests.must_run import must_run

with contextlib.suppress(ImportError):
    import triton  # noqa: F401  # after TensorFlow its import ends the process: each has an LLVM

NOTHING_MISSING = os.environ.get("GROUPNORM_ALL_FRAMEWORKS", "0") not in ("", "0")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def pytest_collection_modifyitems(items):
    """Keras turns variables to arrays in a way that numpy warns of."""
    warning = "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
    for item in items:
        if Path(__file__).parent in item.path.parents:  # the hook gets those of all folders
            item.add_marker(pytest.mark.filterwarnings(warning))


pytest_runtest_makereport, pytest_make_collect_report = must_run(lambda node: NOTHING_MISSING)
