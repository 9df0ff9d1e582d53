"""Names: the arrays of a model and those of a state dict, matched by the path of the module."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from groupnorm.frameworks.weights.layouts import torch_shape
from groupnorm.frameworks.weights.problems import Problems

IN_TORCH, IN_MODEL = "in PyTorch alone", "in the model alone"  # headings of problems
_COUNTERS = ("num_batches_tracked",)  # PyTorch's alone; they are no weights


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


def match(
    slots: Iterable[Slot],
    torch_arrays: Mapping[str, tuple[Sequence[int], str]],
    names: Mapping[str, str] | None = None,
    modules: Iterable[str] = (),
) -> tuple[dict[str, Slot], Problems]:
    """Match PyTorch's names with the arrays of a model, by the path of the module.

    Args:
        slots: the arrays of the model.
        torch_arrays: name in the state dict -> shape and dtype. Counters of batches are left out.
        names: path of a module in PyTorch -> its path in the model, where they differ. It holds for
            what is below the module, too; of several the longest counts. "" is the whole model.
        modules: paths of PyTorch's modules, as far as they are known, for names of those without
            arrays.

    Returns:
        PyTorch's name -> slot, and the problems: names without a partner on either side, names
        that meet in one slot, slots that meet in one name, other shapes and dtypes, and names of
        the mapping that no module has.
    """
    names = names or {}
    free: dict[tuple[str, str], list[Slot]] = {}
    for slot in slots:
        free.setdefault((slot.module, slot.leaf), []).append(slot)
    owners: dict[tuple[str, str], list[str]] = {}
    problems: Problems = {}
    used = {renamed(path, names)[0] for path in modules}
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
    for (module, leaf), (slot, *twins) in free.items():
        matched = owners.get((module, leaf), [])
        label = f"{slot.name} {slot.shape}"
        if twins:
            labels = " and ".join(f"{one.name} {one.shape}" for one in (slot, *twins))
            place = f"{module}.{leaf}" if module else leaf
            _add(problems, "several arrays of the model with one place", f"{place}: {labels}")
        elif not matched:
            _add(problems, IN_MODEL, label)
        elif len(matched) > 1:
            _add(problems, "matched more than once", f"{label} with {' and '.join(matched)}")
        else:
            found[matched[0]] = slot
            _compare(problems, slot, matched[0], *torch_arrays[matched[0]])
    for prefix in names.keys() - used:
        _add(problems, "in the names given, but no module of PyTorch's", repr(prefix))
    return found, problems


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
