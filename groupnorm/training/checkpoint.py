"""The checkpoint of a run: all it takes to go on as if it had never stopped."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from groupnorm.data.issues import Met
from groupnorm.files import write_atomic
from groupnorm.training.config import RunConfig
from groupnorm.training.optimizer_step import Tally


class CheckpointError(RuntimeError):
    """The checkpoint cannot be read, or belongs to another configuration."""


@dataclass
class Progress:
    """How far a training has come. Nothing random is in it: that follows from seed and step.

    Attributes:
        epoch: whole epochs done.
        step: optimizer steps done.
        metrics: one dict for each whole epoch.
        tally: the sums of the epoch begun, empty between epochs.
        seconds: spent on the epoch begun, before this process took over.
        unreadable: files that could not be decoded, as `Batches.met` tells them.
    """

    epoch: int = 0
    step: int = 0
    metrics: list[dict[str, Any]] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    unreadable: Met = field(default_factory=dict)


def save_checkpoint(
    path: Path,
    *,
    config: RunConfig,
    progress: Progress,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write the state atomically to `path`.

    The metrics so far are part of it, so that weights and metrics can never disagree.
    """
    buffer = io.BytesIO()
    torch.save(
        {
            "digest": config.digest(),
            "identity": config.identity(),
            "progress": dataclasses.asdict(progress),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        },
        buffer,
    )
    write_atomic(path, buffer.getvalue())


def load_checkpoint(
    content: bytes,
    path: Path,
    *,
    config: RunConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> Progress:
    """Restore model and optimizer in place; returns how far they had come.

    Args:
        content: of the file.
        path: where it came from, for the messages.

    Raises:
        CheckpointError: damaged file, or the checkpoint of a run with another digest; the message
            says which fields differ.
    """
    state = _unpack(content, path)
    if state.get("digest") != config.digest():
        found, identity = state.get("digest"), state.get("identity")
        how = f": {config.unlike(identity)}" if isinstance(identity, dict) else ""
        raise CheckpointError(
            f"{path} belongs to run {found!r}, this run is {config.digest()!r}{how}. Delete it to "
            "start afresh"
        )
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return _progress(state)
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} was written by another version ({error}); delete it to train this run from "
            "the start"
        ) from error


def checkpoint_step(path: Path) -> int:
    """The optimizer step that a checkpoint was written after; the whole file is read.

    Raises:
        CheckpointError: it cannot be read.
        FileNotFoundError: it is not there.
    """
    try:
        return _progress(_unpack(path.read_bytes(), path)).step
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} was written by another version ({error})") from error


def _unpack(content: bytes, path: Path) -> dict[str, Any]:
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            f"{path} cannot be read ({first_line}); delete it to train this run from the start"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path} holds a {type(state).__name__}, not a checkpoint; delete it to start afresh"
        )
    return state


def _progress(state: dict[str, Any]) -> Progress:
    done = state["progress"]
    return Progress(**{**done, "tally": Tally(**done["tally"])})
