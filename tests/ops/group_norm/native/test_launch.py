"""Calling the C++ kernels: instruction sets, threads, layouts, and machines without them."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from groupnorm.ops.group_norm import group_norm
from groupnorm.ops.group_norm.native import launch
from tests.ops.group_norm.runners import NATIVE, running
from tests.tolerances import LAYER, STEP

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
ROOT = Path(__file__).parents[4]


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/cpuinfo")
def test_every_instruction_set_of_this_processor_is_run():
    names = launch.instruction_sets()
    assert names[-1] == "portable"
    flags = Path("/proc/cpuinfo").read_text().split()
    assert ("avx512_bf16" in flags) == ("avx512_bf16" in names)
    assert ("avx512vl" in flags) == ("avx512" in names)
    assert ("avx2" in flags) == ("avx2" in names)


def test_an_instruction_set_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no kernels named avx9"):
        launch._kernels.set_instruction_set("avx9")


@pytest.mark.pairs(
    case=[
        ((1, 8, 203, 211), 1),
        ((1, 24, 150, 149), 3),
        ((7, 16, 60, 61), 4),
        ((300, 64, 3, 3), 8),
    ],
    layout=LAYOUTS,
    count=[2, 3, 5],
    runner=NATIVE,
)
def test_threads(case, layout, count, runner, threads):
    """One sample or group is split among them; the same bits every time."""
    shape, groups = case
    threads(count)
    x = torch.randn(shape).contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    w, b = (torch.randn(shape[1], requires_grad=True) for _ in range(2))
    dy = torch.randn(shape)

    def run(x, w, b):
        y = group_norm(x, groups, w, b, activation="silu", backend="native")
        return [y, *torch.autograd.grad(y, (x, w, b), dy.to(y.dtype))]

    with running(runner):
        once, twice = run(x, w, b), run(x, w, b)
        true = run(*(t.detach().double().requires_grad_() for t in (x, w, b)))
    for ours, again, exact in zip(once, twice, true, strict=True):
        assert torch.equal(ours, again)
        assert (ours.double() - exact).abs().max() <= LAYER * exact.abs().max()


@pytest.mark.skipif(not NATIVE, reason="there are no kernels")
@pytest.mark.parametrize("shape", [(1, 8, 203, 211), (8, 16, 60, 61)])
def test_where_pytorch_starts_no_threads_one_does_all(shape, threads):
    """`torch_parallel_for` says by its result that it has not run."""
    from_c = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 2)
    calls = []
    fails = from_c(lambda *arguments: calls.append(arguments) or 1)
    threads(2)
    x, dy = torch.randn(shape, requires_grad=True), torch.randn(shape)

    def run():
        y = group_norm(x, 4, activation="silu")
        return y, *torch.autograd.grad(y, x, dy)

    expected = run()
    launch._kernels.set_parallel_for(ctypes.cast(fails, ctypes.c_void_p).value)
    try:
        found = run()
    finally:
        launch._load()
    assert len(calls) > 1
    for ours, same in zip(found, expected, strict=True):
        assert torch.equal(ours, same)


def results(dtype, layout, activation):
    """Output and gradients, and what became of a tensor written over."""
    make = torch.Generator().manual_seed(0)
    x, r = (torch.randn(3, 12, 5, 7, generator=make).to(dtype) for _ in range(2))
    x, r = (t.contiguous(memory_format=LAYOUTS[layout]) for t in (x, r))
    x.requires_grad_()
    w, b = (torch.randn(12, generator=make).to(dtype).requires_grad_() for _ in range(2))
    y = group_norm(x, 3, w, b, activation=activation, residual=r)
    dy = torch.randn(y.shape, generator=make).to(dtype)
    found = [y, *torch.autograd.grad(y, (x, w, b), dy)]
    with torch.no_grad():
        return [*found, group_norm(x, 3, w, b, activation=activation, residual=r, out=r)]


@pytest.fixture
def _without_the_exchange_api():
    """As with a PyTorch that has no DLPack exchange API."""
    launch._kernels.set_exchange_api(None)
    yield
    launch._kernels.set_exchange_api(getattr(torch.Tensor, "__dlpack_c_exchange_api__", None))


@pytest.mark.skipif(not NATIVE, reason="there are no kernels")
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)
def test_without_the_exchange_api_the_kernels_compute_the_same(dtype, layout, activation, request):
    expected = results(dtype, layout, activation)
    request.getfixturevalue("_without_the_exchange_api")
    x = torch.randn(2, 4, 3)
    assert launch.quick_forward(x, 2, None, None, 1e-5, None, None, False) is not None
    for ours, same in zip(results(dtype, layout, activation), expected, strict=True):
        assert torch.equal(ours, same)


@pytest.mark.skipif(not NATIVE, reason="there are no kernels")
def test_the_number_of_keywords_and_tensors_does_not_end_the_process():
    x = torch.randn(2, 4, 3)
    forward, backward = launch._kernels.forward, launch._kernels.backward
    keywords = {"num_groups": 2, "images": 0, "activation": 0, "threads": 1, "eps": 1e-5}
    complete = {**keywords, "with_statistics": False}
    assert forward(x, None, None, None, None, **complete) is not None
    for wrong in (keywords, {}, {**complete, "eps": None}, {**complete, "num_groups": 1.5}):
        assert forward(x, None, None, None, None, **wrong) is None
    for tensors in ((), (x,), (x, x, x, x, x, x, x), (None,) * 5, (3,) * 5):
        assert forward(*tensors, **complete) is None or len(tensors) == 1
        assert backward(*tensors, **keywords, needs_residual=False) is None


def test_input_with_other_strides_is_copied():
    x = torch.randn(4, 6, 5, 8).transpose(2, 3)[:, :, ::2]
    dy = torch.randn(4, 6, 4, 5)
    leaf = x.detach().requires_grad_()
    y = group_norm(leaf, 3, backend="native")
    (dx,) = torch.autograd.grad(y, leaf, dy)
    same = group_norm(x.contiguous(), 3, backend="native")
    assert torch.equal(y, same)
    assert dx.shape == x.shape


def test_channels_innermost_in_three_axes_is_kept():
    x = torch.randn(2, 7, 12).transpose(1, 2)
    y = group_norm(x, 3, backend="native")
    assert y.stride() == x.stride()
    assert torch.allclose(y, group_norm(x.contiguous(), 3, backend="native"), atol=STEP)


def test_another_default_device_does_not_matter():
    x = torch.randn(2, 4, 5, requires_grad=True)
    dy = torch.randn(2, 4, 5)
    plain = torch.autograd.grad(group_norm(x, 2, backend="native"), x, dy)[0]
    with torch.device("meta"):
        inside = torch.autograd.grad(group_norm(x, 2, backend="native"), x, dy)[0]
    assert torch.equal(plain, inside)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_after_a_fork(threads):
    """In a DataLoader's worker, after the parent has used its threads."""
    threads(2)
    x = torch.randn(8, 16, 64, 64)
    expected = group_norm(x, 4, backend="native")

    class Normalized(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return group_norm(x, 4, backend="native")

    loader = torch.utils.data.DataLoader(Normalized(), num_workers=2, timeout=60)
    for batch in loader:
        assert torch.equal(batch[0], expected)


@pytest.mark.slow
def test_without_a_compiler_the_package_installs_and_says_so(tmp_path):
    """A real install with compilers that fail; then what a user of it sees."""
    broken = {**os.environ, "CC": "/bin/false", "CXX": "/bin/false"}
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, ROOT]
    done = subprocess.run(command, env=broken, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code = (
        "import sys\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'groupnorm' not in type(f).__module__]\n"
        f"sys.path.insert(0, {str(target)!r})\n"
        "import torch, groupnorm\n"
        "print(groupnorm.__file__)\n"
        "print(groupnorm.explain())\n"
        "groupnorm.GroupNorm(2, 4)(torch.randn(2, 4, 3, 3))\n"
        "try: groupnorm.group_norm(torch.randn(2, 4), 2, backend='native')\n"
        "except ValueError as error: print('refused:', error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    where, chosen, off, *rest = ran.stdout.splitlines()
    assert where.startswith(str(target))
    assert chosen.startswith("aten:")
    assert off.startswith("native is off: the C++ kernels are not there")
    assert "install g++ or clang and cmake" in off
    assert rest[-1].startswith("refused: no backend for this input: native the C++ kernels are not")
