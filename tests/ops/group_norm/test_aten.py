"""What is PyTorch's own, and what the aten backend adds; its numbers are in test_group_norm.py."""

import pytest
import torch
import torch.nn.functional as F

from groupnorm.ops.group_norm import aten, group_norm, reference
from tests.tolerances import bound


def test_pytorch_itself_is_wrong_on_channels_last():
    """The reason for the shift in the aten backend: when this fails, PyTorch is mended; drop it."""
    x = torch.randn(2, 64, 28, 28, generator=torch.Generator().manual_seed(0)) + 1e4
    x = x.contiguous(memory_format=torch.channels_last)
    true = F.group_norm(x.double().contiguous(), 32)
    assert (F.group_norm(x, 32).double() - true).abs().max() > 1
    assert (group_norm(x, 32, backend="aten").double() - true).abs().max() <= bound(
        torch.float32, 0, 5.0, 5.0
    )


@pytest.mark.parametrize("shape", [(2, 8, 1, 1), (3, 1, 5, 4), (1, 4, 1, 6)], ids=str)
def test_layouts_that_only_the_strides_tell_apart(shape):
    """`is_contiguous()` is true of some of these, and PyTorch still takes its one-pass variance."""
    _, c, h, w = shape
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 1e4
    x = torch.empty_strided(shape, (c * h * w, 1, w * c, c)).copy_(x)
    true = reference.forward(x.double(), 1)[0]
    assert aten.needs_shift(x)
    y = group_norm(x, 1, backend="aten")
    assert (y.double() - true).abs().max() <= bound(torch.float32, 0, 4.0, 4.0)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (torch.randn(2, 4, 3, 3), False),
        (torch.randn(2, 4), False),
        (torch.randn(2, 4, 3, 3).bfloat16(), True),
        (torch.randn(2, 4, 3, 3).contiguous(memory_format=torch.channels_last), True),
        (torch.randn(2, 4, 3, 3, 2).contiguous(memory_format=torch.channels_last_3d), True),
        (torch.randn(2, 4, 3, 3).transpose(2, 3), True),
        (torch.randn(2, 4, 3, 3, device="meta").transpose(1, 3), False),
    ],
)
def test_needs_shift(x, expected):
    assert aten.needs_shift(x) is expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_gradients_use_statistics_in_float32(dtype):
    """PyTorch keeps mean and rstd in half when the parameters are half."""
    torch.manual_seed(0)
    x = (1000 + 4 * torch.randn(2, 8, 9, 7)).to(dtype)
    dy = torch.randn(2, 8, 9, 7).to(dtype)
    w = torch.ones(8, dtype=dtype)

    def dx(f, dtype):
        leaf = x.to(dtype).requires_grad_()
        return torch.autograd.grad(f(leaf, 2, w.to(dtype)), leaf, dy.to(dtype))[0].double()

    true = dx(F.group_norm, torch.float64)
    ours, theirs = dx(group_norm, dtype), dx(F.group_norm, dtype)
    limit = bound(dtype, 0, float(true.abs().max()) * 10, float(true.abs().max()))
    assert (ours - true).abs().max() <= limit
    assert (theirs - true).abs().max() > limit  # or the conversion is no longer needed


def test_the_graph_holds_one_operator_on_contiguous_input():
    y = group_norm(torch.randn(2, 4, 3, 3, requires_grad=True), 2, torch.ones(4), backend="aten")
    assert y.grad_fn.name().startswith("NativeGroupNorm")


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_export_emits_pytorchs_operator_and_the_activation(dtype, residual):
    """Where the eager call would shift, too."""

    class Net(torch.nn.Module):
        def forward(self, x):
            return group_norm(x, 2, activation="silu", residual=x if residual else None)

    x = torch.randn(1, 4, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
    program = torch.export.export(Net(), (x,))
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    expected = ["group_norm", *["add"] * residual, "silu"]
    assert [name.split(".")[1] for name in names] == expected
