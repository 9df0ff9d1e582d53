"""Kinds of norms: which of two frameworks compute the same, apart from eps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from groupnorm.frameworks.weights.problems import Problems, differing

GROUP_NORM, BATCH_NORM = "group norm", "batch norm"
LAYER_NORM, RMS_NORM = "layer norm over the channels", "RMS norm over the channels"


@dataclass(frozen=True)
class Norm:
    """What a norm computes, apart from eps.

    Attributes:
        formula: its name; the same name is the same computation.
        groups: of group norm.
        activation: what is applied to the result, by the names of `groupnorm.group_norm`.
    """

    formula: str
    groups: int | None = None
    activation: str | None = None


def torch_norm(module: Any) -> Norm | None:
    """What a norm of PyTorch or of this package computes; None for any other module.

    Instance norm without running statistics is group norm with a group for each channel; batch norm
    without them is none of those that other frameworks have.
    """
    classes = {
        cls.__name__
        for cls in type(module).__mro__
        if cls.__module__.partition(".")[0] in ("torch", "groupnorm")
    }
    activation = getattr(module, "activation", None)
    if "GroupNorm" in classes:
        return Norm(GROUP_NORM, module.num_groups, activation)
    if "_InstanceNorm" in classes:
        if module.track_running_stats:
            return Norm("instance norm with running statistics")
        return Norm(GROUP_NORM, module.num_features)
    if "_BatchNorm" in classes:
        tracked = module.running_var is not None
        return Norm(BATCH_NORM if tracked else "batch norm without running statistics")
    if "LayerNorm2d" in classes:
        return Norm(LAYER_NORM)
    for name, formula in (("LayerNorm", LAYER_NORM), ("RMSNorm", RMS_NORM)):
        if name in classes:
            axes = len(module.normalized_shape)
            return Norm(formula if axes == 1 else f"{name} over the last {axes} axes")
    return None


def norms_differ(
    pairs: Iterable[tuple[str, Any, Any]], own_norm: Callable[[Any], Norm | None]
) -> Problems:
    """Norms that compute something else than their partners in PyTorch.

    Of a class that is not known on one side eps alone is compared. An activation that is part of
    the norm on one side alone is warned of: on the other it may be a layer of its own.

    Args:
        pairs: path, the model's module, PyTorch's.
        own_norm: `torch_norm` for the modules of the model.
    """
    known = [(path, own, own_norm(own), torch_norm(other)) for path, own, other in pairs]
    both = [(path, own, other) for path, _, own, other in known if own and other]
    alike = [(path, own, other) for path, own, other in both if own.formula == other.formula]
    one_sided = [path for path, a, b in both if (a.activation is None) != (b.activation is None)]
    if one_sided:
        warnings.warn(
            f"the activation of {', '.join(one_sided)} is part of the norm on one side alone: "
            "compare the outputs of both models, unless it is a layer of its own on the other",
            stacklevel=6,
        )
    return {
        "norms of another kind": differing(
            (path, own.formula, other.formula) for path, own, other in both
        ),
        "norms of PyTorch's beside what has no epsilon": [
            f"{path}: {type(module).__name__}, in PyTorch {other.formula}"
            for path, module, own, other in known
            if other and not own and not hasattr(module, "epsilon")
        ],
        "number of groups": differing(
            (path, own.groups, other.groups) for path, own, other in alike
        ),
        "activation of a norm": differing(
            (path, own.activation, other.activation)
            for path, own, other in both
            if own.activation is not None and other.activation is not None
        ),
    }
