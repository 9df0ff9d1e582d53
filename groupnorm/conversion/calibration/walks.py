"""Which layers make the norms' inputs on the data, and the way through the networks."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from torch import nn

from groupnorm.conversion.calibration.batches import Batches
from groupnorm.conversion.calibration.segments import Point, Segments, Sweeps, Walk
from groupnorm.conversion.calibration.states import States
from groupnorm.conversion.calibration.tape import Holder, Untraceable, held_name
from groupnorm.conversion.constants.fold import check_layer
from groupnorm.conversion.constants.producers import NOT_RUN, LinearLayer, find_producers
from groupnorm.conversion.example import Example
from groupnorm.conversion.report import ConvertedLayer
from groupnorm.conversion.sources import Refusal, read_norm
from groupnorm.conversion.walk import parameter_owners

Producer: TypeAlias = "tuple[str, LinearLayer] | str"


def choose_walk(
    teacher: Holder,
    student: Holder,
    rows: Sequence[ConvertedLayer],
    batches: Batches,
    states: States,
) -> tuple[Walk, list[str]]:
    """The way through the networks, and what is to say about it.

    A network that runs in pieces does the same on every batch, so that one example shows which
    layers make the norms' inputs. For any other all batches are looked at.

    Raises:
        ValueError: no norm runs on enough of the data.
    """
    norms = [teacher.get_submodule(held_name(row.name)) for row in rows]
    try:
        points = _points(_producers(teacher, rows, batches.example))
        if not points:
            raise Untraceable("no norm runs on the first batch")
        return Segments(teacher, student, batches, points, states, norms), []
    except Untraceable as reason:
        note = f"The network ran from its beginning for each norm, which is slow: {reason}."
    examples = [functools.partial(batches.run, index=i) for i in range(len(batches))]
    found = [_producers(teacher, rows, example) for example in examples]
    walk = Sweeps(teacher, student, batches, _points(_on_all(found)))
    if not walk.order:
        raise ValueError("none of the norms to convert runs on the data, or on enough batches")
    return walk, [note]


def _points(producers: Mapping[str, Producer]) -> list[Point]:
    """Of the norms that run."""
    return [
        Point(held_name(name), None, layer)
        if isinstance(layer, str)
        else Point(held_name(name), layer[0])
        for name, layer in producers.items()
        if layer != NOT_RUN
    ]


def _on_all(found: Sequence[Mapping[str, Producer]]) -> dict[str, Producer]:
    """The layers that make the norms' inputs on every batch, or why there are none."""
    producers = dict(found[0])
    for other in found[1:]:
        for name, layer in other.items():
            if producers[name] != layer:
                producers[name] = "its input is made in another way on some of the data"
    return producers


def _producers(
    teacher: Holder, rows: Sequence[ConvertedLayer], example: Example
) -> dict[str, Producer]:
    """Of each norm the layer that makes its input, with its name, or why it cannot be changed."""
    modules: dict[str, nn.Module] = {
        row.name: teacher.get_submodule(held_name(row.name)) for row in rows
    }
    found = find_producers(teacher.model, modules.values(), example)
    names = {module: name for name, module in teacher.named_modules()}
    owners = parameter_owners(teacher)
    producers: dict[str, Producer] = {}
    for name, module in modules.items():
        layer = found[module]
        if not isinstance(layer, str):
            try:
                source = read_norm(module, layer.weight)
                check_layer(layer, names[layer].removeprefix("model."), source, owners)
            except Refusal as refusal:
                producers[name] = str(refusal)
                continue
            producers[name] = names[layer], layer
        else:
            producers[name] = layer
    return producers
