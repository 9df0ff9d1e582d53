"""Slices with a step over positions as convolutions, which delegates and converters have."""

from __future__ import annotations

import sys

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from groupnorm.export.programs.graphs import SPATIAL, calls, constant, given


def has_steps(module: fx.GraphModule) -> bool:
    """Whether there is a slice that leaves out every other position, or more."""
    slices = calls(module, [torch.ops.aten.slice.Tensor])
    return any(given(node)[4:] not in ((), (1,)) for node in slices)


def without_slices(module: fx.GraphModule) -> bool:
    """Take out slices over positions, which XNNPACK and ncnn have not.

    Those with a step that begin at 0 and have no end become a 1x1 convolution by ones with one
    group a channel. Those of everything, which stay in programs of dynamic axes, are left out.

    Finite values stay as they are. By PyTorch's kernel infinite ones and NaN do, too; XNNPACK's
    reads more positions than one, times 0, so that there they make NaN of some in their channel.

    Returns:
        whether there were any.
    """
    graph, found = module.graph, False
    made: dict[fx.Node, tuple[fx.Node, list[int]]] = {}  # convolution -> its source and strides
    for node in calls(module, [torch.ops.aten.slice.Tensor]):
        source, *rest = given(node)
        axis, begin, end, step = rest + [0, None, None, 1][len(rest) :]
        value = source.meta["val"]
        if begin not in (None, 0) or end not in (None, sys.maxsize):
            continue
        replacement = source
        if step != 1:
            axis %= value.dim()
            if value.dim() != 4 or axis not in SPATIAL or not value.dtype.is_floating_point:
                continue
            strides = [step if axis == position else 1 for position in SPATIAL]
            if source in made:  # a slice of a slice: one convolution for both
                source, before = made[source]
                strides = [a * b for a, b in zip(strides, before, strict=True)]
            channels = value.shape[1]
            if not is_concrete_int(channels):
                continue
            ones = constant(module, torch.ones(int(channels), 1, 1, 1, dtype=value.dtype))
            with graph.inserting_before(node):
                replacement = graph.call_function(
                    torch.ops.aten.conv2d.default,
                    (source, ones, None, strides, [0, 0], [1, 1], int(channels)),
                )
            replacement.meta = dict(node.meta)
            made[replacement] = source, strides
        found = True
        node.replace_all_uses_with(replacement)
        graph.erase_node(node)
    return found
