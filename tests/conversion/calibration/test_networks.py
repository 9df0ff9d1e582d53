"""A trained network, converted norm by norm and folded into plain convolutions and GroupNorm."""

import copy

import pytest
import torch
from torch import nn

from groupnorm.conversion.calibration.affine import fold_affine
from groupnorm.conversion.calibration.fit import FitLimits, fit_layer
from groupnorm.conversion.calibration.group_rule import ErrorBudget, choose_groups
from groupnorm.conversion.calibration.moments import MomentAccumulator
from groupnorm.conversion.calibration.refit import RidgeRefit
from groupnorm.data.catalog import load
from groupnorm.data.memory.augment import normalize
from groupnorm.layers import BatchNorm
from groupnorm.run import run
from groupnorm.training.config import RunConfig

pytestmark = pytest.mark.slow
FOLD_AND_LEAST_SQUARES = FitLimits(signs=False, scale_limit=0, offset_limit=0)


@pytest.fixture(scope="module")
def trained():
    """A network with batch norm, its calibration images, its test images and their labels."""
    config = RunConfig(
        model="resnet8", width=0.5, data="digits", epochs=3, norm="bn", workers=1,
        batch_per_worker=32, base_lr=0.8, zero_gamma=False,
    )  # fmt: skip
    model = run(config, with_cost=False).model.eval().double()
    images = load("digits")
    calibration, test = (
        normalize(pixels, images.mean, images.std).double()
        for pixels in (images.train_images[:128], images.test_images)
    )
    return model, calibration, test, images.test_labels


def seen(model, name, images):
    """Input and output of a module."""
    found = []
    handle = model.get_submodule(name).register_forward_hook(
        lambda module, inputs, output: found.append((inputs[0].clone(), output.clone()))
    )
    with torch.no_grad():
        model(images)
    handle.remove()
    return found[0]


@torch.no_grad()
def convert(teacher, images, choose, *, refit=False):
    """The teacher as convolutions with bias and `nn.GroupNorm`, fitted in the order of execution.

    In this network `norm1` follows `conv1` and `norm2` follows `conv2`.
    """
    student = copy.deepcopy(teacher)
    names = [n for n, m in teacher.named_modules() if isinstance(m, BatchNorm)]
    for name in names:
        conv = student.get_submodule(name.replace("norm", "conv"))
        if refit:
            equations = RidgeRefit(conv)
            conv_name = name.replace("norm", "conv")
            equations.add(seen(student, conv_name, images)[0], seen(teacher, conv_name, images)[1])
            weight, bias = equations.solve()
            conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
        accumulator = MomentAccumulator()
        accumulator.add(seen(student, name, images)[0], seen(teacher, name, images)[1])
        fit = choose(accumulator.moments(), student.get_submodule(name).eps)
        weight, bias = fold_affine(conv.weight, conv.bias, fit.input_scale, fit.input_shift)
        conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
        norm = nn.GroupNorm(fit.groups, len(bias), eps=fit.eps).double()
        norm.weight, norm.bias = nn.Parameter(fit.weight), nn.Parameter(fit.bias)
        parent, _, key = name.rpartition(".")
        setattr(student.get_submodule(parent), key, norm)
    return student


def by_limits(groups, limits):
    return lambda moments, eps: fit_layer(moments, groups, eps=eps, limits=limits)


def accuracy(network, images, labels):
    with torch.no_grad():
        return float((network(images).argmax(1) == labels).double().mean())


def logits_error(network, teacher, images):
    """Of the logits, relative to their variance over the images."""
    with torch.no_grad():
        found, expected = network(images), teacher(images)
    return float((found - expected).square().mean() / expected.var(0).mean())


def test_a_network_keeps_its_accuracy_as_plain_group_norm(trained):
    """With 2 to 8 channels a group; least squares alone loses several times as much."""
    teacher, calibration, test, labels = trained
    fitted = convert(teacher, calibration, by_limits(4, FitLimits()))
    folded = convert(teacher, calibration, by_limits(4, FOLD_AND_LEAST_SQUARES))
    kinds = {type(m) for name, m in fitted.named_modules() if "norm" in name}
    assert kinds == {nn.GroupNorm}
    before = accuracy(teacher, test, labels)
    assert before > 0.85
    assert accuracy(fitted, test, labels) > 0.97 * before
    assert logits_error(fitted, teacher, test) < 0.5 * logits_error(folded, teacher, test)


def test_the_budget_finds_groups_that_keep_more(trained):
    teacher, calibration, test, labels = trained
    budget = ErrorBudget([1.0] * 7, 0.05)
    choices = []

    def choose(moments, eps):
        choices.append(choose_groups(moments, budget, eps=eps))
        return choices[-1].fit

    chosen = convert(teacher, calibration, choose)
    most = convert(teacher, calibration, by_limits(8, FitLimits()))
    assert len(choices) == 7
    assert accuracy(chosen, test, labels) > 0.98 * accuracy(teacher, test, labels)
    assert logits_error(chosen, teacher, test) < logits_error(most, teacher, test)


def test_refitted_convolutions_help_where_a_group_has_one_channel(trained):
    """Which no affine in front of the norm can mend."""
    teacher, calibration, test, _ = trained
    without, refitted = (
        convert(teacher, calibration, by_limits(8, FitLimits()), refit=refit)
        for refit in (False, True)
    )
    assert logits_error(refitted, teacher, test) < logits_error(without, teacher, test)
