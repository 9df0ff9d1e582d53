"""Weights of a whole Keras model, from and to PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from groupnorm.frameworks.weights.conventions import Pads, same_padding, torch_padding
from groupnorm.frameworks.weights.matching import Slot
from groupnorm.frameworks.weights.problems import Problems, differing
from groupnorm.frameworks.weights.transfer import VARIANCE, Contents, load_from_torch, load_to_torch

_CONVS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_PADDINGS = (layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)
_NORMS = (layers.GroupNormalization, layers.LayerNormalization, layers.BatchNormalization)
# class of a layer -> Keras's name of an array in it -> PyTorch's name, and the layout
_LEAVES: dict[type | tuple[type, ...], dict[str, tuple[str, str]]] = {
    # a transposed convolution's kernel is (*k, out, in), which "conv" turns to (in, out, *k)
    (*_CONVS, *_TRANSPOSED): {"kernel": ("weight", "conv")},
    _DEPTHWISE: {"kernel": ("weight", "depthwise")},
    layers.Dense: {"kernel": ("weight", "dense")},
    layers.Embedding: {"embeddings": ("weight", "same")},
    _NORMS: {
        "gamma": ("weight", "same"),
        "beta": ("bias", "same"),
        "moving_mean": ("running_mean", "same"),
        "moving_variance": (VARIANCE, "same"),
    },
}


def from_torch(
    source: Any,
    model: keras.Model,
    *,
    names: Mapping[str, str] | None = None,
    eps: float | Mapping[str, float] | None = None,
    count: float | Mapping[str, float] | None = None,
    carry_eps: bool = False,
) -> None:
    """Load the weights of a PyTorch model into a Keras model, in place; all or nothing.

    Arrays are matched by the path of their layer, the names of the layers it lies in joined by
    dots, where a dash in a name counts as a dot, which Keras does not allow on every backend:
    `layer1.0.conv1.weight` goes to the `kernel` of the layer "layer1-0-conv1". Kernels change their
    layout (convolutions, grouped, depthwise and transposed ones, dense layers); other arrays stay
    as they are. Numbers are copied bit for bit, but for a batch norm's running variance.

    With a PyTorch model the settings that the shapes do not show are compared, too: eps and groups
    of norms; strides, dilation and padding of convolutions, and whether their weights are
    standardized. A state dict tells none of them; its eps must be given. In front of a layer the
    graph of a functional model shows a `ZeroPadding` and a `Flatten`; where there is no graph, a
    warning names the layers that were not compared.

    Args:
        source: a PyTorch model, or its state dict.
        model: the Keras model, built.
        names: path of a module in PyTorch -> its path in Keras, where they differ; for what is
            below the module, too.
        eps: with a state dict, the eps of the norms: one number, or path in Keras -> number.
        count: with batch norm, the number of values per channel of a training batch (N H W), one
            for all or path in Keras -> number. PyTorch's running variance is unbiased, that is
            count / (count - 1) times Keras's. `math.inf` leaves the numbers, so that the models
            agree in evaluation.
        carry_eps: where eps differs, give Keras's norms PyTorch's; by default that is an error.

    Raises:
        groupnorm.frameworks.weights.WeightsError: names without a partner, with two, or of another
            shape or dtype; settings that differ. All are listed, and nothing was loaded.
    """
    contents, variables = _contents(model)
    load_from_torch(
        source, contents, lambda name, value: variables[name].assign(value),
        names=names, eps=eps, count=count, carry_eps=carry_eps,
    )  # fmt: skip


def to_torch(
    model: keras.Model,
    target: Any,
    *,
    names: Mapping[str, str] | None = None,
    count: float | Mapping[str, float] | None = None,
    carry_eps: bool = False,
) -> None:
    """Load the weights of a Keras model into a PyTorch model, in place; all or nothing.

    The inverse of `from_torch`. A batch norm's counter of batches stays as it is.

    Args:
        model: the Keras model.
        target: the PyTorch model.
        names: and `count` as in `from_torch`.
        carry_eps: where eps differs, give PyTorch's norms Keras's; by default that is an error.

    Raises:
        groupnorm.frameworks.weights.WeightsError: as `from_torch`, or `target` is no model.
    """
    contents, variables = _contents(model)
    load_to_torch(
        contents, lambda name: np.asarray(ops.convert_to_numpy(variables[name].value)), target,
        names=names, count=count, carry_eps=carry_eps,
    )  # fmt: skip


def _contents(model: keras.Model) -> tuple[Contents, dict[str, Any]]:
    """A model's contents, and its arrays."""
    modules = dict(_layers(model))
    slots, variables = [], {}
    for path, layer in modules.items():
        for variable in _own_weights(layer):
            name = f"{path}.{variable.name}"
            variables[name] = variable
            slots.append(_slot(name, path, layer, variable))
    return Contents(modules, slots, _other_settings), variables


def _layers(layer: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The layers below one, each with its path."""
    for below in layer._flatten_layers(include_self=False, recursive=False):
        name = below.name.replace("-", ".")
        own_path = f"{path}.{name}" if path else name
        yield own_path, below
        yield from _layers(below, own_path)


def _own_weights(layer: Any) -> list[Any]:
    """The weights of a layer that none of the layers below it has."""
    below = {
        id(variable)
        for one in layer._flatten_layers(include_self=False, recursive=False)
        for variable in one.weights
    }
    return [variable for variable in layer.weights if id(variable) not in below]


def _slot(name: str, path: str, layer: Any, variable: Any) -> Slot:
    leaf, layout = variable.name, "same"
    for kind, leaves in _LEAVES.items():
        if isinstance(layer, kind) and variable.name in leaves:
            leaf, layout = leaves[variable.name]
    dtype = keras.backend.standardize_dtype(variable.dtype)
    return Slot(name, path, leaf, layout, tuple(variable.shape), dtype)


def _other_settings(pairs: Mapping[str, tuple[Any, Any]]) -> Problems:
    """What differs beside eps, of a layer and a module of the same path."""
    problems: Problems = {}
    for heading, own_name, torch_name in (
        ("number of groups", "groups", "num_groups"),
        ("strides", "strides", "stride"),
        ("dilation", "dilation_rate", "dilation"),
    ):
        shared = [p for p, (own, other) in pairs.items()
                  if hasattr(own, own_name) and hasattr(other, torch_name)]  # fmt: skip
        problems[heading] = differing(
            {path: _setting(pairs[path][0], own_name) for path in shared},
            {path: _setting(pairs[path][1], torch_name) for path in shared},
        )
    own_ws, other_ws = (
        {path: (_setting(pair[side], "ws_form"), _setting(pair[side], "ws_eps"))
         for path, pair in pairs.items()}
        for side in (0, 1)
    )  # fmt: skip
    problems["weight standardization (form, eps)"] = differing(own_ws, other_ws)
    unseen: list[str] = []
    problems["padding"] = []
    for path, (own_layer, module) in pairs.items():
        if isinstance(own_layer, (*_CONVS, *_DEPTHWISE)) and hasattr(module, "padding_mode"):
            problems["padding"] += _padding_differs(path, own_layer, module, unseen)
        elif isinstance(own_layer, _TRANSPOSED) and hasattr(module, "output_padding"):
            problems["padding"] += _transposed_padding(path, own_layer, module)
    problems["dense layers behind a flattened map: (C, H, W) in PyTorch, (H, W, C) in Keras"] = [
        path
        for path, (own_layer, _) in pairs.items()
        if isinstance(own_layer, layers.Dense) and _flattens(_in_front(own_layer))
    ]
    if unseen:
        warnings.warn(
            f"no graph shows what pads in front of {', '.join(unseen)}, where PyTorch pads: "
            "compare the outputs of both models",
            stacklevel=5,
        )
    return problems


def _setting(module: Any, name: str) -> Any:
    value = getattr(module, name, None)
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _in_front(layer: Any) -> Any:
    """The layer whose output a layer takes in the graph of its model; None where none shows."""
    nodes = getattr(layer, "_inbound_nodes", ())
    parents = list(nodes[0].parent_nodes) if nodes else []
    return parents[0].operation if len(parents) == 1 else None


def _flattens(layer: Any) -> bool:
    """Whether a layer makes vectors of maps of more than one position."""
    if not isinstance(layer, (layers.Flatten, layers.Reshape)):
        return False
    shape = layer.input.shape
    spatial = shape[2:] if getattr(layer, "data_format", "") == "channels_first" else shape[1:-1]
    return any(size != 1 for size in spatial)


def _padding_differs(path: str, own: Any, module: Any, unseen: list[str]) -> list[str]:
    """How a convolution pads otherwise than PyTorch's; where that does not show, in `unseen`."""
    wanted = torch_padding(module)
    own_pads: Pads | None
    if own.padding == "same":
        own_pads = same_padding(own.kernel_size, own.strides, own.dilation_rate)
    elif own.padding == "causal":
        own_pads = ((own.dilation_rate[0] * (own.kernel_size[0] - 1), 0),)
    else:
        own_pads = ((0, 0),) * len(own.kernel_size)
    front = _in_front(own)
    if isinstance(front, _PADDINGS) and own_pads is not None:
        extra = front.padding if isinstance(front.padding[0], tuple) else (front.padding,)
        own_pads = tuple((a + c, b + d) for (a, b), (c, d) in zip(own_pads, extra, strict=True))
    if own_pads == wanted and module.padding_mode == "zeros":
        return []
    if front is None and own.padding == "valid" and module.padding_mode == "zeros":
        unseen.append(path)
        return []
    how = "by the size of the map" if own_pads is None else f"{own_pads}"
    kind = f"ZeroPadding{len(own.kernel_size)}D"
    return [
        f"{path}: padding={own.padding!r} with strides {tuple(own.strides)} pads {how}, PyTorch "
        f"{wanted} ({module.padding_mode}); build it with padding='valid' behind {kind}({wanted})"
    ]


def _transposed_padding(path: str, own: Any, module: Any) -> list[str]:
    """How a transposed convolution cuts its output otherwise than PyTorch's.

    "valid" is what PyTorch does without padding where the kernel is at least as long as the stride;
    what "same" cuts and pads is compared by nobody here.
    """
    none = all(p == 0 for p in (*module.padding, *module.output_padding))
    long = all(k >= s for k, s in zip(own.kernel_size, own.strides, strict=True))
    if own.padding == "valid" and none and long and own.output_padding in (None, 0):
        return []
    if own.padding == "same" and none and tuple(own.kernel_size) == tuple(own.strides):
        return []
    return [
        f"{path}: transposed with padding={own.padding!r}, PyTorch's with padding={module.padding} "
        f"and output_padding={module.output_padding}; padding='valid' and no padding in PyTorch "
        "are the same"
    ]
