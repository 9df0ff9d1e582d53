"""Weights of a whole flax model, `flax.nnx`, from and to PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from groupnorm.frameworks.jax.flax import GroupNorm
from groupnorm.frameworks.weights.conventions import same_padding, torch_padding
from groupnorm.frameworks.weights.layouts import Array
from groupnorm.frameworks.weights.matching import Slot
from groupnorm.frameworks.weights.problems import Problems, differing
from groupnorm.frameworks.weights.transfer import VARIANCE, Contents, load_from_torch, load_to_torch

_NORMS = (
    GroupNorm,
    nnx.GroupNorm,
    nnx.BatchNorm,
    nnx.InstanceNorm,
    nnx.LayerNorm,
    nnx.RMSNorm,
)
# class of a module -> flax's name of an array in it -> PyTorch's name, and the layout
_LEAVES: dict[type | tuple[type, ...], dict[str, tuple[str, str]]] = {
    nnx.Conv: {"kernel": ("weight", "conv")},
    nnx.Linear: {"kernel": ("weight", "dense")},
    nnx.Embed: {"embedding": ("weight", "same")},
    _NORMS: {
        "scale": ("weight", "same"),
        "mean": ("running_mean", "same"),
        "var": (VARIANCE, "same"),
    },
}
_NO_WEIGHTS = (nnx.RngState, nnx.Cache, nnx.Intermediate)


def from_torch(
    source: Any,
    model: nnx.Module,
    *,
    names: Mapping[str, str] | None = None,
    eps: float | Mapping[str, float] | None = None,
    count: float | Mapping[str, float] | None = None,
    carry_eps: bool = False,
) -> None:
    """Load the weights of a PyTorch model into a flax model, in place; all or nothing.

    Arrays are matched by the path of their module: `layer1.0.conv1.weight` goes to the `kernel` of
    `model.layer1[0].conv1`. Kernels change their layout (convolutions, grouped and depthwise ones,
    transposed ones, dense layers); other arrays of the same name stay as they are. Numbers are
    copied bit for bit, but for a batch norm's running variance.

    With a PyTorch model the settings that the shapes do not show are compared, too: eps, the groups
    of a norm, the padding of convolutions, and whether their weights are standardized (a flax
    module that does so says it by attributes `ws_form` and `ws_eps`). A state dict tells none of
    them; its eps must be given. A dense layer behind a flattened map is beyond a comparison: its
    inputs are in the order (C, H, W) in PyTorch and (H, W, C) here.

    Args:
        source: a PyTorch model, or its state dict.
        model: the flax model.
        names: path of a module in PyTorch -> its path in flax, where they differ; for what is
            below the module, too. {"": "layers"} for a PyTorch Sequential and a flax one.
        eps: with a state dict, the eps of the norms: one number, or path in flax -> number.
        count: with batch norm, the number of values per channel of a training batch (N H W), one
            for all or path in flax -> number. PyTorch's running variance is unbiased, that is
            count / (count - 1) times flax's. `math.inf` leaves the numbers, so that the models
            agree in evaluation.
        carry_eps: where eps differs, give flax's norms PyTorch's; by default that is an error.

    Raises:
        groupnorm.frameworks.weights.WeightsError: names without a partner, with two, or of another
            shape or dtype; settings that differ. All are listed, and nothing was loaded.
    """
    contents, variables = _contents(model)

    def assign(name: str, value: Array) -> None:
        variables[name][...] = jnp.asarray(value)

    load_from_torch(
        source, contents, assign, names=names, eps=eps, count=count, carry_eps=carry_eps
    )


def to_torch(
    model: nnx.Module,
    target: Any,
    *,
    names: Mapping[str, str] | None = None,
    count: float | Mapping[str, float] | None = None,
    carry_eps: bool = False,
) -> None:
    """Load the weights of a flax model into a PyTorch model, in place; all or nothing.

    The inverse of `from_torch`. A batch norm's counter of batches stays as it is.

    Args:
        model: the flax model.
        target: the PyTorch model.
        names: and `count` as in `from_torch`.
        carry_eps: where eps differs, give PyTorch's norms flax's; by default that is an error.

    Raises:
        groupnorm.frameworks.weights.WeightsError: as `from_torch`, or `target` is no model.
    """
    contents, variables = _contents(model)
    load_to_torch(
        contents, lambda name: np.asarray(variables[name][...]), target,
        names=names, count=count, carry_eps=carry_eps,
    )  # fmt: skip


def _contents(model: nnx.Module) -> tuple[Contents, dict[str, nnx.Variable[Any]]]:
    """A model's contents, and its arrays; paths have their parts joined by dots."""
    modules, variables = {}, {}
    for path, node in nnx.iter_graph(model):
        if isinstance(node, nnx.Variable):
            if not isinstance(node, _NO_WEIGHTS):
                variables[_dotted(path)] = node
        elif isinstance(node, nnx.Module):
            modules[_dotted(path)] = node
    slots = [_slot(path, variable, modules) for path, variable in variables.items()]
    return Contents(modules, slots, _other_settings), variables


def _dotted(path: Iterable[Any]) -> str:
    return ".".join(map(str, path))


def _slot(name: str, variable: nnx.Variable[Any], modules: Mapping[str, Any]) -> Slot:
    path, _, own_leaf = name.rpartition(".")
    module = modules.get(path)
    leaf, layout = own_leaf, "same"
    for kind, leaves in _LEAVES.items():
        if isinstance(module, kind) and own_leaf in leaves:
            leaf, layout = leaves[own_leaf]
    if isinstance(module, nnx.ConvTranspose) and own_leaf == "kernel":
        leaf, layout = "weight", "conv" if module.transpose_kernel else "flipped"
    value = variable[...]
    return Slot(name, path, leaf, layout, tuple(value.shape), value.dtype.name)


def _other_settings(pairs: Mapping[str, tuple[Any, Any]]) -> Problems:
    """What differs beside eps, of modules of the same path: flax's and PyTorch's."""
    problems: Problems = {}
    for heading, attributes in (
        ("number of groups", ("num_groups",)),
        ("weight standardization (form, eps)", ("ws_form", "ws_eps")),
    ):
        own, other = (
            {path: _attributes(pair[side], attributes) for path, pair in pairs.items()}
            for side in (0, 1)
        )
        problems[heading] = differing(own, other)
    problems["padding"] = [
        f"{path}: {text}"
        for path, (own, other) in pairs.items()
        if isinstance(own, nnx.Conv) and (text := _padding_differs(own, other))
    ]
    return problems


def _attributes(module: Any, names: Iterable[str]) -> str:
    return ", ".join(str(getattr(module, name, None)) for name in names)


_PADDING_MODES = {"CIRCULAR": "circular", "REFLECT": "reflect"}


def _padding_differs(own: nnx.Conv, other: Any) -> str | None:
    """How a convolution pads otherwise than PyTorch's, or None."""
    if not hasattr(other, "padding_mode"):
        return None  # no convolution, which the weights show
    axes = len(own.kernel_size)
    strides, dilation = (
        (value or 1,) * axes if value is None or isinstance(value, int) else tuple(value)
        for value in (own.strides, own.kernel_dilation)
    )
    mode, pads = "zeros", None
    match own.padding:
        case "SAME":
            pads = same_padding(own.kernel_size, strides, dilation)
        case "VALID":
            pads = ((0, 0),) * axes
        case "CAUSAL":
            pads = ((dilation[0] * (own.kernel_size[0] - 1), 0),)
        case "CIRCULAR" | "REFLECT":
            extents = [(k - 1) * d for k, d in zip(own.kernel_size, dilation, strict=True)]
            mode = _PADDING_MODES[own.padding]
            pads = tuple((extent // 2, (extent + 1) // 2) for extent in extents)
        case int(number):
            pads = ((number, number),) * axes
        case each:
            pads = tuple((p, p) if isinstance(p, int) else tuple(p) for p in each)
    wanted = torch_padding(other)
    if pads == wanted and mode == other.padding_mode:
        return None
    how = "by the size of the map" if pads is None else f"{pads}"
    return (
        f"padding={own.padding!r} with strides {strides} pads {how} ({mode}), PyTorch {wanted} "
        f"({other.padding_mode}); build it with padding={wanted}"
    )
