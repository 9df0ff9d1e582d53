"""Per-worker batch norm against separate copies of PyTorch's, one for each worker."""

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.distributed.nn.functional import all_gather

from groupnorm.layers import BatchNorm, BatchRenorm, SyncBatchNorm, rows_per_worker
from tests.processes import in_processes
from tests.tolerances import DOUBLE, EPS, LAYER, STEP, bound


def pair(dtype, images, channels=6, workers=None):
    torch.manual_seed(0)
    ours = BatchNorm(channels, batch_per_worker=images, dtype=dtype)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    theirs = [nn.BatchNorm2d(channels, dtype=dtype) for _ in range(workers or 12 // images)]
    for one in theirs:
        one.load_state_dict(ours.state_dict())
    return ours, theirs


def close(a, b, dtype, offset=0.0, scale=None):
    """`scale`: what the error is relative to, by default the largest value."""
    assert a.shape == b.shape
    largest = float(b.detach().abs().max())
    assert (a - b).abs().max() <= 2 * bound(dtype, offset, scale or largest, largest)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("images", [12, 4, 3, 2, 1])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_equals_one_pytorch_layer_for_each_worker(dtype, images, layout, offset):
    """Both are rounded, so twice the bound of one."""
    ours, theirs = pair(dtype, images)
    for _ in range(2):  # twice, so that running statistics are averaged over time too
        x = (torch.randn(12, 6, 5, 7, dtype=dtype) + offset).contiguous(memory_format=layout)
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        y = ours(a)
        reference = torch.cat(
            [one(part) for one, part in zip(theirs, b.split(images), strict=True)]
        )
        dy = torch.randn_like(y)
        y.backward(dy)
        reference.backward(dy)
        close(y, reference, dtype, offset)
        close(a.grad, b.grad, dtype, offset)
        total = float(dy.abs().sum((0, 2, 3)).max()) * 2
        dw, db = (sum(getattr(t, name).grad for t in theirs) for name in ("weight", "bias"))
        close(ours.weight.grad, dw, dtype, offset, 2 * total)
        close(ours.bias.grad, db, dtype, 0, 2 * total)
    workers = len(theirs)
    close(ours.running_mean, sum(t.running_mean for t in theirs) / workers, dtype, 0, 1 + offset)
    close(ours.running_var, sum(t.running_var for t in theirs) / workers, dtype, offset)
    assert ours.num_batches_tracked == 2


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_no_loop_over_the_chunks(layout):
    """The same operations run whatever the number of chunks."""
    counts = []
    for images in (32, 2):
        layer = BatchNorm(4, batch_per_worker=images)
        x = torch.randn(64, 4, 3, 3).contiguous(memory_format=layout).requires_grad_()
        with torch.profiler.profile() as profile:
            layer(x).backward(torch.randn(64, 4, 3, 3).contiguous(memory_format=layout))
        counts.append(sum(event.name.startswith("aten::") for event in profile.events()))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 5), (6, 4, 3, 2), (6, 4, 3, 2, 2)], ids=str)
def test_ranks(shape):
    layer = BatchNorm(4, batch_per_worker=3)
    x = torch.randn(shape)
    y = layer(x).view(2, 3, 4, -1)
    assert torch.allclose(y.mean((1, 3)), torch.zeros(2, 4), atol=STEP)
    assert torch.allclose(y.var((1, 3), correction=0), torch.ones(2, 4), atol=EPS)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_gradcheck(layout):
    layer = BatchNorm(3, batch_per_worker=2, dtype=torch.float64)
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64).contiguous(memory_format=layout)

    def f(x, w, b):
        return torch.func.functional_call(layer, {"weight": w, "bias": b}, (x,))

    parameters = [torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(f, (x.requires_grad_(), *parameters))


def test_a_gradient_in_another_layout():
    layer = BatchNorm(4, batch_per_worker=2)
    x = torch.randn(4, 4, 3, 5, requires_grad=True)
    dy = torch.randn(4, 4, 3, 5)
    (expected,) = torch.autograd.grad(layer(x), x, dy)
    for other in (dy.contiguous(memory_format=torch.channels_last), dy[:, :1].expand_as(dy)):
        (gradient,) = torch.autograd.grad(layer(x), x, other)
        (plain,) = torch.autograd.grad(layer(x), x, other.contiguous())
        assert torch.equal(gradient, plain)
    assert not torch.equal(expected, gradient)


def test_evaluation_is_plain_batch_norm_for_any_number_of_images():
    ours, (theirs, *_) = pair(torch.float32, 4)
    ours.running_mean.normal_()
    ours.running_var.uniform_(0.5, 2)
    theirs.load_state_dict(ours.state_dict())
    ours.eval(), theirs.eval()
    x = torch.randn(7, 6, 3, 3)
    assert torch.equal(ours(x), theirs(x))


def test_state_dicts_of_pytorch_load_both_ways():
    ours, theirs = BatchNorm(5), nn.BatchNorm2d(5)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    assert [*ours.state_dict()] == [*theirs.state_dict()]


@pytest.mark.parametrize("images", [5, 7, 24])
def test_a_batch_that_is_no_multiple_raises(images):
    with pytest.raises(ValueError, match=f"got 12 images and batch_per_worker={images}"):
        BatchNorm(3, batch_per_worker=images)(torch.randn(12, 3, 2, 2))


def test_other_errors():
    with pytest.raises(ValueError, match=r"\(N, 3, \*\) .* got \(4, 2, 2\)"):
        BatchNorm(3)(torch.randn(4, 2, 2))
    with pytest.raises(ValueError, match=r"\(N, 3, \*\) .* got \(4, 3, 1, 1, 1, 1\)"):
        BatchNorm(3).eval()(torch.randn(4, 3, 1, 1, 1, 1))
    with pytest.raises(ValueError, match="more than one value per channel"):
        BatchNorm(3, batch_per_worker=1)(torch.randn(4, 3))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        BatchNorm(3, batch_per_worker=0)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (4, 3, 0, 4), (0, 3)], ids=str)
@pytest.mark.parametrize("images", [None, 2])
@pytest.mark.parametrize("kind", [BatchNorm, SyncBatchNorm, BatchRenorm])
def test_an_input_without_values_in_training_is_pytorchs(kind, images, shape):
    """An output without values, gradients of 0; the step counts, the statistics stay."""
    options = {} if kind is SyncBatchNorm else {"batch_per_worker": images}
    ours = kind(3, **options)
    theirs = nn.BatchNorm1d(3) if len(shape) == 2 else nn.BatchNorm2d(3)
    for layer in (ours, theirs):
        layer(torch.randn(4, 3, 4, 4)[..., 0, 0] if len(shape) == 2 else torch.ones(4, 3, 4, 4))
    theirs.load_state_dict(ours.state_dict())
    for _ in range(2):
        results = []
        for layer in (ours, theirs):
            layer.zero_grad()
            x = torch.randn(shape, requires_grad=True)
            y = layer(x)
            y.sum().backward()
            results.append((y, x.grad, layer.weight.grad, layer.bias.grad, *layer.buffers()))
        for mine, others in zip(*results, strict=True):
            assert torch.equal(mine, others)


def test_syncbn_in_one_process_is_batch_norm_over_the_whole_batch():
    sync, plain = SyncBatchNorm(3), BatchNorm(3)
    x = torch.randn(8, 3, 4, 4)
    assert torch.equal(sync(x), plain(x))


def _worker(rank, count):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNorm(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    model = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 3, 6, 6, generator=generator)
    dy = torch.randn(8, 2, 2, 2, generator=generator)
    part = slice(4 * rank, 4 * rank + 4)
    model(x[part]).backward(dy[part])
    # Synchronized by hand: every process normalizes what all of them hold, and keeps its part.
    mine = x[part].clone().requires_grad_()
    everything = torch.cat(all_gather(mine))
    synchronized = nn.BatchNorm2d(3)(everything)[part]
    (of_mine,) = torch.autograd.grad(synchronized, mine, x[part] ** 2)
    gradients = [p.grad for p in model.parameters()]
    return gradients, list(model.module[1].buffers()), (synchronized, of_mine)


@pytest.mark.usefixtures("_fork_server")
@pytest.mark.xdist_group("processes")
def test_one_process_with_chunks_equals_two_processes():
    results = in_processes(2, _worker)
    torch.manual_seed(0)
    layer = BatchNorm(4, batch_per_worker=4)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), layer, nn.ReLU(), nn.Conv2d(4, 2, 3))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 3, 6, 6, generator=generator)
    model(x).backward(torch.randn(8, 2, 2, 2, generator=generator) / 2)  # DDP averages
    for ours, theirs in zip(model.parameters(), results[0][0], strict=True):
        assert torch.allclose(ours.grad, torch.from_numpy(theirs), atol=LAYER)
    for index, name in enumerate(("running_mean", "running_var")):
        mean = sum(torch.from_numpy(result[1][index]) for result in results) / 2
        assert torch.allclose(getattr(layer, name), mean, atol=STEP)
    # In one process syncbn gives what the two would synchronize to, and the same gradients.
    x.requires_grad_()
    y = SyncBatchNorm(3)(x)
    (dx,) = torch.autograd.grad(y, x, x.detach() ** 2)
    for ours, index in ((y, 0), (dx, 1)):
        theirs = torch.cat([torch.from_numpy(result[2][index]) for result in results])
        assert torch.allclose(ours, theirs, atol=LAYER)


def test_copies_are_independent():
    layer = BatchNorm(3, batch_per_worker=2)
    twin = copy.deepcopy(layer)
    layer(torch.randn(4, 3, 2, 2))
    assert twin.num_batches_tracked == 0


RAGGED = [(3, 5, 2), (4, 0, 1), (0, 0, 7), (5, 5), (1, 0, 1, 1), (6,)]


@pytest.mark.parametrize("rows", RAGGED, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("kind", [BatchNorm, BatchRenorm])
def test_rows_of_workers_are_normalized_as_each_worker_would_alone(kind, layout, rows):
    """Output and gradients are the workers' own; statistics the mean over what their layers hold.

    A worker without rows holds what it held. `batch_per_worker`, in which images are counted, is
    not used.
    """
    torch.manual_seed(0)
    ours = kind(4, batch_per_worker=4, dtype=torch.float64)
    nn.init.normal_(ours.weight), nn.init.normal_(ours.bias)
    ours.running_mean.normal_(), ours.running_var.uniform_(0.5, 2)
    for _ in range(2):
        ours.zero_grad()
        workers = [copy.deepcopy(ours) for _ in rows]
        for worker in workers:
            worker.batch_per_worker = None
        x = torch.randn(sum(rows), 4, 6, 7, dtype=torch.float64).contiguous(memory_format=layout)
        dy = torch.randn_like(x)
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        with rows_per_worker(rows):
            y = ours(a)
        y.backward(dy)
        assert y.is_contiguous(memory_format=layout)
        expected = torch.cat([one(part) for one, part in zip(workers, b.split(rows), strict=True)])
        expected.backward(dy)
        close(y, expected, torch.float64)
        close(a.grad, b.grad, torch.float64)
        for name in ("weight", "bias"):
            grads = [getattr(one, name).grad for one in workers]
            total = sum(grad for grad in grads if grad is not None)
            assert torch.allclose(getattr(ours, name).grad, total, atol=DOUBLE, rtol=DOUBLE)
        for name in ("running_mean", "running_var"):
            mean = sum(getattr(one, name) for one in workers) / len(rows)
            assert torch.allclose(getattr(ours, name), mean, atol=DOUBLE, rtol=DOUBLE)
        assert all(one.num_batches_tracked == ours.num_batches_tracked for one in workers)


def test_no_worker_with_rows():
    layer = BatchNorm(3, batch_per_worker=2)
    x = torch.zeros(0, 3, 4, 4, requires_grad=True)
    with rows_per_worker([0, 0]):
        layer(x).sum().backward()
    assert torch.equal(layer.running_mean, torch.zeros(3))
    assert torch.equal(layer.weight.grad, torch.zeros(3))


def test_rows_of_workers_end_with_their_block():
    layer, x = BatchNorm(3), torch.randn(5, 3, 4, 4)
    whole = layer(x)
    with rows_per_worker([2, 3]):
        with contextlib.suppress(KeyError), rows_per_worker([5]):
            assert torch.equal(layer(x), whole)
            raise KeyError
        assert not torch.equal(layer(x), whole)
    assert torch.equal(layer(x), whole)


def test_rows_of_workers_do_not_reach_evaluation_and_synchronized_statistics():
    x = torch.randn(5, 3, 4, 4)
    for layer in (BatchNorm(3).eval(), SyncBatchNorm(3)):
        expected = layer(x)
        with rows_per_worker([2, 3]):
            assert torch.equal(layer(x), expected)


def test_rows_that_do_not_fit():
    x = torch.randn(5, 3, 4, 4)
    with rows_per_worker([2, 2]), pytest.raises(ValueError, match=r"add up .* got \(2, 2\) and"):
        BatchNorm(3)(x)
    with rows_per_worker([1, 4]), pytest.raises(ValueError, match="more than one value"):
        BatchNorm(3)(x[:, :, 0, 0])
    for rows in ([], [3, -1]):
        with pytest.raises(ValueError, match="one number, 0 or more"), rows_per_worker(rows):
            pass
    told = "got 5 images and batch_per_worker=2; where the rows are regions of images, run the"
    with pytest.raises(ValueError, match=told):
        BatchNorm(3, batch_per_worker=2)(x)


def test_a_compiled_layer_follows_the_rows_of_each_call():
    layer = BatchNorm(8, batch_per_worker=3)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    x = torch.randn(6, 8, 4, 4)
    for rows in (None, (1, 5), None, (2, 4)):
        with contextlib.nullcontext() if rows is None else rows_per_worker(rows):
            assert torch.allclose(compiled(x), layer(x), atol=STEP)
