"""The checkpoint of a run: all it takes to go on as if it had never stopped."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groupnorm.files import write_atomic


class CheckpointError(RuntimeError):
    """The checkpoint cannot be read, or belongs to another configuration."""


def save_checkpoint(
    path: Path,
    *,
    digest: str,
    epoch: int,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    metrics: list[dict[str, Any]],
) -> None:
    """Write the state after `epoch` whole epochs (`step` steps) atomically to `path`.

    The metrics so far are part of it, so that weights and metrics can never disagree.
    """
    buffer = io.BytesIO()
    torch.save(
        {
            "digest": digest,
            "epoch": epoch,
            "step": step,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "generator": generator.get_state(),
            "metrics": metrics,
        },
        buffer,
    )
    write_atomic(path, buffer.getvalue())


def load_checkpoint(
    path: Path,
    *,
    digest: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> tuple[int, int, list[dict[str, Any]]]:
    """Restore model, optimizer and generator in place; returns (epoch, step, metrics).

    Raises:
        CheckpointError: damaged file, or the checkpoint of a run with another digest.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            f"{path} cannot be read ({first_line}); delete it to train this run from the start"
        ) from error
    if not isinstance(state, dict) or state.get("digest") != digest:
        found = state.get("digest") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(
            f"{path} belongs to run {found!r}, this run is {digest!r}; delete it to start afresh"
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    generator_state: Tensor = state["generator"]
    generator.set_state(generator_state)
    return int(state["epoch"]), int(state["step"]), list(state["metrics"])
