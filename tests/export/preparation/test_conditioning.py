"""Inputs of norms come near 0 and spread 1, and the network computes what it did."""

import copy

import pytest
import torch
from torch import nn

from groupnorm.export.preparation import prepare
from groupnorm.export.preparation.calibration import calibration_batches, measure_inputs
from groupnorm.export.preparation.conditioning import condition
from groupnorm.export.preparation.own_statistics import group_norms
from groupnorm.export.preparation.report import CONDITIONED, NOT_CONDITIONED
from tests.export.preparation.networks import (
    actions,
    assert_prepared,
    offset_network,
    random_affine,
)
from tests.tolerances import DOUBLE, FEW, ROUNDOFF, STORAGE


def images(count=24, size=12):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("form", ["pooled", "plain", "instance"])
@pytest.mark.parametrize("offset", [0.0, 10.0, 1000.0])
def test_in_real_arithmetic_nothing_changes(form, offset):
    """On other images too, and at the zero padding."""
    model = offset_network(offset)
    network, report = assert_prepared(model, images(2), form=form, calibration=images())
    assert actions(report, "1") == [CONDITIONED, "form"]
    assert bool((network[0].bias != model[0].bias).all())


@pytest.mark.parametrize(
    ("front", "shape"),
    [
        (nn.Conv1d(4, 16, 3, padding=1, bias=False), (6, 4, 9)),
        (nn.Conv2d(4, 16, 3, groups=2, padding=1), (6, 4, 7, 7)),
        (nn.Conv2d(16, 16, 3, groups=16, padding=1, bias=False), (6, 16, 7, 7)),
        (nn.Conv2d(4, 16, 3, padding=1, padding_mode="circular"), (6, 4, 7, 7)),
        (nn.Conv3d(4, 16, 2), (6, 4, 4, 4, 4)),
        (nn.ConvTranspose2d(4, 16, 2, stride=2, groups=2), (6, 4, 5, 5)),
        (nn.Linear(4, 16), (6, 4)),
    ],
)
@pytest.mark.parametrize("groups", [1, 4, 16])
def test_every_kind_of_layer_in_front(front, shape, groups):
    if isinstance(front, nn.Linear) and groups == 16:
        groups = 8
    front = copy.deepcopy(front)
    with torch.no_grad():
        front.weight.mul_(
            torch.linspace(0.1, 60, len(front.weight)).view(-1, *[1] * (front.weight.dim() - 1))
        )
    model = random_affine(nn.Sequential(front, nn.GroupNorm(groups, 16)))
    network, report = assert_prepared(
        model, torch.randn(shape) + 3, calibration=torch.randn(shape) + 3
    )
    assert actions(report, "1") == [CONDITIONED, "form"]
    assert network[0].bias is not None
    assert report.ranges[0].largest_before > 2 * report.ranges[0].largest_after


def test_one_factor_for_each_group_takes_one_eps_for_each():
    model = random_affine(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.GroupNorm(2, 8)))
    with torch.no_grad():
        model[0].weight[:4] *= 1000
    network, _ = assert_prepared(model, images(2), calibration=images())
    ratio = network[1].group_eps / model[1].eps
    exponents = torch.log2(ratio)
    assert bool((exponents == exponents.round()).all())
    assert float(exponents[0]) < float(exponents[1]) - 15
    network, _ = assert_prepared(model, images(2), calibration=images(), form="plain")
    assert network[1].eps < model[1].eps
    assert not hasattr(network[1], "group_eps")


def conditioned(model, x):
    """The inputs of the norms before and after, by name."""
    model = random_affine(model).double()
    batches = calibration_batches(x.double(), x.double())
    norms = {norm.names[0]: norm.module for norm, _ in group_norms(model)}
    before = measure_inputs(model, norms, batches, torch.float64, {})
    _, group_eps = condition(model, x.double(), before, each_group=True)
    return model, before, measure_inputs(model, norms, batches, torch.float64, group_eps)


def test_means_are_zero_and_spreads_near_one():
    _, before, after = conditioned(offset_network(1000.0), images())
    for name in ("1", "4"):
        assert before[name].offset > 1000
        assert after[name].offset < 2
        assert float((after[name].means / after[name].samples).abs().max()) < DOUBLE * 1000
        spread = (after[name].variances / after[name].samples).sqrt()
        assert bool(((spread > 0.6) & (spread < 1.6)).all())


def test_a_group_that_does_not_vary_is_not_blown_up():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8))
    with torch.no_grad():
        model[0].weight[:4] = 0
        model[0].bias[:4] = 5
    model, before, after = conditioned(model, images())
    assert before["1"].largest >= 5
    assert bool((model[0].weight[:4] == 0).all())
    assert bool((model[0].bias[:4].abs() < DOUBLE).all())
    assert after["1"].largest < 20


def test_a_spread_far_below_eps_is_not_blown_up():
    """What eps hides: 1 / sqrt(eps) = 316 is the largest factor."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.GroupNorm(2, 8))
    weight = model[0].weight.detach().double()
    model, _, _ = conditioned(model, 1e-9 * images())
    assert torch.equal(model[0].weight.detach(), 2**8 * weight)


def test_weights_stay_within_what_half_precision_holds():
    """Raw pixels: outputs in the hundreds from small weights."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8))
    with torch.no_grad():
        model[0].weight.mul_(1e-2)
    model, _, _ = conditioned(model, 1e5 * images())
    largest = model[0].weight.detach().abs().flatten(1).amax(1)
    assert float(largest.max()) >= 2.0**-10


class Uses(nn.Module):
    def __init__(self, use):
        super().__init__()
        self.conv, self.norm, self.use = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), use

    def forward(self, x):
        return self.use(self, x)


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        (lambda m, x: (lambda y: y + m.norm(y))(m.conv(x)), "something else, or a hook, takes"),
        (lambda m, x: m.norm(torch.relu(m.conv(x))), "no convolution or linear layer makes"),
        (lambda m, x: m.norm(m.conv(x)) * m.conv.weight.mean(), "something else takes the weights"),
    ],
)
def test_a_convolution_that_something_else_takes_stays(use, reason):
    _, report = assert_prepared(Uses(use), images(2), calibration=images())
    assert reason in report.of(NOT_CONDITIONED)["norm"]
    assert actions(report, "norm") == [NOT_CONDITIONED, "form"]


def test_shared_weights_stay():
    model = nn.Sequential(
        nn.Conv2d(3, 3, 3), nn.GroupNorm(1, 3), nn.Conv2d(3, 3, 3), nn.GroupNorm(3, 3)
    )
    model[2].weight = model[0].weight
    _, report = assert_prepared(random_affine(model), images(2), calibration=images())
    assert set(report.of(NOT_CONDITIONED)) == {"1", "3"}
    assert "another module has the parameters" in report.of(NOT_CONDITIONED)["1"]


def test_a_norm_with_hooks_sees_what_it_saw():
    model = offset_network(10.0)
    seen = []
    model[1].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    network, report = assert_prepared(model, images(2), calibration=images())
    assert set(report.of(NOT_CONDITIONED)) == {"1"}
    seen.clear()
    network(images(2).double())
    assert float(seen[0].detach().mean()) > 5


def test_an_input_without_a_batch_dimension_is_left():
    model = Uses(lambda m, x: m.norm(m.conv(x[0]).unsqueeze(0)))
    _, report = assert_prepared(model, images(1), calibration=[images(1)])
    assert set(report.of(NOT_CONDITIONED)) == {"norm"}
    # as many rows as channels: the norm takes rows for channels
    model = Uses(lambda m, x: m.norm(m.conv(x[0])))
    _, report = assert_prepared(model, images(1, 8), calibration=[images(1, 8)])
    assert "its channels are not the outputs" in report.of(NOT_CONDITIONED)["norm"]


def error(network, reference, x, dtype):
    """The largest error of a network in a dtype, and the largest value."""
    network = copy.deepcopy(network).to(dtype)
    with torch.no_grad():
        want = reference(x.double())
        got = network(x.to(dtype))
    if not bool(got.isfinite().all()):
        return float("inf"), float(want.abs().max())
    return float((got.double() - want).abs().max()), float(want.abs().max())


@pytest.mark.parametrize("form", ["pooled", "plain", "instance"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("offset", "factor"), [(10.0, 2), (100.0, 10), (1000.0, 100)])
def test_half_precision_gets_its_digits_back(offset, factor, form, dtype):
    """Far from 0 the convolution's output is rounded: to steps of 0.5 at 1,000 in float16."""
    torch.manual_seed(0)
    model, x = offset_network(offset), images(4)
    reference = copy.deepcopy(model).double()
    before, largest = error(model, reference, x, dtype)
    network, report = prepare(model, x, "onnxruntime", calibration=images(), form=form)
    after, _ = error(network, reference, x, dtype)
    unconditioned, _ = prepare(model, x, "onnxruntime", form=form)
    form_alone, _ = error(unconditioned, reference, x, dtype)
    computed = FEW * ROUNDOFF[dtype] * largest
    assert after <= computed + 4 * STORAGE[dtype] * largest
    assert form_alone > factor * after  # no form repairs what the convolution has rounded
    assert before > factor * after
    assert max(one.offset_before for one in report.ranges) > offset
    assert max(one.offset_after for one in report.ranges) < 2
    assert max(one.largest_after for one in report.ranges) < 16
