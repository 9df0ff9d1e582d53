"""One run that leaves its record in a folder: configuration, environment, metrics, checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from groupnorm.files import locked, write_atomic
from groupnorm.run import RunResult, run
from groupnorm.study.store import to_json, write_metrics
from groupnorm.training.checkpoint import CheckpointError
from groupnorm.training.config import RunConfig
from groupnorm.training.loop import Metrics
from groupnorm.training.memory import keep_large_blocks


def record_run(
    config: RunConfig,
    folder: Path,
    *,
    threads: int,
    device: str = "cpu",
    data_root: Path | None = None,
    on_step: Callable[[int, int], None] = lambda step, total: None,
    on_epoch: Callable[[Metrics], None] = lambda metrics: None,
) -> RunResult:
    """Train `config`, or go on from the folder's checkpoint, and keep the folder up to date.

    A run keeps the number of threads it began with: a reduction's bits depend on it.

    Raises:
        CheckpointError: the folder holds another configuration, or a damaged checkpoint.
        LockedError: another process is at work in the folder.
    """
    config_path, env_path, checkpoint = (
        folder / name for name in ("config.json", "env.json", "checkpoint.pt")
    )
    with locked(folder / ".lock", f"{folder} is in use by another process"):
        if config_path.exists():
            there = RunConfig.model_validate_json(config_path.read_text())
            if there.digest() != config.digest():
                raise CheckpointError(
                    f"{folder} holds another run ({there.run_name()}); choose another folder"
                )
        else:
            write_atomic(config_path, to_json(config.model_dump()))
        continues = checkpoint.exists() and env_path.exists()
        first = json.loads(env_path.read_text()) if continues else {}
        torch.set_num_threads(first.get("threads", threads))
        keep_large_blocks()

        def on_start(env: dict[str, Any]) -> None:
            if not continues:
                write_atomic(env_path, to_json(env))
            elif env != {key: first.get(key) for key in env}:
                write_atomic(env_path, to_json({**first, "continued_with": env}))

        def after_epoch(metrics: list[Metrics]) -> None:
            write_metrics(folder, metrics)
            on_epoch(metrics[-1])

        result = run(
            config,
            device=device,
            data_root=data_root,
            with_cost=not continues,
            checkpoint=checkpoint,
            on_step=on_step,
            on_epoch=after_epoch,
            on_start=on_start,
        )
        write_metrics(folder, result.metrics)
        write_atomic(folder / "DONE", to_json({"status": result.status, "reason": result.reason}))
    return result
