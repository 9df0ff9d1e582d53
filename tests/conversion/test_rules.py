"""How many groups, and the scale and shift that the stored statistics give."""

import pickle

import pytest
import torch
from torch import nn

from groupnorm.conversion.rules import groups_asked, is_free, one_group_asked, static_affine
from groupnorm.conversion.sources import read_norm
from groupnorm.spec import NormSpec
from tests.conversion.networks import train_statistics
from tests.tolerances import DOUBLE


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(16, 1), (24, 1), (32, 2), (40, 2), (64, 4), (72, 4), (97, 1), (112, 4), (512, 32), (4, 1),
     (1000, 8), (2048, 32)],
)  # fmt: skip
def test_without_a_number_groups_have_sixteen_channels_or_more(channels, groups):
    assert groups_asked("", channels, "gn")[0] == groups
    assert channels // groups >= min(16, channels)


@pytest.mark.parametrize(
    ("to", "channels", "groups"),
    [
        ("gn:groups=32", 16, 4),
        ("gn:groups=32", 24, 6),
        ("gn:groups=32", 40, 10),
        ("gn:groups=32", 72, 18),
        ("gn:groups=32", 112, 28),
        ("gn:groups=32", 1000, 25),
        ("gn:groups=32", 97, 1),
        ("gn:groups=8", 64, 8),
        ("gn:size=16", 64, 4),
        ("gn:size=2", 64, 16),
        ("gn:groups=auto", 72, 18),
        ("ln", 72, 1),
        (NormSpec("gn", groups=32), 64, 16),
        (NormSpec.parse("gn:groups=32"), 64, 16),
        (NormSpec("gn"), 64, 4),
    ],
)
def test_a_number_is_an_upper_bound_with_four_channels_each(to, channels, groups):
    assert groups_asked("", channels, to)[0] == groups


@pytest.mark.parametrize(
    ("to", "channels", "groups", "note"),
    [
        ("gn:groups=32", 97, 1, "32 groups asked for"),
        ("gn:groups=16", 64, 16, ""),
        ("gn:size=16", 97, 1, "groups of 16 channels asked for"),
        ("gn:size=16", 34, 2, "groups of 16 channels asked for"),
        ("gn:size=16", 24, 2, "groups of 16 channels asked for"),
        ("gn:size=16", 8, 1, ""),
        ("gn:size=16", 64, 4, ""),
        ("gn", 97, 1, "no other number of groups divides 97 channels"),
        ("gn:groups=auto", 97, 1, "no other number of groups divides 97 channels"),
        ("gn", 16, 1, ""),
        ("gn:groups=auto", 5, 1, ""),
        ("ln", 97, 1, ""),
    ],
)
def test_a_number_that_was_not_reached_is_said(to, channels, groups, note):
    assert groups_asked("", channels, to) == (groups, note)


def test_smaller_groups_are_a_wish():
    assert groups_asked("", 64, "gn:groups=32", min_channels=2) == (32, "")
    assert groups_asked("", 64, "gn", min_channels=32) == (2, "")
    assert groups_asked("", 64, "in", min_channels=1) == (64, "")
    with pytest.raises(ValueError, match="one channel in each group of norm1"):
        groups_asked("norm1", 64, "in")


def test_a_callable_decides_for_each_layer():
    assert groups_asked("norm1", 64, "gn", lambda name, c: c // 2) == (32, "")
    for wrong in (0, 7, 2.0, None):
        with pytest.raises(ValueError, match=r"must give a divisor.*norm1 with 64 channels"):
            groups_asked("norm1", 64, "gn", lambda name, c, wrong=wrong: wrong)


@pytest.mark.parametrize(
    ("to", "free"),
    [("gn", True), ("gn:eps=1e-3", True), ("gn:groups=32", False), ("gn:eps=1e-3, size=8", False),
     ("ln", False), ("gn:groups=auto", False)],
)  # fmt: skip
def test_gn_alone_leaves_the_number_to_the_conversion(to, free):
    assert is_free(NormSpec.parse(to)) is free
    assert is_free(pickle.loads(pickle.dumps(NormSpec.parse(to)))) is free


@pytest.mark.parametrize(
    ("to", "channels", "asked"),
    [("ln", 5, True), ("in", 1, False), ("gn:groups=1", 5, True), ("gn:size=8", 5, True),
     ("gn:size=4", 5, False), ("gn:groups=auto", 5, False), ("gn", 5, False),
     ("gn:groups=32", 97, False)],
)  # fmt: skip
def test_one_group_is_asked_for_or_left_by_the_channels(to, channels, asked):
    assert groups_asked("", channels, to)[0] == 1
    assert one_group_asked(NormSpec.parse(to), None, channels) is asked
    assert one_group_asked(NormSpec.parse("gn"), lambda name, c: 1, channels)


def test_channels_that_are_alike_keep_their_scale_and_shift():
    layer = train_statistics(nn.BatchNorm2d(8))
    layer.running_mean.fill_(0.25)
    layer.running_var.fill_(4)
    weight, bias = static_affine(read_norm(layer, None), groups=2, eps=layer.eps)
    torch.testing.assert_close(weight, layer.weight.double(), rtol=DOUBLE, atol=DOUBLE)
    torch.testing.assert_close(bias, layer.bias.double(), rtol=DOUBLE, atol=DOUBLE)


def test_scale_and_shift_of_channels_that_differ():
    """By hand: means 1 and 3, variances 0 and 8, the group's mean 2 and variance 4 + 1."""
    layer = nn.BatchNorm2d(2, eps=1.0)
    layer.running_mean.copy_(torch.tensor([1.0, 3.0]))
    layer.running_var.copy_(torch.tensor([0.0, 8.0]))
    weight, bias = static_affine(read_norm(layer, None), groups=1, eps=4.0)
    torch.testing.assert_close(weight, torch.tensor([3.0, 1.0]).double())
    torch.testing.assert_close(bias, torch.tensor([1.0, -1 / 3]).double())
