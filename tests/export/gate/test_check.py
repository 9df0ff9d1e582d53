"""The gate from end to end: wrong files are not kept, and right ones are."""

import copy

import pytest
import torch
from torch import nn

from groupnorm import GroupNorm
from groupnorm.export import ExportError, save, verify
from groupnorm.export.gate.norms import ON
from groupnorm.export.targets import TARGETS, runtime_of
from groupnorm.ops.group_norm import group_norm
from tests.export.installed import need, path_for
from tests.export.networks import convolutional, images

RUNTIMES = [to for to in TARGETS if to != "coreml"]


# ---- Wrong files ---------------------------------------------------------------------------------


def with_wrong_eps(monkeypatch, to, which=None):
    """Let a runtime write each norm, or one, with an eps ten times as large."""
    runtime = runtime_of(to)
    write = runtime.write

    def wrong(network, example, path, **options):
        network = copy.deepcopy(network)
        for name, module in network.named_modules():
            if isinstance(module, nn.GroupNorm) and which in (None, name):
                module.eps *= 10
        write(network, example, path, **options)

    monkeypatch.setattr(runtime, "write", wrong)


HEADS = {
    "no head": [],
    "probabilities": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 100), nn.Softmax(1)],
}


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("to", RUNTIMES)
def test_an_eps_off_by_ten_is_not_kept(to, head, tmp_path, monkeypatch):
    need(to)
    torch.manual_seed(0)
    network = nn.Sequential(convolutional(), *HEADS[head]).eval()
    path, x = path_for(to, tmp_path), images(1, 3, 16, 16)
    save(network, path, x, to)
    for file in tmp_path.iterdir():
        file.unlink()
    with_wrong_eps(monkeypatch, to)
    with pytest.raises(
        ExportError, match=r"(?s)does not compute what the network does:.*norm 0\.1"
    ):
        save(network, path, x, to)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_eps_off_by_ten_is_seen_in_probabilities(tmp_path, monkeypatch):
    """1e-5 absolute is more than it changes in a hundred of them."""
    need("onnxruntime")
    torch.manual_seed(0)
    network = nn.Sequential(convolutional(), *HEADS["probabilities"]).eval()
    with_wrong_eps(monkeypatch, "onnxruntime", "0.1")  # its norms by themselves have other names
    with pytest.raises(ExportError, match=r"example: error .*e-0[5-9], allowed") as caught:
        save(network, tmp_path / "network.onnx", images(1, 3, 16, 16))
    assert "norm 0.1" not in str(caught.value)


@pytest.mark.slow
def test_an_eps_off_by_ten_is_seen_behind_large_values(tmp_path, monkeypatch):
    """As of pixels from 0 to 255: the network hides it, its norms by themselves do not."""
    need("onnxruntime")
    pixels = 255 * torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    network = convolutional(offset=0.0)
    with torch.no_grad():
        network[3].weight *= 100
        network[3].bias *= 100
    with_wrong_eps(monkeypatch, "onnxruntime")
    with pytest.raises(ExportError) as caught:
        save(network, tmp_path / "network.onnx", pixels)
    assert "norm 1, small" in str(caught.value)
    assert "example: error" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["executorch", "executorch-portable"])
def test_executorchs_own_operator_is_not_kept(to, tmp_path):
    need(to)
    network, path = convolutional(8, offset=10.0), path_for(to, tmp_path)
    with pytest.raises(ExportError, match=r"(?s)norm 1, .*'plain'.*try form="):
        save(network, path, images(1, 3, 16, 16), to, form="plain")
    assert list(tmp_path.iterdir()) == []
    assert save(network, path, images(1, 3, 16, 16), to).failed == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [112, 127])
def test_maps_that_are_large_and_may_change_are_right_in_executorch(size, tmp_path):
    """XNNPACK adds up one position after the other."""
    need("executorch")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), GroupNorm(4, 8)).eval()
    report = save(
        network, tmp_path / "network.pte", images(1, 3, size, size), "executorch",
        dynamic=(0, 2, 3),
    )  # fmt: skip
    assert report.delegates == 1
    with pytest.raises(ExportError, match=r"shape 2 x 3 x \d+ x \d+: error"):
        save(
            network, tmp_path / "network.pte", images(1, 3, size, size), "executorch",
            dynamic=(0, 2, 3), form="pooled",
        )  # fmt: skip


# ---- Networks whose code asks for sizes or values ------------------------------------------------


class Branches(nn.Module):
    """Does something else where a condition of its input does not hold."""

    def __init__(self, condition):
        super().__init__()
        self.inner, self.condition = convolutional(), condition

    def forward(self, x):
        y = self.inner(x)
        return y if self.condition(x) else 2 * y


SIZES = {
    "even": lambda x: x.shape[-1] % 2 == 0,
    "at most 32": lambda x: x.shape[-1] <= 32,
    "at most 1000": lambda x: x.shape[-1] <= 1000,
    "square": lambda x: x.shape[2] == x.shape[3],
    "even batch": lambda x: x.shape[0] % 2 == 0,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("to", ["onnxruntime", "openvino", "ncnn"])
def test_a_file_that_is_right_for_some_sizes_alone_is_not_kept(to, name, tmp_path):
    need(to)
    dynamic = (2, 3) if to == "ncnn" else (0, 2, 3)
    if to == "ncnn" and name == "even batch":
        pytest.skip("ncnn's files have no batch")
    network, x = Branches(SIZES[name]).eval(), images(2 if dynamic[0] == 0 else 1, 3, 16, 16)
    with pytest.raises(ExportError):
        save(network, path_for(to, tmp_path), x, to, dynamic=dynamic)
    assert list(tmp_path.iterdir()) == []
    assert save(network, path_for(to, tmp_path), x, to).failed == []


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnxruntime", "openvino", "ncnn"])
def test_a_network_whose_code_asks_for_values_is_refused(to, tmp_path):
    """A trace, which pnnx reads, would hold for the example's alone."""
    need(to)
    network = Branches(lambda x: float(x.mean()) > -5).eval()
    with pytest.raises(ExportError, match=r"torch\.export cannot trace the network"):
        save(network, path_for(to, tmp_path), images(1, 3, 16, 16), to)


class Multiples(nn.Module):
    """Takes even sizes, as a U-Net does."""

    def __init__(self):
        super().__init__()
        self.inner = convolutional()

    def forward(self, x):
        half = nn.functional.avg_pool2d(x, 2)
        return self.inner(x + nn.functional.interpolate(half, scale_factor=2.0))


@pytest.mark.slow
def test_sizes_that_the_network_does_not_take_are_noted(tmp_path):
    need("onnxruntime")
    report = save(
        Multiples().eval(), tmp_path / "network.onnx", images(1, 3, 16, 16), dynamic=(2, 3)
    )
    assert "shape 1 x 3 x 32 x 32" in [one.name for one in report.checks]
    (note,) = left_out(report)
    assert note.startswith("shape 1 x 3 x 17 x 19 was not compared: the network does not run on")


# ---- Networks that noise is not for --------------------------------------------------------------


class Logarithm(nn.Module):
    """Takes positive numbers."""

    def __init__(self):
        super().__init__()
        self.inner = convolutional()

    def forward(self, x):
        return self.inner(torch.log(x))


def left_out(report):
    return [note for note in report.notes if "was not compared" in note]


@pytest.mark.slow
def test_a_network_for_positive_numbers(tmp_path):
    need("onnxruntime")
    x = images(1, 3, 16, 16).abs() + 0.1
    report = save(Logarithm().eval(), tmp_path / "network.onnx", x, dynamic=(0, 2, 3))
    assert [one.name for one in report.checks] == [
        "example", "shape 2 x 3 x 32 x 32", "shape 2 x 3 x 17 x 19", "offset 10", "offset 100",
        "offset 1,000",
    ]  # fmt: skip
    (note,) = left_out(report)
    assert note.startswith("offset 0 was not compared: offset 0: output of the network is not")
    assert len(verify(tmp_path / "network.onnx").checks) == 6


@pytest.mark.slow
def test_pixels_from_0_to_255_in_float16(tmp_path):
    need("onnxruntime")
    pixels = torch.randint(256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0)).float()
    report = save(
        convolutional(), tmp_path / "network.onnx", pixels, dtype="float16", calibration=pixels
    )
    assert report.checks[0].name == "example"
    assert any(
        note == "offset 1,000 was not compared: torch.float16 has no such numbers"
        for note in left_out(report)
    )


class Overflows(nn.Module):
    """Leaves float16 where its input is large."""

    def __init__(self):
        super().__init__()
        self.inner = convolutional()

    def forward(self, x):
        return self.inner((x * 500) / 500)


@pytest.mark.slow
def test_noise_on_which_pytorchs_half_network_is_not_finite(tmp_path):
    need("onnxruntime")
    report = save(Overflows().eval(), tmp_path / "network.onnx", images(1, 3, 16, 16),
                  dtype="float16")  # fmt: skip
    (note,) = left_out(report)
    assert note.startswith("offset 1,000 was not compared: PyTorch's own network in torch.float16")
    assert "offset 100" in [one.name for one in report.checks]


class Steps(nn.Module):
    """Gives something else in float64."""

    def __init__(self):
        super().__init__()
        self.inner = convolutional()

    def forward(self, x):
        return self.inner(x if x.dtype == torch.float32 else x / 255)


class Rounds(nn.Module):
    """Loses digits on the way."""

    def __init__(self):
        super().__init__()
        self.inner = convolutional()

    def forward(self, x):
        return self.inner(x.half().float())


def test_a_network_that_is_another_one_in_float64_is_refused(tmp_path):
    need("onnxruntime")
    with pytest.raises(ExportError, match=r"off from itself in float64 where its largest output"):
        save(Steps().eval(), tmp_path / "network.onnx", images(1, 3, 8, 8))


@pytest.mark.slow
def test_one_that_loses_digits_is_noted(tmp_path):
    need("onnxruntime")
    report = save(Rounds().eval(), tmp_path / "network.onnx", images(1, 3, 8, 8))
    assert any("much for float32: four times that is allowed" in note for note in report.notes)


@pytest.mark.slow
def test_outputs_that_tell_little_are_noted(tmp_path):
    need("onnxruntime")
    network = nn.Sequential(convolutional(), nn.Hardtanh(-1e6, -1e5)).eval()
    report = save(network, tmp_path / "network.onnx", images(1, 3, 8, 8))
    (note,) = (one for one in report.notes if one.startswith("output 0"))
    assert "between -100000 and -100000 on all inputs" in note


def test_layers_in_training_mode_are_named(tmp_path):
    need("onnxruntime")
    network = nn.Sequential(convolutional(), nn.Dropout())
    network[1].train()
    report = save(network, tmp_path / "network.onnx", images(1, 3, 8, 8))
    assert any(
        "now in evaluation mode: the network, 1" in row["detail"]
        or "now in evaluation mode: 1" in row["detail"]
        for row in report.prepared
    )


class NotANumber(nn.Module):
    def forward(self, x):
        return x / (x - x)


def test_a_network_that_gives_nan_is_said_to(tmp_path):
    need("onnxruntime")
    with pytest.raises(ExportError, match=r"^example: output of the network is not finite"):
        save(NotANumber(), tmp_path / "network.onnx", images(1, 3, 8, 8))


# ---- Inputs and calls ----------------------------------------------------------------------------


class Pixels(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = convolutional()

    def forward(self, x):
        return self.inner(x.float() / 255)


def test_a_network_of_bytes(tmp_path):
    need("onnxruntime")
    x = torch.randint(256, (1, 3, 8, 8), dtype=torch.uint8)
    report = save(Pixels().eval(), tmp_path / "network.onnx", x)
    assert verify(tmp_path / "network.onnx").checks == report.checks
    assert left_out(report) == ["noise was not compared: the inputs are whole numbers"]


class ByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 1), GroupNorm(4, 8)

    def forward(self, x):
        return self.norm(input=self.conv(x))


def test_norms_that_are_called_by_keyword_are_checked(tmp_path):
    need("onnxruntime")
    report = save(ByKeyword().eval(), tmp_path / "network.onnx", images(1, 3, 8, 8))
    assert [(one.name, one.on) for one in report.norms] == [("norm", on) for on in ON]


class Called(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x):
        return group_norm(self.conv(x), 4)


def test_group_norms_that_are_called_as_functions_are_noted(tmp_path):
    need("onnxruntime")
    report = save(Called().eval(), tmp_path / "network.onnx", images(1, 3, 8, 8), tolerance=1e-3)
    assert report.norms == []
    (note,) = (one for one in report.notes if "keeps its own norms" in one)
    assert "the network: calls group norm as a function 1 time" in note


def test_training_mode_is_said_before_the_network_runs(tmp_path):
    """Batch norm of one image would say something else."""
    need("onnxruntime")
    network = nn.Sequential(nn.Conv2d(3, 8, 8), nn.BatchNorm2d(8), nn.Flatten())
    with pytest.raises(
        ExportError, match=r"1 \(BatchNorm2d\) is in training mode; call model\.eval"
    ):
        save(network, tmp_path / "network.onnx", images(1, 3, 8, 8))


# ---- Runtimes that crash -------------------------------------------------------------------------

CRASHING = """
import os, signal
from groupnorm.export.runtimes.onnxruntime import describe, versions, write
from groupnorm.export.runtimes.onnxruntime import load as whole

def load(path):
    inner = whole(path)

    def run(inputs):
        if len(inputs[0]) == 2:
            os.kill(os.getpid(), signal.SIGSEGV)
        return inner(inputs)
    return run
"""


@pytest.mark.slow
def test_a_runtime_that_crashes_on_another_size_is_an_error(tmp_path, monkeypatch):
    need("onnxruntime")
    from groupnorm.export import saving
    from groupnorm.export.gate import check

    (tmp_path / "crashing.py").write_text(CRASHING, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import crashing

    for module in (check, saving):
        monkeypatch.setattr(module, "runtime_of", lambda to: crashing)
    save(convolutional(), tmp_path / "network.onnx", images(1, 3, 8, 8))
    with pytest.raises(ExportError, match=r"crashing ends the process \(SIGSEGV\)"):
        save(convolutional(), tmp_path / "other.onnx", images(1, 3, 8, 8), dynamic=(0,))


# ---- The gate lets through what is as right as PyTorch -------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("to", ["openvino", "ncnn"])
def test_a_norm_of_pytorch_may_be_as_far_off_as_pytorchs(to, tmp_path):
    """Far from zero PyTorch's operator is 100 times as far off as this package's."""
    need(to)
    norm, x = nn.GroupNorm(8, 64).eval(), images(1, 64, 28, 28)
    report = save(norm, path_for(to, tmp_path), x, to)
    assert report.form == "plain"
