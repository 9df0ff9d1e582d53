"""Chunked batch norm against its definition in float64, on each of its ways to compute."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groupnorm.ops import batch_norm
from groupnorm.ops.batch_norm import Running, chunked_batch_norm, ragged_batch_norm
from groupnorm.ops.group_norm.native.launch import instruction_sets
from tests.ops.group_norm.runners import running as with_instruction_set
from tests.tolerances import DOUBLE, STEP, bound

LAYOUTS = {  # (shape, channels_last): the function that computes it
    "rows": ((8, 6, 7, 5), False),
    "rows of rank 3": ((8, 6, 33), False),
    "rows of rank 5": ((8, 6, 3, 4, 3), False),
    "channels_last": ((8, 6, 7, 5), True),
    "channels_last_3d": ((8, 6, 3, 4, 3), True),
    "short rows": ((8, 6, 3, 3), False),
    "short rows of rank 2": ((8, 6), False),
}
KERNELS = {f"kernels, {name}": case for name, case in LAYOUTS.items() if instruction_sets()}
WAYS = {**LAYOUTS, **KERNELS}
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@pytest.fixture(autouse=True)
def _way(request, monkeypatch):
    """The kernels run only where a test's parameter `way` says so."""
    found = getattr(request.node, "callspec", None)
    if found is None or not found.params.get("way", "").startswith("kernels"):
        monkeypatch.setattr(batch_norm, "why_off", "another way is tested")


def by_definition(x, w, b, eps, images):
    """One chunk after the other, in plain differentiable operations."""
    outputs, means, variances = [], [], []
    axes = [0, *range(2, x.dim())]
    per_channel = (-1, *[1] * (x.dim() - 2))
    for chunk in x.split(images):
        mean = chunk.mean(axes)
        centred = chunk - mean.view(per_channel)
        var = centred.square().mean(axes)
        xhat = centred / (var + eps).sqrt().view(per_channel)
        outputs.append(xhat * w.view(per_channel) + b.view(per_channel))
        means.append(mean)
        variances.append(var)
    return torch.cat(outputs), torch.stack(means), torch.stack(variances)


def compare(shape, images, dtype, *, channels_last=False, offset=0.0, eps=1e-5, seed=0, x=None):
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    x = (draw(*shape) + offset if x is None else x).to(dtype)
    if channels_last:
        x = x.contiguous(memory_format=FORMATS[len(shape)])
    x.requires_grad_()
    w, b = (draw(shape[1]).to(dtype).requires_grad_() for _ in range(2))
    dy = draw(*shape).to(dtype)
    y, mean, var = chunked_batch_norm(x, w, b, eps, images)
    grads = torch.autograd.grad(y, (x, w, b), dy)
    assert y.dtype == dtype
    assert y.is_contiguous() == x.is_contiguous() == grads[0].is_contiguous()
    assert not mean.requires_grad
    x64, w64, b64 = (t.detach().double().requires_grad_() for t in (x, w, b))
    y64, mean64, var64 = by_definition(x64, w64, b64, eps, images)
    grads64 = torch.autograd.grad(y64, (x64, w64, b64), dy.double())
    rstd = (var64.detach() + eps).rsqrt()
    m = float((mean64.detach().abs() * rstd).max())
    xhat = float(((y64 - b64.view(-1, *[1] * (len(shape) - 2))).detach().abs()).max())
    steep = float(w64.detach().abs().max() * rstd.max() * dy.abs().max()) * 3
    total = float(dy.double().abs().sum([0, *range(2, len(shape))]).max()) * (1 + xhat)
    for name, ours, true, scale in (
        ("y", y, y64, xhat + float(w64.detach().abs().max())),
        ("mean", mean, mean64, 1 + 1 / float(rstd.min())),
        ("var", var, var64, 1 / float(rstd.min()) ** 2),
        ("dx", grads[0], grads64[0], steep * (1 + xhat)),
        ("dweight", grads[1], grads64[1], total),
        ("dbias", grads[2], grads64[2], total),
    ):
        assert ours.shape == true.shape, name
        true = true.detach()
        limit = bound(ours.dtype, m, scale, float(true.abs().max()))
        error = float((ours.detach().double() - true).abs().max())
        assert error <= limit, f"{name}: error {error:.3g}, allowed {limit:.3g}"


@pytest.mark.parametrize("offset", [0.0, 10.0, 1e3, 1e4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("images", [8, 4, 2, 1])
@pytest.mark.parametrize("way", WAYS)
def test_every_way(way, images, dtype, offset):
    shape, channels_last = WAYS[way]
    if images == 1 and len(shape) == 2:
        images = 2  # a chunk of one value has no variance
    compare(shape, images, dtype, channels_last=channels_last, offset=offset)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half(dtype, way):
    shape, channels_last = WAYS[way]
    compare(shape, 4, dtype, channels_last=channels_last, offset=3.0)


@pytest.mark.parametrize("way", WAYS)
def test_images_and_channels_far_apart(way):
    """Each image has its own mean, far above the spread within it; channels differ in scale."""
    shape, channels_last = WAYS[way]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x += 1e3 * torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1))
    compare(shape, 4, torch.float32, channels_last=channels_last, x=x)
    x *= 10.0 ** torch.arange(-3, 3).view(-1, *[1] * (len(shape) - 2))
    compare(shape, 4, torch.float64, channels_last=channels_last, x=x)


@pytest.mark.parametrize("way", WAYS)
def test_constant_input_gives_about_the_shift(way):
    shape, channels_last = WAYS[way]
    x = torch.full(shape, 0.1, dtype=torch.float64)
    compare(shape, 4, torch.float32, channels_last=channels_last, x=x)


@pytest.mark.parametrize("way", ["kernels", "others"])
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_shape(way, data):
    images, chunks = data.draw(st.integers(1, 4), "images"), data.draw(st.integers(1, 4), "chunks")
    spatial = data.draw(st.lists(st.integers(1, 7), max_size=3), "spatial")
    if images * torch.Size(spatial).numel() == 1:
        images = 2
    compare(
        (images * chunks, data.draw(st.integers(1, 9), "C"), *spatial), images,
        data.draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16])),
        channels_last=len(spatial) >= 2 and data.draw(st.booleans(), "channels_last"),
        offset=data.draw(st.sampled_from([0.0, 30.0])), eps=data.draw(st.sampled_from([1e-5, 0.1])),
        seed=data.draw(st.integers(0, 99)),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_the_ways_are_the_ones_meant(way, dtype):
    """So that the cases above do not all go one way by accident."""
    shape, channels_last = WAYS[way]
    x = torch.randn(shape, dtype=dtype)
    if channels_last:
        x = x.contiguous(memory_format=FORMATS[len(shape)])
    y, _, _ = chunked_batch_norm(x.requires_grad_(), None, None, 1e-5, 4)
    if way in KERNELS:
        assert y.grad_fn.name() == "_KernelsBackward"
        return
    node = y.grad_fn if dtype == torch.float32 else y.grad_fn.next_functions[0][0]
    expected = {"rows": "_RowsBackward", "chan": "_ChannelsLastBackward"}.get(way[:4])
    assert (node.name() == expected) or (expected is None and not node.name().startswith("_"))


@pytest.mark.parametrize("way", ["rows", "channels_last"])
def test_double_backward_raises_instead_of_being_wrong(way):
    shape, channels_last = WAYS[way]
    x = torch.randn(shape)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    y, _, _ = chunked_batch_norm(x, None, None, 1e-5, 4)
    with pytest.raises(RuntimeError, match="no double backward"):
        torch.autograd.grad(y, x, torch.randn(shape), create_graph=True)


def test_short_rows_can_be_differentiated_twice():
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, dtype=torch.float64, requires_grad=True)

    def f(x, w):
        return chunked_batch_norm(x, w, None, 1e-5, 2)[0]

    assert torch.autograd.gradgradcheck(f, (x, w))


@pytest.mark.parametrize("way", WAYS)
def test_bits_repeat(way):
    shape, channels_last = WAYS[way]
    x, dy, w = torch.randn(shape), torch.randn(shape), torch.randn(shape[1], requires_grad=True)
    if channels_last:
        x = x.contiguous(memory_format=FORMATS[len(shape)])
    x.requires_grad_()
    runs = []
    for _ in range(2):
        y, mean, var = chunked_batch_norm(x, w, None, 1e-5, 4)
        runs.append((y, mean, var, *torch.autograd.grad(y, (x, w), dy)))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compile_without_a_graph_break():
    torch.compiler.reset()
    compiled = torch.compile(chunked_batch_norm, fullgraph=True, backend="aot_eager")
    x, dy = torch.randn(8, 6, 7, 5, requires_grad=True), torch.randn(8, 6, 7, 5)
    results = [f(x, None, None, 1e-5, 4)[0] for f in (compiled, chunked_batch_norm)]
    grads = [torch.autograd.grad(y, x, dy)[0] for y in results]
    for ours, eager in (results, grads):
        assert (ours - eager).abs().max() <= 2 * bound(torch.float32, 0, 8, 5)


@pytest.mark.parametrize("way", WAYS)
def test_the_output_may_be_changed_in_place(way):
    """As models do with relu(inplace=True)."""
    shape, channels_last = WAYS[way]
    x = torch.randn(shape)
    if channels_last:
        x = x.contiguous(memory_format=FORMATS[len(shape)])
    x.requires_grad_()
    dy = torch.randn(shape)
    grads = []
    for inplace in (True, False):
        y, _, _ = chunked_batch_norm(x, None, None, 1e-5, 4)
        y = torch.nn.functional.relu(y, inplace=inplace)
        grads.append(torch.autograd.grad(y, x, dy)[0])
    assert torch.equal(*grads)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_parts_of_any_size(layout):
    """Each part's output and statistics are those it has alone; parts without rows have none."""
    x = torch.randn(9, 4, 6, 7, dtype=torch.float64).contiguous(memory_format=layout)
    w, b = torch.randn(2, 4, dtype=torch.float64)
    y, mean, var = ragged_batch_norm(x, w, b, 1e-5, [4, 0, 3, 2])
    assert y.is_contiguous(memory_format=layout)
    found = [chunked_batch_norm(part, w, b, 1e-5, len(part)) for part in x.split([4, 3, 2])]
    for got, expected in zip((y, mean, var), map(torch.cat, zip(*found, strict=True)), strict=True):
        assert torch.equal(got, expected)
    equal = ragged_batch_norm(x, w, b, 1e-5, [3, 3, 0, 3])
    for got, expected in zip(equal, chunked_batch_norm(x, w, b, 1e-5, 3), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("isa", instruction_sets()[1:])
@pytest.mark.parametrize("way", KERNELS)
def test_kernels_of_other_instruction_sets(way, isa, dtype):
    shape, channels_last = KERNELS[way]
    with with_instruction_set(f"native/{isa}"):
        compare(shape, 4, dtype, channels_last=channels_last, offset=30.0)


def in_layout(way, dtype=torch.float64, images=8, channels=6):
    shape, channels_last = KERNELS[way]
    x = torch.randn(images, channels, *shape[2:], dtype=dtype)
    return x.contiguous(memory_format=FORMATS[len(shape)]) if channels_last else x


@pytest.mark.parametrize("way", KERNELS)
def test_gradients_of_the_kernels_can_be_differentiated_and_batched(way):
    x = in_layout(way, images=4, channels=2).requires_grad_()
    w = torch.randn(2, dtype=torch.float64, requires_grad=True)

    def f(x, w):
        return chunked_batch_norm(x, w, None, 1e-5, 2)[0]

    y = f(x, w)
    cotangents = torch.randn(3, *y.shape, dtype=y.dtype)
    together = torch.autograd.grad(y, (x, w), cotangents, retain_graph=True, is_grads_batched=True)
    alone = [torch.autograd.grad(y, (x, w), one, retain_graph=True) for one in cotangents]
    for batched, separate in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(batched, torch.stack(separate))
    if x.numel() <= 72:
        assert torch.autograd.gradgradcheck(f, (x, w))


@pytest.mark.parametrize("way", KERNELS)
def test_values_whose_squares_overflow(way):
    """The reference takes over, in forward and backward, and the running statistics move once."""
    x = (in_layout(way, torch.float32) * 1e25).requires_grad_()
    running = Running(torch.zeros(6), torch.zeros(6), 1.0)
    y, mean, _ = chunked_batch_norm(x, None, None, 1e-5, 4, running)
    dy = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, dy)
    double = x.detach().double().requires_grad_()
    w, b = torch.ones(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    expected, _, _ = by_definition(double, w, b, 1e-5, 4)
    (true,) = torch.autograd.grad(expected, double, dy.double())
    torch.testing.assert_close(y, expected.float(), rtol=STEP, atol=STEP)
    torch.testing.assert_close(dx * 1e25, (true * 1e25).float(), rtol=STEP, atol=STEP)
    assert torch.equal(running.mean, mean.mean(0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_running_statistics_move_towards_the_mean_over_the_chunks(way, dtype):
    """Also those of another dtype than the batch's."""
    shape, channels_last = WAYS[way]
    x = torch.randn(shape, dtype=torch.float64) * 3 + 2
    if channels_last:
        x = x.contiguous(memory_format=FORMATS[len(shape)])
    old_mean, old_var = torch.randn(6, dtype=dtype), torch.rand(6, dtype=dtype)
    running = Running(old_mean.clone(), old_var.clone(), 0.25)
    version = running.mean._version, running.var._version
    _, mean, var = chunked_batch_norm(x, None, None, 1e-5, 4, running)
    values = 4 * x[0, 0].numel()
    unbiased = var.mean(0) * values / (values - 1)
    limit = DOUBLE if dtype == torch.float64 else STEP
    for found, old, new in (
        (running.mean, old_mean, mean.mean(0)),
        (running.var, old_var, unbiased),
    ):
        expected = 0.75 * old.double() + 0.25 * new
        torch.testing.assert_close(found.double(), expected, rtol=10 * limit, atol=limit)
    assert version < (running.mean._version, running.var._version)


@pytest.mark.parametrize("way", ["kernels"])
def test_freed_memory_raises(way):
    x = torch.randn(4, 3, 5, 5)
    x.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="has no memory"):
        chunked_batch_norm(x, None, None, 1e-5, 2)


@pytest.mark.parametrize("way", ["kernels"])
def test_saved_tensors_that_a_hook_has_changed(way):
    x = torch.randn(4, 3, 5, 5, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t[:1]):
        y, _, _ = chunked_batch_norm(x, None, None, 1e-5, 2)
        with pytest.raises(ValueError, match="changed by a hook on saved tensors"):
            y.sum().backward()


@pytest.mark.parametrize("way", ["kernels"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parameters_and_saved_statistics_of_any_strides(way, dtype):
    x, dy = (torch.randn(4, 3, 5, 5, dtype=dtype) for _ in range(2))
    every_other, one = torch.randn(6, dtype=torch.float32)[::2], torch.randn(1).expand(3)

    def found(weight, bias, unpack):
        inputs = [t.detach().requires_grad_() for t in (x, weight, bias)]
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
            y, mean, var = chunked_batch_norm(*inputs, 1e-5, 2)
            assert y.grad_fn.name() == "_KernelsBackward"
            return [y, mean, var, *torch.autograd.grad(y, inputs, dy)]

    def turned(t):
        return t.mT.contiguous().mT if t.dim() > 1 else t

    plain = found(every_other.contiguous(), one.contiguous(), lambda t: t)
    for a, b in zip(found(every_other, one, turned), plain, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("way", ["kernels"])
def test_kernels_read_the_memory_of_the_cpu_alone(way, monkeypatch):
    x, here, elsewhere = torch.randn(4, 3, 5), torch.ones(3), torch.ones(3, device="meta")
    monkeypatch.setattr(batch_norm, "all_plain", lambda *_: True)
    take = batch_norm._kernels_take
    assert take(x, here, here, Running(here, here, 0.1))
    assert not take(x, elsewhere, here, None)
    assert not take(x, here, elsewhere, None)
    assert not take(x, here, here, Running(elsewhere, here, 0.1))
    assert not take(x, here, here, Running(here, elsewhere, 0.1))
    assert not take(x[:0], here, here, None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_layer_on_another_device_than_its_input_is_an_error():
    with pytest.raises(RuntimeError, match="device"):
        chunked_batch_norm(torch.randn(4, 3, 5), torch.ones(3, device="cuda"), None, 1e-5, 2)


@pytest.mark.parametrize("way", ["channels_last", "kernels", "rows"])
def test_a_channel_of_many_values_in_one_chunk(way):
    """As many as PyTorch's batch norm loses three digits of in channels_last."""
    compare((1, 4, 512, 512), 1, torch.float32, channels_last=way != "rows")


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")  # PyTorch's own rules of forward mode
@pytest.mark.parametrize("transform", ["grad", "jvp", "vmap", "forward mode"])
@pytest.mark.parametrize("images", [2, 4])
@pytest.mark.parametrize(
    "way", ["rows", "channels_last", "kernels, rows", "kernels, channels_last"]
)
def test_transforms(way, images, transform):
    torch.manual_seed(0)
    x, tangent = torch.randn(2, 4, 3, 7, 5).double()
    if way.endswith("channels_last"):
        x = x.contiguous(memory_format=torch.channels_last)
    w, b = torch.rand(2, 3).double()

    def results(function):
        def outputs(x):
            return function(x, w, b, 1e-5, images)[0]

        if transform == "grad":
            return torch.func.grad(lambda x: (outputs(x) * tangent).sum())(x)
        if transform == "jvp":
            return torch.func.jvp(outputs, (x,), (tangent,))[1]
        if transform == "vmap":
            return torch.func.vmap(outputs)(torch.stack([x, tangent]))
        with torch.autograd.forward_ad.dual_level():
            y = outputs(torch.autograd.forward_ad.make_dual(x, tangent))
            assert y.is_contiguous() == x.is_contiguous()
            return torch.autograd.forward_ad.unpack_dual(y).tangent

    assert (results(chunked_batch_norm) - results(by_definition)).abs().max() <= DOUBLE


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_images_that_fill_no_chunk_are_refused(layout):
    with pytest.raises(ValueError, match="expected a multiple of 2 images, got 5"):
        chunked_batch_norm(torch.zeros(5, 4, 3, 3).to(memory_format=layout), None, None, 1e-5, 2)
