"""The weights of a checkpoint, found in the forms that training scripts write, for a network."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from groupnorm.conversion.checkpoints import as_state_dict, check_fit, load_tensors
from groupnorm.counts import counted

CONTAINERS = ("state_dict", "model", "model_state_dict", "state_dict_ema")
"""Where a training script's checkpoint has the state dict, the first that is there."""
_COUNTER = "num_batches_tracked"
_OF_CONVERTED = {"bias", "input_weight", "input_bias", "stored_mean", "stored_var"}
"""What keys of a converted network may end with that the network before has not."""


def load_weights(model: nn.Module, path: Path) -> list[str]:
    """Load a checkpoint into a network.

    The file is a state dict, or has one under a key of `CONTAINERS`. A prefix that all its keys
    have and the network's keys have not, as DataParallel's `module.`, is taken off.

    Args:
        model: changed only if every key fits.
        path: written by torch.save, of which only tensors and plain values are read; or by
            safetensors, if the name ends so.

    Returns:
        Sentences on what was found.

    Raises:
        ValueError: it holds no state dict, or keys or shapes do not fit the network, as those of a
            network that was converted already.
        OSError: it cannot be opened.
    """
    content = _load_safetensors(path) if path.suffix == ".safetensors" else load_tensors(path)
    notes: list[str] = []
    state = _state_dict(content, path, notes)
    own = model.state_dict()
    state = _without_prefix(state, own, notes)
    counters = [key for key in own if key.endswith(_COUNTER) and key not in state]
    if counters:  # as in files of PyTorch before 0.4.1
        state.update({key: own[key] for key in counters})
        others = f" and {len(counters) - 1} more are" if len(counters) > 1 else " is"
        notes.append(f"{counters[0]}{others} missing, which is not needed")
    _check_not_converted(own, state, path)
    check_fit(own, state, path)
    model.load_state_dict(state)
    return notes


def _check_not_converted(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path
) -> None:
    """Check that it is not the statistics of norms alone that a state dict lacks.

    Raises:
        ValueError: it is.
    """
    missing = own.keys() - state.keys()
    more = {key.rpartition(".")[2] for key in state.keys() - own.keys()}
    shapes = all(own[key].shape == state[key].shape for key in own.keys() & state.keys())
    if not (missing and shapes and more <= _OF_CONVERTED):
        return
    if {key.rpartition(".")[2] for key in missing} != {"running_mean", "running_var"}:
        return
    norms = counted(len(missing) // 2, "norm")
    report = path.with_name("report.json")
    there = "" if report.is_file() else " (missing)"
    raise ValueError(
        f"{path} has no batch statistics for {norms} of the network, as the checkpoint of one that "
        "was converted already, or trained with group norms. Convert the checkpoint of the network "
        "with batch norm. A converted one is loaded with its report, "
        f"{report}{there}: rebuild(model, ConversionReport.load(...)).load_state_dict(...), as in "
        "report.md beside it"
    )


def _load_safetensors(path: Path) -> Any:
    try:
        safetensors = importlib.import_module("safetensors.torch")
    except ModuleNotFoundError:
        raise ValueError(f"{path} needs safetensors: pip install safetensors") from None
    if not path.is_file():  # which safetensors says in words of its own
        path.open("rb").close()
    try:
        return safetensors.load_file(path)
    except Exception as error:
        raise ValueError(f"{path} is no whole file of safetensors: {error}") from None


def _state_dict(content: Any, path: Path, notes: list[str]) -> dict[str, Tensor]:
    found = []
    if isinstance(content, dict):
        found = [key for key in CONTAINERS if isinstance(content.get(key), Mapping)]
    if not found:
        try:
            return as_state_dict(content, path)
        except ValueError as error:
            places = ", ".join(CONTAINERS)
            raise ValueError(f"{error}. It may be the whole content, or under {places}") from None
    taken, *others = found
    notes.append(f"the weights are those under {taken!r}")
    if others:
        notes[-1] += f", not those under {' and '.join(map(repr, others))}"
    return as_state_dict(dict(content[taken]), path)


def _without_prefix(
    state: dict[str, Tensor], own: Mapping[str, Tensor], notes: list[str]
) -> dict[str, Tensor]:
    """The state dict without the first names of its keys that the network's keys have not."""
    if "n_averaged" in state.keys() - own.keys():
        state = {key: value for key, value in state.items() if key != "n_averaged"}
        notes.append("n_averaged, the counter of a moving average, is left out")
    taken = ""
    while len(first := {key.partition(".")[0] for key in state}) == 1:
        prefix = f"{first.pop()}."
        bare = any("." not in key for key in state)
        if bare or any(key.startswith(prefix) for key in own):
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
        taken += prefix
    if taken:
        notes.append(f"the prefix {taken!r} of all keys is taken off")
    return state
