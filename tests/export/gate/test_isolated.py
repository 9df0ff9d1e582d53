"""Files run in a process of their own."""

import sys
from types import ModuleType

import numpy as np
import pytest

from groupnorm.export.errors import ExportError
from groupnorm.export.gate import isolated
from groupnorm.export.gate.isolated import run_isolated

RUNTIME = """
import os, signal, sys
from groupnorm.export.errors import ExportError

def load(path):
    if path.name == "silent":
        os._exit(0)
    if path.name == "damaged":
        raise ExportError("it is damaged")
    if path.name == "leaves":
        sys.exit("goodbye")

    def run(inputs):
        if path.name == "crashes" and len(inputs[0]) == 3:
            os.kill(os.getpid(), signal.SIGSEGV)
        if path.name == "refuses" and len(inputs[0]) == 3:
            raise ValueError("no")
        return [2 * inputs[0], inputs[1]]
    return run
"""
SETS = [[np.array([1.0, 2.0]), np.array([3])], [np.zeros(3), np.array([4])]]


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    (tmp_path / "made_up_runtime.py").write_text(RUNTIME, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = ModuleType("made_up_runtime")
    monkeypatch.setitem(sys.modules, "made_up_runtime", module)
    return module


def test_outputs_of_each_set_come_back(runtime, tmp_path):
    ran, other = run_isolated(runtime, (tmp_path / "runs", SETS), (tmp_path / "refuses", SETS))
    assert other.milliseconds is None  # the first one's alone is wanted
    assert [[y.tolist() for y in one] for one in ran.outputs] == [
        [[2.0, 4.0], [3]], [[0.0, 0.0, 0.0], [4]],
    ]  # fmt: skip
    assert ran.outputs[0][1].dtype == SETS[0][1].dtype
    assert 0 < ran.milliseconds < 1e3


def test_a_crash_on_any_set_is_an_error(runtime, tmp_path):
    with pytest.raises(ExportError, match=r"made_up_runtime ends the process \(SIGSEGV\) when it"):
        run_isolated(runtime, (tmp_path / "crashes", SETS))


def test_what_it_refuses_is_an_error_of_that_set_alone(runtime, tmp_path):
    (ran,) = run_isolated(runtime, (tmp_path / "refuses", SETS))
    first, second = ran.outputs
    assert first[0].tolist() == [2.0, 4.0]
    assert isinstance(second, ExportError)
    assert str(second) == "ValueError: no"


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("silent", ExportError, "^made_up_runtime ends the process, saying nothing$"),
        ("damaged", ExportError, "^it is damaged$"),
        ("leaves", ExportError, "^made_up_runtime ends the process, saying goodbye$"),
    ],
)
def test_what_it_cannot_load(runtime, tmp_path, name, kind, message):
    with pytest.raises(kind, match=message):
        run_isolated(runtime, (tmp_path / name, SETS))


def test_one_that_never_ends_is_stopped(runtime, tmp_path, monkeypatch):
    monkeypatch.setattr(isolated, "_SECONDS", 0.01)
    with pytest.raises(ExportError, match=r"made_up_runtime did not finish in 0\.03 s"):
        run_isolated(runtime, (tmp_path / "runs", SETS))


def test_files_of_the_current_folder_are_not_imported(runtime, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "numpy.py").write_text("raise SystemExit('it ran')", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "here")
    (ran,) = run_isolated(runtime, (tmp_path / "runs", SETS))
    assert ran.outputs[0][0].tolist() == [2.0, 4.0]
