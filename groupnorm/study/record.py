"""One run that leaves its record in a folder: configuration, environment, metrics, checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from groupnorm.files import write_atomic
from groupnorm.memory import keep_large_blocks
from groupnorm.run import RunResult, run
from groupnorm.study.store import (
    UNREADABLE,
    StoreError,
    locked_folder,
    read_config,
    read_run,
    to_json,
    write_metrics,
    write_unreadable,
)
from groupnorm.training.checkpoint import CheckpointError, checkpoint_step
from groupnorm.training.config import TrainingConfig, is_run_name
from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.task import Metrics

CHECKPOINT = "checkpoint.pt"


def record_run(
    config: TrainingConfig,
    folder: Path,
    *,
    threads: int,
    device: str = "cpu",
    data_root: Path | None = None,
    processes: Processes = ALONE,
    init: Path | None = None,
    stop_epoch: int | None = None,
    on_step: Callable[[int, int], None] = lambda step, total: None,
    on_epoch: Callable[[Metrics], None] = lambda metrics: None,
    on_start: Callable[[dict[str, Any]], None] = lambda env: None,
) -> RunResult:
    """Train `config`, or go on from the folder's checkpoint, and keep the folder up to date.

    A run keeps the number of threads it began with as long as it keeps its number of processes: a
    reduction's bits depend on both. Of several processes, which all call this function, the first
    one alone uses the folder and is called back; all return after the record is complete.

    Args:
        threads: of each process.
        init: folder of the run whose weights it starts from; None for the one that `config.init`
            names beside `folder`. A run that goes on from its checkpoint does not ask for it.
        stop_epoch: stop after so many epochs, without DONE; a later call goes on (`train`).
        on_start: called once with the environment, before anything is trained.

    Raises:
        CheckpointError: the folder holds another configuration, or a damaged checkpoint.
        StoreError: another file in the folder is damaged, or the run that it starts from has not
            finished.
        LockedError: another process is at work in the folder.
        OSError: a file cannot be written; what was written before stays as it is.
    """
    keep_large_blocks()
    if not processes.first:
        torch.set_num_threads(processes.broadcast_from_rank0(threads))
        result = run(
            config,
            device=device,
            data_root=data_root,
            processes=processes,
            checkpoint=folder / CHECKPOINT,
            stop_epoch=stop_epoch,
        )
        processes.barrier()
        return result
    env_path, checkpoint = folder / "env.json", folder / CHECKPOINT
    with locked_folder(folder, f"{folder} is in use by another process"):
        found = read_run(folder)
        _claim(config, folder)
        if config.init is not None:
            init = init or folder.parent / config.init
            if not checkpoint.exists():
                _check_finished(config.init, init)
        continues = checkpoint.exists() and bool(found.env)
        first = found.env if continues else {}
        if first.get("processes", 1) == processes.count:
            threads = first.get("threads", threads)
        torch.set_num_threads(processes.broadcast_from_rank0(threads))

        def started(env: dict[str, Any]) -> None:
            on_start(env)
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
            processes=processes,
            checkpoint=checkpoint,
            init=None if init is None else init / CHECKPOINT,
            stop_epoch=stop_epoch,
            on_step=on_step,
            on_epoch=after_epoch,
            on_start=started,
            on_unreadable=lambda issues: write_unreadable(folder, issues),
        )
        write_metrics(folder, result.metrics)
        if result.status != "stopped":
            done = {"status": result.status, "reason": result.reason}
            write_atomic(folder / "DONE", to_json(done))
        processes.barrier()
    return result


def named_run(text: str) -> tuple[str, Path | None]:
    """The name and the folder of a run that is named by its folder or by its name.

    Args:
        text: what a user typed. The folder of a name is not known, and None.

    Raises:
        StoreError: the folder's configuration is damaged.
        ValueError: neither.
    """
    folder = Path(text)
    if folder.is_dir() and (config := read_config(folder)) is not None:
        return config.run_name(), folder
    if is_run_name(text):
        return text, None
    raise ValueError(
        f"init takes the folder of a run, with its config.json, or the name of one, as "
        f"gn-1x256-s0-52d863f086; got {text!r}"
    )


def _check_finished(name: str, folder: Path) -> None:
    """Check that the run whose weights are to be started from has its last ones."""
    found = read_run(folder)
    if found.status != "finished":
        reason = f" ({found.reason})" if found.reason else ""
        raise StoreError(
            f"training starts from the weights of {name}, which is {found.status} in "
            f"{folder}{reason}. Train it to its end first"
        )


def describe_checkpoint(folder: Path | None) -> str:
    """After a loss, in words: what the checkpoint in `folder` holds, and how to go on from it."""
    if folder is None:
        return "nothing is kept, because no folder was given with --out"
    try:
        step = checkpoint_step(folder / CHECKPOINT)
    except CheckpointError as error:
        return str(error)
    if step is None:
        return f"{folder} holds no checkpoint yet; the same command starts from the beginning"
    return f"the checkpoint of step {step} in {folder} is intact; the same command goes on from it"


def _claim(config: TrainingConfig, folder: Path) -> None:
    """Write the folder's config.json, or find that it holds this run.

    A run that ended before its first epoch, and left no checkpoint, gives its folder to another.
    """
    path, existing = folder / "config.json", read_config(folder)
    if existing is not None and existing.digest() == config.digest():
        if existing.max_unreadable != config.max_unreadable:
            write_atomic(path, to_json(config.model_dump()))
        return
    if existing is not None:
        trained = any((folder / name).exists() for name in (CHECKPOINT, "metrics.jsonl", "DONE"))
        by_hand = path.read_text(encoding="utf-8-sig") != to_json(existing.model_dump())
        if trained or by_hand:
            raise CheckpointError(
                f"{folder} holds another run ({existing.run_name()}): "
                f"{config.describe_difference(existing.identity())}. Choose another folder"
            )
        for name in ("env.json", UNREADABLE):
            (folder / name).unlink(missing_ok=True)
    write_atomic(path, to_json(config.model_dump()))
