"""The checkpoint of a run: all it takes to go on as if it had never stopped.

The file is what `torch.save` writes (tensors and plain values, loadable with `weights_only=True`),
followed by a line that holds the SHA-256 digest of all bytes before it. What does not match its
digest is not gone on from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from groupnorm.data.issues import Issues
from groupnorm.files import describe_os_error, write_atomic
from groupnorm.training.config import TrainingConfig
from groupnorm.training.task import EpochTotals

_DIGEST_LABEL = b"\ngroupnorm sha256 "
_DIGEST_LENGTH = 64  # hexadecimal digits
_KEYS = {"digest", "identity", "progress", "model", "optimizer"}
_REMEDY = "delete it to train this run from the start"
_REMEDY_FOR_WEIGHTS = "delete it and DONE beside it, and train that run again"


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
        data_issues: those of `TrainingData.data_issues`.
        conversion: the report of the conversion that made the network's layers, as
            `ConversionReport.to_dict`; None where they follow from the configuration.
    """

    epoch: int = 0
    step: int = 0
    metrics: list[dict[str, Any]] = field(default_factory=list)
    tally: EpochTotals = field(default_factory=EpochTotals)
    seconds: float = 0.0
    data_issues: Issues = field(default_factory=dict)
    conversion: dict[str, Any] | None = None


def save_checkpoint(
    path: Path,
    *,
    config: TrainingConfig,
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
    content = buffer.getvalue()
    write_atomic(path, content + _digest_line(content))


def read_checkpoint(path: Path) -> bytes | None:
    """The content of the file `path`, unchecked; None when it is not there.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise CheckpointError(f"{describe_os_error(error)}; allow that, or {_REMEDY}") from error
    except OSError as error:
        raise CheckpointError(f"{describe_os_error(error)}; {_REMEDY}") from error


def load_checkpoint(
    content: bytes,
    path: Path,
    *,
    config: TrainingConfig,
    steps_per_epoch: int,
    total_steps: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> Progress:
    """Restore model and optimizer in place; returns how far they had come.

    Args:
        content: of the file.
        path: where it came from, for the messages.
        steps_per_epoch: of this run.
        total_steps: of this run.

    Raises:
        CheckpointError: a damaged file, one without a digest, or the checkpoint of a run with
            another configuration; the message says which fields differ.
    """
    state = _state_of(config, content, path)
    progress = _progress(state["progress"], path)
    epochs = progress.step // steps_per_epoch
    if progress.step == total_steps:  # the last epoch may be a part of one
        epochs = math.ceil(total_steps / steps_per_epoch)
    if progress.step > total_steps or progress.epoch != epochs:
        raise CheckpointError(
            f"{path} says step {progress.step} after {progress.epoch} whole epochs; this run has "
            f"{steps_per_epoch} steps an epoch and {total_steps} in all; {_REMEDY}"
        )
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except Exception as error:  # torch raises many kinds for a state that does not fit
        raise CheckpointError(
            f"{path} was written by another version: its weights or the optimizer's state do not "
            f"fit this model; {_REMEDY}"
        ) from error
    return progress


def kept_conversion(content: bytes, path: Path, config: TrainingConfig) -> dict[str, Any]:
    """The report of the conversion that a checkpoint's network needs before it takes its weights,
    as `Progress.conversion`.

    Args:
        content: of the file.
        path: where it came from, for the messages.

    Raises:
        CheckpointError: a damaged file, one of a run with another configuration, or one without
            the report of a conversion.
    """
    kept = _progress(_state_of(config, content, path)["progress"], path).conversion
    if kept is None:
        raise CheckpointError(
            f"{path} was written by another version: it does not hold the report of the conversion "
            f"that made its network; {_REMEDY}"
        )
    return kept


def read_weights(content: bytes, path: Path, run: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The weights in the checkpoint of another run, and the `identity()` of that run.

    Args:
        content: of the file.
        path: where it came from, for the messages.
        run: the name of the other run, which ends with its digest.

    Raises:
        CheckpointError: a damaged file, or the checkpoint of another run than `run`.
    """
    state = _unpack(content, path, _REMEDY_FOR_WEIGHTS)
    if not run.endswith(f"-{state['digest']}"):
        raise CheckpointError(
            f"{path} belongs to run {state['digest']!r}, not to {run}; {_REMEDY_FOR_WEIGHTS}"
        )
    return state["model"], state["identity"]


def checkpoint_step(path: Path) -> int | None:
    """The optimizer step that a checkpoint was written after; None when the file is not there.

    Raises:
        CheckpointError: it cannot be read, or is damaged.
    """
    content = read_checkpoint(path)
    return None if content is None else _progress(_unpack(content, path)["progress"], path).step


def _digest_line(content: bytes) -> bytes:
    return _DIGEST_LABEL + hashlib.sha256(content).hexdigest().encode()


def _state_of(config: TrainingConfig, content: bytes, path: Path) -> dict[str, Any]:
    """The dict in the file of a run with this configuration."""
    state = _unpack(content, path)
    if state["digest"] != config.digest():
        identity = state["identity"]
        how = f": {config.describe_difference(identity)}" if isinstance(identity, dict) else ""
        raise CheckpointError(
            f"{path} belongs to run {state['digest']!r}, this run is {config.digest()!r}{how}; "
            f"{_REMEDY}"
        )
    return state


def _unpack(content: bytes, path: Path, remedy: str = _REMEDY) -> dict[str, Any]:
    """The dict in the file, once its bytes have matched their digest."""
    end = len(content) - len(_DIGEST_LABEL) - _DIGEST_LENGTH
    if end < 0 or content[end : end + len(_DIGEST_LABEL)] != _DIGEST_LABEL:
        raise CheckpointError(
            f"{path} does not end with a digest of its content: it is damaged, or an earlier "
            f"version wrote it, which cannot be told apart; {remedy}"
        )
    if content[end:] != _digest_line(content[:end]):
        raise CheckpointError(f"{path} is damaged: its content does not match its digest; {remedy}")
    try:
        state = torch.load(io.BytesIO(content[:end]), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, and advises to load the file all the same
        raise CheckpointError(
            f"{path} was not loaded: it holds more than tensors and plain values, perhaps code, or "
            f"what this version of PyTorch cannot read; {remedy}"
        ) from error
    if not isinstance(state, dict) or state.keys() != _KEYS:
        found = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"{path} is not a checkpoint of a run ({found}); {remedy}")
    return state


def _progress(value: Any, path: Path) -> Progress:
    """Progress from its dict, with every number in its range."""
    try:
        progress = Progress(**{**value, "tally": EpochTotals(**value["tally"])})
        tally = progress.tally
        counts = (progress.epoch, progress.step, tally.examples, *tally.counts.values())
        seconds = (
            progress.seconds, tally.data_seconds, tally.forward_seconds, tally.backward_seconds,
        )  # fmt: skip
        sound = (
            all(type(count) is int and count >= 0 for count in counts)
            and all(math.isfinite(amount) for amount in (*tally.losses.values(), *seconds))
            and min(seconds) >= 0
            and [row["epoch"] for row in progress.metrics] == list(range(1, progress.epoch + 1))
        )
    except (AttributeError, KeyError, TypeError, OverflowError) as error:
        raise CheckpointError(
            f"{path} was written by another version ({error}); {_REMEDY}"
        ) from error
    if not sound:
        raise CheckpointError(f"{path} holds a progress that is out of range; {_REMEDY}")
    return progress
