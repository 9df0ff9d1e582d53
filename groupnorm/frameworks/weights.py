"""Weights of a PyTorch model beside those of another framework: names, layouts, settings.

What the adapters of the frameworks share, on numpy arrays. An adapter lists the arrays of its
model as `Slot`s and matches them with a state dict (`match`); it adds what else does not fit to the
problems found, and `refuse` raises one error that lists all, before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Problems = dict[str, list[str]]
"""What does not fit: a heading -> one line for each thing."""
Pads = tuple[tuple[int, int], ...]
"""Zeros before and after the map, for each spatial axis."""

VARIANCE = "running_var"
IN_TORCH, IN_MODEL = "in PyTorch alone", "in the model alone"  # headings of problems
_COUNTERS = ("num_batches_tracked",)  # PyTorch's alone; they are no weights


class WeightsError(ValueError):
    """Weights that do not fit a model; the message lists every one."""


@dataclass(frozen=True)
class Slot:
    """One array of a model, and where PyTorch has it.

    Attributes:
        name: the array's own name, for messages, such as "layer1.0.conv1.kernel".
        module: path of the module it belongs to, parts joined by dots: "layer1.0.conv1".
        leaf: PyTorch's name for it inside the module: "weight", "bias", "running_var", ...
        layout: a name of `LAYOUTS`.
        shape: its own shape.
        dtype: its own dtype, by the name that numpy and PyTorch share.
    """

    name: str
    module: str
    leaf: str
    layout: str
    shape: tuple[int, ...]
    dtype: str


# ---- Layouts ------------------------------------------------------------------------------------


def _spatial(array: Array) -> tuple[int, ...]:
    return tuple(range(array.ndim - 2))


def _depthwise_to_torch(array: Array) -> Array:
    *kernel, channels, multiplier = array.shape
    turned = array.transpose(array.ndim - 2, array.ndim - 1, *_spatial(array))
    return turned.reshape(channels * multiplier, 1, *kernel)


def _depthwise_from_torch(array: Array, shape: Sequence[int]) -> Array:
    *kernel, channels, multiplier = shape
    turned = array.reshape(channels, multiplier, *kernel)
    return turned.transpose(*range(2, turned.ndim), 0, 1)


# layout -> (to PyTorch, from PyTorch to an array of a shape)
LAYOUTS: dict[str, tuple[Callable[[Array], Array], Callable[[Array, Sequence[int]], Array]]] = {
    "same": (lambda a: a, lambda a, shape: a),
    "dense": (lambda a: a.T, lambda a, shape: a.T),
    "conv": (
        lambda a: a.transpose(a.ndim - 1, a.ndim - 2, *_spatial(a)),
        lambda a, shape: a.transpose(*range(2, a.ndim), 1, 0),
    ),
    "flipped": (
        lambda a: np.flip(a, _spatial(a)).transpose(a.ndim - 2, a.ndim - 1, *_spatial(a)),
        lambda a, shape: np.flip(a.transpose(*range(2, a.ndim), 0, 1), _spatial(a)),
    ),
    "depthwise": (_depthwise_to_torch, _depthwise_from_torch),
}
"""How an array stands beside PyTorch's; (*k) are the axes of a kernel.

========= ============================================ ============================
layout    the array                                    in PyTorch
========= ============================================ ============================
same      as in PyTorch
dense     (in, out)                                    (out, in)
conv      (*k, in / groups, out)                       (out, in / groups, *k)
conv      transposed convolution (*k, out, in)         (in, out, *k)
flipped   transposed convolution (*k, in, out), k      (in, out, *k)
          from its end
depthwise (*k, channels, multiplier)                   (channels * multiplier, 1, *k)
========= ============================================ ============================
"""


def layout_to_torch(array: Array, layout: str) -> Array:
    """The array as PyTorch has it; a copy in C order where the axes move."""
    return np.ascontiguousarray(LAYOUTS[layout][0](array)).reshape(_torch_shape(array, layout))


def layout_from_torch(array: Array, layout: str, shape: Sequence[int]) -> Array:
    """PyTorch's array in another layout, of the shape `shape`.

    Raises:
        WeightsError: it has another shape.
    """
    array = np.asarray(array)
    expected = torch_shape(shape, layout)
    if array.shape != expected:
        raise WeightsError(
            f"an array of shape {tuple(shape)} takes {expected} from PyTorch, got {array.shape}"
        )
    return np.ascontiguousarray(LAYOUTS[layout][1](array, shape)).reshape(shape)


def torch_shape(shape: Sequence[int], layout: str) -> tuple[int, ...]:
    """The shape in PyTorch of an array of the shape `shape`."""
    return _torch_shape(np.broadcast_to(np.int8(0), tuple(shape)), layout)


def _torch_shape(array: Array, layout: str) -> tuple[int, ...]:
    return LAYOUTS[layout][0](array).shape


# ---- Names --------------------------------------------------------------------------------------


def match(
    slots: Iterable[Slot],
    torch_arrays: Mapping[str, tuple[Sequence[int], str]],
    names: Mapping[str, str] | None = None,
) -> tuple[dict[str, Slot], Problems]:
    """Match PyTorch's names with the arrays of a model, by the path of the module.

    Args:
        slots: the arrays of the model.
        torch_arrays: name in the state dict -> shape and dtype. Counters of batches are left out.
        names: path of a module in PyTorch -> its path in the model, where they differ. It holds for
            what is below the module, too; of several the longest counts. "" is the whole model.

    Returns:
        PyTorch's name -> slot, and the problems: names without a partner on either side, names
        that meet in one slot, other shapes and dtypes, and names of the mapping that no module has.
    """
    names = names or {}
    all_slots = list(slots)
    free = {(slot.module, slot.leaf): slot for slot in all_slots}
    owners: dict[tuple[str, str], list[str]] = {}
    problems: Problems = {}
    used = set()
    for name in torch_arrays:
        module, _, leaf = name.rpartition(".")
        if leaf in _COUNTERS:
            continue
        prefix, own_module = renamed(module, names)
        used.add(prefix)
        if (own_module, leaf) in free:
            owners.setdefault((own_module, leaf), []).append(name)
        else:
            shape, _ = torch_arrays[name]
            _add(problems, IN_TORCH, f"{name} {tuple(shape)}{_as(module, own_module)}")
    found = {}
    for slot in all_slots:
        matched = owners.get((slot.module, slot.leaf), [])
        label = f"{slot.name} {slot.shape}"
        if not matched:
            _add(problems, IN_MODEL, label)
        elif len(matched) > 1:
            _add(problems, "matched more than once", f"{label} with {' and '.join(matched)}")
        else:
            found[matched[0]] = slot
            _compare(problems, slot, matched[0], *torch_arrays[matched[0]])
    for prefix in names.keys() - used:
        _add(problems, "in the names given, but no module of PyTorch's", repr(prefix))
    return found, problems


def refuse(problems: Problems) -> None:
    """Raise if there are any problems.

    Raises:
        WeightsError: it lists them all.
    """
    if any(problems.values()):
        listed = [
            f"  {heading}:\n" + "\n".join(f"    {line}" for line in sorted(lines))
            for heading, lines in problems.items()
            if lines
        ]
        raise WeightsError("the weights do not fit, nothing was loaded:\n" + "\n".join(listed))


def renamed(module: str, names: Mapping[str, str] | None) -> tuple[str | None, str]:
    """The entry of `names` that holds for a module of PyTorch's, and its path in the model."""
    names = names or {}
    parts = module.split(".") if module else []
    for cut in range(len(parts), -1, -1):
        prefix = ".".join(parts[:cut])
        if prefix in names:
            return prefix, ".".join(filter(None, [names[prefix], *parts[cut:]]))
    return None, module


def _as(module: str, own_module: str) -> str:
    return "" if module == own_module else f", by the names given in {own_module!r}"


def _compare(problems: Problems, slot: Slot, name: str, shape: Sequence[int], dtype: str) -> None:
    expected = torch_shape(slot.shape, slot.layout)
    if tuple(shape) != expected:
        _add(
            problems,
            "of another shape",
            f"{name} {tuple(shape)}, where {slot.name} {slot.shape} takes {expected}",
        )
    if dtype != slot.dtype:
        _add(
            problems,
            "of another dtype (convert one of the models)",
            f"{name} {dtype}, where {slot.name} is {slot.dtype}",
        )


def _add(problems: Problems, heading: str, line: str) -> None:
    problems.setdefault(heading, []).append(line)


# ---- What is no weight but decides what the weights compute -------------------------------------


def differing(own: Mapping[str, Any], torch_values: Mapping[str, Any]) -> list[str]:
    """One line for each module whose setting is another one in PyTorch.

    Args:
        own: path of the module -> its value, and `torch_values` the same in PyTorch.
    """
    return [
        f"{module or 'the model itself'}: {own[module]}, in PyTorch {value}"
        for module, value in torch_values.items()
        if own[module] != value
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


def variance_from_torch(unbiased: Array, count: float) -> Array:
    """A running variance of PyTorch's, which is unbiased, as the biased one of others.

    Args:
        unbiased: n / (n - 1) times the biased variance, on average.
        count: n, the values per channel of a training batch, N H W; infinity leaves the numbers.
    """
    return (unbiased.astype(np.float64) * (1 - 1 / _count(count))).astype(unbiased.dtype)


def variance_to_torch(biased: Array, count: float) -> Array:
    """The inverse of `variance_from_torch`, up to rounding unless `count` is infinite."""
    return (biased.astype(np.float64) / (1 - 1 / _count(count))).astype(biased.dtype)


def _count(count: float) -> float:
    if not count > 1:
        raise WeightsError(
            "count must be the number of values per channel of a training batch, more than 1, "
            f"got {count}"
        )
    return count


def same_padding(
    kernel_size: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> Pads | None:
    """What "same" pads; None where that depends on the size of the map.

    With a stride it is (0, 1) for a kernel of 3, a stride of 2 and an even size, (1, 1) for an odd
    one.
    """
    extents = [(k - 1) * d for k, d in zip(kernel_size, dilation, strict=True)]
    if any(extent and stride > 1 for extent, stride in zip(extents, strides, strict=True)):
        return None
    return tuple((extent // 2, extent - extent // 2) for extent in extents)


def torch_padding(module: Any) -> Pads:
    """What a convolution of PyTorch's pads."""
    if module.padding == "same":
        found = same_padding(module.kernel_size, module.stride, module.dilation)
        assert found is not None  # PyTorch refuses "same" with a stride
        return found
    if module.padding == "valid":
        return ((0, 0),) * len(module.kernel_size)
    return tuple((p, p) for p in module.padding)


# ---- PyTorch's side -----------------------------------------------------------------------------


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


def as_numpy(tensor: Any) -> Array:
    """A copy of a tensor's numbers, bit for bit; bfloat16 as the type of ml_dtypes.

    Keras's backends and JAX bring ml_dtypes.
    """
    import torch

    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype != torch.bfloat16:
        return np.array(tensor.numpy())
    import ml_dtypes

    return np.array(tensor.view(torch.int16).numpy()).view(ml_dtypes.bfloat16)


def as_tensor(array: Array) -> Any:
    """The inverse of `as_numpy`: a tensor on the CPU with its own memory."""
    import torch

    array = np.array(array, order="C")
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


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


# ---- A transfer ---------------------------------------------------------------------------------


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
