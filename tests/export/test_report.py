"""The report beside an exported file."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from groupnorm.export.errors import ExportError
from groupnorm.export.gate.network import Check, Expected
from groupnorm.export.gate.norms import NormCheck
from groupnorm.export.report import ExportReport, read_report, report_path, write_report

ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(1, 2, 3), np.array([7]),
    *(np.array([1], dtype) for dtype in ("uint8", "int8", "int16", "int32", "bool", "float16")),
]  # fmt: skip
REPORT = ExportReport(
    runtime="onnxruntime", files={"a.onnx": "ab12"}, dtype="float32", form="pooled",
    refused_forms={}, dynamic=[0], prepared=[], ranges=[],
    checks=[
        Check("example", 0, 1e-7, 2e-7, 1.0, 1e-5), Check("far", 1, math.inf, math.nan, 1.0, 1e-5),
    ],
    norms=[NormCheck("1", "pooled", "worst", 0.5, 1e-7, 1e-6)], not_run=None, tolerance=None,
    operators={"Conv": 1}, delegates=None, nbytes=10, milliseconds={}, notes=[], versions={},
    environment={}, kept=[Expected("example", ARRAYS, [np.ones((2, 2))], [math.inf], [1e-5])],
)  # fmt: skip


def test_a_report_comes_back_as_it_was(tmp_path):
    path = tmp_path / "a.onnx"
    write_report(path, REPORT)
    found = read_report(path)
    assert found.checks[0] == REPORT.checks[0]
    assert found.checks[1].error == math.inf
    assert math.isnan(found.checks[1].pytorch)
    assert found.norms == REPORT.norms
    (kept,) = found.kept
    for one, other in zip(kept.inputs + kept.outputs, [*ARRAYS, np.ones((2, 2))], strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    assert replace(found, kept=[], checks=[]) == replace(REPORT, kept=[], checks=[])


def test_what_failed():
    assert REPORT.failed == [REPORT.checks[1]]
    wrong = NormCheck("1", "pooled", "worst", 0.5, 2e-6, 1e-6)
    assert replace(REPORT, norms=[wrong], checks=[]).failed == [wrong]


def edited(tmp_path, change):
    path = tmp_path / "a.onnx"
    write_report(path, REPORT)
    values = json.loads(report_path(path).read_text(encoding="utf-8"))
    change(values)
    report_path(path).write_text(json.dumps(values), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.pop("runtime"),
        lambda v: v.update(files=["a.onnx"]),
        lambda v: v.update(more=1),
        lambda v: v.update(checks=[{"name": "a"}]),
        lambda v: v["kept"][0]["inputs"][0].update(dtype="object"),
        lambda v: v["kept"][0]["inputs"][0].update(shape=[1, 2, 4]),
        lambda v: v["kept"][0]["inputs"][0].update(shape=[10**9, 10**9]),
        lambda v: v["kept"][0]["inputs"][0].update(shape=[-1, -6]),
        lambda v: v["kept"][0]["inputs"][0].update(zlib="AAAA"),
        lambda v: v["kept"][0]["inputs"][0].update(zlib=3),
        lambda v: v["kept"][0].update(allowed=[1.0, 2.0]),
        lambda v: v["kept"][0].update(pytorch=1.0),
    ],
)
def test_a_damaged_report_is_refused(tmp_path, change):
    with pytest.raises(ExportError, match="is damaged"):
        read_report(edited(tmp_path, change))


def test_a_report_of_another_version_is_refused(tmp_path):
    with pytest.raises(ExportError, match="another version"):
        read_report(edited(tmp_path, lambda v: v.update(format=1)))


def test_a_report_of_brackets_is_refused(tmp_path):
    report_path(tmp_path / "a.onnx").write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(ExportError, match="is damaged"):
        read_report(tmp_path / "a.onnx")
