"""RunConfig -> model, data, optimizer, loop: the one place where library and experiment meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from groupnorm import data, models
from groupnorm.conversion import recomputed_statistics
from groupnorm.cost.measure import count_cost
from groupnorm.data.batches import Step
from groupnorm.data.issues import UNREADABLE, Issues
from groupnorm.environment import environment
from groupnorm.layers import norm_layer
from groupnorm.training.config import RunConfig
from groupnorm.training.device import check_device
from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.evaluation.probe import probe_module
from groupnorm.training.loop import Diverged, Metrics, length_of, train
from groupnorm.training.tasks.classification import Classification

IMAGE_SIZE = 224  # pixels, of data sets of image files
EVALUATION_BATCH = 64
MOST_DECODERS = 16


@dataclass(frozen=True)
class RunResult:
    """How a run ended, and the metrics of every epoch.

    `status` is "finished", "diverged" or "stopped" (by `stop_epoch`), the last two with a reason.
    """

    status: str
    reason: str | None
    metrics: list[Metrics]
    model: torch.nn.Module


def check(config: RunConfig) -> None:
    """Check what the configuration alone does not know: its model and its data.

    Raises:
        ValueError: unknown model or place of it, a size for images that have one of their own, or a
            size schedule with images too small for the model.
        DataError: unknown data set.
    """
    data.check_images(config.data, config.image_size)
    models.check_model(config.model, config.width, [size for size, _ in config.size_schedule])
    models.check_places(config.model, config.norms)


def run(
    config: RunConfig,
    *,
    device: str = "cpu",
    data_root: Path | None = None,
    processes: Processes = ALONE,
    with_cost: bool = True,
    checkpoint: Path | None = None,
    stop_epoch: int | None = None,
    on_step: Callable[[int, int], None] = lambda step, total: None,
    on_epoch: Callable[[list[Metrics]], None] = lambda metrics: None,
    on_start: Callable[[dict[str, Any]], None] = lambda env: None,
    on_unreadable: Callable[[Issues], None] = lambda issues: None,
) -> RunResult:
    """Train and evaluate one configuration.

    The same configuration, versions, machine and number of threads give the same bits. Torch's
    default generators are left as they were.

    Args:
        device: "cpu", "cuda" or "cuda:N".
        data_root: folder to look for the data set in, before the usual places.
        processes: those that train together; all call this function.
        with_cost: count the training step's memory and arithmetic first (`count_cost`).
        checkpoint: file to save to after every epoch and to continue from when it exists.
        stop_epoch: stop after so many epochs; a later call goes on from the checkpoint (`train`).
        on_start: called once with the environment (versions, machine, parameter count, cost).
        on_unreadable: called with the files that could not be decoded so far, if there are any,
            after every epoch and at the end, however the training ends.

    Raises:
        ValueError: the configuration cannot be built, or not be shared by so many processes, or
            the device is unknown.
        DataError: the data set is missing or damaged.
        RuntimeError: the device is not there.
    """
    check(config)
    config.check_processes(processes.count)
    check_device(device)
    with processes.rank0_first():  # it may put the data into the cache
        batches = load_batches(config, device, data_root)
    model = build(config, batches, device)
    recompute = recomputed_statistics if config.uses_batch_statistics else None
    probed = probe_module(config.model, model)
    task = Classification(config, batches, recompute, processes, probed)
    parameters = models.count_parameters(model)
    env = {
        **environment(),
        "processes": processes.count,
        "backend": processes.backend,
        "parameters": parameters,
        "data_version": batches.version,
    }
    if notes := [*batches.notes, *_size_notes(config, batches)]:
        env["data_notes"] = notes

    def report_unreadable() -> None:
        issues = batches.data_issues()
        unreadable = {kind: issues[kind] for kind in UNREADABLE if kind in issues}
        if any(unreadable.values()):
            on_unreadable(unreadable)

    def after_epoch(metrics: list[Metrics]) -> None:
        report_unreadable()
        on_epoch(metrics)

    try:
        if with_cost and processes.first:
            images = first_images(config, batches, processes)
            env["cost"] = count_cost(model, images, precision=config.precision)
        on_start(env)
        metrics = train(
            config,
            model,
            task,
            processes=processes,
            checkpoint=checkpoint,
            stop_epoch=stop_epoch,
            on_step=on_step,
            on_epoch=after_epoch,
        )
    except Diverged as end:
        return RunResult("diverged", end.reason, end.metrics, model)
    finally:
        report_unreadable()
    if len(metrics) < (epochs := length_of(config, batches.train_size).epochs):
        return RunResult("stopped", f"after {len(metrics)} of {epochs} epochs", metrics, model)
    return RunResult("finished", None, metrics, model)


def _size_notes(config: RunConfig, batches: data.Batches) -> list[str]:
    """What of a size schedule does nothing, because it would not make the images smaller."""
    own = batches.image_size
    idle = [str(size) for size, _ in config.size_schedule if size >= own]
    if not idle:
        return []
    return [
        f"size_schedule: images have {own} pixels, so that {' and '.join(idle)} pixels leave them "
        "as they are"
    ]


def build(config: RunConfig, batches: data.Batches, device: str) -> torch.nn.Module:
    """The network of a configuration with its first weights, for the classes of the data."""
    norm, *of_places = (
        norm_layer(spec, batch_per_worker=config.batch_per_worker)
        for spec in (config.norm, *config.norms.values())
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = models.build_model(
            config.model,
            norm=norm,
            norms=dict(zip(config.norms, of_places, strict=True)),
            num_classes=batches.num_classes,
            in_channels=batches.channels,
            width=config.width,
            shortcut=config.shortcut,
            zero_gamma=config.zero_gamma,
        )
    model.to(device)
    if config.memory_format == "channels_last":
        model.to(memory_format=torch.channels_last)
    return model


def load_batches(config: RunConfig, device: str, data_root: Path | None) -> data.Batches:
    """The data of a configuration, ready for training on `device`.

    Image files are decoded in as many processes as torch has threads, at most `MOST_DECODERS`.

    Raises:
        DataError: the data set is missing or damaged.
        ValueError: it has fewer images than the configuration trains on and holds out.
    """
    images = data.load(config.data, data_root)
    size, asked = len(images.train_labels), config.validation_images
    if asked is not None and (config.train_images or 0) + asked > size:
        raise ValueError(
            f"train_images={config.train_images} and validation_images={asked}, but "
            f"{config.data} has {size} training images"
        )
    images = images.hold_out(asked)
    if isinstance(images, data.ImageSet):
        return data.InMemory(images, config.train_images, device)
    from groupnorm.data.files.batches import FromFiles  # which needs torchvision and pillow

    return FromFiles(
        images.sample_train(config.train_images),
        config.image_size or IMAGE_SIZE,
        EVALUATION_BATCH,
        min(torch.get_num_threads(), MOST_DECODERS),
        device,
        config.max_unreadable,
    )


def first_images(
    config: RunConfig, batches: data.Batches, processes: Processes = ALONE
) -> torch.Tensor:
    """The first images of the training, as many as a pass of one process sees."""
    count = config.step_images // (processes.count * config.accumulate)
    step = Step(config.seed, torch.arange(min(count, batches.train_size)))
    images, _ = next(iter(batches.train([step])))
    if config.memory_format == "channels_last":
        images = images.contiguous(memory_format=torch.channels_last)
    return images
