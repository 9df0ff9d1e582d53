"""A network by the name that a user gives: a function of his own, torchvision's or timm's."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import os
import sys
import traceback
from ast import literal_eval
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

from torch import nn

from groupnorm.conversion.example import check_not_compiled
from groupnorm.data.files.transforms import MEAN, STD
from groupnorm.files import first_line
from groupnorm.models.optional import torchvision_models

_SIZE = 224
_WEIGHTS = ("weights", "weights_backbone", "pretrained", "pretrained_backbone", "checkpoint_path")
_KINDS = "MODULE:FUNCTION, torchvision/NAME, timm/NAME, or a name that one of these two knows"


@dataclass(frozen=True)
class NamedNetwork:
    """A network that a name and options made.

    Attributes:
        model: with weights of its own.
        origin: where it comes from, in words.
        code: lines of Python that make it again as `model`.
        size: of the images that it takes as a rule, in pixels.
        mean: of their colours.
        std: of their colours.
    """

    model: nn.Module
    origin: str
    code: tuple[str, ...]
    size: int
    mean: Sequence[float]
    std: Sequence[float]


def build_network(name: str, options: Mapping[str, str]) -> NamedNetwork:
    """Make the network of a name, without weights from anywhere.

    Args:
        name: "module:function", "torchvision/NAME", "timm/NAME", or the bare name, which is
            torchvision's where that knows it. A module of the user's own runs as it is imported.
        options: arguments of the function; a value that is a Python literal, as 10 or True, is one,
            and any other is text.

    Raises:
        ValueError: nobody knows the name, the module cannot be imported, or the function fails or
            makes something else.
    """
    arguments = {key: _value(text) for key, text in options.items()}
    for key in arguments:
        if not key.isidentifier():
            raise ValueError(f"expected the name of an argument, got {key!r}")
    if ":" in name:
        maker = _own(name)
    else:
        maker = _known(name)
        for key in _WEIGHTS:
            if key in arguments:
                raise ValueError(f"{key} is no option: the weights are those of the checkpoint")
    model = _make(name, maker.make, arguments)
    written = [*maker.fixed, *(f"{key}={value!r}" for key, value in arguments.items())]
    code = (maker.imports, f"model = {maker.called}({', '.join(written)})")
    usual = getattr(model, "pretrained_cfg", None)  # of timm
    usual = usual if isinstance(usual, Mapping) else {}
    return NamedNetwork(
        model,
        maker.origin,
        code,
        size=usual.get("input_size", (3, _SIZE, _SIZE))[-1],
        mean=usual.get("mean", MEAN),
        std=usual.get("std", STD),
    )


@contextmanager
def current_folder_importable() -> Iterator[None]:
    """Within this context modules of the current folder can be imported, as with `python -m`."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


class _Maker(NamedTuple):
    """A function that makes a network.

    Attributes:
        make: the function.
        origin: where it comes from, in words.
        imports: the line of Python that imports it.
        called: what it is called there.
        fixed: arguments that it always has there.
    """

    make: Callable[..., Any]
    origin: str
    imports: str
    called: str
    fixed: tuple[str, ...] = ()


def _own(name: str) -> _Maker:
    """The function of "module:function"."""
    path, _, function = name.partition(":")
    if not all(part.isidentifier() for text in (path, function) for part in text.split(".")):
        raise ValueError(f"expected MODULE:FUNCTION, as my_models:small_resnet, got {name!r}")
    try:
        found: Any = importlib.import_module(path)
    except (Exception, SystemExit) as error:  # code of the user's
        raise ValueError(f"{path} cannot be imported: {_described(error)}") from None
    for part in function.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{path} has no {function}{_near(part, dir(found))}")
        found = getattr(found, part)
    if isinstance(found, nn.Module) or not callable(found):
        raise ValueError(
            f"{name} is a {type(found).__name__}; expected a function or a class that makes the "
            "network"
        )
    top = function.partition(".")[0]
    return _Maker(found, f"{function} of {path}", f"from {path} import {top}", function)


def _known(name: str) -> _Maker:
    """The function behind a name of torchvision's or timm's."""
    library, slash, bare = name.rpartition("/")
    if slash and library not in ("torchvision", "timm"):
        raise ValueError(f"expected {_KINDS}; got {name!r}")
    names: list[str] = []
    if library != "timm":
        models = torchvision_models()
        names += models.list_models()
        if bare in names:
            return _torchvision(models, bare)
    timm = _timm(needed=library == "timm")
    if timm is not None and library != "torchvision":
        names += timm.list_models()
        if timm.is_model(bare):
            make = functools.partial(timm.create_model, bare)
            called = "timm.create_model"
            return _Maker(make, f"timm's {bare}", "import timm", called, (f'"{bare}"',))
    nobody = f"{library} does not know" if library else "neither torchvision nor timm knows"
    if timm is None and not library:
        nobody = "timm is not installed, and torchvision does not know"
    raise ValueError(f"{nobody} {bare!r}{_near(bare, names)}; expected {_KINDS}")


def _torchvision(models: Any, name: str) -> _Maker:
    builder = models.get_model_builder(name)
    none = [key for key in ("weights", "weights_backbone") if key in _parameters(builder)]
    fixed = (f'"{name}"', *(f"{key}=None" for key in none))
    return _Maker(
        functools.partial(builder, **dict.fromkeys(none)),
        f"torchvision's {name}",
        "import torchvision",
        "torchvision.models.get_model",
        fixed,
    )


def _parameters(function: Callable[..., Any]) -> Mapping[str, Any]:
    return inspect.signature(function).parameters


def _timm(needed: bool) -> ModuleType | None:
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError:
        if needed:
            raise ValueError("timm is not installed: pip install timm") from None
        return None


def _make(name: str, make: Callable[..., Any], arguments: Mapping[str, Any]) -> nn.Module:
    try:
        model = make(**arguments)
    except (Exception, SystemExit) as error:  # code of the user's, or a library's on his options
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise ValueError(f"{name} fails with ({given}): {_described(error)}") from None
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} makes a {type(model).__name__}; expected a torch.nn.Module")
    try:
        check_not_compiled(model)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return model


def _value(text: str) -> Any:
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return {"true": True, "false": False}.get(text, text)


def _described(error: BaseException) -> str:
    """An error in code that is not ours: its kind, its message, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})"
    own = f"{type(error).__name__}: "
    line = first_line(error)
    return f"{line if line + ': ' == own else own + line}{where if len(frames) > 1 else ''}"


def _near(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, 3)
    return f" (did you mean {' or '.join(near)}?)" if near else ""
