"""The whole way: prepared, written, run, compared, and only then kept."""

import base64
import json
import os
import zlib
from pathlib import Path

import pytest
import torch
from torch import nn

from groupnorm import GroupNorm
from groupnorm.export import ExportError, read_report, save, saving, verify
from groupnorm.export.gate.isolated import ROUNDS
from groupnorm.export.gate.norms import EXAMPLE, ON, WORST
from groupnorm.export.report import report_path
from groupnorm.export.targets import TARGETS
from tests.export.installed import need, path_for
from tests.export.networks import convolutional, images, standardized

ROWS = [(to, dtype) for to, target in TARGETS.items() for dtype in target.forms]
DYNAMIC = {"any": (0, 2, 3), "positions": (2, 3)}


@pytest.mark.slow
@pytest.mark.parametrize("groups", [8, 32, 1, 64])
@pytest.mark.parametrize(("to", "dtype"), ROWS)
def test_every_row_of_the_table(to, dtype, groups, tmp_path):
    need(to)
    network = convolutional(groups, 64, offset=10.0)
    report = save(network, path_for(to, tmp_path), images(1, 3, 20, 24), to, dtype=dtype)
    check(report, to)


@pytest.mark.slow
@pytest.mark.parametrize("groups", [8, 32, 1, 64])
@pytest.mark.parametrize(("to", "dtype"), [r for r in ROWS if TARGETS[r[0]].dynamic != "nothing"])
def test_every_row_of_the_table_with_other_sizes(to, dtype, groups, tmp_path):
    need(to)
    network = convolutional(groups, 64, offset=10.0, activation="silu")
    axes = DYNAMIC[TARGETS[to].dynamic]
    report = save(
        network, path_for(to, tmp_path), images(1, 3, 20, 24), to, dtype=dtype, dynamic=axes
    )
    check(report, to)
    if report.not_run is None:
        assert report.checks[1].name.startswith("shape ")


def check(report, to):
    if to == "coreml":
        assert report.not_run == "Core ML does not run on this machine"
        assert not report.checks
        return
    assert report.not_run is None
    assert report.failed == []
    which = ON if report.dtype == "float32" else (EXAMPLE, WORST)
    assert sorted({(norm.name, norm.on) for norm in report.norms}) == [
        (name, on) for name in ("1", "4") for on in sorted(which)
    ]  # fmt: skip
    assert max(norm.ratio for norm in report.norms) > 10


def test_a_file_that_is_right_is_kept_with_its_report(tmp_path):
    need("onnxruntime")
    path = tmp_path / "network.onnx"
    report = save(convolutional(), path, images(1, 3, 16, 16), dynamic=(0, 2, 3))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "network.onnx", "network.onnx.report.json",
    ]  # fmt: skip
    assert report.failed == []
    assert report.form == "pooled"
    assert report.operators["ReduceMean"] == 6
    assert not {"GroupNormalization", "InstanceNormalization"} & set(report.operators)
    assert set(report.milliseconds) == {"runtime", "PyTorch"}
    assert report.nbytes == path.stat().st_size
    assert report.versions["onnxruntime"].startswith("1.32")
    again = read_report(path)
    assert [one.name for one in again.kept] == [one.name for one in report.checks]
    assert again.checks == report.checks
    assert again.norms == report.norms
    assert verify(path).failed == []


class Residual(nn.Module):
    """What ends a process in OpenVINO 2026.4 with its own group norm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), GroupNorm(8, 16), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), GroupNorm(8, 16))

    def forward(self, x):
        x = self.first(x)
        return torch.relu(self.second(x) + x)


@pytest.mark.slow
def test_a_runtime_that_crashes_is_not_met_in_this_process(tmp_path):
    need("openvino")
    report = save(Residual().eval(), tmp_path / "network.xml", images(1, 3, 16, 16), "openvino")
    assert report.failed == []
    if report.form != "plain":  # on processors where OpenVINO crashes
        assert "openvino ends the process (SIGSEGV)" in report.refused_forms["plain"]


class Draws(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


def test_a_network_that_draws_is_refused(tmp_path):
    need("onnxruntime")
    network = nn.Sequential(convolutional(), Draws()).eval()
    with pytest.raises(ExportError, match=r"other outputs each time|another output"):
        save(network, tmp_path / "network.onnx", images(1, 3, 8, 8))


class InPlace(nn.Module):
    """Writes into its input."""

    def __init__(self):
        super().__init__()
        self.inner = convolutional()

    def forward(self, x):
        return self.inner(x.mul_(2))


def test_the_example_is_left_as_it_is(tmp_path):
    need("onnxruntime")
    x = images(1, 3, 8, 8)
    before = x.clone()
    report = save(InPlace().eval(), tmp_path / "network.onnx", x)
    assert torch.equal(x, before)
    assert report.form == "instance"


def test_hooks_belong_to_the_network_and_not_to_its_norms(tmp_path):
    need("onnxruntime")
    network = convolutional()
    network[1].register_forward_hook(lambda _, __, y: 2 * y + 1)
    report = save(network, tmp_path / "network.onnx", images(1, 3, 8, 8))
    assert report.failed == []


def test_weights_of_another_file_are_not_overwritten(tmp_path):
    need("openvino")
    (tmp_path / "network.bin").write_bytes(b"another's")
    with pytest.raises(ExportError, match=r"network\.bin, where the weights go, .* another file"):
        save(convolutional(), tmp_path / "network.xml", images(1, 3, 8, 8), "openvino")
    assert (tmp_path / "network.bin").read_bytes() == b"another's"


@pytest.mark.slow
def test_the_time_of_pytorch_is_that_of_the_network_as_it_was_given(tmp_path):
    """Weights that are standardized in every call there are not in the file."""
    need("onnxruntime")
    calls = []
    network = standardized()
    network[0].register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    report = save(network, tmp_path / "network.onnx", images(1, 3, 16, 16))
    assert report.milliseconds["PyTorch"] > 0
    before = len(calls)
    saving._seconds(network, (images(1, 3, 16, 16),))
    assert len(calls) - before == ROUNDS


@pytest.mark.slow
def test_outputs_that_are_zero_but_for_rounding(tmp_path):
    """As means of what a norm gives; nothing can be off by a part of them."""
    need("onnxruntime")
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), GroupNorm(8, 8, affine=False), nn.AdaptiveAvgPool2d(1)
    ).eval()
    assert save(network, tmp_path / "network.onnx", images(1, 3, 16, 16)).failed == []


@pytest.mark.slow
def test_any_name_will_do(tmp_path):
    """The norms by themselves are written, too."""
    need("onnxruntime")
    path = tmp_path / "norms.onnx"
    report = save(convolutional(), path, images(1, 3, 8, 8))
    assert verify(path).checks == report.checks
    assert {norm.name for norm in report.norms} == {"1", "4"}


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("times", range(6))
def test_what_ends_a_save_leaves_what_was_there(tmp_path, monkeypatch, times, error):
    """Whichever of the moves is the last."""
    need("openvino")
    path, x = tmp_path / "network.xml", images(1, 3, 8, 8)
    save(convolutional(8), path, x, "openvino")
    before = sorted(one.name for one in tmp_path.iterdir())
    replace, moves = os.replace, []

    def interrupted(source, to):
        if Path(to).parent == tmp_path or Path(source).parent == tmp_path:
            moves.append(to)
            if len(moves) == times + 1:
                raise error
        replace(source, to)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises((error, ExportError)):
        save(convolutional(4), path, x, "openvino")
    monkeypatch.undo()
    assert len(moves) > times
    assert sorted(one.name for one in tmp_path.iterdir()) == before
    assert verify(path).failed == []


@pytest.mark.slow
def test_a_file_and_its_report_under_another_name(tmp_path):
    need("openvino")
    save(convolutional(), tmp_path / "network.xml", images(1, 3, 8, 8), "openvino")
    for ending in (".xml", ".bin", ".xml.report.json"):
        (tmp_path / f"network{ending}").rename(tmp_path / f"other{ending}")
    assert verify(tmp_path / "other.xml").failed == []
    (tmp_path / "other.bin").unlink()
    with pytest.raises(ExportError, match=r"other\.bin is missing"):
        verify(tmp_path / "other.xml")


def test_what_is_of_another_kind_is_not_replaced(tmp_path, monkeypatch):
    from groupnorm.export.runtimes import coreml

    monkeypatch.setattr(coreml, "versions", dict)
    path = tmp_path / "network.mlpackage"
    path.write_bytes(b"")
    with pytest.raises(ExportError, match=r"mlpackage is a file, which Core ML does not write"):
        save(convolutional(), path, images(1, 3, 8, 8), "coreml")
    assert path.read_bytes() == b""


@pytest.mark.slow
def test_a_half_network_far_from_its_rounding_says_so(tmp_path):
    need("onnxruntime")
    network, x = convolutional(4, 16, offset=1000.0), images(4, 3, 8, 8)
    report = save(network, tmp_path / "network.onnx", x, dtype="float16")
    assert any("Calibration images" in note for note in report.notes)
    report = save(network, tmp_path / "network.onnx", x, dtype="float16", calibration=x)
    assert not any("Calibration images" in note for note in report.notes)


@pytest.mark.slow
def test_another_form_is_tried_where_the_fastest_is_wrong(tmp_path):
    need("onnxruntime")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 1), GroupNorm(1, 16)).eval()
    report = save(network, tmp_path / "network.onnx", images(1, 3, 200, 200))
    assert report.form == "pooled"
    assert "try form=" in report.refused_forms["instance"]
    assert report.failed == []
    assert report.operators["ReduceMean"] == 3


def test_a_file_that_is_wrong_is_not_kept(tmp_path):
    need("onnxruntime")
    network = convolutional(16, offset=1000.0)
    with pytest.raises(ExportError, match=r"(?s)the network does:.*norm.*'plain'.*try form="):
        save(network, tmp_path / "network.onnx", images(1, 3, 16, 16), opset=21, tolerance=1e-4)
    assert list(tmp_path.iterdir()) == []


def test_the_operator_of_late_opsets_needs_a_tolerance(tmp_path):
    need("onnxruntime")
    network, path = convolutional(), tmp_path / "network.onnx"
    with pytest.raises(ExportError, match=r"opset=21 has the operator GroupNormalization"):
        save(network, path, images(1, 3, 16, 16), opset=21)
    report = save(network, path, images(1, 3, 16, 16), opset=21, tolerance=1e-3)
    assert report.operators["GroupNormalization"] == 2
    assert report.tolerance == 1e-3


def test_the_model_is_left_as_it_is(tmp_path):
    need("onnxruntime")
    network = standardized().to(memory_format=torch.channels_last)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    x = images(1, 3, 12, 12).to(memory_format=torch.channels_last)
    report = save(network, tmp_path / "network.onnx", x)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())
    assert type(network[0]).__name__ == "WSConv2d"
    assert report.operators["Conv"] == 1  # its weights are baked: nothing standardizes them
    assert report.operators["ReduceMean"] == 1  # the norm's


def test_several_inputs_and_outputs(tmp_path):
    need("onnxruntime")
    report = save(TwoInputs().eval(), tmp_path / "network.onnx",
                  (images(2, 3, 8, 8), images(2, 8, 8, 8, seed=1)), dynamic=(0,))  # fmt: skip
    assert report.failed == []


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = GroupNorm(4, 8, activation="relu")

    def forward(self, x, residual):
        y = self.norm(self.conv(x)) + residual
        return {"map": y, "mean": y.mean((2, 3))}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to": "tensorrt"}, "unknown runtime 'tensorrt'"),
        ({"path": "network.pt"}, r"a file for ONNX Runtime ends with .onnx, got .*network.pt"),
        ({"path": "nowhere/network.onnx"}, "the folder .*nowhere is not there"),
        ({"dtype": "bfloat16"}, "was run with float32, float16 here, got dtype='bfloat16'"),
        ({"dynamic": (1,)}, "axis 1 is that of the channels"),
        ({"dynamic": 0}, r"dynamic must be a tuple of axes, as \(0, 2, 3\), got 0"),
        ({"opset": 17}, "opset must be a whole number from 18 to 23, .*, got 17"),
        ({"example": ()}, "one for each argument, got none"),
        ({"form": "grouped"}, "unknown form 'grouped'; known: plain, instance, pooled"),
        ({"tolerance": -1.0}, "tolerance must be a number of at least 0, got -1.0"),
        ({"tolerance": True}, "tolerance must be a number of at least 0, got True"),
        ({"example": None}, "the example must be a tensor, .* got NoneType"),
        ({"example": torch.zeros(1, 3, 8, 8, device="meta")}, "the example must hold values"),
        ({"example": torch.eye(3).to_sparse()}, "the example must hold values in a dense tensor"),
        ({"path": f"{'n' * 245}.onnx"}, "cannot be written .File name too long"),
        (
            {"model": nn.Linear(30_000, 20_000, device="meta")},
            r"the weights have 2\.4 GB; one file for ONNX Runtime holds 2 GB",
        ),
        ({"example": torch.zeros(1, 3, 8, 8).half()}, "give the example in float32, got float16"),
        ({"example": torch.zeros(1, 4, 8, 8)}, "does not run on inputs of shape .*expected input"),
        ({"example": torch.zeros(3)}, "does not run on inputs of shape .*Expected"),
        ({"model": convolutional().train()}, "training mode"),
    ],
)
def test_what_is_refused(arguments, message, tmp_path):
    need("onnxruntime")
    given = {"model": convolutional(), "path": "network.onnx", "example": images(1, 3, 8, 8)}
    given |= arguments
    model, path, example = (given.pop(key) for key in ("model", "path", "example"))
    with pytest.raises(ExportError, match=message):
        save(model, tmp_path / path, example, **given)
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch):
    from groupnorm.export.runtimes import onnxruntime

    monkeypatch.setattr(onnxruntime, "TESTED", {"not-a-package": ("1",)})
    with pytest.raises(ExportError, match=r"pip install 'groupnorm\[export\]'"):
        save(convolutional(), tmp_path / "network.onnx", images(1, 3, 8, 8))


def test_a_version_that_was_never_tested_is_refused(tmp_path, monkeypatch):
    from groupnorm.export.runtimes import onnxruntime

    monkeypatch.setattr(onnxruntime, "TESTED", {"torch": ("1.0",)})
    with pytest.raises(ExportError, match=r"torch 2\..* was never tested .*; tested: torch 1.0"):
        save(convolutional(), tmp_path / "network.onnx", images(1, 3, 8, 8))


def test_a_damaged_report_is_refused(tmp_path):
    path = tmp_path / "network.onnx"
    path.write_bytes(b"")
    with pytest.raises(ExportError, match="has no report"):
        verify(path)
    for text in ("{", "[]", json.dumps({"format": 1}), json.dumps({"format": 9})):
        report_path(path).write_text(text, encoding="utf-8")
        with pytest.raises(ExportError, match=r"is damaged|another version"):
            verify(path)


@pytest.mark.slow
def test_a_file_that_changed_is_found(tmp_path):
    need("onnxruntime")
    path = tmp_path / "network.onnx"
    save(convolutional(), path, images(1, 3, 16, 16))
    other = tmp_path / "other.onnx"
    save(convolutional(4), other, images(1, 3, 16, 16))
    path.write_bytes(other.read_bytes())
    with pytest.raises(ExportError, match=r"network\.onnx was changed, or the report beside it"):
        verify(path)
    save(convolutional(4), path, images(1, 3, 16, 16))
    report = json.loads(report_path(path).read_text(encoding="utf-8"))
    wrong = read_report(path).kept[0].outputs[0] + 1
    report["kept"][0]["outputs"][0]["zlib"] = packed(wrong)
    report_path(path).write_text(json.dumps(report), encoding="utf-8")
    with pytest.raises(ExportError, match="does not compute what the network"):
        verify(path)


def packed(values):
    return base64.b64encode(zlib.compress(values.tobytes())).decode("ascii")


def test_importing_the_package_loads_no_runtime():
    import subprocess
    import sys

    code = (
        "import sys, groupnorm.export.saving\n"
        "print([n for n in ('onnx', 'onnxruntime', 'openvino', 'ncnn', 'pnnx', 'coremltools',"
        " 'executorch', 'litert_torch', 'ai_edge_litert')"
        " if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, encoding="utf-8"
    )
    assert done.stdout.strip() == "[]"
