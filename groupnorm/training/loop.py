"""The training loop: one plain function, read from top to bottom."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from groupnorm.data.batches import seed_of
from groupnorm.training.checkpoint import (
    Progress,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from groupnorm.training.config import TrainingConfig
from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.memory import watch_peak
from groupnorm.training.optimizer import sgd
from groupnorm.training.schedules import lr_factor
from groupnorm.training.step import accumulate_gradients, running_statistics
from groupnorm.training.task import EpochTotals, Metrics, Task

SAVE_SECONDS = 600.0
"""A checkpoint is written after every epoch, and after so many seconds within one."""

_BUFFERS_STAY: Any = {
    next(  # newer versions of PyTorch have another name for it, and warn about the old one
        name
        for name in ("forward_sync_buffers", "broadcast_buffers")
        if name in inspect.signature(DistributedDataParallel).parameters
    ): False
}


class Diverged(Exception):  # noqa: N818 - a result, not an error
    """The loss became NaN or infinite; `metrics` holds the epochs before."""

    def __init__(self, reason: str, metrics: list[Metrics]) -> None:
        super().__init__(reason)
        self.reason = reason
        self.metrics = metrics


class Length(NamedTuple):
    """How long a training is; its last epoch may be a part of one."""

    steps_per_epoch: int
    steps: int
    epochs: int


def length_of(config: TrainingConfig, steps_per_epoch: int) -> Length:
    """The length of a training whose whole epochs have so many steps."""
    steps = config.steps or (config.epochs or 0) * steps_per_epoch
    return Length(steps_per_epoch, steps, math.ceil(steps / steps_per_epoch))


def train(
    config: TrainingConfig,
    model: nn.Module,
    task: Task,
    *,
    processes: Processes = ALONE,
    checkpoint: Path | None = None,
    conversion: dict[str, Any] | None = None,
    stop_epoch: int | None = None,
    save_seconds: float = SAVE_SECONDS,
    on_step: Callable[[int, int], None] = lambda step, total: None,
    on_epoch: Callable[[list[Metrics]], None] = lambda metrics: None,
) -> list[Metrics]:
    """Train `model` on `task` as `config` says; one dict of metrics for every epoch.

    SGD with momentum (`sgd`) on the sum of the task's losses. `Task.evaluate` is called after every
    `evaluate_every` epochs and after each of the `reported_epochs`; the metrics of the other epochs
    are those of the training alone: `train_loss`, in `train_losses` each of several losses by its
    name, and what `Task.training_metrics` gives.

    With `checkpoint`, the state is saved there after every epoch and every `save_seconds`, and
    training goes on from it when it exists: bit for bit as if it had not stopped, and with any
    number of processes to rounding.

    Args:
        processes: the processes that train together, each with an equal share of every step; all
            call this function, and the first one reads and writes the checkpoint: the others
            need not see its file.
        conversion: `Progress.conversion` of a run that begins, for its checkpoints.
        stop_epoch: return after so many epochs, or where the checkpoint is if that is later; a
            later call goes on. Nothing else depends on it: the schedules and the evaluated epochs
            are those of the whole training.
        on_step: called with (steps done, total steps) after every step.
        on_epoch: called with all metrics so far after every epoch, once they are safely stored.

    Raises:
        Diverged: the loss became NaN or infinite.
        CheckpointError: the checkpoint is damaged or belongs to another configuration.
        DataError: too much of the data is unreadable.
        ValueError: shares that do not fit.
    """
    config.check_processes(processes.count)
    steps_per_epoch, total_steps, total_epochs = length_of(config, task.steps_per_epoch)
    last_epoch = total_epochs if stop_epoch is None else min(stop_epoch, total_epochs)
    warmup_steps = config.warmup_steps
    if warmup_steps is None:
        warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    rows = processes.shard(config.step_images)
    device = next(model.parameters()).device
    on_cuda = [device] if device.type == "cuda" else []

    optimizer = sgd(config, model)
    done = Progress(conversion=conversion)
    content = read_checkpoint(checkpoint) if checkpoint is not None and processes.first else None
    content = processes.broadcast_from_rank0(content)
    if checkpoint is not None and content is not None:
        done = load_checkpoint(
            content, checkpoint, config=config, steps_per_epoch=steps_per_epoch,
            total_steps=total_steps, model=model, optimizer=optimizer,
        )  # fmt: skip
        task.data.remember(done.data_issues)
        if done.metrics:
            on_epoch(done.metrics)
    network: Any = torch.compile(model) if config.compile else model
    if processes.count > 1:
        network = DistributedDataParallel(network, **_BUFFERS_STAY)

    def save() -> None:
        if checkpoint is not None and processes.first:
            done.data_issues = task.data.data_issues()
            save_checkpoint(
                checkpoint, config=config, progress=done, model=model, optimizer=optimizer
            )

    model.train()
    while done.epoch < last_epoch:
        epoch, totals = done.epoch + 1, done.tally
        clock = saved = time.perf_counter()
        first_step = done.epoch * steps_per_epoch
        steps = task.steps(epoch)[done.step - first_step : total_steps - first_step]
        end = done.step + len(steps)
        batches, statistics = task.data.train(steps, rows), running_statistics(model)
        for step in steps:
            factor = lr_factor(
                config.schedule, done.step, total_steps, warmup_steps,
                warmup_from=config.warmup_from, drops=config.drops,
            )  # fmt: skip
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * factor
            begun = time.perf_counter()
            parts = task.split(next(batches), step, done.step / total_steps)
            totals.data_seconds += time.perf_counter() - begun
            optimizer.zero_grad(set_to_none=True)
            end_watch = watch_peak(device) if done.step + 1 == end else None
            with torch.random.fork_rng(devices=on_cuda):  # dropout draws from torch's generator
                _seed(seed_of(step.seed, "dropout", processes.rank), device)
                loss = accumulate_gradients(
                    network, parts, task.losses, statistics=statistics,
                    device=device, processes=processes, totals=totals,
                )  # fmt: skip
            if not math.isfinite(loss):
                reason = f"loss {loss} at step {done.step + 1} of {total_steps}"
                raise Diverged(reason, done.metrics)
            begun = time.perf_counter()
            if config.clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            totals.backward_seconds += time.perf_counter() - begun
            memory = end_watch() if end_watch is not None else None
            done.step += 1
            on_step(done.step, total_steps)
            now = time.perf_counter()
            done.seconds, clock = done.seconds + now - clock, now
            if now - saved >= save_seconds and done.step < end:
                save()
                saved = now
        reported = epoch > total_epochs - config.reported_epochs
        metrics: Metrics = {
            "epoch": epoch,
            "step": done.step,
            "lr": config.learning_rate * factor,
            **_mean_losses(totals),
            **task.training_metrics(totals),
        }
        if reported or epoch % config.evaluate_every == 0:
            metrics |= task.evaluate(model, reported=reported)
        here = {kind: set(files.items()) for kind, files in task.data.data_issues().items()}
        if here:
            issues = {kind: dict(files) for kind, files in processes.all_gather_union(here).items()}
            task.data.remember(issues)
            metrics["image_counts"] = {kind: len(files) for kind, files in issues.items()}
        seconds = done.seconds + time.perf_counter() - clock
        metrics["timing"] = _timing(totals, done.seconds, seconds)
        if memory is not None:
            metrics["timing"]["step_memory_bytes"] = memory
        done.metrics.append(metrics)
        done.epoch, done.tally, done.seconds = epoch, EpochTotals(), 0.0
        save()
        on_epoch(done.metrics)
    return done.metrics


def _mean_losses(totals: EpochTotals) -> Metrics:
    """`train_loss`, and `train_losses` by name where there are several; means over the epoch."""
    means = {name: total / totals.examples for name, total in totals.losses.items()}
    found: Metrics = {"train_loss": sum(means.values())}
    return found | {"train_losses": means} if len(means) > 1 else found


def _seed(seed: int, device: torch.device) -> None:
    """Seed the generators that a step on `device` draws from, without asking for other devices.

    The draws are those after `torch.manual_seed`, which takes 0.1 ms for devices that are not used.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _timing(totals: EpochTotals, training_seconds: float, seconds: float) -> dict[str, float]:
    """Of an epoch: all `seconds`, with evaluation; images of all processes per second of training;
    and where the first process's seconds of training went. Backward includes the optimizer."""
    return {
        "seconds": seconds,
        "images": totals.examples,
        "images_per_second": totals.examples / training_seconds,
        "data_seconds": totals.data_seconds,
        "forward_seconds": totals.forward_seconds,
        "backward_seconds": totals.backward_seconds,
    }
