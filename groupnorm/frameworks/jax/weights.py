"""Weights of a whole flax model, `flax.nnx`, from and to PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from groupnorm.frameworks.jax.flax import GroupNorm
from groupnorm.frameworks.weights.conventions import (
    each_axis,
    same_padding,
    torch_padding,
    torch_transposed_padding,
)
from groupnorm.frameworks.weights.layouts import Array
from groupnorm.frameworks.weights.matching import Slot
from groupnorm.frameworks.weights.norms import (
    BATCH_NORM,
    GROUP_NORM,
    LAYER_NORM,
    RMS_NORM,
    Norm,
    norms_differ,
)
from groupnorm.frameworks.weights.problems import Problems, differing
from groupnorm.frameworks.weights.transfer import (
    VARIANCE,
    Contents,
    Pair,
    load_from_torch,
    load_to_torch,
)

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

    With a PyTorch model the settings that the shapes do not show are compared, too: formula, eps,
    groups, axes and activation of norms; strides, dilation, groups and padding of convolutions, and
    whether their weights are standardized (a flax module that does so says it by attributes
    `ws_form` and `ws_eps`). A state dict tells none of them; its eps must be given.

    Not compared are what a model calls between its modules (activations, pooling, `jnp.pad`),
    dropout, the momentum of batch norm, and, of norms of a class that is unknown here, everything
    but eps. Nor is a dense layer behind a flattened map, whose inputs are in the order (C, H, W) in
    PyTorch and (H, W, C) here.

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
    return Contents(modules, slots, _compare), variables


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


def _compare(pairs: Sequence[Pair]) -> tuple[Problems, list[str]]:
    """What differs beside eps; nothing in a flax model is beyond being seen, so no warnings."""
    convs = [
        pair
        for pair in pairs
        if isinstance(pair[1], (nnx.Conv, nnx.ConvTranspose)) and hasattr(pair[2], "padding_mode")
    ]
    problems = norms_differ(pairs, _norm)
    problems["axes of a norm"] = [
        f"{path}: {name}={value}, where the channels are on axis -1"
        for path, own, _ in pairs
        if isinstance(own, _NORMS)
        for name, wanted in _AXES
        if (value := getattr(own, name, wanted)) not in (wanted, (wanted,), [wanted])
        and not (name == "reduction_axes" and isinstance(own, nnx.GroupNorm))
    ]
    problems["weight standardization (form, eps)"] = differing(
        (path, _standardized(own), _standardized(other)) for path, own, other in pairs
    )
    problems["transposed convolutions beside others"] = differing(
        (path, isinstance(own, nnx.ConvTranspose), other.transposed) for path, own, other in convs
    )
    for heading, own_name, torch_name in (
        ("strides", "strides", "stride"),
        ("dilation", "kernel_dilation", "dilation"),
    ):
        problems[heading] = differing(
            (
                path,
                _each(own, own_name),
                each_axis(getattr(other, torch_name), len(own.kernel_size)),
            )
            for path, own, other in convs
        )
    problems["groups of a convolution"] = differing(
        (path, getattr(own, "feature_group_count", 1), other.groups) for path, own, other in convs
    )
    problems["of convolutions, what PyTorch has not"] = [
        f"{path}: {text}"
        for path, own, _ in convs
        for text, there in (
            ("a mask", own.mask is not None),
            ("dilation of the input", set(_each(own, "input_dilation")) != {1}),
        )
        if there
    ]
    problems["padding"] = [
        f"{path}: {text}"
        for path, own, other in convs
        if isinstance(own, nnx.ConvTranspose) == other.transposed
        if (text := _padding_differs(own, other))
    ]
    return problems, []


_AXES = (("axis", -1), ("feature_axes", -1), ("reduction_axes", -1))  # what flax has by default


def _norm(module: Any) -> Norm | None:
    """What a norm of flax's computes; None for any other module."""
    if isinstance(module, (GroupNorm, nnx.GroupNorm)):
        return Norm(GROUP_NORM, module.num_groups, getattr(module, "activation", None))
    if isinstance(module, nnx.InstanceNorm):
        return Norm(GROUP_NORM, module.num_features)
    for kind, formula in (
        (nnx.BatchNorm, BATCH_NORM),
        (nnx.LayerNorm, LAYER_NORM),
        (nnx.RMSNorm, RMS_NORM),
    ):
        if isinstance(module, kind):
            return Norm(formula)
    return None


def _standardized(module: Any) -> str:
    return ", ".join(str(getattr(module, name, None)) for name in ("ws_form", "ws_eps"))


def _each(conv: Any, name: str) -> tuple[int, ...]:
    return each_axis(getattr(conv, name, 1), len(conv.kernel_size))


_PADDING_MODES = {"CIRCULAR": "circular", "REFLECT": "reflect"}


def _padding_differs(own: Any, other: Any) -> str | None:
    """How a convolution pads otherwise than PyTorch's, or None."""
    dilation, strides = _each(own, "kernel_dilation"), _each(own, "strides")
    extents = [(k - 1) * d for k, d in zip(own.kernel_size, dilation, strict=True)]
    transposed = isinstance(own, nnx.ConvTranspose)
    mode, pads = "zeros", None
    match own.padding:
        case "SAME" | "VALID" if transposed:
            # the map that the stride has spread; what jax.lax.conv_transpose adds to it
            pads = tuple(
                _transposed_pads(extent, stride, own.padding)
                for extent, stride in zip(extents, strides, strict=True)
            )
        case "SAME":
            pads = same_padding(own.kernel_size, strides, dilation)
        case "VALID":
            pads = ((0, 0),) * len(extents)
        case "CAUSAL":
            pads = ((extents[0], 0),)
        case "CIRCULAR" | "REFLECT":
            mode = _PADDING_MODES[own.padding]
            pads = tuple((extent // 2, (extent + 1) // 2) for extent in extents)
        case int(number):
            pads = ((number, number),) * len(extents)
        case each:
            pads = tuple((p, p) if isinstance(p, int) else tuple(p) for p in each)
    wanted = torch_transposed_padding(other) if transposed else torch_padding(other)
    if pads == wanted and mode == other.padding_mode:
        return None
    how = "by the size of the map" if pads is None else f"{pads}"
    return (
        f"padding={own.padding!r} with strides {strides} pads {how} ({mode}), PyTorch {wanted} "
        f"({other.padding_mode}); build it with padding={wanted}"
    )


def _transposed_pads(extent: int, stride: int, padding: str) -> tuple[int, int]:
    """What `jax.lax.conv_transpose` pads for a kernel of `extent` + 1."""
    if padding == "VALID":
        return extent, extent + max(stride - 1 - extent, 0)
    total = extent + stride - 1
    before = extent if stride > extent else -(-total // 2)
    return before, total - before
