"""Synchronized statistics on gloo against one process with the whole batch."""

import numpy as np
import pytest
import torch
from torch import nn

from groupnorm.layers import BatchNorm, SyncBatchNorm
from tests.child import needs_processes
from tests.processes import in_processes
from tests.tolerances import DDP_64, bound

pytestmark = needs_processes


# Images of each process; unequal, one of them without any.
SHARES = {2: [5, 3], 3: [4, 0, 4]}
CASES = [
    (torch.float64, (8, 3, 5, 4), 0.0, "contiguous"),
    (torch.float64, (8, 3, 5, 4), 100.0, "channels_last"),
    (torch.float32, (8, 3, 5, 4), 30.0, "contiguous"),
    (torch.bfloat16, (8, 3, 5, 4), 1.0, "channels_last"),
    (torch.float64, (8, 3), 0.0, "contiguous"),
]


def build(case):
    """Layer, input and cotangent of a case, the same in every process."""
    dtype, shape, offset, layout = CASES[case]
    generator = torch.Generator().manual_seed(case)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x = (torch.randn(shape, dtype=wide, generator=generator) + offset).to(dtype)
    dy = torch.randn(shape, dtype=wide, generator=generator).to(dtype)
    parameters = torch.randn(2, 3, dtype=wide, generator=generator)
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    x, dy = (t.contiguous(memory_format=memory_format) for t in (x, dy))
    return parameters, x, dy


def layer_of(kind, parameters, dtype=None):
    layer = kind(3, dtype=dtype or parameters.dtype)
    with torch.no_grad():
        layer.weight.copy_(parameters[0])
        layer.bias.copy_(parameters[1])
    return layer


def results(layer, x, dy):
    x = x.clone().requires_grad_()
    y = layer(x)
    y.backward(dy)
    numbers = {"y": y, "dx": x.grad, "dw": layer.weight.grad, "db": layer.bias.grad}
    numbers = {key: value.detach().double() for key, value in numbers.items()}
    statistics = {"mean": layer.running_mean.double(), "var": layer.running_var.double()}
    kept = y.dtype == x.dtype and y.stride() == x.stride() and x.grad.dtype == x.dtype
    return {**numbers, **statistics, "kept": kept}


def work(rank, count):
    first = sum(SHARES[count][:rank])
    part = slice(first, first + SHARES[count][rank])
    found = []
    for case in range(len(CASES)):
        parameters, x, dy = build(case)
        found.append(results(layer_of(SyncBatchNorm, parameters), x[part], dy[part]))
    refusals = []
    layer = SyncBatchNorm(3)
    for x, outcome in (
        (torch.randn(1 if rank == 0 else 0, 3), "training"),
        (torch.randn(2, 4), "channels"),
    ):
        try:
            layer(x)
            refusals.append(f"{outcome}: nothing was raised")
        except ValueError as error:
            refusals.append(str(error))
    layer.running_mean.fill_(3)
    y = layer(torch.randn(0, 3, 2, requires_grad=True))
    y.sum().backward()
    nothing = [y, layer.weight.grad, layer.running_mean, layer.running_var]
    # In evaluation nobody waits for anybody.
    evaluated = layer.eval()(torch.zeros(1, 3)).shape[0] if rank == 0 else 1
    return found, refusals, evaluated, nothing


@pytest.fixture(scope="module", params=[2, 3])
def processes(request):
    return request.param, in_processes(request.param, work)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_equals_one_process_with_the_whole_batch(processes, case):
    """Against float64 on the same input; the bound for the sums is theirs of absolute values."""
    _, found = processes
    dtype, shape, offset, _ = CASES[case]
    parameters, x, dy = build(case)
    whole = layer_of(BatchNorm, parameters, torch.float64)
    expected = results(whole, x.double(), dy.double())
    ours = [result[0][case] for result in found]
    assert all(one["kept"] for one in ours)
    largest_weight = float(parameters[0].abs().max())
    sums = float(dy.double().abs().sum()) * 2
    scales = {"y": largest_weight, "dx": largest_weight * float(dy.abs().max()) * 2}
    for key in ("y", "dx"):
        together = torch.from_numpy(np.concatenate([one[key] for one in ours]))
        allowed = 2 * bound(dtype, offset, scales[key], float(expected[key].abs().max()))
        assert together.shape == shape
        assert (together - expected[key]).abs().max() <= allowed, key
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for key in ("dw", "db"):
        total = torch.from_numpy(sum(one[key] for one in ours))
        assert (total - expected[key]).abs().max() <= 2 * bound(wide, offset, sums, sums), key
    for one in ours:
        for key in ("mean", "var"):
            difference = (torch.from_numpy(one[key]) - expected[key]).abs().max()
            assert difference <= 2 * bound(wide, 0, 1 + offset, 1 + offset), key
            assert np.array_equal(one[key], ours[0][key])


def test_what_is_refused(processes):
    _, found = processes
    for _, (one_value, channels), evaluated, _ in found:
        assert "more than one value per channel in training, got 1 over all processes" in one_value
        assert "(N, 3, *)" in channels
        assert evaluated == 1


def test_no_process_has_an_image(processes):
    for *_, (y, weight_gradient, mean, var) in processes[1]:
        assert y.shape == (0, 3, 2)
        assert np.array_equal(weight_gradient, np.zeros(3))
        assert np.array_equal(mean, np.full(3, 3))
        assert np.array_equal(var, np.ones(3))


def network_gradients(rank, count, compiled):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), SyncBatchNorm(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    model.double()
    used = torch.compile(model, backend="aot_eager") if compiled else model
    if count > 1:
        used = nn.parallel.DistributedDataParallel(used)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 2, 6, 6, dtype=torch.float64, generator=generator)
    size = 6 // count
    used(x[rank * size : (rank + 1) * size]).square().mean().backward()
    return [parameter.grad for parameter in model.parameters()], list(model.buffers())


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_network_in_two_processes_has_the_gradients_of_one(compiled):
    expected, running = network_gradients(0, 1, False)
    for gradients, buffers in in_processes(2, network_gradients, compiled):
        for ours, theirs in zip([*gradients, *buffers], [*expected, *running], strict=True):
            assert np.allclose(ours, theirs.numpy(), **DDP_64)


def test_there_is_no_double_backward():
    result = in_processes(1, _double_backward)
    assert "once_differentiable" in result[0]


def _double_backward(rank, count):
    from groupnorm.ops.sync_batch_norm import synchronized_batch_norm

    x = torch.randn(4, 3, 2, requires_grad=True)
    y, *_ = synchronized_batch_norm(x, None, None, 1e-5)
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    try:
        dx.sum().backward()
    except RuntimeError as error:
        return str(error)
    return "nothing was raised"
