"""`group_norm(..., out=...)`: what is written, and what is refused."""

import pytest
import torch

from groupnorm.ops.group_norm import group_norm
from groupnorm.ops.group_norm.native.backend import quick
from tests.ops.group_norm.comparing import laid_out
from tests.ops.group_norm.runners import NATIVE, device_of, running
from tests.tolerances import LAYER, STORAGE

LAYOUTS = ("contiguous", "channels_last", "permuted", "sliced")
DTYPES = (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("target", ["input", "residual", "other"])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_the_same_values_and_the_same_tensor(layout, dtype, activation, target, backend):
    device = device_of(backend)
    make = torch.Generator().manual_seed(0)
    x, r = (laid_out(torch.randn(3, 12, 5, 7, generator=make).to(dtype), layout) for _ in range(2))
    x, r = (t.to(device) for t in (x, r))
    w, b = (torch.randn(12, generator=make).to(device, dtype) for _ in range(2))
    expected = group_norm(x, 3, w, b, activation=activation, residual=r, backend=backend)
    other = torch.empty_strided(x.shape, x.stride(), dtype=dtype, device=device)
    out = {"input": x, "residual": r, "other": other}[target]
    strides, versions = out.stride(), out._version
    y = group_norm(x, 3, w, b, activation=activation, residual=r, out=out, backend=backend)
    assert y is out
    assert torch.equal(y, expected)
    assert y.stride() == strides
    assert out._version > versions


@pytest.mark.parametrize("target", ["input", "residual"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("runner", NATIVE)
@torch.no_grad()
def test_groups_whose_squares_overflow(runner, dtype, layout, target):
    large = 3e19 if dtype != torch.float64 else 3e160
    x = torch.randn(3, 8, 6, 5, dtype=torch.float64)
    x[1, 2:4] *= large
    x[2, 0, 0, 0] = float("nan")
    x, r = (laid_out(t.to(dtype), layout) for t in (x, torch.randn(3, 8, 6, 5)))
    w, b = (torch.randn(8).to(dtype) for _ in range(2))
    expected = group_norm(x, 4, w, b, activation="silu", residual=r, backend="reference")
    out = x if target == "input" else r
    with running(runner):
        group_norm(x, 4, w, b, activation="silu", residual=r, out=out)
    assert torch.equal(out.isnan(), expected.isnan())
    limit = STORAGE[dtype] * expected.nan_to_num().abs() + LAYER
    assert ((out - expected).nan_to_num().abs() <= limit).all()


@torch.no_grad()
def test_threads_in_place():
    before = torch.get_num_threads()
    x = torch.randn(1, 8, 203, 211)
    try:
        torch.set_num_threads(2)
        for layout in ("contiguous", "channels_last"):
            given = laid_out(x, layout).clone()
            expected = group_norm(given, 2, activation="silu")
            assert torch.equal(group_norm(given, 2, activation="silu", out=given), expected)
    finally:
        torch.set_num_threads(before)


def test_autograd_notices_that_a_saved_tensor_was_written_over(backend):
    if device_of(backend) != "cpu":
        pytest.skip("the same on every device")
    x = torch.randn(2, 4, 3)
    w = torch.randn(2, 4, 3, requires_grad=True)
    product = (w * x).sum()
    with torch.no_grad():
        group_norm(x, 2, out=x, backend=backend)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize("differentiable", [False, True])
def test_grad_mode_is_refused(differentiable, backend):
    x = torch.randn(2, 4, 3, device=device_of(backend), requires_grad=differentiable)
    out = torch.empty_like(x)
    with pytest.raises(RuntimeError, match=r"in place is for inference.* grad mode is on"):
        group_norm(x, 2, out=out, backend=backend)
    with torch.no_grad():
        assert group_norm(x, 2, out=out, backend=backend) is out


def test_an_output_without_memory_is_refused(backend):
    if device_of(backend) != "cpu":
        pytest.skip("the same on every device")
    x, out = torch.randn(2, 8, 4, 4), torch.empty(2, 8, 4, 4)
    out.untyped_storage().resize_(0)
    with torch.no_grad(), pytest.raises(RuntimeError, match="no memory"):
        group_norm(x, 2, out=out, backend=backend)


def test_inference_tensors():
    with torch.inference_mode():
        x = torch.randn(2, 4, 3)
        expected = group_norm(x, 2)
        assert torch.equal(group_norm(x, 2, out=x), expected)
    with torch.no_grad(), pytest.raises(RuntimeError, match="outside InferenceMode"):
        group_norm(x, 2, out=x)


OTHERS = {
    "shape": (torch.empty(2, 4, 5), r"float32 of shape \(2, 4, 6\).* got .*\(2, 4, 5\)"),
    "dtype": (torch.empty(2, 4, 6, dtype=torch.float64), "got torch.float64"),
    "strides": (torch.empty(2, 6, 4).transpose(1, 2), r"\(24, 6, 1\).* got .*\(24, 1, 4\)"),
    "device": (torch.empty(2, 4, 6, device="meta"), "on cpu as the input, got .* on meta"),
}


@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_an_out_that_is_not_as_the_input_is_refused(name, backend):
    if device_of(backend) != "cpu":
        pytest.skip("the same on every device")
    out, message = OTHERS[name]
    with pytest.raises(ValueError, match=f"^out must be torch.*{message}"):
        group_norm(torch.randn(2, 4, 6), 2, out=out, backend=backend)


@torch.no_grad()
def test_the_stride_of_an_axis_of_length_1_says_nothing(backend):
    if device_of(backend) != "cpu":
        pytest.skip("the same on every device")
    x = torch.randn(2, 4, 1, 1)
    out = torch.empty_strided((2, 4, 1, 1), (4, 1, 9, 9))
    expected = group_norm(x, 2, backend=backend)
    assert group_norm(x, 2, out=out, backend=backend) is out
    assert torch.equal(out, expected)
    again = x.as_strided((2, 4, 1, 1), (4, 1, 9, 9))
    assert torch.equal(group_norm(x, 2, out=again, backend=backend), expected)


@pytest.mark.parametrize("name", ["input", "weight", "bias", "residual"])
@torch.no_grad()
def test_memory_that_is_shared_in_part_is_refused(name, backend):
    if device_of(backend) != "cpu":
        pytest.skip("the same on every device")
    memory = torch.randn(50)
    out = memory[4:36].view(2, 4, 4)
    given = {"input": torch.randn(2, 4, 4), "weight": None, "bias": None, "residual": None}
    given[name] = memory[30:34] if name in ("weight", "bias") else memory[:32].view(2, 4, 4)
    before = memory.clone()
    with pytest.raises(ValueError, match=f"out overlaps the memory of {name}"):
        group_norm(num_groups=2, out=out, backend=backend, **given)
    assert torch.equal(memory, before)
    if name in ("weight", "bias"):
        given[name] = memory[4:8]  # the same first number is not the same tensor
        with pytest.raises(ValueError, match=f"out overlaps the memory of {name}"):
            group_norm(num_groups=2, out=out, backend=backend, **given)


@torch.no_grad()
def test_a_view_is_written_and_its_base_knows():
    base = torch.randn(5, 4, 6)
    part, expected = base[1:3], group_norm(base[1:3], 2)
    rest, version = base[3:].clone(), base._version
    group_norm(part, 2, out=part)
    assert torch.equal(base[1:3], expected)
    assert torch.equal(base[3:], rest)
    assert base._version > version


@torch.no_grad()
def test_compiled_the_values_are_the_same_and_out_is_written():
    x = torch.randn(2, 4, 6)
    out = torch.empty_like(x)
    torch.compiler.reset()

    def written(x, out):
        return group_norm(x, 2, activation="relu", out=out)

    compiled = torch.compile(written, fullgraph=True, backend="aot_eager")
    expected = group_norm(x, 2, activation="relu")
    with torch.no_grad():
        assert torch.equal(compiled(x, out), expected)
    assert torch.equal(out, expected)


@torch.no_grad()
def test_a_function_mode_and_a_dispatch_mode_see_the_writing():
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Observer(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    class Functions(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append("out" in (kwargs or {}))
            return func(*args, **(kwargs or {}))

    x = torch.randn(2, 4, 6)
    expected = group_norm(x, 2)
    with Observer():
        group_norm(x, 2, out=x)
    assert "aten.copy_.default" in seen
    assert torch.equal(x, expected)
    with Functions():
        group_norm(x, 2, out=x)
    assert seen[-1] is True


@torch.no_grad()
def test_vmap_writes_every_sample():
    x = torch.randn(3, 2, 4, 6)
    expected = torch.stack([group_norm(sample, 2, backend="aten") for sample in x])
    torch.func.vmap(lambda t: group_norm(t, 2, out=t))(x)
    assert torch.allclose(x, expected, atol=LAYER)


@torch.no_grad()
def test_what_fits_takes_the_quick_way():
    """Elsewhere the results are as right; the cost of a call is what is lost."""
    if not NATIVE:
        pytest.skip("there are no kernels")
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        for layout in ("contiguous", "channels_last"):
            for w in (None, torch.ones(8), torch.ones(8, dtype=dtype)):
                if dtype == torch.float64 and w is not None and w.dtype != dtype:
                    continue
                x = laid_out(torch.randn(2, 8, 3, 3).to(dtype), layout)
                r = torch.zeros_like(x)
                for out in (None, torch.empty_like(x), x):
                    y = quick(x, 2, w, w, 1e-5, "relu", r, out)
                    assert y is not None, (dtype, layout, w, out)
                    assert out is None or y is out
