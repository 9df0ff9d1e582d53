"""The Triton kernels as operators: registration, torch.compile, gradients of gradients."""

import json
import os
import subprocess
import sys

import pytest
import torch

from groupnorm import GroupNormAct
from groupnorm.ops.group_norm import group_norm, reference
from tests.ops.group_norm.runners import DEVICE, GPU, TRITON, running
from tests.tolerances import LAYER

pytestmark = [pytest.mark.skipif(not TRITON, reason="Triton is not installed"), *GPU]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.fixture(autouse=True)
def _registered():
    from groupnorm.ops.group_norm.triton import triton_operator

    assert triton_operator.operator


def arguments(dtype=torch.float32, layout="contiguous", grad=True, activation="silu"):
    x, r = (torch.randn(3, 8, 5, 4, dtype=dtype, device=DEVICE) for _ in range(2))
    x, r = (t.contiguous(memory_format=LAYOUTS[layout]).requires_grad_(grad) for t in (x, r))
    w, b = (torch.randn(8, dtype=dtype, device=DEVICE, requires_grad=grad) for _ in range(2))
    return x, 4, w, b, 1e-5, activation, r


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute:UserWarning")
@pytest.mark.pairs(dtype=[torch.float32, torch.bfloat16], layout=LAYOUTS, activation=[None, "relu"])
def test_opcheck(dtype, layout, activation):
    torch.library.opcheck(
        torch.ops.groupnorm.triton_group_norm, arguments(dtype, layout, activation=activation)
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("needs_residual", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck_of_the_backward_operator(layout, needs_residual):
    x, groups, w, b, eps, activation, r = arguments(layout=layout, grad=False)
    _, statistics = torch.ops.groupnorm.triton_group_norm(x, groups, w, b, eps, activation, r)
    dy = torch.randn_like(x)
    torch.library.opcheck(
        torch.ops.groupnorm.triton_group_norm_backward,
        (dy, x, groups, w, b, eps, statistics, activation, r, needs_residual),
    )


def test_gradients_of_gradients_are_those_of_the_reference():
    x, groups, w, b, eps, activation, r = arguments()
    dy, other = torch.randn_like(x), torch.randn_like(x)

    def twice(output, inputs, dy, other):
        dy.requires_grad_()
        (dx,) = torch.autograd.grad(output, inputs[0], dy, create_graph=True)
        return torch.autograd.grad(dx, [*inputs, dy], other)

    y = torch.ops.groupnorm.triton_group_norm(x, groups, w, b, eps, activation, r)[0]
    ours = twice(y, (x, w, b, r), dy, other)
    x64, w64, b64, r64 = (t.detach().double().requires_grad_() for t in (x, w, b, r))
    y64 = reference.forward(x64, groups, w64, b64, eps, activation, r64)[0]
    true = twice(y64, (x64, w64, b64, r64), dy.detach().double(), other.double())
    for ours_of, true_of in zip(ours, true, strict=True):
        assert (ours_of.double() - true_of).abs().max() <= LAYER * true_of.abs().max()


def training_step(layer, x, dy):
    y = layer(x)
    return [y, *torch.autograd.grad(y, [x, *layer.parameters()], dy)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.pairs(
    layout=LAYOUTS,
    compiler=["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)],
    dynamic=[pytest.param(False, marks=pytest.mark.slow), True],
)
def test_compiled_training_equals_eager(layout, compiler, dynamic):
    """One graph, for several batch and image sizes, with the gradients of the parameters."""
    torch.compiler.reset()
    layer = GroupNormAct(4, 8, activation="silu", backend="triton").to(DEVICE)
    torch.nn.init.normal_(layer.weight)
    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic, backend=compiler)
    for n, height in ((2, 6), (3, 6), (5, 9)):
        x = torch.randn(n, 8, height, 5, device=DEVICE) + 100
        x = x.contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
        dy = torch.randn_like(x)
        for ours, eager in zip(
            training_step(compiled, x, dy), training_step(layer, x, dy), strict=True
        ):
            assert ours.stride() == eager.stride()
            assert torch.equal(ours, eager)


def test_fake_tensors_have_the_true_strides():
    from torch._subclasses.fake_tensor import FakeTensorMode

    for layout in LAYOUTS.values():
        x = torch.randn(2, 8, 5, 4, device=DEVICE).contiguous(memory_format=layout)
        with FakeTensorMode() as mode:
            y = group_norm(mode.from_tensor(x), 2, activation="relu", backend="triton")
        with running("triton/as it is"):
            assert y.stride() == group_norm(x, 2, activation="relu", backend="triton").stride()


@pytest.mark.slow
def test_torch_compile_sees_the_launches_and_what_they_write(tmp_path):
    """On a GPU that is not there. An input found written would be copied by torch.compile."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.ops.group_norm.triton.trace_operator"],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "TRITON_INTERPRET": "0",
            "TRITON_DEFAULT_FP_FUSION": "1",
            "TRITON_CACHE_DIR": str(tmp_path),
        },
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["kernel"], row["writes"]) for row in rows] == [
        ("resident_forward", ["statistics", "y"]),
        ("resident_backward", ["dr", "dx", "sums"]),
        ("partial_statistics", ["partials"]),
        ("apply_forward", ["statistics", "y"]),
        ("partial_sums", ["sums"]),
        ("apply_backward", ["dr", "dx"]),
    ]
    assert not done.stderr
