"""What only the Triton kernels promise; their numbers against float64 are in test_group_norm.py."""

import pytest
import torch

from groupnorm import GroupNormAct
from groupnorm.ops.group_norm import group_norm, reference
from groupnorm.ops.group_norm.activations import ACTIVATIONS, NUMBERS, activate, derivative
from tests.ops.group_norm.runners import DEVICE, GPU, SMALL_TILES, TRITON, WHOLE_TILES, running
from tests.tolerances import ROUNDOFF, STEP, SUBNORMAL

pytestmark = [pytest.mark.skipif(not TRITON, reason="Triton is not installed"), *GPU]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# The kernels of each path, with the number of their launches.
FORWARD = {
    "resident": {"resident_forward": 1},
    "looped": {"looped_forward": 1},
    "split": {"partial_statistics": 1, "apply_forward": 1},
}
BACKWARD = {
    "resident": {"resident_backward": 1},
    "looped": {"looped_backward": 1},
    "split": {"partial_sums": 1, "apply_backward": 1},
}

# The paths that a size takes on one processor, forward and backward.
PATHS = {
    ((2, 8, 7, 5), 4): ("resident", "resident"),
    ((1, 4, 64, 64), 1): ("resident", "split"),  # 16,384 elements: too many together with dy
    ((1, 6, 80, 70), 2): ("split", "split"),
    ((4, 32, 66, 33), 2): ("looped", "looped"),
    ((4, 160, 17, 13), 2): ("looped", "looped"),  # a group in several blocks of channels
    ((1, 1030, 5, 5), 2): ("split", "split"),
}


@pytest.fixture
def launched(monkeypatch):
    """Names of the kernels that are launched, with their numbers."""
    from groupnorm.ops.group_norm.triton.kernels import backward, forward

    count = {}

    class Recorder:
        def __init__(self, name, kernel):
            self.name, self.kernel = name, kernel

        def __getitem__(self, grid):
            count[self.name] = count.get(self.name, 0) + 1
            return self.kernel[grid]

    names = {
        name for paths in (FORWARD, BACKWARD) for kernels in paths.values() for name in kernels
    }
    for module in (forward, backward):
        for name in names & set(vars(module)):
            monkeypatch.setattr(module, name, Recorder(name, getattr(module, name)))
    return count


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("size", "groups"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] * ("looped" in paths), id=str(case[0]))
        for case, paths in PATHS.items()
    ],
)
def test_the_path_of_a_size_on_one_processor(size, groups, layout, launched, monkeypatch):
    from groupnorm.ops.group_norm.triton import launch

    monkeypatch.setattr(launch, "processors_of", lambda device: 1)
    x = torch.randn(size, device=DEVICE).contiguous(memory_format=LAYOUTS[layout])
    w = torch.randn(size[1], device=DEVICE)
    dy = torch.randn_like(x)
    with running("triton/as it is"):
        y = group_norm(x.requires_grad_(), groups, w, backend="triton")
        (dx,) = torch.autograd.grad(y, x, dy)
    forward, backward = PATHS[size, groups]
    assert launched == FORWARD[forward] | BACKWARD[backward]
    y64, mean, rstd = reference.forward(x.detach().double(), groups, w.double())
    dx64 = reference.backward(
        dy.double(), x.detach().double(), groups, w.double(), None, mean, rstd
    )[0]
    assert (y.double() - y64).abs().max() <= STEP * float(y64.abs().max())
    assert (dx.double() - dx64).abs().max() <= 2 * STEP * float(dx64.abs().max())


def test_every_path_is_taken_by_some_size():
    for direction, kernels in enumerate((FORWARD, BACKWARD)):
        assert {paths[direction] for paths in PATHS.values()} == set(kernels)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("size", "groups"),
    [((1, 4, 6, 5), 2), pytest.param((3, 30, 17, 9), 3, marks=pytest.mark.slow)],
    ids=str,
)
@pytest.mark.parametrize("path", ["split", "looped"])
def test_the_runners_take_the_path_they_are_named_after(path, size, groups, layout, launched):
    x = torch.randn(size, device=DEVICE).contiguous(memory_format=LAYOUTS[layout])
    with running(f"triton/{path}"):
        y = group_norm(x.requires_grad_(), groups, backend="triton")
        torch.autograd.grad(y, x, torch.randn_like(y))
    assert launched == FORWARD[path] | BACKWARD[path]


@pytest.fixture(params=[*WHOLE_TILES, *SMALL_TILES])
def _sizes(request):
    with running(request.param):
        yield


@pytest.mark.usefixtures("_sizes")
@pytest.mark.pairs(shape=[(1, 16, 14, 14), (1, 24, 15, 13)], mean=[0.0, 100.0, 1e4], layout=LAYOUTS)
def test_largest_error_of_the_output(shape, mean, layout):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) + mean
    x = x.contiguous(memory_format=LAYOUTS[layout]).to(DEVICE)
    true = reference.forward(x.double(), 8)[0]
    error = (group_norm(x, 8, backend="triton").double() - true).abs().max()
    assert error <= STEP * (1 + abs(mean) * 0.1)


@pytest.mark.usefixtures("_sizes")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_shift_far_from_the_mean_is_found_out(layout):
    """The block that the shift is taken from is 1e4; all others are near 0."""
    x = torch.randn(1, 8, 24, 24, generator=torch.Generator().manual_seed(2))
    x[:, :, :2] = 1e4
    x = x.contiguous(memory_format=LAYOUTS[layout]).to(DEVICE)
    true = reference.forward(x.double(), 2)[0]
    error = (group_norm(x, 2, backend="triton").double() - true).abs().max()
    assert error <= 2 * STEP * float(true.abs().max())


@pytest.mark.usefixtures("_sizes")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_not_a_number_stays_in_its_group(dtype):
    x = torch.randn(2, 4, 3, 3, device=DEVICE).to(dtype)
    x[0, 0, 0, 0] = float("nan")
    for activation in (None, *ACTIVATIONS):
        y = group_norm(x, 2, activation=activation, backend="triton")
        assert y[0, :2].isnan().all(), activation
        assert not y[0, 2:].isnan().any()
        assert not y[1].isnan().any()


@pytest.mark.usefixtures("_sizes")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_repeated_runs_give_the_same_bits(layout):
    x, dy = (
        torch.randn(2, 12, 11, 13, device=DEVICE).contiguous(memory_format=LAYOUTS[layout])
        for _ in range(2)
    )
    w = torch.randn(12, device=DEVICE)
    runs = []
    for _ in range(2):
        inputs = x.clone().requires_grad_(), w.clone().requires_grad_()
        y = group_norm(inputs[0], 3, inputs[1], activation="silu", backend="triton")
        runs.append((y, *torch.autograd.grad(y, inputs, dy)))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # NumPy, interpreting
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_over_the_whole_range(name):
    """GN of zeros is 0: what is activated is the residual. A few units of rounding, as in C++."""
    powers = torch.tensor([s * 2.0**e for e in range(-126, 127) for s in (-1, 1)])
    edges = torch.tensor([0.0, -0.0, 3.0, -3.0, 87.0, -88.0])
    z = torch.cat([torch.linspace(-120, 120, 24_001), torch.randn(10_000) * 2, powers, edges])
    z = z.view(1, 1, -1).to(DEVICE).requires_grad_()
    with running("triton/as it is"):
        value = group_norm(torch.zeros_like(z), 1, activation=name, residual=z, backend="triton")
        (slope,) = torch.autograd.grad(value, z, torch.ones_like(z))
    z = z.detach()
    unit = ROUNDOFF[torch.float32]
    true = activate(z.double(), name)
    assert ((value.double() - true).abs() <= 8 * unit * z.double().abs() + SUBNORMAL).all()
    moderate = z.abs() <= 1e4
    z, slope = z[moderate], slope[moderate]
    true = derivative(z.double(), name)
    assert ((slope.double() - true).abs() <= 8 * unit * (1 + z.double().abs())).all()


def test_memory_kept_for_the_backward_pass():
    """The input, and 8 bytes for each group; parameters are there anyway."""
    layer = GroupNormAct(4, 16, activation="silu", backend="triton").to(DEVICE)
    x = torch.randn(3, 16, 9, 9, device=DEVICE, requires_grad=True)
    kept = []
    with (
        running("triton/as it is"),
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
    ):
        layer(x).backward(torch.randn_like(x))
    others = [t for t in kept if not isinstance(t, torch.nn.Parameter)]
    assert sum(t.numel() * t.element_size() for t in others) == x.numel() * 4 + 3 * 4 * 8


def test_double_input_is_refused():
    x = torch.randn(2, 4, 3, dtype=torch.float64, device=DEVICE)
    with pytest.raises(ValueError, match=r"triton takes .*, got torch\.float64"):
        group_norm(x, 2, backend="triton")


def test_numbers_of_the_activations_are_those_of_the_kernels():
    from groupnorm.ops.group_norm.triton.kernels import activations

    for name in ACTIVATIONS:
        assert getattr(activations, f"_{name.upper()}").value == NUMBERS[name]
