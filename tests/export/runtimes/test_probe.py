"""The first run of a file, in a process of its own."""

import sys
from types import ModuleType

import numpy as np
import pytest

from groupnorm.export.errors import ExportError
from groupnorm.export.runtimes.probe import check_survives

RUNTIME = """
import os, signal

def load(path):
    def run(inputs):
        assert [x.tolist() for x in inputs] == [[1.0, 2.0], [3]]
        if path.name == "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        if path.name == "refuses":
            raise ValueError("no")
    return run
"""


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    (tmp_path / "made_up_runtime.py").write_text(RUNTIME, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = ModuleType("made_up_runtime")
    monkeypatch.setitem(sys.modules, "made_up_runtime", module)
    return module


def check(runtime, path):
    check_survives(runtime, [(path, [np.array([1.0, 2.0]), np.array([3])])])


def test_a_crash_is_an_error(runtime, tmp_path):
    with pytest.raises(ExportError, match=r"made_up_runtime ends the process \(SIGSEGV\) when it"):
        check(runtime, tmp_path / "crashes")


@pytest.mark.parametrize("name", ["runs", "refuses"])
def test_what_ends_by_itself_is_left_to_the_caller(runtime, tmp_path, name):
    check(runtime, tmp_path / name)
