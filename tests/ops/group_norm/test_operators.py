"""Kernels as operators: registration, torch.compile, gradients of gradients."""

import importlib
import json
import os
import subprocess
import sys

import pytest
import torch

from groupnorm import GroupNormAct
from groupnorm.ops.group_norm import group_norm, reference
from tests.ops.group_norm.runners import GPU, TRITON, device_of, running
from tests.tolerances import LAYER, bound

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
on_triton = [pytest.mark.skipif(not TRITON, reason="Triton is not installed"), *GPU]


@pytest.fixture(params=["native", pytest.param("triton", marks=on_triton)])
def backend(request):
    if request.param == "triton":
        importlib.import_module("groupnorm.ops.group_norm.triton.backend")  # registers them
    return request.param


@pytest.fixture
def operator(backend):
    return getattr(torch.ops.groupnorm, NAMES[backend][0])


@pytest.fixture
def backward_operator(backend):
    return getattr(torch.ops.groupnorm, NAMES[backend][1])


NAMES = {
    "native": ("group_norm_3_statistics", "group_norm_backward"),
    "triton": ("triton_group_norm_2_statistics", "triton_group_norm_backward"),
}


def arguments(backend, dtype=torch.float32, layout="contiguous", grad=True, activation="silu"):
    device = device_of(backend)
    x, r = (torch.randn(3, 8, 5, 4, dtype=dtype, device=device) for _ in range(2))
    x, r = (t.contiguous(memory_format=LAYOUTS[layout]).requires_grad_(grad) for t in (x, r))
    w, b = (torch.randn(8, dtype=dtype, device=device, requires_grad=grad) for _ in range(2))
    return x, 4, w, b, 1e-5, activation, r


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute:UserWarning")
@pytest.mark.pairs(
    dtype=[torch.float32, torch.bfloat16], layout=LAYOUTS, activation=[None, "relu", "gelu"]
)
def test_opcheck(dtype, layout, activation, backend, operator):
    torch.library.opcheck(operator, arguments(backend, dtype, layout, activation=activation))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_opcheck_without_parameters(backend, operator):
    x = torch.randn(2, 6, 3, device=device_of(backend))
    torch.library.opcheck(operator, (x, 3, None, None, 1e-5, None, None))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("needs_residual", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck_of_the_backward_operator(
    layout, needs_residual, backend, operator, backward_operator
):
    x, groups, w, b, eps, activation, r = arguments(backend, layout=layout, grad=False)
    _, statistics = operator(x, groups, w, b, eps, activation, r)
    dy = torch.randn_like(x)
    torch.library.opcheck(
        backward_operator, (dy, x, groups, w, b, eps, statistics, activation, r, needs_residual)
    )


@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
@pytest.mark.parametrize("activation", [None, "silu"])
def test_the_operator_has_gradients_and_their_gradients(activation):
    """In float64, which Triton's kernels do not take."""
    x, r = (torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    w, b = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def f(x, w, b, r):
        operator = torch.ops.groupnorm.group_norm_3_statistics
        return operator(x, 2, w, b, 1e-5, activation, r)[0]

    assert torch.autograd.gradcheck(f, (x, w, b, r))
    assert torch.autograd.gradgradcheck(f, (x, w, b, r))


def test_gradients_of_gradients_are_those_of_the_reference(backend, operator):
    x, groups, w, b, eps, activation, r = arguments(backend)
    dy, other = torch.randn_like(x), torch.randn_like(x)

    def twice(output, inputs, dy, other):
        dy.requires_grad_()
        (dx,) = torch.autograd.grad(output, inputs[0], dy, create_graph=True)
        return torch.autograd.grad(dx, [*inputs, dy], other)

    y = operator(x, groups, w, b, eps, activation, r)[0]
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
def test_compiled_training_equals_eager(layout, compiler, dynamic, backend):
    """One graph, for several batch and image sizes, with the gradients of the parameters.

    The same kernels give the same bits, except on a GPU: there Inductor compiles them itself, and
    the last digit may differ.
    """
    torch.compiler.reset()
    device = device_of(backend)
    layer = GroupNormAct(4, 8, activation="silu", backend=backend).to(device)
    torch.nn.init.normal_(layer.weight)
    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic, backend=compiler)
    for n, height in ((2, 6), (3, 6), (5, 9)):
        x = torch.randn(n, 8, height, 5, device=device) + 100
        x = x.contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
        dy = torch.randn_like(x)
        for ours, eager in zip(
            training_step(compiled, x, dy), training_step(layer, x, dy), strict=True
        ):
            assert ours.stride() == eager.stride()
            assert float((ours - eager).abs().max()) <= allowed(eager)


def allowed(result):
    """Nothing on the CPU; on a GPU a few units of rounding of the largest result."""
    largest = float(result.abs().max())
    return bound(result.dtype, 0.0, largest, largest) if result.is_cuda else 0.0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_compiled_graph_holds_the_kernels():
    torch.compiler.reset()
    seen = []

    def look(graph, inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.compile(lambda x: group_norm(x, 2), fullgraph=True, backend=look)(torch.randn(2, 4, 3))
    assert any("groupnorm.group_norm" in name for name in seen)


def test_fake_tensors_have_the_true_strides(backend):
    from torch._subclasses.fake_tensor import FakeTensorMode

    for layout in LAYOUTS.values():
        x = torch.randn(2, 8, 5, 4, device=device_of(backend)).contiguous(memory_format=layout)
        with FakeTensorMode() as mode:
            y = group_norm(mode.from_tensor(x), 2, activation="relu", backend=backend)
        with running("triton/as it is" if backend == "triton" else "aten"):
            assert y.stride() == group_norm(x, 2, activation="relu", backend=backend).stride()


@pytest.mark.slow
@pytest.mark.skipif(not TRITON, reason="Triton is not installed")
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
        ("resident_forward", ["p_statistics", "p_y"]),
        ("resident_backward", ["p_dr", "p_dx", "p_sums"]),
        ("partial_statistics", ["p_partials"]),
        ("apply_forward", ["p_statistics", "p_y"]),
        ("partial_sums", ["p_sums"]),
        ("apply_backward", ["p_dr", "p_dx"]),
    ]
    assert not done.stderr


@pytest.mark.slow
def test_graphs_cached_on_disk_are_not_used_for_kernels_with_other_statistics(tmp_path):
    """The caches outlive an upgrade, and know an operator by its name and arguments alone."""
    found = []
    for of_group in (2, 2, 3):
        done = subprocess.run(
            [sys.executable, "-m", "tests.ops.group_norm.compile_statistics", str(of_group)],
            capture_output=True,
            text=True,
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.append(int(done.stdout))
    assert found[0] == 0
    assert found[1] > 0
    assert found[2] == 0
