"""The training loop: one plain function, read from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from groupnorm.training.checkpoint import load_checkpoint, save_checkpoint
from groupnorm.training.config import RunConfig
from groupnorm.training.memory import peak_memory_bytes
from groupnorm.training.schedules import lr_factor

Metrics = dict[str, Any]


class Task(Protocol):
    """What differs between classification, detection and video: data, loss and evaluation."""

    @property
    def train_size(self) -> int:
        """Number of training examples."""
        ...

    def loss(
        self, model: nn.Module, indices: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, int]:
        """Mean loss of the examples at `indices`, and how many of them were wrong."""
        ...

    def evaluate(self, model: nn.Module, *, last_epochs: bool) -> Metrics:
        """Metrics on the validation data; the model is left in training mode."""
        ...


class Diverged(Exception):  # noqa: N818 - a result, not an error
    """The loss became NaN or infinite; `metrics` holds the epochs before."""

    def __init__(self, reason: str, metrics: list[Metrics]) -> None:
        super().__init__(reason)
        self.reason = reason
        self.metrics = metrics


def train(
    config: RunConfig,
    model: nn.Module,
    task: Task,
    *,
    checkpoint: Path | None = None,
    on_step: Callable[[int, int], None] = lambda step, total: None,
    on_epoch: Callable[[list[Metrics]], None] = lambda metrics: None,
) -> list[Metrics]:
    """Train `model` on `task` as `config` says; one dict of metrics for every epoch.

    SGD with momentum, weight decay on every parameter, the last incomplete batch of an epoch
    dropped. With `checkpoint`, the state is saved there after every epoch, and training goes on
    from it when it exists: bit for bit as if it had not stopped.

    Args:
        on_step: called with (steps done, total steps) after every step.
        on_epoch: called with all metrics so far after every epoch, once they are safely stored.

    Raises:
        Diverged: the loss became NaN or infinite.
        CheckpointError: the checkpoint is damaged or belongs to another configuration.
        ValueError: fewer training examples than images in a step.
    """
    steps_per_epoch = task.train_size // config.step_images
    if steps_per_epoch == 0:
        raise ValueError(
            f"a step of {config.workers} x {config.batch_per_worker} images needs at least "
            f"{config.step_images} training images, the data has {task.train_size}"
        )
    total_steps = config.steps or (config.epochs or 0) * steps_per_epoch
    total_epochs = math.ceil(total_steps / steps_per_epoch)
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)

    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
        weight_decay=config.weight_decay,
    )
    generator = torch.Generator().manual_seed(config.seed)
    epoch, step, metrics = 0, 0, list[Metrics]()
    if checkpoint is not None and checkpoint.exists():
        epoch, step, metrics = load_checkpoint(
            checkpoint,
            digest=config.digest(),
            model=model,
            optimizer=optimizer,
            generator=generator,
        )
        on_epoch(metrics)

    model.train()
    for epoch in range(epoch + 1, total_epochs + 1):  # noqa: B020 - resumes where it was
        started = time.perf_counter()
        order = torch.randperm(task.train_size, generator=generator)
        loss_sum, wrong, seen = 0.0, 0, 0
        for first in range(0, steps_per_epoch * config.step_images, config.step_images):
            if step == total_steps:
                break
            lr = config.learning_rate * lr_factor(config.schedule, step, total_steps, warmup_steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            indices = order[first : first + config.step_images]
            loss, batch_wrong = task.loss(model, indices, generator)
            loss_value = loss.item()
            if not math.isfinite(loss_value):
                raise Diverged(f"loss {loss_value} at step {step + 1} of {total_steps}", metrics)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            loss_sum += loss_value * len(indices)
            wrong += batch_wrong
            seen += len(indices)
            on_step(step, total_steps)
        seconds = time.perf_counter() - started
        evaluation = task.evaluate(model, last_epochs=epoch > total_epochs - 5)
        metrics.append(
            {
                "epoch": epoch,
                "step": step,
                "lr": lr,
                "train_loss": loss_sum / seen,
                "train_error": 100.0 * wrong / seen,
                **evaluation,
                "timing": {
                    "seconds": time.perf_counter() - started,
                    "images_per_second": seen / seconds,
                    "peak_memory_bytes": peak_memory_bytes(),
                },
            }
        )
        if checkpoint is not None:
            save_checkpoint(
                checkpoint,
                digest=config.digest(),
                epoch=epoch,
                step=step,
                model=model,
                optimizer=optimizer,
                generator=generator,
                metrics=metrics,
            )
        on_epoch(metrics)
    return metrics
