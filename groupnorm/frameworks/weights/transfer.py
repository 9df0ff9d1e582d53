"""A transfer between a PyTorch model and one of another framework: all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Contents:
    """A model of another framework.

    Attributes:
        modules: its modules by path; norms are those with an attribute `epsilon`.
        slots: its arrays.
        other_settings: what differs beside eps, of modules of the same path: path -> (its own,
            PyTorch's).
    """

    modules: Mapping[str, Any]
    slots: Sequence[Slot]
    other_settings: Callable[[Mapping[str, tuple[Any, Any]]], Problems]


@dataclass(frozen=True)
class _Plan:
    """What a transfer does, once everything fits.

    Attributes:
        matched: PyTorch's name -> slot.
        counts: path of a batch norm in the model -> `count`.
        other_eps: norms whose eps differ: the model's, PyTorch's (or None), and the latter's eps.
    """

    matched: dict[str, Slot]
    counts: dict[str, float]
    other_eps: list[tuple[Any, Any, float]]


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
    plan = _plan(contents, state, modules, names, eps, count, carry_eps)
    values = {
        slot.name: value_from_torch(slot, state[name], plan.counts)
        for name, slot in plan.matched.items()
    }
    for name, value in values.items():
        assign(name, value)
    for own, _, torch_eps in plan.other_eps:
        own.epsilon = torch_eps


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
    plan = _plan(contents, state, modules, names, None, count, carry_eps)
    loaded = {
        name: value_to_torch(slot, read(slot.name), plan.counts)
        for name, slot in plan.matched.items()
    }
    target.load_state_dict({**state, **loaded})
    for own, torch_module, _ in plan.other_eps:
        torch_module.eps = own.epsilon


def _plan(
    contents: Contents,
    state: Mapping[str, Any],
    torch_modules: Mapping[str, Any] | None,
    names: Mapping[str, str] | None,
    eps: float | Mapping[str, float] | None,
    count: float | Mapping[str, float] | None,
    carry_eps: bool,
) -> _Plan:
    own_modules, slots = contents.modules, contents.slots
    matched, problems = match(slots, shapes_of(state), names)
    batch_norms = [slot.module for slot in slots if slot.leaf == VARIANCE]
    counts, without = given_for(batch_norms, count)
    problems[
        "of batch norm, whose running variance needs count=... (values per channel of a training "
        "batch; math.inf for equal outputs in evaluation)"
    ] = without
    norms = {path: m for path, m in own_modules.items() if hasattr(m, "epsilon")}
    pairs: dict[str, tuple[Any, Any]] = {}
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
    problems |= contents.other_settings(pairs)
    refuse(problems)
    others = [
        (norms[path], pairs[path][1] if pairs else None, value)
        for path, value in torch_eps.items()
        if value != own_eps[path]
    ]
    return _Plan(matched, counts, others)


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
        return dict(source.state_dict()), dict(source.named_modules())
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
