"""Weights of a whole Keras model, from and to PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from groupnorm.frameworks.keras.settings import CONVS, DEPTHWISE, NORMS, TRANSPOSED, compare
from groupnorm.frameworks.weights.matching import Slot
from groupnorm.frameworks.weights.transfer import (
    VARIANCE,
    Contents,
    load_from_torch,
    load_to_torch,
)

# class of a layer -> Keras's name of an array in it -> PyTorch's name, and the layout
_LEAVES: dict[type | tuple[type, ...], dict[str, tuple[str, str]]] = {
    # a transposed convolution's kernel is (*k, out, in), which "conv" turns to (in, out, *k)
    (*CONVS, *TRANSPOSED): {"kernel": ("weight", "conv")},
    DEPTHWISE: {"kernel": ("weight", "depthwise")},
    layers.Dense: {"kernel": ("weight", "dense")},
    layers.Embedding: {"embeddings": ("weight", "same")},
    NORMS: {
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

    With a PyTorch model the settings that the shapes do not show are compared, too: formula, eps,
    groups, axis and activation of norms; strides, dilation, groups and padding of convolutions, and
    whether their weights are standardized. A state dict tells none of them; its eps must be given.
    In front of a layer the graph of a functional model shows a `ZeroPadding` and a `Flatten`, also
    behind activations, norms and dropout; where a model pads or flattens and no graph shows where,
    a warning names the layers that were not compared.

    Not compared are activations of layers that are no norms (`Dense(activation="relu")`), pooling,
    dropout, the momentum of batch norm, whatever is called between the layers, and, of norms of a
    class that is unknown here, everything but eps.

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
            What the model has compiled for `fit`, `evaluate` and `predict` is compiled anew; what
            was compiled elsewhere with these layers keeps the eps of before.

    Raises:
        groupnorm.frameworks.weights.WeightsError: names without a partner, with two, or of another
            shape or dtype; settings that differ. All are listed, and nothing was loaded.
    """
    contents, variables = _contents(model)
    load_from_torch(
        source, contents, lambda name, value: variables[name].assign(value),
        names=names, eps=eps, count=count, carry_eps=carry_eps,
    )  # fmt: skip
    for one in (model, *contents.modules.values()):
        if carry_eps and isinstance(one, keras.Model):
            # compiled with the eps of before; they are built anew when they are called
            one.train_function = one.test_function = one.predict_function = None


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
    modules: dict[str, Any] = {}
    doubled = []
    for path, layer in _layers(model):
        other = modules.setdefault(path, layer)
        if other is not layer:
            doubled.append(f"{path}: {_described(other)} and {_described(layer)}")
    slots, variables = [], {}
    tied: dict[int, list[str]] = {}
    for path, layer in modules.items():
        for variable in _own_weights(layer):
            name = f"{path}.{variable.name}"
            variables[name] = variable
            slots.append(_slot(name, path, layer, variable))
            tied.setdefault(id(variable), []).append(name)
    contents = Contents(
        modules,
        slots,
        functools.partial(compare, model),
        {"layers of the model with one path (a dash counts as a dot; rename one)": doubled},
        [names for names in tied.values() if len(names) > 1],
    )
    return contents, variables


def _described(layer: Any) -> str:
    return f"{type(layer).__name__} {layer.name!r}"


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
