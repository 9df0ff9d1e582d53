"""Which layer makes a norm's input, found by running the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from groupnorm.conversion.example import Example, copied, evaluating, first_input, run, tensors_in
from groupnorm.conversion.walk import has_hooks

LinearLayer: TypeAlias = _ConvNd | nn.Linear
LINEAR_LAYERS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)
NOT_RUN = "it does not run on the example"


class TensorUses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes, while a network runs, which operations take outputs and weights of its layers.

    Attributes:
        made: id of an output -> what made it.
        kept: tensors whose ids are noted, so that no other one gets such an id.
        running: the layers that run now.
        weights: id of a parameter -> the layers that have it.
        borrowed: layers whose parameters something takes while they do not run.
    """

    made: dict[int, Any]

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kept: list[Tensor] = []
        self.running: list[nn.Module] = []
        self.weights: dict[int, set[nn.Module]] = {}
        for layer in layers:
            for parameter in layer.parameters(recurse=False):
                self.weights.setdefault(id(parameter), set()).add(layer)
        self.borrowed: set[nn.Module] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        taken = {id(leaf) for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)}
        self.use(taken & self.made.keys())
        for one in taken & self.weights.keys():
            if self.weights[one].isdisjoint(self.running):
                self.borrowed |= self.weights[one]
        return func(*args, **(kwargs or {}))

    def use(self, ids: Iterable[int]) -> None:
        """Note that something takes the tensors of these ids."""
        raise NotImplementedError


class _Uses(TensorUses):  # type: ignore[no-untyped-call]
    """Notes which operations take the outputs of linear layers, and within which norm.

    Attributes:
        made: id of an output -> the layer that made it, and the output.
        inside: the norms that run now, each with the id of its input.
        other: ids of outputs that something else than the norm they are the input of takes.
    """

    made: dict[int, tuple[LinearLayer, Tensor]]

    def __init__(self, layers: Iterable[LinearLayer]) -> None:
        super().__init__(layers)
        self.made = {}
        self.inside: list[tuple[nn.Module, int]] = []
        self.other: set[int] = set()

    def use(self, ids: Iterable[int]) -> None:
        """Note that something takes these, unless it is the norm that runs, of its input."""
        current = self.inside[-1][1] if self.inside else None
        self.other |= {one for one in ids if one != current}


def find_producers(
    model: nn.Module, norms: Iterable[nn.Module], example: Example
) -> dict[nn.Module, LinearLayer | str]:
    """The layer that makes the input of each norm and nothing else's, or why there is none.

    A copy of the network runs on the example, and every operation on the output of a convolution or
    a linear layer is noted, whatever the order in which the modules were defined.

    Returns:
        norm -> the convolution, transposed convolution or linear layer; or the reason.

    Raises:
        ValueError: the network does not run on the example, or cannot be copied.
    """
    network = copied(model)
    original = dict(zip(network.modules(), model.modules(), strict=True))
    wanted = {one for one, old in original.items() if old in set(norms)}
    linear = {one for one in original if isinstance(one, LINEAR_LAYERS)}
    uses = _Uses(linear)
    inputs: dict[nn.Module, list[int]] = {norm: [] for norm in wanted}
    outputs: dict[LinearLayer, list[int]] = {}

    def start(layer: LinearLayer, args: Any) -> None:
        uses.running.append(layer)

    def made(layer: LinearLayer, args: Any, output: Any) -> None:
        uses.running.pop()
        if isinstance(output, Tensor):
            uses.kept.append(output)
            uses.made[id(output)] = layer, output
            outputs.setdefault(layer, []).append(id(output))

    def enter(norm: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        taken = first_input(args, named)
        uses.kept += tensors_in(taken)
        inputs[norm].append(id(taken))
        uses.inside.append((norm, id(taken)))

    def leave(norm: nn.Module, args: Any, output: Any) -> None:
        uses.inside.pop()

    def watched(module: nn.Module, args: Any, output: Any) -> None:
        tensors = list(tensors_in(output))
        uses.kept += tensors
        uses.use(map(id, tensors))

    for module in list(original):
        if has_hooks(module):
            module.register_forward_hook(watched)
        if module in wanted:
            module.register_forward_pre_hook(enter, with_kwargs=True)
            module.register_forward_hook(leave)
        elif module in linear:
            module.register_forward_pre_hook(start)
            module.register_forward_hook(made)
    with evaluating(network), uses:
        output = run(network, example)
    uses.use(id(tensor) for tensor in tensors_in(output))
    found: dict[nn.Module, LinearLayer | str] = {}
    for norm in wanted:
        layer = _producer(inputs[norm], outputs, uses)
        if not isinstance(layer, str):
            old = original[layer]
            assert isinstance(old, LinearLayer)
            layer = old
        found[original[norm]] = layer
    return found


def _producer(
    inputs: list[int], outputs: Mapping[LinearLayer, list[int]], uses: _Uses
) -> LinearLayer | str:
    """The layer that made all inputs of a norm and nothing else, or why there is none."""
    if not inputs:
        return NOT_RUN
    if any(taken not in uses.made for taken in inputs):
        return "no convolution or linear layer makes its input"
    layers = {uses.made[taken][0] for taken in inputs}
    if len(layers) > 1:
        return f"{len(layers)} layers make its inputs"
    layer = layers.pop()
    if sorted(outputs[layer]) != sorted(inputs) or uses.other & set(inputs):
        return "something else, or a hook, takes the output of the layer in front"
    if layer in uses.borrowed:
        return "something else takes the weights of the layer in front"
    if isinstance(layer, nn.Linear) and uses.made[inputs[0]][1].dim() != 2:
        return "its channels are not the outputs of the linear layer in front"
    return layer
