"""Which layer alone takes a norm's output, found by running the network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from groupnorm.conversion.constants.producers import (
    LINEAR_LAYERS,
    NOT_RUN,
    LinearLayer,
    TensorUses,
)
from groupnorm.conversion.example import Example, copied, evaluating, first_input, run, tensors_in
from groupnorm.conversion.walk import has_hooks


class _Takers(TensorUses):  # type: ignore[no-untyped-call]
    """Notes what takes the outputs of norms.

    Attributes:
        made: id of an output -> the norm that made it.
        layers: norm -> the layers whose input its outputs are.
        other: norms whose outputs something else takes.
        inputs: layer -> ids of its inputs.
    """

    made: dict[int, nn.Module]

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__(layers)
        self.made = {}
        self.layers: dict[nn.Module, set[nn.Module]] = {}
        self.other: set[nn.Module] = set()
        self.inputs: dict[nn.Module, list[int]] = {}

    def use(self, ids: Iterable[int]) -> None:
        """Note that something takes these, unless it is the layer that runs, of its input."""
        current = self.inputs[self.running[-1]][-1] if self.running else None
        self.other |= {self.made[one] for one in ids if one in self.made and one != current}

    def start(self, layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        """A layer begins to run."""
        taken = first_input(args, named)
        self.kept += tensors_in(taken)
        self.inputs.setdefault(layer, []).append(id(taken))
        self.running.append(layer)
        if id(taken) in self.made:
            self.layers.setdefault(self.made[id(taken)], set()).add(layer)

    def stop(self, layer: nn.Module, args: Any, output: Any) -> None:
        """A layer ends."""
        self.running.pop()

    def gives(self, norm: nn.Module, args: Any, output: Any) -> None:
        """A norm has an output."""
        if isinstance(output, Tensor):
            self.kept.append(output)
            self.made[id(output)] = norm

    def watched(
        self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any
    ) -> None:
        """A module ran whose hooks see its inputs and outputs."""
        tensors = [*tensors_in(args), *tensors_in(named), *tensors_in(output)]
        self.kept += tensors
        self.use(map(id, tensors))


def find_readers(
    model: nn.Module, norms: Iterable[nn.Module], example: Example
) -> dict[nn.Module, LinearLayer | str]:
    """The layer that takes the output of each norm, and nothing else does; or why there is none.

    The mirror image of `groupnorm.conversion.constants.producers.find_producers`: a copy of the
    network runs on the example, and every operation on the output of a norm is noted.

    Returns:
        norm -> the convolution, transposed convolution or linear layer whose only input it makes;
        or the reason.

    Raises:
        ValueError: the network does not run on the example, or cannot be copied.
    """
    network = copied(model)
    original = dict(zip(network.modules(), model.modules(), strict=True))
    wanted = {one for one, old in original.items() if old in set(norms)}
    linear = {one for one in original if isinstance(one, LINEAR_LAYERS)}
    takers = _Takers(linear)
    hooked = {module for module in original if has_hooks(module)}
    for module in list(original):
        if module in hooked:
            module.register_forward_hook(takers.watched, with_kwargs=True)
        if module in wanted:
            module.register_forward_hook(takers.gives)
        elif module in linear:
            module.register_forward_pre_hook(takers.start, with_kwargs=True)
            module.register_forward_hook(takers.stop)
    with evaluating(network), takers:
        output = run(network, example)
    takers.use(map(id, tensors_in(output)))
    found: dict[nn.Module, LinearLayer | str] = {}
    for norm in wanted:
        layer = _reader(norm, takers, hooked)
        if not isinstance(layer, str):
            old = original[layer]
            assert isinstance(old, LinearLayer)
            layer = old
        found[original[norm]] = layer
    return found


def _reader(norm: nn.Module, takers: _Takers, hooked: set[nn.Module]) -> nn.Module | str:
    """The one layer that takes all outputs of a norm, or why there is none."""
    outputs = [one for one, maker in takers.made.items() if maker is norm]
    layers = takers.layers.get(norm, set())
    if not outputs:
        return NOT_RUN
    if not layers:
        return "no convolution or linear layer takes its output"
    if len(layers) > 1 or norm in takers.other:
        return "something else takes its output too"
    layer = next(iter(layers))
    if sorted(takers.inputs[layer]) != sorted(outputs):
        return "the layer behind it has other inputs too"
    if layer in takers.borrowed:
        return "something else takes the weights of the layer behind it"
    if norm in hooked or layer in hooked:
        return "hooks would see another output"
    return layer
