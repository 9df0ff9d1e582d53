"""Programs of torch.export."""

import pytest
import torch
from torch import nn

from groupnorm.export.errors import ExportError
from groupnorm.export.programs.exported import exported, varied
from tests.export.networks import convolutional, images


class Fixed(nn.Module):
    def forward(self, x):
        return x + torch.zeros(8, 8)


class Multiple(nn.Module):
    """Takes even sizes only."""

    def forward(self, x):
        return x.unflatten(2, (-1, 2)).sum(3)


def test_axes_may_change_though_the_example_has_one_image():
    program = exported(convolutional(), (images(1, 3, 8, 8),), ((0, 2, 3),))
    other = images(3, 3, 10, 6)
    assert program.module()(other).shape == (3, 16, 10, 6)


def test_sizes_that_are_multiples_may_change():
    program = exported(Multiple(), (images(1, 3, 8, 8),), ((2,),))
    assert program.module()(images(1, 3, 12, 8)).shape == (1, 3, 6, 8)


class Several(nn.Module):
    """Takes any number of maps after the first."""

    def forward(self, first, *others):
        return first + 1, *(other * 2 for other in others)


def test_each_input_has_axes_of_its_own():
    example = (images(1, 3, 8, 8), images(2, 3, 4, 4), images(2, 3, 4, 4))
    program = exported(Several(), example, ((0,), (2,), ()))
    outputs = program.module()(images(4, 3, 8, 8), images(2, 3, 7, 4), images(2, 3, 4, 4))
    assert [tuple(y.shape) for y in outputs] == [(4, 3, 8, 8), (2, 3, 7, 4), (2, 3, 4, 4)]
    with pytest.raises(AssertionError, match="Guard failed"):
        program.module()(images(4, 3, 8, 8), images(2, 3, 7, 4), images(2, 3, 5, 4))


def test_a_size_that_the_network_fixes_is_named():
    with pytest.raises(ExportError, match=r"size 8 of axis 2 of its input x alone"):
        exported(Fixed(), (images(2, 3, 8, 8),), ((0, 2),))


def test_what_cannot_be_traced_is_said_in_one_line():
    class Asks(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ExportError, match=r"^torch\.export cannot trace the network: ") as caught:
        exported(Asks(), (images(1, 3),))
    assert "\n" not in str(caught.value)


def test_examples_are_doubled_where_one_would_be_a_constant():
    x, step = varied((images(1, 3, 4, 1), torch.tensor([5])), ((0, 3), (0,)))
    assert x.shape == (2, 3, 4, 2)
    assert step.tolist() == [5, 5]
