"""Refitted layers: the teacher's weights are found, every geometry is seen rightly."""

import copy

import pytest
import torch
from torch import nn

from groupnorm.conversion.calibration.refit import HeldOutRows, LayerRows, RidgeRefit
from tests.tolerances import DOUBLE, FAR_SINGLE, FORMULA_64, NETWORK, SOLVED_64

LAYERS = {
    "dense": lambda: nn.Conv2d(4, 5, 3, padding=1),
    "strided, dilated, without bias": lambda: nn.Conv2d(
        4, 5, (3, 2), stride=(2, 1), dilation=(1, 2), bias=False
    ),
    "same": lambda: nn.Conv1d(4, 5, 4, padding="same", padding_mode="circular"),
    "reflecting": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    "around": lambda: nn.Conv2d(4, 6, 3, padding=(1, 0), padding_mode="circular"),
    "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1),
    "depth multiplier": lambda: nn.Conv2d(4, 8, 3, groups=4),
    "in time": lambda: nn.Conv3d(4, 3, (3, 1, 1), padding=(1, 0, 0)),
    "linear": lambda: nn.Linear(4, 3),
}
SHAPES = {"same": (30, 4, 11), "in time": (20, 4, 4, 3, 3), "linear": (40, 4)}


def layer_and_input(name):
    layer = LAYERS[name]().double()
    shape = SHAPES.get(name, (12, 4, 8, 8))
    return layer, torch.randn(shape, dtype=torch.float64) + 3


def apply(layer, weight, bias, x):
    other = copy.deepcopy(layer)
    other.weight = nn.Parameter(weight)
    other.bias = nn.Parameter(bias)
    return other(x)


def far_away(layer):
    """The same layer with other weights, as a student's that has drifted."""
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.weight.add_(torch.randn_like(other.weight))
    return other


@pytest.mark.parametrize("name", LAYERS)
def test_least_squares_finds_the_teachers_weights(name):
    teacher, x = layer_and_input(name)
    student = far_away(teacher)
    before = copy.deepcopy(student.state_dict())
    refit = RidgeRefit(student)
    for part in x.split(7):
        refit.add(part, teacher(part))
    weight, bias = refit.solve(ridge=0)
    assert torch.allclose(weight, teacher.weight, atol=SOLVED_64)
    assert torch.allclose(apply(teacher, weight, bias, x), teacher(x), atol=SOLVED_64)
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())
    assert not weight.requires_grad


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_that_is_right_stays(name):
    layer, x = layer_and_input(name)
    refit = RidgeRefit(layer)
    refit.add(x, layer(x))
    weight, bias = refit.solve()
    assert (weight - layer.weight).abs().max() < DOUBLE
    assert torch.allclose(apply(layer, weight, bias, x), layer(x))


@pytest.mark.parametrize("name", ["dense", "grouped", "depthwise", "linear"])
def test_the_ridge_is_the_minimum_and_better_than_before(name):
    """Of the mean squared error plus the pull, in the gradient and by the old weights."""
    layer, x = layer_and_input(name)
    target = layer(x)
    target = (target + torch.randn_like(target)).detach()
    student = far_away(layer)
    refit = RidgeRefit(student)
    refit.add(x, target)
    weight, bias = refit.solve(0.1)
    weight.requires_grad_()
    groups = getattr(student, "groups", 1)
    pull = [0.1 * refit_variance(student, x, group) for group in range(groups)]

    def objective(weight, bias):
        error = ((apply_free(student, weight, bias, x) - target) ** 2).sum()
        rows = target.numel() / len(weight)
        parts = (weight - student.weight.detach()).chunk(groups)
        return error / rows + sum(p * (part**2).sum() for p, part in zip(pull, parts, strict=True))

    found = objective(weight, bias)
    (gradient,) = torch.autograd.grad(found, weight)
    assert gradient.abs().max() < FORMULA_64
    old_bias = bias - 0 if student.bias is None else student.bias
    assert found < objective(student.weight, old_bias)


def apply_free(layer, weight, bias, x):
    return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))


def refit_variance(layer, x, group):
    """The mean variance of the inputs that an output of the group sees."""
    if isinstance(layer, nn.Linear):
        return float(x.var(0, correction=0).mean())
    x = x.chunk(layer.groups, 1)[group]
    seen = torch.nn.functional.unfold(x, layer.kernel_size, padding=layer.padding)
    return float(seen.transpose(0, 1).flatten(1).var(1, correction=0).mean())


def test_a_strong_ridge_keeps_the_weights_and_moves_the_bias():
    layer, x = layer_and_input("dense")
    refit = RidgeRefit(layer)
    refit.add(x, layer(x) + 2)
    weight, bias = refit.solve(1e12)
    assert (weight - layer.weight).abs().max() < FORMULA_64
    assert torch.allclose(bias, layer.bias + 2)


def test_inputs_that_never_vary_keep_their_weights():
    layer, x = layer_and_input("dense")
    x[:, 1] = 0
    student = far_away(layer)
    refit = RidgeRefit(student)
    refit.add(x, layer(x))
    weight, _ = refit.solve()
    assert torch.allclose(weight[:, 1], student.weight[:, 1])
    constant = RidgeRefit(layer)
    constant.add(torch.zeros_like(x), layer(x))
    weight, bias = constant.solve(0)
    assert torch.allclose(weight, layer.weight)
    assert torch.allclose(bias, layer(x).mean((0, 2, 3)))


def test_single_precision_and_an_input_of_any_layout():
    layer, x = layer_and_input("dense")
    refit = RidgeRefit(far_away(layer).float())
    refit.add(x.float().to(memory_format=torch.channels_last), layer(x).float())
    weight, bias = refit.solve(1e-6)
    assert weight.dtype == bias.dtype == torch.float32
    assert (weight - layer.weight).abs().max() < NETWORK


def test_some_positions_are_enough_and_the_same_for_a_seed():
    layer, x = layer_and_input("dense")
    found = []
    before = torch.get_rng_state()
    for seed in (1, 1, 2):
        refit = RidgeRefit(layer, positions=9, seed=seed)
        refit.add(x, layer(x) + x[:, :1])
        assert refit._rows == 9 * len(x)
        found.append(refit.solve()[0])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(before, torch.get_rng_state())


def test_what_cannot_be_refitted_is_refused():
    with pytest.raises(ValueError, match="got ConvTranspose2d"):
        RidgeRefit(nn.ConvTranspose2d(2, 2, 2))
    layer, x = layer_and_input("dense")
    refit = RidgeRefit(layer)
    with pytest.raises(ValueError, match="needs rows"):
        refit.solve()
    with pytest.raises(ValueError, match="gives maps of"):
        refit.add(x, layer(x)[..., 1:])
    with pytest.raises(ValueError, match="5 outputs"):
        refit.add(x, layer(x)[:, 1:])
    refit.add(x, layer(x))
    with pytest.raises(ValueError, match="ridge of 0 or more"):
        refit.solve(-1.0)


@torch.no_grad()
@pytest.mark.parametrize("name", LAYERS)
def test_held_out_rows_judge_by_the_squared_error(name):
    layer, x = layer_and_input(name)
    other = far_away(layer)
    held_out = HeldOutRows(layer)
    for part in x.split(5):
        held_out.add(part, other(part))
    wanted = other(x)
    expected = float((layer(x) - wanted).square().sum() / wanted.square().sum())
    assert held_out.error(layer.weight, layer.bias) == pytest.approx(expected, rel=SOLVED_64)
    assert held_out.error(other.weight, other.bias) < SOLVED_64


def test_patches_are_copied_for_few_samples_at_a_time():
    conv = nn.Conv2d(16, 4, 3, padding=1)
    x = torch.randn(16, 16, 32, 32)
    parts = [part[0].numel() for part in LayerRows(conv).of(x, conv(x))]
    assert len(parts) == 2
    assert parts[0] == 8 * 16 * 9 * 32 * 32


def test_inputs_far_from_zero_in_single_precision():
    conv = nn.Conv2d(4, 5, 1)
    x = torch.randn(30, 4, 8, 8) + 1000
    other = far_away(conv)
    refit = RidgeRefit(conv)
    for part in x.split(10):
        refit.add(part, other(part))
    weight, _ = refit.solve(ridge=0)
    assert torch.allclose(weight, other.weight, atol=FAR_SINGLE)
