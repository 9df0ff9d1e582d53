"""What needs a GPU: sizes beyond 2^31, CUDA graphs, streams, torch.compile, a training.

pytest -m gpu
"""

import copy

import pytest
import torch
import torch.nn.functional as F

from groupnorm import GroupNorm, GroupNormAct
from groupnorm.ops.group_norm import group_norm, reference
from tests.ops.group_norm.runners import DEVICE, TRITON, running
from tests.tolerances import (
    AUTOCAST_LOSS,
    AUTOCAST_LOSS_AT_END,
    HALF_STATISTICS,
    LAYER,
    STORAGE,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not TRITON or DEVICE != "cuda", reason="needs a CUDA device and Triton"),
]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def free_gigabytes():
    return torch.cuda.mem_get_info()[0] / 2**30


@pytest.mark.parametrize("layout", LAYOUTS)
def test_more_than_2_31_elements(layout):
    """The last sample lies beyond; its results are those of the sample alone, in float64."""
    if free_gigabytes() < 60:
        pytest.skip("needs 60 GB")
    generator = torch.Generator(DEVICE).manual_seed(0)
    x = torch.empty(5, 8, 8192, 8192, dtype=torch.bfloat16, device=DEVICE)
    x = x.contiguous(memory_format=LAYOUTS[layout])
    assert x.numel() > 2**31
    for sample in x:
        sample.normal_(generator=generator)
    x.requires_grad_()
    y = group_norm(x, 2, activation="silu", backend="triton")
    dy = torch.zeros_like(x)
    dy[-1].normal_(generator=generator)
    (dx,) = torch.autograd.grad(y, x, dy)
    for channels in (slice(0, 4), slice(4, 8)):  # a group at a time
        last = x[-1:, channels].detach().double()
        y64, mean, rstd = reference.forward(last, 1, activation="silu")
        assert (y[-1:, channels].double() - y64).abs().max() <= STORAGE[torch.bfloat16] * float(
            y64.abs().max()
        )
        dx64 = reference.backward(
            dy[-1:, channels].double(), last, 1, None, None, mean, rstd, "silu"
        )[0]
        assert (dx[-1:, channels].double() - dx64).abs().max() <= STORAGE[torch.bfloat16] * float(
            dx64.abs().max()
        )
        del last, y64, dx64
    assert not dx[:-1].any()


def test_more_than_2_31_positions():
    if free_gigabytes() < 30:
        pytest.skip("needs 30 GB")
    x = torch.ones(1, 1, 2**31 + 9, dtype=torch.float16, device=DEVICE)
    x[..., ::2] = -1
    x[..., -1] = 3
    y = group_norm(x, 1, backend="triton")
    assert torch.allclose(y[..., -9:].float(), x[..., -9:].float(), atol=HALF_STATISTICS)
    assert torch.allclose(y[..., :9].float(), x[..., :9].float(), atol=HALF_STATISTICS)


# `make_graphed_callables` captures on a stream of its own, of which PyTorch then warns.
@pytest.mark.filterwarnings("ignore:The AccumulateGrad node's stream does not match:UserWarning")
@pytest.mark.parametrize("size", [(4, 64, 16, 16), (2, 64, 128, 128)], ids=str)
def test_a_cuda_graph_of_forward_and_backward(size):
    layer = GroupNormAct(8, 64, activation="silu", backend="triton").to(DEVICE)
    x = torch.randn(size, device=DEVICE, requires_grad=True)
    captured = copy.deepcopy(layer)
    graphed = torch.cuda.make_graphed_callables(captured, (x.detach().clone().requires_grad_(),))
    for _ in range(3):
        x = torch.randn(size, device=DEVICE, requires_grad=True)
        dy = torch.randn_like(x)
        y = graphed(x)
        grads = torch.autograd.grad(y, [x, *captured.parameters()], dy)
        from_graph = [t.clone() for t in (y, *grads)]
        y = layer(x)
        grads = torch.autograd.grad(y, [x, *layer.parameters()], dy)
        for a, b in zip(from_graph, (y, *grads), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("runner", TRITON)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_twenty_runs_on_several_streams_give_the_same_bits(layout, runner):
    x = torch.randn(2, 64, 200, 136, device=DEVICE).contiguous(memory_format=LAYOUTS[layout])
    w, dy = torch.randn(64, device=DEVICE, requires_grad=True), torch.randn_like(x)
    x.requires_grad_()
    streams = [torch.cuda.Stream() for _ in range(4)]
    results = []
    torch.cuda.synchronize()
    with running(runner):
        for run in range(20):
            with torch.cuda.stream(streams[run % 4]):
                y = group_norm(x, 4, w, activation="silu", backend="triton")
                results.append((y, *torch.autograd.grad(y, (x, w), dy)))
        torch.cuda.synchronize()
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_device_that_is_not_the_current_one():
    x = torch.randn(2, 8, 40, 40, device="cuda:1")
    assert torch.cuda.current_device() == 0
    y = group_norm(x, 2, backend="triton")
    assert y.device == x.device
    assert torch.allclose(y, F.group_norm(x, 2), atol=LAYER)
    assert torch.cuda.current_device() == 0


def test_one_compilation_for_many_sizes_of_images():
    """A dozen sizes between two powers of two: the kernels are compiled for the first only."""
    from groupnorm.ops.group_norm.triton.kernels.forward import resident_forward

    def compiled():
        return sum(len(caches[0]) for caches in resident_forward.device_caches.values())

    group_norm(torch.randn(2, 32, 8, 5, device=DEVICE), 8, backend="triton")
    before = compiled()
    for height in range(5, 8):
        for n in (3, 17):
            for channels in (32, 40):
                x = torch.randn(n, channels, 8, height, device=DEVICE)
                group_norm(x, 8, backend="triton")
    assert compiled() <= before + 1  # 5 channels of a group take another tile than 4


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_inductor_sees_the_kernels():
    from torch._inductor.utils import run_and_get_code

    torch.compiler.reset()
    layer = GroupNorm(4, 64, backend="triton").to(DEVICE)
    compiled = torch.compile(layer, fullgraph=True)
    for size, names in (
        ((2, 64, 8, 8), ["resident_forward"]),
        ((2, 64, 256, 256), ["partial_statistics", "apply_forward"]),
    ):
        x = torch.randn(size, device=DEVICE)
        with torch.no_grad():
            y, (code, *_) = run_and_get_code(compiled, x)
        assert all(name in code for name in names)
        assert torch.allclose(y, layer(x), atol=LAYER)
        torch.compiler.reset()


def losses(backend, steps=60):
    """Of a small classifier in mixed precision, on channels_last images with a learnable rule."""
    torch.manual_seed(0)
    blocks = []
    for into, out in ((3, 32), (32, 64), (64, 64)):
        conv = torch.nn.Conv2d(into, out, 3, stride=2, padding=1, bias=False)
        blocks += [conv, GroupNormAct(8, out, activation="relu", backend=backend)]
    pooled = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(64, 10)]
    model = torch.nn.Sequential(*blocks, *pooled).to(DEVICE, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    patterns = torch.randn(10, 3, 32, 32, generator=generator)
    found = []
    for _ in range(steps):
        labels = torch.randint(10, (64,), generator=generator)
        images = patterns[labels] + 2 * torch.randn(64, 3, 32, 32, generator=generator)
        images = images.to(DEVICE, memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(model(images), labels.to(DEVICE))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return torch.tensor(found)


def test_a_training_in_mixed_precision_goes_as_with_pytorch():
    ours, torchs = losses("triton"), losses("aten")
    assert torchs[-10:].mean() < 0.5 * torchs[0]
    assert (ours - torchs).abs().max() <= AUTOCAST_LOSS
    assert abs(ours[-10:].mean() - torchs[-10:].mean()) <= AUTOCAST_LOSS_AT_END
