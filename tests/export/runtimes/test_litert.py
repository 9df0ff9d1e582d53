import copy

import pytest
import torch
from torch import nn

from groupnorm.export import ExportError, prepare
from groupnorm.export.forms import PlainGroupNorm
from groupnorm.export.runtimes import litert
from groupnorm.models import build_model
from groupnorm.ops.group_norm.activations import ACTIVATIONS
from tests.export.networks import convolutional, images
from tests.export.runtimes.norms import (
    CHANNELS,
    GROUPS,
    check_far_from_zero,
    error_of,
    exact,
    norm_of,
)
from tests.tolerances import LAYER

pytest.importorskip("litert_torch", reason="litert-torch is not installed")
pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
pytestmark = pytest.mark.slow


def written(network, folder, *example, **options):
    path = folder / "network.tflite"
    litert.write(network, example, path, **options)
    return path


@pytest.mark.parametrize("groups", GROUPS)
def test_the_pooled_form_is_right_far_from_zero(groups, tmp_path):
    norm, example = norm_of(groups), images(1, CHANNELS, 20, 24)
    path = written(norm, tmp_path, example)
    run = litert.load(path)
    check_far_from_zero(run, norm, example.shape)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_and_residual(activation, tmp_path):
    norm = norm_of(4, 16, activation=activation)
    x, residual = images(2, 16, 9, 7), images(2, 16, 9, 7, seed=1)
    run = litert.load(written(norm, tmp_path, x, residual))
    (y,) = run([(x + 1e3).numpy(), residual.numpy()])
    expected = exact(norm, x + 1e3, residual)
    assert float((torch.from_numpy(y).double() - expected).abs().max()) <= LAYER


@pytest.mark.parametrize("shape", [(3, 16), (2, 16, 30), (2, 16, 3, 5, 7)])
def test_other_ranks(shape, tmp_path):
    norm = norm_of(4, 16)
    check_far_from_zero(litert.load(written(norm, tmp_path, images(*shape))), norm, shape)


def test_pytorchs_operator_loses_digits_far_from_zero(tmp_path):
    x, norm = images(1, CHANNELS, 28, 28), norm_of(8, form=PlainGroupNorm)
    run = litert.load(written(norm, tmp_path, x))
    assert error_of(run, norm, x) <= LAYER
    assert error_of(run, norm, x + 1e4) > 100 * LAYER


@pytest.mark.parametrize(("form", "transposes"), [("pooled", 2), ("blocked", 2), ("plain", 6)])
def test_the_pooled_form_needs_no_transposes_between_layers(form, transposes, tmp_path):
    x = images(1, 3, 20, 24)
    network, _ = prepare(convolutional(activation="silu"), (x,), "litert", form=form)
    found = litert.describe(written(network, tmp_path, x))
    assert found.operators.get("TRANSPOSE", 0) == transposes
    assert found.delegates == 1


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("form", ["pooled", "blocked"])
def test_a_residual_network_is_transposed_once_at_its_input(form, shortcut, tmp_path):
    """Shortcuts A are slices with a step and channels of zeros, which LiteRT transposes."""
    x = images(1, 3, 32, 32)
    model = build_model("resnet8", norm="gn:groups=8+ws", num_classes=10, shortcut=shortcut).eval()
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):  # of zeros LiteRT would leave whole blocks out
            nn.init.uniform_(module.weight, 0.5, 1.5)
    network, _ = prepare(model, (x,), "litert", form=form)
    path = written(network, tmp_path, x)
    found = litert.describe(path)
    assert found.operators["TRANSPOSE"] == 1
    assert found.delegates == 1
    (y,) = litert.load(path)([x.numpy()])
    with torch.no_grad():
        expected = copy.deepcopy(model).double()(x.double())
    assert float((torch.from_numpy(y).double() - expected).abs().max()) <= LAYER


class _Swapped(nn.Module):
    def forward(self, a, b):
        return b * 2, a - b


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5)])
def test_inputs_and_outputs_keep_their_order(shape, tmp_path):
    a, b = images(*shape), images(*shape, seed=1)
    path = written(_Swapped(), tmp_path, a, b)
    first, second = litert.load(path)([a.numpy(), b.numpy()])
    torch.testing.assert_close(torch.from_numpy(first), b * 2)
    torch.testing.assert_close(torch.from_numpy(second), a - b)


class _Scaled(nn.Module):
    def forward(self, x, step):
        return x * step[:, None].float()


def test_whole_numbers_of_64_bits(tmp_path):
    x, step = images(2, 3), torch.tensor([3, 4])
    (y,) = litert.load(written(_Scaled(), tmp_path, x, step))([x.numpy(), step.numpy()])
    torch.testing.assert_close(torch.from_numpy(y), x * torch.tensor([[3.0], [4.0]]))


def test_outputs_of_one_call_outlive_the_next(tmp_path):
    norm, x = norm_of(8), images(1, CHANNELS, 5, 5)
    run = litert.load(written(norm, tmp_path, x))
    (first,) = run([x.numpy()])
    kept = first.copy()
    run([2 * x.numpy() + 1])
    assert (first == kept).all()


class _NoProgram(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class _NoOperator(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvalsh(x)


@pytest.mark.parametrize(
    ("network", "example", "options", "message"),
    [
        (
            nn.ReLU(),
            images(2, 3),
            {"dynamic": ((0,),)},
            r"axes \(\(0,\),\): .* one file for each",
        ),
        (nn.ReLU(), images(2, 3).half(), {}, "no convolution in half types, got torch.float16"),
        (nn.Linear(3, 3).bfloat16(), images(2, 3), {}, "half types, got torch.bfloat16"),
        (_NoProgram(), images(2, 3), {}, "torch.export cannot trace the network"),
        (_NoOperator(), images(3, 3), {}, "LiteRT cannot convert the network"),
    ],
)
def test_what_is_refused_leaves_no_file(network, example, options, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        written(network, tmp_path, example, **options)
    assert list(tmp_path.iterdir()) == []


def test_inputs_of_another_shape_or_dtype_are_refused(tmp_path):
    x = images(1, CHANNELS, 5, 5)
    run = litert.load(written(norm_of(8), tmp_path, x))
    with pytest.raises(ExportError, match="Got 2 but expected 1"):
        run([images(2, CHANNELS, 5, 5).numpy()])
    with pytest.raises(ExportError, match="FLOAT16 but expected type FLOAT32"):
        run([x.half().numpy()])


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "network.tflite"
    path.write_bytes(b"not a program" * 100)
    with pytest.raises(ExportError, match="LiteRT cannot load"):
        litert.load(path)


def test_versions():
    found = litert.versions()
    assert {name: found[name].startswith(known[0]) for name, known in litert.TESTED.items()} == {
        "litert-torch": True, "ai-edge-litert": True,
    }  # fmt: skip


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(litert, "TESTED", {"ai-edge-litert": ("0.1",)})
    with pytest.raises(
        ExportError, match=r"tested: ai-edge-litert 0.1\. .* environment of its own"
    ):
        litert.versions()
