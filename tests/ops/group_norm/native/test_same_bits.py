"""The bits of a result depend on its own numbers and on the number of threads, and on nothing else:
not on the other samples or groups, on their order, or on how large the whole tensor is."""

import pytest
import torch

from groupnorm.ops.group_norm import group_norm
from groupnorm.ops.group_norm.native import launch
from tests.ops.group_norm.comparing import FORMATS, compare
from tests.ops.group_norm.runners import NATIVE

pytestmark = pytest.mark.parametrize("backend", NATIVE, indirect=True)

LAYOUTS = ["contiguous", "channels_last"]
DTYPES = [torch.float32, torch.bfloat16]
SHAPES = {  # (shape, groups): what it is there for
    "short rows": ((9, 12, 3, 3), 4),
    "one position": ((70, 40, 1, 1), 4),
    "rows of odd length": ((5, 6, 7, 11), 3),
    "many groups": ((4, 64, 5, 13), 32),
    "long groups": ((3, 6, 67, 65), 2),
    "wide": ((3, 320, 13, 5), 32),
}
# With a last level of 32 MB these samples stay in the cache; four of them are written past it,
# forward and backward, in either layout. Odd sizes: rows and groups begin anywhere.
LARGE = {
    torch.float32: [((4, 63, 145, 145), 9), ((4, 64, 144, 144), 32)],
    torch.bfloat16: [((4, 63, 205, 205), 9), ((4, 64, 204, 204), 32)],
}


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def cache_bytes():
    """How large the kernels take the last level of the cache for."""
    before = launch._kernels.set_cache_bytes(1)
    launch._kernels.set_cache_bytes(before)
    yield launch._kernels.set_cache_bytes
    launch._kernels.set_cache_bytes(before)


def draw(shape, dtype, layout):
    t = torch.randn(shape, dtype=torch.float32).to(dtype)
    return t if layout == "contiguous" else t.contiguous(memory_format=FORMATS[t.dim()])


def results(x, groups, weight, bias, residual, dy, activation="silu"):
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias, residual)]
    y = group_norm(
        *(leaves[0], groups, *leaves[1:3]), activation=activation, residual=leaves[3],
        backend="native",
    )  # fmt: skip
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


PER_NUMBER = (0, 1, 4)  # output, dx and dresidual


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_twice_the_same(dtype, layout, case, count, backend, threads):
    threads(count)
    shape, groups = SHAPES[case]
    x, residual, dy = (draw(shape, dtype, layout) for _ in range(3))
    weight, bias = torch.randn(2, shape[1])
    once = results(x, groups, weight, bias, residual, dy)
    junk = torch.full_like(x, float("nan"))  # what new memory then holds
    del junk
    for a, b in zip(once, results(x, groups, weight, bias, residual, dy), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_samples_do_not_depend_on_one_another(dtype, layout, case, backend, threads):
    """In another order, and each alone."""
    threads(1)
    shape, groups = SHAPES[case]
    x, residual, dy = (draw(shape, dtype, layout) for _ in range(3))
    weight, bias = torch.randn(2, shape[1])
    together = results(x, groups, weight, bias, residual, dy)
    order = torch.randperm(len(x))
    shuffled = results(x[order], groups, weight, bias, residual[order], dy[order])
    for number in PER_NUMBER:
        assert torch.equal(shuffled[number], together[number][order])
    for i in range(0, len(x), max(len(x) // 3, 1)):
        alone = results(*(x[i : i + 1], groups, weight, bias, residual[i : i + 1], dy[i : i + 1]))
        for number in PER_NUMBER:
            assert torch.equal(alone[number], together[number][i : i + 1])


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_groups_of_contiguous_tensors_do_not_depend_on_one_another(dtype, case, backend, threads):
    """A group begins anywhere in a tensor, and at an aligned address where it is alone."""
    threads(1)
    shape, groups = SHAPES[case]
    size = shape[1] // groups
    x, residual, dy = (draw(shape, dtype, "contiguous") for _ in range(3))
    weight, bias = torch.randn(2, shape[1])
    together = results(x, groups, weight, bias, residual, dy)
    for g in {0, groups // 2, groups - 1}:
        own = slice(g * size, (g + 1) * size)
        cut = (t[:, own].contiguous() for t in (x, residual, dy))
        own_x, own_residual, own_dy = cut
        alone = results(own_x, 1, weight[own], bias[own], own_residual, own_dy)
        for number in PER_NUMBER:
            assert torch.equal(alone[number], together[number][:, own])
        for number in (2, 3):
            assert torch.equal(alone[number], together[number][own])


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_outputs_have_the_bits_of_small_ones(
    dtype, layout, activation, backend, threads, cache_bytes
):
    threads(1)
    cache_bytes(32 << 20)
    for shape, groups in LARGE[dtype]:
        sample = draw((1, *shape[1:]), dtype, layout)
        other = sample.flip(2)
        dy, dy_other = sample.flip(3), other.flip(1)
        assert sample.numel() * sample.element_size() < 8 << 20
        weight, bias = torch.randn(2, shape[1])
        x = torch.cat([sample, other, sample, other])
        alone = [
            results(t, groups, weight, bias, g, g, activation)
            for t, g in ((sample, dy), (other, dy_other))
        ]
        gradients = torch.cat([dy, dy_other, dy, dy_other])
        assert x.numel() * x.element_size() > 16 << 20
        together = results(x, groups, weight, bias, gradients, gradients, activation)
        for number in PER_NUMBER:
            for i in range(4):
                assert torch.equal(together[number][i], alone[i % 2][number][0])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("offset", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_tensors_at_an_odd_offset(dtype, offset, layout, backend, threads):
    threads(1)
    shape, groups = LARGE[dtype][0]
    x = draw(shape, dtype, layout)
    memory = torch.empty(x.numel() + 16, dtype=dtype)
    moved = memory.as_strided(x.shape, x.stride(), offset).copy_(x)
    weight, bias = torch.randn(2, shape[1])
    for a, b in zip(
        results(moved, groups, weight, bias, moved, moved),
        results(x, groups, weight, bias, x, x),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@torch.no_grad()
def test_a_large_output_at_an_odd_offset(dtype, layout, backend, threads):
    """Its groups are whole vectors, and begin beside the addresses of vectors."""
    threads(1)
    shape, groups = LARGE[dtype][1]
    x = draw(shape, dtype, layout)
    weight, bias = torch.randn(2, shape[1])
    memory = torch.full((x.numel() + 16,), 7.0, dtype=dtype)
    out = memory.as_strided(x.shape, x.stride(), 1)
    expected = group_norm(x, groups, weight, bias, backend="native")
    group_norm(x, groups, weight, bias, backend="native", out=out)
    assert torch.equal(out, expected)
    assert memory[0] == 7
    assert (memory[x.numel() + 1 :] == 7).all()


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_tensors_against_float64(dtype, layout, backend, threads):
    """With one thread, and split between two."""
    threads(1)
    compare((1, 128, 256, 256), 32, dtype, "native", layout=layout, offset=1.0)
    threads(2)
    compare((1, 96, 257, 255), 3, dtype, "native", layout=layout, activation="silu", residual=True)


@pytest.mark.parametrize("case", ["long groups", "wide", "short rows"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [2, 3])
def test_parts_of_several_threads_within_tolerance(count, dtype, layout, case, backend, threads):
    """One sample and few groups: they are split among the threads."""
    threads(count)
    (_, channels, *spatial), groups = SHAPES[case]
    spatial = [3 * size for size in spatial]
    compare(
        (1, channels, *spatial), groups, dtype, "native", layout=layout, activation="gelu",
        residual=True, offset=2.0,
    )  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16, torch.float64], ids=str)
def test_stores_past_the_cache_write_the_same(dtype, layout, backend, cache_bytes):
    for shape, groups in (((2, 64, 16, 16), 4), ((3, 48, 9, 7), 3), ((2, 32, 33, 32), 32)):
        x = draw(shape, dtype, layout)
        weight, bias = torch.randn(2, shape[1]).to(dtype)
        forms = []
        for size in (1, 1 << 40):  # all that may be is written past the cache; nothing is
            cache_bytes(size)
            forms.append(results(x, groups, weight, bias, x, x))
            with torch.no_grad():
                for offset in (0, 1, 4, 8):
                    memory = torch.full((x.numel() + 16,), 7, dtype=dtype)
                    out = memory.as_strided(x.shape, x.stride(), offset)
                    group_norm(x, groups, weight, bias, out=out, backend="native")
                    assert (memory[:offset] == 7).all()
                    assert (memory[offset + x.numel() :] == 7).all()
                    forms[-1] = (*forms[-1], out)
        assert all(map(torch.equal, *forms))
