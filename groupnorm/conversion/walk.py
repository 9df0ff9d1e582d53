"""How conversions go through a network: which norms, where they stand, the swap."""

from __future__ import annotations

import functools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MethodType
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from groupnorm.conversion.example import check_not_compiled, copied
from groupnorm.conversion.report import ConversionReport, SkippedLayer
from groupnorm.conversion.sources import Refusal, SourceNorm, is_norm, read_norm
from groupnorm.counts import counted

Filter: TypeAlias = "str | type[nn.Module] | Callable[[str, nn.Module], bool]"
Filters: TypeAlias = "Filter | Sequence[Filter] | None"

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_OF_MODULES = frozenset(vars(nn.Module()))
"""Attributes that every module has, the registered modules among them."""
_STATE_DICT_HOOKS = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


class Place(NamedTuple):
    """Where a module is registered: under `key` of `parent`."""

    parent: nn.Module
    key: str


class FoundNorm(NamedTuple):
    """A norm of a network, once however often it is used.

    Attributes:
        module: the norm.
        names: all that it has in the network, "" for the network itself.
        places: where it is registered; none for the network itself.
        chosen: False for what the filter leaves out.
        near: a parameter of the network, which shows the device of a norm without values.
    """

    module: nn.Module
    names: tuple[str, ...]
    places: tuple[Place, ...]
    chosen: bool
    near: Tensor | None


def find_norms(model: nn.Module, only: Filters) -> list[FoundNorm]:
    """The norms of a network in its order; those within a norm belong to the outer one.

    Args:
        only: which to choose: the name of a module (itself and all below it), a class, a callable
            that gets the name and the module, or several of them, of which one must agree. None
            chooses all.

    Raises:
        ValueError: `only` names a module that the network does not have, or chooses no norm; or
            the network is compiled.
        TypeError: it is something else, or the model is no module.
    """
    check_model(model)
    names: dict[nn.Module, list[str]] = {}
    places: dict[nn.Module, list[Place]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    for parent in names:
        for key, child in parent._modules.items():
            if child is not None:
                places.setdefault(child, []).append(Place(parent, key))
    filters = _as_list(only)
    _check_names(filters, names)
    near = next((p for p in model.parameters() if p.is_floating_point()), None)
    found: list[FoundNorm] = []
    inside: set[nn.Module] = set()
    for module in names:
        if module in inside or not is_norm(module):
            continue
        inside.update(module.modules())
        chosen = only is None or any(_agrees(f, n, module) for f in filters for n in names[module])
        where = tuple(places.get(module, ()))
        found.append(FoundNorm(module, tuple(names[module]), where, chosen, near))
    if found and not any(norm.chosen for norm in found):
        some = ", ".join(repr(norm.names[0]) for norm in found[:3])
        raise ValueError(f"`only` chooses none of the network's {len(found)} norms: {some}, ...")
    return found


def check_model(model: object) -> None:
    """Raise TypeError unless it is a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"the network must be a torch.nn.Module, got {type(model).__name__}")
    check_not_compiled(model)


def _as_list(only: Filters) -> list[Filter]:
    several = isinstance(only, Sequence) and not isinstance(only, str)
    filters: list[Filter] = [] if only is None else list(only) if several else [only]  # type: ignore[arg-type,list-item]
    for one in filters:
        if not (isinstance(one, str) or callable(one)):
            raise TypeError(
                "`only` takes names of modules, classes, or callables of a name and a module, "
                f"got {one!r}"
            )
    return filters


def _check_names(filters: Iterable[Filter], names: Mapping[nn.Module, list[str]]) -> None:
    known = {name for all_names in names.values() for name in all_names}
    unknown = [one for one in filters if isinstance(one, str) and one not in known]
    if unknown:
        first = sorted({name.partition(".")[0] for name in known if name})
        raise ValueError(
            f"`only` names {', '.join(map(repr, unknown))}, which the network does not have; "
            f"its parts are {', '.join(first)}"
        )


def _agrees(one: Filter, name: str, module: nn.Module) -> bool:
    if isinstance(one, str):
        return name == one or name.startswith(f"{one}.") or one == ""
    if isinstance(one, type):
        return isinstance(module, one)
    return bool(one(name, module))


def parameter_owners(model: nn.Module) -> Counter[int]:
    """How many modules of a network have each parameter, by its id."""
    return Counter(id(p) for m in model.modules() for p in m._parameters.values())


def irreplaceable(model: nn.Module, norms: Iterable[FoundNorm]) -> dict[nn.Module, str]:
    """The norms that more than their registered places lead to, and the reason.

    Their parameters belong to other modules too, an attribute outside of the registered modules
    holds them, hooks change their state dict, or their parent reads their statistics.
    """
    owners = parameter_owners(model)
    holders: dict[int, str] = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key not in _OF_MODULES:
                where = f"{name}.{key}" if name else key
                holders |= {id(held): where for held in _held(value)}
    reasons = {}
    for norm in norms:
        module = norm.module
        readers = [p for p, _ in norm.places if type(p).__module__.startswith("torch.ao.")]
        if any(_changes_state(hook) for key in _STATE_DICT_HOOKS
               for hook in getattr(module, key, {}).values()):  # fmt: skip
            reasons[module] = "hooks change its state dict; remove them first"
        elif any(owners[id(p)] > 1 for p in module.parameters(recurse=False)):
            reasons[module] = "another module has the same parameters"
        elif id(module) in holders:
            reasons[module] = f"{holders[id(module)]} holds it too, which is no registered module"
        elif readers:
            reasons[module] = f"{type(readers[0]).__name__} reads its statistics"
    return reasons


def _held(value: object, within: tuple[int, ...] = ()) -> Iterator[nn.Module]:
    """The modules in an attribute: itself, those in plain containers, and those of its methods."""
    if isinstance(value, nn.Module):
        yield value
        return
    parts: Iterable[object] = ()
    if isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, list | tuple | set | frozenset | deque):
        parts = value
    elif isinstance(value, functools.partial):
        parts = (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, MethodType):
        parts = (value.__self__,)
    if id(value) not in within:  # a container may hold itself
        for part in parts:
            yield from _held(part, (*within, id(value)))


def read_chosen(norm: FoundNorm, impossible: dict[nn.Module, str]) -> SourceNorm:
    """What a norm computes that the filter chooses and that can be replaced.

    Raises:
        Refusal: it is not, or cannot be.
    """
    if not norm.chosen:
        raise Refusal("`only` leaves it out")
    source = read_norm(norm.module, norm.near)
    if norm.module in impossible:
        raise Refusal(impossible[norm.module])
    return source


def skipped_row(norm: FoundNorm, refusal: Refusal) -> SkippedLayer:
    """The report's row of a norm that is left as it is."""
    return SkippedLayer(norm.names[0], type(norm.module).__name__, str(refusal))


def working_copy(model: nn.Module, inplace: bool | None = None) -> nn.Module:
    """The network to change: itself, or a deep copy.

    Args:
        inplace: None where the caller of the package cannot ask for it.

    Raises:
        ValueError: it cannot be copied, is compiled or wrapped for several processes, or is itself
            the norm that `inplace` cannot replace.
        TypeError: it is no module.
    """
    check_model(model)
    wrapped = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    if isinstance(model, wrapped):
        raise ValueError(
            f"{type(model).__name__} keeps a list of the old parameters: convert the network "
            "itself, then wrap it"
        )
    if inplace:
        if is_norm(model):
            raise ValueError("a norm cannot take its own place; leave out inplace=True")
        return model
    return copied(model, "" if inplace is None else "inplace=True changes the network itself")


def registered_in_front(model: nn.Module, norm: nn.Module, channels: int) -> nn.Module | None:
    """The last convolution or linear layer of so many outputs that is registered before a norm."""
    found = None
    for module in model.modules():
        if module is norm:
            break
        if not isinstance(module, _ConvNd | nn.Linear):
            continue
        outputs = module.out_channels if isinstance(module, _ConvNd) else module.out_features
        if outputs == channels:
            found = module
    return found


def carry_over(old: nn.Module, new: nn.Module) -> None:
    """Give a new layer the training flag and the hooks of the one that it replaces.

    They share the hooks' dictionaries, so that handles to remove them go on working.
    """
    new.training = old.training
    for key in (*_HOOKS, "_is_full_backward_hook"):
        if key in vars(old):
            vars(new)[key] = vars(old)[key]


def has_hooks(module: nn.Module) -> bool:
    """True for a module whose calls anything watches."""
    return any(getattr(module, key, None) for key in _HOOKS)


def changed_keys(
    replacements: Sequence[tuple[FoundNorm, nn.Module]],
) -> tuple[list[str], list[str]]:
    """The keys of the state dict that come with new layers, and those that go with the old."""
    new, removed = [], []
    for norm, module in replacements:
        before, after = _keys(norm.module), _keys(module)
        for name in norm.names:
            prefix = f"{name}." if name else ""
            new += [prefix + key for key in after if key not in before]
            removed += [prefix + key for key in before if key not in after]
    return new, removed


def _keys(module: nn.Module) -> list[str]:
    """The keys of the module's own values in a state dict."""
    own = [*module._parameters.items(), *module._buffers.items()]
    return [key for key, value in own if value is not None]


def swap(model: nn.Module, replacements: Sequence[tuple[FoundNorm, nn.Module]]) -> nn.Module:
    """Put new layers in all places of the old ones; the network, or what takes its place."""
    for norm, new in replacements:
        for parent, key in norm.places:
            parent._modules[key] = new
        if norm.module is model:
            model = new
    return model


def refuse_old_states(model: nn.Module, report: ConversionReport) -> None:
    """Have the converted network refuse the state dict of the one with batch norms."""
    suffix = "running_mean"
    keys = tuple(key for key in report.removed_keys if key.rpartition(".")[2] == suffix)
    if keys:
        refuse = functools.partial(_refuse_state_with, removed_keys=keys)
        # without the module, so that a layer that takes its place may have the hook too
        model._register_load_state_dict_pre_hook(refuse)  # type: ignore[no-untyped-call]


def _refuse_state_with(
    state_dict: Mapping[str, Tensor],
    prefix: str,
    *args: Any,
    removed_keys: tuple[str, ...],
) -> None:
    held = [prefix + key for key in removed_keys if prefix + key in state_dict]
    if held:
        raise RuntimeError(
            f"the state dict is one of the network before groupnorm.convert: it has the batch "
            f"statistics of {counted(len(held), 'converted layer')}, such as {held[0]}. Load it "
            "into the network with batch norm and convert that, or load the converted network's "
            "own"
        )


def _changes_state(hook: Any) -> bool:
    """True for a hook of a state dict but that which refuses one."""
    function = getattr(hook, "hook", hook)
    return getattr(function, "func", None) is not _refuse_state_with
