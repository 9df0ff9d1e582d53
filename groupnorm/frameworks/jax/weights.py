"""Weights of a whole flax model, `flax.nnx`, from and to PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from groupnorm.frameworks.jax.flax import GroupNorm
from groupnorm.frameworks.weights import (
    IN_MODEL,
    IN_TORCH,
    VARIANCE,
    Problems,
    Slot,
    WeightsError,
    differing,
    given_for,
    match,
    refuse,
    renamed,
    same_padding,
    shapes_of,
    torch_padding,
    torch_source,
    value_from_torch,
    value_to_torch,
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
    state, modules = torch_source(source)
    if modules is not None and eps is not None:
        raise WeightsError(f"a PyTorch model says its eps itself; leave out eps={eps}")
    plan = _plan(model, state, modules, names, eps, count, carry_eps)
    values = {
        slot.name: value_from_torch(slot, state[name], plan.counts)
        for name, slot in plan.matched.items()
    }
    for name, variable in plan.variables.items():
        variable[...] = jnp.asarray(values[name])
    for own, _, torch_eps in plan.other_eps:
        own.epsilon = torch_eps


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
    state, modules = torch_source(target)
    if modules is None:
        raise WeightsError("expected a PyTorch model to load into, got a state dict")
    plan = _plan(model, state, modules, names, None, count, carry_eps)
    loaded = {
        name: value_to_torch(slot, np.asarray(plan.variables[slot.name][...]), plan.counts)
        for name, slot in plan.matched.items()
    }
    target.load_state_dict({**state, **loaded})
    for own, torch_module, _ in plan.other_eps:
        torch_module.eps = own.epsilon


@dataclass(frozen=True)
class _Plan:
    """What a transfer does, once everything fits.

    Attributes:
        variables: flax's name of an array -> the variable.
        matched: PyTorch's name -> slot.
        counts: path of a batch norm in flax -> `count`.
        other_eps: norms whose eps differ: flax's, PyTorch's (or None), and the latter's eps.
    """

    variables: dict[str, nnx.Variable[Any]]
    matched: dict[str, Slot]
    counts: dict[str, float]
    other_eps: list[tuple[Any, Any, float]]


def _plan(
    model: nnx.Module,
    state: Mapping[str, Any],
    torch_modules: Mapping[str, Any] | None,
    names: Mapping[str, str] | None,
    eps: float | Mapping[str, float] | None,
    count: float | Mapping[str, float] | None,
    carry_eps: bool,
) -> _Plan:
    own_modules, variables = _contents(model)
    slots = [_slot(path, variable, own_modules) for path, variable in variables.items()]
    matched, problems = match(slots, shapes_of(state), names)
    batch_norms = [slot.module for slot in slots if slot.leaf == VARIANCE]
    counts, without = given_for(batch_norms, count)
    problems[
        "of batch norm, whose running variance needs count=... (values per channel of a training "
        "batch; math.inf for equal outputs in evaluation)"
    ] = without
    norms = {path: m for path, m in own_modules.items() if hasattr(m, "epsilon")}
    pairs = {}
    if torch_modules is None:
        torch_eps, without = given_for(norms, eps)
        problems["norms whose eps a state dict does not tell; give eps=... or the model"] = without
    else:
        torch_paths = {renamed(path, names)[1]: path for path in torch_modules}
        pairs = {
            path: (own, torch_modules[torch_paths[path]])
            for path, own in own_modules.items()
            if path in torch_paths
        }
        torch_eps = {
            p: getattr(other, "eps", None)  # type: ignore[misc]
            for p, (_, other) in pairs.items()
            if p in norms
        }
        problems["norms whose eps PyTorch's module does not tell"] = [
            path for path, value in torch_eps.items() if value is None
        ]
        # those with weights are listed by their weights
        bare = norms.keys() - pairs.keys() - {slot.module for slot in slots}
        problems[f"norms without weights, {IN_MODEL}"] = list(bare)
        with_weights = {name.rpartition(".")[0] for name in state}
        problems[f"norms without weights, {IN_TORCH}"] = [
            path
            for path, module in torch_modules.items()
            if isinstance(getattr(module, "eps", None), float)
            and path not in with_weights
            and renamed(path, names)[1] not in norms
        ]
    own_eps = {path: norm.epsilon for path, norm in norms.items()}
    if not carry_eps:
        heading = "eps (carry_eps=True takes over the eps of the model that the weights come from)"
        problems[heading] = differing(own_eps, torch_eps)
    problems |= _other_settings(pairs)
    refuse(problems)
    others = [
        (norms[path], pairs[path][1] if pairs else None, value)
        for path, value in torch_eps.items()
        if value != own_eps[path]
    ]
    return _Plan(variables, matched, counts, others)


def _contents(
    model: nnx.Module,
) -> tuple[dict[str, Any], dict[str, nnx.Variable[Any]]]:
    """The modules and the arrays of a model, by path, parts joined by dots."""
    modules, variables = {}, {}
    for path, node in nnx.iter_graph(model):
        if isinstance(node, nnx.Variable):
            if not isinstance(node, _NO_WEIGHTS):
                variables[_dotted(path)] = node
        elif isinstance(node, nnx.Module):
            modules[_dotted(path)] = node
    return modules, variables


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
