import copy

import pytest
import torch
from torch import nn

from groupnorm.export import ExportError, prepare
from groupnorm.export.forms import BlockedGroupNorm, PlainGroupNorm
from groupnorm.export.runtimes import executorch, executorch_portable
from groupnorm.export.runtimes.description import Description
from groupnorm.models import build_model
from groupnorm.ops.group_norm.activations import ACTIVATIONS
from tests.export.networks import convolutional, images, standardized
from tests.export.runtimes.norms import (
    CHANNELS,
    GROUPS,
    check_far_from_zero,
    error_of,
    exact,
    norm_of,
)
from tests.tolerances import CLEARLY, LAYER, bound

pytest.importorskip("executorch", reason="executorch is not installed")
pytestmark = pytest.mark.slow
SIZES = ("aten::sym_size", "aten::scalar_tensor")
RUNTIMES = pytest.mark.parametrize(
    "runtime", [executorch, executorch_portable], ids=["xnnpack", "portable"]
)


def written(runtime, network, folder, *example, **options):
    path = folder / "network.pte"
    runtime.write(network, example, path, **options)
    return path


@RUNTIMES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("dynamic", [(), ((0, 2, 3),)], ids=["static", "dynamic"])
@pytest.mark.parametrize("groups", GROUPS)
def test_the_pooled_form_is_right_far_from_zero(runtime, groups, dynamic, dtype, tmp_path):
    norm = norm_of(groups).to(dtype)
    example = images(1, CHANNELS, 20, 24).to(dtype)
    run = runtime.load(written(runtime, norm, tmp_path, example, dynamic=dynamic))
    check_far_from_zero(run, norm, example.shape, dtype)
    if dynamic:
        for shape in ((4, CHANNELS, 40, 48), (2, CHANNELS, 7, 5), (1, CHANNELS, 1, 9)):
            check_far_from_zero(run, norm, shape, dtype)


@RUNTIMES
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_and_residual(runtime, activation, tmp_path):
    norm = norm_of(4, 16, activation=activation)
    x, residual = images(2, 16, 9, 7), images(2, 16, 9, 7, seed=1)
    run = runtime.load(written(runtime, norm, tmp_path, x, residual))
    (y,) = run([(x + 1e3).numpy(), residual.numpy()])
    expected = exact(norm, x + 1e3, residual)
    assert float((torch.from_numpy(y).double() - expected).abs().max()) <= LAYER


@RUNTIMES
@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_both_kinds_of_gelu(runtime, approximate, dtype, tmp_path):
    gelu, x = nn.GELU(approximate), (4 * images(2, 16, 9, 7)).to(dtype)
    path = written(runtime, gelu, tmp_path, x)
    (y,) = runtime.load(path)([x.numpy()])
    expected = gelu(x.double())
    allowed = bound(dtype, 0.0, 1.0, float(expected.abs().max()))
    assert float((torch.from_numpy(y).double() - expected).abs().max()) <= allowed
    if runtime is executorch and dtype == torch.float32:
        assert executorch.describe(path) == Description({}, 1)


@RUNTIMES
@pytest.mark.parametrize("shape", [(3, 16), (2, 16, 30), (2, 16, 3, 5, 7)])
def test_other_ranks(runtime, shape, tmp_path):
    norm = norm_of(4, 16)
    run = runtime.load(written(runtime, norm, tmp_path, images(*shape)))
    check_far_from_zero(run, norm, shape)


@RUNTIMES
def test_its_own_operator_fails_far_from_zero(runtime, tmp_path):
    x = images(1, CHANNELS, 28, 28)
    norm = norm_of(8, form=PlainGroupNorm)
    path = written(runtime, norm, tmp_path, x)
    assert runtime.describe(path) == Description({"aten::native_group_norm": 1}, 0)
    run = runtime.load(path)
    assert error_of(run, norm, x) <= LAYER
    assert not error_of(run, norm, x + 1e3) < CLEARLY  # NaN as well


def test_xnnpack_takes_a_whole_network_in_one_piece(tmp_path):
    x = images(1, 3, 20, 24)
    network, _ = prepare(convolutional(activation="silu"), (x,), "executorch", form="pooled")
    path = written(executorch, network, tmp_path, x)
    assert executorch.describe(path) == Description({}, 1)


@pytest.mark.parametrize("form", ["pooled", "blocked"])
@pytest.mark.parametrize("dynamic", [(), ((0, 2, 3),)], ids=["static", "dynamic"])
def test_it_takes_a_residual_network_in_one_piece(dynamic, form, tmp_path):
    """Its shortcuts are slices with a step, its features means without their axes."""
    x = images(1, 3, 32, 32)
    model = build_model("resnet8", norm="gn:groups=4+ws", num_classes=10).eval()
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    network, _ = prepare(model, (x,), "executorch", form=form)
    path = written(executorch, network, tmp_path, x, dynamic=dynamic)
    found = executorch.describe(path)
    assert found.delegates == 1
    # beside it only sizes are computed, of maps that may have any
    assert not [name for name in found.operators if name.startswith("aten::") and name not in SIZES]
    assert dynamic or not found.operators
    for size in [(1, 3, 32, 32), (3, 3, 24, 20)] if dynamic else [(1, 3, 32, 32)]:
        other = images(*size, seed=1)
        (y,) = executorch.load(path)([other.numpy()])
        with torch.no_grad():
            expected = copy.deepcopy(model).double()(other.double())
        assert float((torch.from_numpy(y).double() - expected).abs().max()) <= LAYER


@RUNTIMES
@pytest.mark.parametrize("kind", ["far", "constant", "outlier", "two levels"])
@pytest.mark.parametrize("groups", [2, 8, 32])
def test_hard_maps_of_values_along_rows(runtime, groups, kind, tmp_path):
    """Maps large enough for values of channels to be spread over rows."""
    norm, x = norm_of(groups, form=BlockedGroupNorm), images(1, CHANNELS, 32, 32)
    if kind == "far":
        x = x + 1e4
    elif kind == "constant":
        x = torch.full_like(x, 1e4 + 1 / 3)
    elif kind == "outlier":
        x[:, :, 0, 0] = 1e4
    else:
        x[:, :, ::4, ::4] += 1e4
    path = written(runtime, norm, tmp_path, x)
    y, expected = runtime.load(path)([x.numpy()])[0], exact(norm, x)
    # The largest results lie many spreads from the mean, where a rounding is that much larger.
    allowed = LAYER * max(1.0, float(expected.abs().max()) / 10)
    assert float((torch.from_numpy(y).double() - expected).abs().max()) <= allowed


class _Strided(nn.Module):
    def forward(self, x):
        return x[:, :, ::2, ::3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("dynamic", [(), ((0, 2, 3),)], ids=["static", "dynamic"])
def test_slices_with_a_step_keep_each_value(dynamic, dtype, tmp_path):
    x = images(2, 8, 10, 12).to(dtype)
    path = written(executorch, _Strided(), tmp_path, x, dynamic=dynamic)
    assert executorch.describe(path) == Description({}, 1)
    run, expected = executorch.load(path), x[:, :, ::2, ::3]
    torch.testing.assert_close(torch.from_numpy(run([x.numpy()])[0]), expected, rtol=0, atol=0)
    x[0, 0, 0, 0], x[0, 1, 2, 3], x[1, 2, 4, 6] = float("inf"), float("nan"), -float("inf")
    y = torch.from_numpy(run([x.numpy()])[0])
    # They stay, and reach no other channel; beside them XNNPACK makes NaN of some.
    assert not (expected.isfinite().logical_not() & y.isfinite()).any()
    others = expected.isfinite().all(-1).all(-1)
    torch.testing.assert_close(y[others], expected[others], rtol=0, atol=0)


def test_its_own_operator_is_in_no_delegate(tmp_path):
    x = images(1, 3, 20, 24)
    network, _ = prepare(convolutional(), (x,), "executorch", form="plain")
    found = executorch.describe(written(executorch, network, tmp_path, x))
    assert found.operators["aten::native_group_norm"] == 2
    assert found.delegates > 1


def test_without_xnnpack_all_operators_are_the_portable_ones(tmp_path):
    x = images(1, 3, 20, 24)
    network, _ = prepare(convolutional(), (x,), "executorch", form="pooled")
    found = executorch_portable.describe(written(executorch_portable, network, tmp_path, x))
    assert found.delegates == 0
    # Two of the network, and in each norm three pairs.
    assert found.operators["aten::convolution"] == 2 + 2 * 3 * 2


def test_standardized_weights_that_are_not_baked_stay_outside(tmp_path):
    x = images(1, 3, 20, 24)
    raw, baked = standardized(), prepare(standardized(), (x,), "executorch", form="pooled")[0]
    found = executorch.describe(written(executorch, raw, tmp_path, x))
    assert found.operators["aten::convolution"] == 1
    path = written(executorch, baked, tmp_path, x)
    assert executorch.describe(path) == Description({}, 1)


class _Swapped(nn.Module):
    def forward(self, a, b):
        return b * 2, a - b


@RUNTIMES
def test_inputs_and_outputs_keep_their_order(runtime, tmp_path):
    a, b = images(2, 3), images(2, 3, seed=1)
    run = runtime.load(written(runtime, _Swapped(), tmp_path, a, b))
    first, second = run([a.numpy(), b.numpy()])
    torch.testing.assert_close(torch.from_numpy(first), b * 2)
    torch.testing.assert_close(torch.from_numpy(second), a - b)


def test_outputs_of_one_call_outlive_the_next(tmp_path):
    norm, x = norm_of(8), images(1, CHANNELS, 5, 5)
    run = executorch.load(written(executorch, norm, tmp_path, x))
    (first,) = run([x.numpy()])
    kept = first.copy()
    run([2 * x.numpy() + 1])
    assert (first == kept).all()


@RUNTIMES
@pytest.mark.parametrize("dynamic", [(), ((0, 2, 3),)], ids=["static", "dynamic"])
def test_other_sizes_than_it_was_written_for_are_refused(runtime, dynamic, tmp_path):
    norm = norm_of(8)
    path = written(runtime, norm, tmp_path, images(1, CHANNELS, 20, 24), dynamic=dynamic)
    with pytest.raises(ExportError, match=r"shape \(9, 64, 50, 50\): it was written for \(."):
        runtime.load(path)([images(9, CHANNELS, 50, 50).numpy()])


def test_it_runs_on_one_thread(tmp_path):
    from executorch.extension.pybindings import portable_lib

    executorch.load(written(executorch, norm_of(8), tmp_path, images(1, CHANNELS, 5, 5)))
    assert portable_lib._threadpool_get_thread_count() == 1


class _NoProgram(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class _NoOperator(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvalsh(x)


@pytest.mark.parametrize(
    ("network", "message"),
    [(_NoProgram(), "torch.export cannot trace"), (_NoOperator(), "ExecuTorch cannot convert")],
)
def test_what_cannot_be_converted_leaves_no_file(network, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        written(executorch, network, tmp_path, images(4, 4))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "network.pte"
    path.write_bytes(b"not a program" * 100)
    with pytest.raises(ExportError, match="ExecuTorch cannot load"):
        executorch.load(path)


def test_versions():
    assert executorch.versions()["executorch"].startswith(executorch.TESTED["executorch"][0])
    assert executorch_portable.versions() == executorch.versions()


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(executorch, "TESTED", {"executorch": ("0.1", "0.2")})
    with pytest.raises(ExportError, match=r"never tested .*; tested: executorch 0.1, executorch"):
        executorch.versions()
