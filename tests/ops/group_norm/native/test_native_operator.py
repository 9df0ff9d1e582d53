"""The C++ kernels as operators: registration, torch.compile, gradients of gradients."""

import pytest
import torch

from groupnorm import GroupNormAct
from groupnorm.ops.group_norm import group_norm

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def arguments(dtype=torch.float32, layout="contiguous", grad=True, activation="silu"):
    x, r = (torch.randn(3, 8, 5, 4, dtype=dtype) for _ in range(2))
    x, r = (t.contiguous(memory_format=LAYOUTS[layout]).requires_grad_(grad) for t in (x, r))
    w, b = (torch.randn(8, dtype=dtype, requires_grad=grad) for _ in range(2))
    return x, 4, w, b, 1e-5, activation, r


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute:UserWarning")
@pytest.mark.pairs(
    dtype=[torch.float32, torch.bfloat16], layout=LAYOUTS, activation=[None, "relu", "gelu"]
)
def test_opcheck(dtype, layout, activation):
    torch.library.opcheck(
        torch.ops.groupnorm.group_norm, arguments(dtype, layout, activation=activation)
    )
    torch.library.opcheck(
        torch.ops.groupnorm.group_norm, (torch.randn(2, 6, 3), 3, None, None, 1e-5, None, None)
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("needs_residual", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck_of_the_backward_operator(layout, needs_residual):
    x, groups, w, b, eps, activation, r = arguments(layout=layout, grad=False)
    _, statistics = torch.ops.groupnorm.group_norm(x, groups, w, b, eps, activation, r)
    dy = torch.randn_like(x)
    torch.library.opcheck(
        torch.ops.groupnorm.group_norm_backward,
        (dy, x, groups, w, b, eps, statistics, activation, r, needs_residual),
    )


@pytest.mark.filterwarnings("ignore:`torch.jit.script:FutureWarning")
@pytest.mark.parametrize("activation", [None, "silu"])
def test_the_operator_has_gradients_and_their_gradients(activation):
    x, r = (torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    w, b = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def f(x, w, b, r):
        return torch.ops.groupnorm.group_norm(x, 2, w, b, 1e-5, activation, r)[0]

    assert torch.autograd.gradcheck(f, (x, w, b, r))
    assert torch.autograd.gradgradcheck(f, (x, w, b, r))


def training_step(layer, x, dy):
    leaves = [x, *layer.parameters()]
    y = layer(x)
    return [y, *torch.autograd.grad(y, leaves, dy)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    "compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_compiled_training_equals_eager(layout, compiler):
    """One graph, for several batch and image sizes, with the gradients of the parameters."""
    torch.compiler.reset()
    layer = GroupNormAct(4, 8, activation="silu")
    torch.nn.init.normal_(layer.weight)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=compiler)
    for n, height in ((2, 6), (3, 6), (5, 9)):
        x = (torch.randn(n, 8, height, 5) + 100).contiguous(memory_format=LAYOUTS[layout])
        x.requires_grad_()
        dy = torch.randn_like(x)
        for ours, eager in zip(
            training_step(compiled, x, dy), training_step(layer, x, dy), strict=True
        ):
            assert ours.stride() == eager.stride()
            assert torch.equal(ours, eager)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_compiled_graph_holds_the_kernels():
    torch.compiler.reset()
    seen = []

    def look(graph, inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.compile(lambda x: group_norm(x, 2), fullgraph=True, backend=look)(torch.randn(2, 4, 3))
    assert any("groupnorm.group_norm" in name for name in seen)


def test_fake_tensors_have_the_true_strides():
    from torch._subclasses.fake_tensor import FakeTensorMode

    for layout in LAYOUTS.values():
        x = torch.randn(2, 8, 5, 4).contiguous(memory_format=layout)
        with FakeTensorMode() as mode:
            y = group_norm(mode.from_tensor(x), 2, activation="relu", backend="native")
        assert y.stride() == group_norm(x, 2, backend="native").stride()
