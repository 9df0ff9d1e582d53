import pytest
import torch
from torch import nn

from groupnorm.export.programs.exported import exported
from groupnorm.export.programs.graphs import calls, functional_module
from groupnorm.export.programs.slices import has_steps, without_slices
from tests.export.networks import images
from tests.export.programs.rewriting import module_of

CONVOLUTION, SLICE = torch.ops.aten.conv2d.default, torch.ops.aten.slice.Tensor


class _Slices(nn.Module):
    def forward(self, x):
        return x[:, :, ::2, ::3] + x[:, :1, 0::2, ::3]


class _OneAxis(nn.Module):
    def forward(self, x):
        return torch.ops.aten.slice.Tensor(x, -1, 0, None, 2), x[:, :, ::4]


class _OtherSlices(nn.Module):
    """Slices that are left as they are: not from the beginning to the end, or of channels."""

    def forward(self, x):
        return x[:, :, 1::2], x[:, ::2], x[:, :, :4:2], x[:, :, -4::2], x.long()[:, :, ::2]


class _WritesIntoASlice(nn.Module):
    def forward(self, x):
        y = x * 1
        y[:, :, ::2].mul_(3)
        z = y[:, :, ::2]
        y.add_(1)
        return y, z


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("dynamic", [(), ((0, 2, 3),)], ids=["static", "dynamic"])
def test_slices_with_a_step_become_convolutions_of_the_same_numbers(dynamic, dtype):
    x = images(2, 4, 10, 12).to(dtype)
    x[0, 0, 0, 0], x[0, 1, 2, 3], x[1, 2, 4, 6] = float("inf"), float("nan"), -float("inf")
    module, found = module_of(_Slices(), x, without_slices, dynamic)
    assert found
    assert len(calls(module, [CONVOLUTION])) == 2  # one for both axes
    assert len(calls(module, [SLICE])) == 1  # of channels
    for size in [(2, 4, 10, 12), (3, 4, 7, 5)] if dynamic else [(2, 4, 10, 12)]:
        other = x if size == x.shape else images(*size).to(dtype)
        same(module(other), _Slices()(other))


def test_an_axis_may_be_counted_from_the_end():
    x = images(2, 4, 10, 12)
    module, _ = module_of(_OneAxis(), x, without_slices)
    assert len(calls(module, [CONVOLUTION])) == 2
    assert not calls(module, [SLICE])
    same(tuple(module(x)), _OneAxis()(x))


def test_other_slices_are_left_alone():
    x = images(2, 4, 8, 12)
    before = len(calls(functional_module(exported(_OtherSlices(), (x,))), [SLICE]))
    module, found = module_of(_OtherSlices(), x, without_slices)
    assert not found
    assert not calls(module, [CONVOLUTION])
    assert len(calls(module, [SLICE])) == before
    same(tuple(module(x)), _OtherSlices()(x))


def test_what_is_written_into_a_slice_reaches_its_source():
    x = images(2, 4, 8, 12)
    module, _ = module_of(_WritesIntoASlice(), x, without_slices)
    same(tuple(module(x)), _WritesIntoASlice()(x))


@pytest.mark.parametrize(
    ("network", "expected"), [(_Slices(), True), (nn.ReLU(), False), (_OneAxis(), True)]
)
def test_steps_are_found(network, expected):
    x = images(2, 4, 8, 12)
    assert has_steps(functional_module(exported(network, (x,), ((2, 3),)))) is expected
