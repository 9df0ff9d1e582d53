"""A transfer between a PyTorch model and one of another framework: all or nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from groupnorm.frameworks.weights.conventions import variance_from_torch, variance_to_torch
from groupnorm.frameworks.weights.layouts import (
    Array,
    as_numpy,
    as_tensor,
    layout_from_torch,
    layout_to_torch,
)
from groupnorm.frameworks.weights.matching import IN_MODEL, IN_TORCH, Slot, match, renamed
from groupnorm.frameworks.weights.problems import Problems, WeightsError, differing, refuse

VARIANCE = "running_var"


Pair = tuple[str, Any, Any]
"""Path of a module in the model, the module, and PyTorch's."""


@dataclass(frozen=True)
class Contents:
    """A model of another framework.

    Attributes:
        modules: its modules by path; norms are those with an attribute `epsilon`.
        slots: its arrays.
        compare: what differs beside eps, and warnings of what could not be compared.
        problems: of the model itself.
        tied: names of slots that are one and the same array.
    """

    modules: Mapping[str, Any]
    slots: Sequence[Slot]
    compare: Callable[[Sequence[Pair]], tuple[Problems, list[str]]]
    problems: Problems = field(default_factory=dict)
    tied: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class _Plan:
    """What a transfer does, once everything fits.

    Attributes:
        matched: PyTorch's name -> slot.
        counts: path of a batch norm in the model -> `count`.
        other_eps: norms whose eps differ: the model's, PyTorch's (or None), and the latter's eps.
        warnings: what could not be compared.
    """

    matched: dict[str, Slot]
    counts: dict[str, float]
    other_eps: list[tuple[Any, Any, float]]
    warnings: list[str]


def load_from_torch(
    source: Any,
    contents: Contents,
    assign: Callable[[str, Array], None],
    *,
    names: Mapping[str, str] | None,
    eps: float | Mapping[str, float] | None,
    count: float | Mapping[str, float] | None,
    carry_eps: bool,
) -> None:
    """Load a PyTorch model, or its state dict, into a model; all or nothing.

    Args:
        source: and `names`, `eps`, `count`, `carry_eps` as in `from_torch` of the frameworks.
        contents: of the model.
        assign: gives an array of the model, by the name of its slot, new numbers.

    Raises:
        WeightsError: something does not fit. All is listed, and nothing was loaded.
    """
    state, modules = torch_source(source)
    if modules is not None and eps is not None:
        raise WeightsError(f"a PyTorch model says its eps itself; leave out eps={eps}")
    plan = _plan(contents, state, modules, names, eps, count, carry_eps, into_torch=False)
    values = {
        slot.name: value_from_torch(slot, state[name], plan.counts)
        for name, slot in plan.matched.items()
    }
    differ = [
        " and ".join(names)
        for names in contents.tied
        if len({values[name].tobytes() for name in names}) > 1
    ]
    refuse({"one array in the model, several in PyTorch that differ": differ})
    for name, value in values.items():
        assign(name, value)
    for own, _, torch_eps in plan.other_eps:
        own.epsilon = torch_eps
    _warn(plan)


def load_to_torch(
    contents: Contents,
    read: Callable[[str], Array],
    target: Any,
    *,
    names: Mapping[str, str] | None,
    count: float | Mapping[str, float] | None,
    carry_eps: bool,
) -> None:
    """Load a model into a PyTorch model, all or nothing; the inverse of `load_from_torch`.

    Args:
        contents: of the model.
        read: an array of the model, by the name of its slot.
        target: and `names`, `count`, `carry_eps` as in `to_torch` of the frameworks.

    Raises:
        WeightsError: something does not fit, or `target` is no model.
    """
    state, modules = torch_source(target)
    if modules is None:
        raise WeightsError("expected a PyTorch model to load into, got a state dict")
    plan = _plan(contents, state, modules, names, None, count, carry_eps, into_torch=True)
    loaded = {
        name: value_to_torch(slot, read(slot.name), plan.counts)
        for name, slot in plan.matched.items()
    }
    differ = [
        " and ".join(tied)
        for tied in _tied(state)
        if not all(
            as_numpy(loaded[name]).tobytes() == as_numpy(loaded[tied[0]]).tobytes() for name in tied
        )
    ]
    refuse({"one tensor in PyTorch, several in the model that differ": differ})
    target.load_state_dict({**state, **loaded})
    for own, torch_module, _ in plan.other_eps:
        torch_module.eps = own.epsilon
    _warn(plan)


def _warn(plan: _Plan) -> None:
    for text in plan.warnings:
        warnings.warn(text, stacklevel=4)


def _tied(state: Mapping[str, Any]) -> list[list[str]]:
    """Names of a state dict that are one and the same tensor."""
    names: dict[Any, list[str]] = {}
    for name, tensor in state.items():
        if tensor.numel() and not tensor.is_meta:
            place = (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
            names.setdefault(place, []).append(name)
    return [tied for tied in names.values() if len(tied) > 1]


def _plan(
    contents: Contents,
    state: Mapping[str, Any],
    torch_modules: Mapping[str, Any] | None,
    names: Mapping[str, str] | None,
    eps: float | Mapping[str, float] | None,
    count: float | Mapping[str, float] | None,
    carry_eps: bool,
    into_torch: bool,
) -> _Plan:
    matched, problems = match(contents.slots, shapes_of(state), names, torch_modules or ())
    problems |= contents.problems
    batch_norms = [slot.module for slot in contents.slots if slot.leaf == VARIANCE]
    counts, without = given_for(batch_norms, count)
    problems[
        "of batch norm, whose running variance needs count=... (values per channel of a training "
        "batch; math.inf for equal outputs in evaluation)"
    ] = without
    norms = {path: m for path, m in contents.modules.items() if hasattr(m, "epsilon")}
    pairs: list[Pair] = []
    norm_pairs: list[tuple[str, Any, Any, Any]] = []  # with PyTorch's module, and its eps
    if torch_modules is None:
        given, without = given_for(norms, eps)
        problems["norms whose eps a state dict does not tell; give eps=... or the model"] = without
        norm_pairs += [(path, norms[path], None, value) for path, value in given.items()]
    else:
        pairs = _pairs(contents.modules, torch_modules, names)
        norm_pairs += [
            (path, own, other, getattr(other, "eps", None))
            for path, own, other in pairs
            if path in norms
        ]
        problems["norms whose eps PyTorch's module does not tell"] = [
            path for path, _, _, value in norm_pairs if value is None
        ]
        problems |= _bare_norms(norms, pairs, contents.slots, state, torch_modules, names)
    if not carry_eps:
        heading = "eps (carry_eps=True takes over the eps of the model that the weights come from)"
        problems[heading] = differing(
            (path, own.epsilon, value) for path, own, _, value in norm_pairs
        )
    problems["one norm that would need several eps"] = _several(
        (other, own.epsilon, path) if into_torch else (own, value, path)
        for path, own, other, value in norm_pairs
    )
    differences, unseen = contents.compare(pairs)
    problems |= differences
    refuse(problems)
    others = [(own, other, value) for _, own, other, value in norm_pairs if value != own.epsilon]
    return _Plan(matched, counts, others, unseen)


def _pairs(
    own_modules: Mapping[str, Any],
    torch_modules: Mapping[str, Any],
    names: Mapping[str, str] | None,
) -> list[Pair]:
    """Modules of both models that have one path; of several of PyTorch's those with none below."""
    partners: dict[str, list[Any]] = {}
    for path, other in torch_modules.items():
        partners.setdefault(renamed(path, names)[1], []).append(other)
    pairs = []
    for path, others in partners.items():
        if path in own_modules:
            lowest = [other for other in others if not any(True for _ in other.children())]
            kept = others if len(others) == 1 else lowest or others
            pairs += [(path, own_modules[path], other) for other in kept]
    return pairs


def _bare_norms(
    norms: Mapping[str, Any],
    pairs: Iterable[Pair],
    slots: Iterable[Slot],
    state: Iterable[str],
    torch_modules: Mapping[str, Any],
    names: Mapping[str, str] | None,
) -> Problems:
    """Norms without a partner that no weights list."""
    bare = norms.keys() - {path for path, _, _ in pairs} - {slot.module for slot in slots}
    with_weights = {name.rpartition(".")[0] for name in state}
    return {
        f"norms without weights, {IN_MODEL}": list(bare),
        f"norms without weights, {IN_TORCH}": [
            path
            for path, module in torch_modules.items()
            if isinstance(getattr(module, "eps", None), float)
            and path not in with_weights
            and renamed(path, names)[1] not in norms
        ],
    }


def _several(values: Iterable[tuple[Any, Any, str]]) -> list[str]:
    """One line for each module that comes with several values: module, value, path."""
    found: dict[int, dict[Any, str]] = {}
    for module, value, path in values:
        found.setdefault(id(module), {}).setdefault(value, path)
    return [
        " and ".join(f"{path}: {value}" for value, path in each.items())
        for each in found.values()
        if len(each) > 1
    ]


def given_for(
    modules: Iterable[str], values: float | Mapping[str, float] | None
) -> tuple[dict[str, float], list[str]]:
    """One value for each module, and one line for each that does not fit.

    Args:
        modules: paths.
        values: one for all, or path -> value.
    """
    wanted = list(modules)
    if not isinstance(values, Mapping):
        values = {} if values is None else dict.fromkeys(wanted, values)
    lines = [f"{module}: none given" for module in wanted if module not in values]
    lines += [f"{module}: given, but there is none" for module in values if module not in wanted]
    return {module: values[module] for module in wanted if module in values}, lines


def value_from_torch(slot: Slot, tensor: Any, counts: Mapping[str, float]) -> Array:
    """What a slot gets of a matched tensor: its layout, and a variance's convention.

    Args:
        slot: the array to be.
        tensor: PyTorch's.
        counts: path of a module -> its `count`, of `variance_from_torch`.
    """
    array = layout_from_torch(as_numpy(tensor), slot.layout, slot.shape)
    return variance_from_torch(array, counts[slot.module]) if slot.leaf == VARIANCE else array


def value_to_torch(slot: Slot, array: Array, counts: Mapping[str, float]) -> Any:
    """The tensor that PyTorch gets of a slot's array; arguments as in `value_from_torch`."""
    if slot.leaf == VARIANCE:
        array = variance_to_torch(array, counts[slot.module])
    return as_tensor(layout_to_torch(array, slot.layout))


def torch_source(source: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """State dict and modules by path of a PyTorch model; of a state dict no modules (None).

    Raises:
        WeightsError: it is neither.
    """
    if hasattr(source, "named_modules") and hasattr(source, "state_dict"):
        # every name of a module counts, also the second one of a shared module
        return dict(source.state_dict()), dict(source.named_modules(remove_duplicate=False))
    if isinstance(source, Mapping) and all(hasattr(value, "detach") for value in source.values()):
        return dict(source), None
    raise WeightsError(
        f"expected a PyTorch model or its state dict (name -> tensor), got {type(source).__name__}"
    )


def shapes_of(state: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of each tensor of a state dict, as `match` takes them."""
    return {
        name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in state.items()
    }
