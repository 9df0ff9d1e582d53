"""From a configuration to a trained model: data, model and task of any kind, and the loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from groupnorm import models
from groupnorm.conversion import ConversionReport, rebuild
from groupnorm.cost.measure import count_cost
from groupnorm.data.issues import UNREADABLE, Issues
from groupnorm.environment import environment
from groupnorm.run.setup import Setup
from groupnorm.run.tasks import check, setup_of
from groupnorm.training.checkpoint import (
    CheckpointError,
    kept_conversion,
    read_checkpoint,
    read_weights,
)
from groupnorm.training.config import TrainingConfig
from groupnorm.training.device import check_device
from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.loop import Diverged, length_of, train
from groupnorm.training.memory_format import weights_in_memory_format
from groupnorm.training.task import Metrics
from groupnorm.training.warm_start import WarmStartError, load_weights


@dataclass(frozen=True)
class RunResult:
    """How a run ended, and the metrics of every epoch.

    `status` is "finished", "diverged" or "stopped" (by `stop_epoch`), the last two with a reason.
    """

    status: str
    reason: str | None
    metrics: list[Metrics]
    model: nn.Module


def run(
    config: TrainingConfig,
    *,
    device: str = "cpu",
    data_root: Path | None = None,
    processes: Processes = ALONE,
    with_cost: bool = True,
    checkpoint: Path | None = None,
    init: Path | None = None,
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
        init: the checkpoint of the run that `config.init` names. It is read by the first process,
            unless the run goes on from its own checkpoint.
        stop_epoch: stop after so many epochs; a later call goes on from the checkpoint (`train`).
        on_start: called once with the environment (versions, machine, metrics, parameter count,
            cost, what the network is built for, and what was taken of the weights it starts from).
        on_unreadable: called with the files that could not be decoded so far, if there are any,
            after every epoch and at the end, however the training ends.

    Raises:
        ValueError: the configuration cannot be built, or not be shared by so many processes, or
            the device is unknown, or the weights it starts from do not fit.
        DataError: the data set is missing or damaged.
        CheckpointError: a checkpoint is damaged, or another run's.
        RuntimeError: the device is not there.
    """
    check(config)
    setup = setup_of(config)
    config.check_processes(processes.count)
    check_device(device)
    with processes.rank0_first():  # it may put the data into the cache
        data = setup.load(config, device, data_root)
    model = setup.build(config, data, device)
    taken = _start_from(config, setup, data, model, init, checkpoint, processes)
    task = setup.make_task(config, data, model, processes)
    env = {
        **environment(),
        "processes": processes.count,
        "backend": processes.backend,
        "metrics": [asdict(metric) for metric in task.metrics],
        "parameters": models.count_parameters(model),
        "data_version": data.version,
    }
    if data.decoders:
        env["decoders"] = data.decoders
    if (of_data := setup.built_for(config, data)) is not None:
        env["built_for"] = of_data
    if notes := [*data.notes, *setup.notes(config, data)]:
        env["data_notes"] = notes
    if taken is not None:
        env["init"] = {"run": config.init, **taken}

    def report_unreadable() -> None:
        issues = data.data_issues()
        unreadable = {kind: issues[kind] for kind in UNREADABLE if kind in issues}
        if any(unreadable.values()):
            on_unreadable(unreadable)

    def after_epoch(metrics: list[Metrics]) -> None:
        report_unreadable()
        on_epoch(metrics)

    try:
        if with_cost and processes.first:
            step = setup.first_step(config, data, model, processes)
            env["cost"] = count_cost(step.model, step.images, precision=step.precision)
        on_start(env)
        metrics = train(
            config,
            model,
            task,
            processes=processes,
            checkpoint=checkpoint,
            conversion=None if taken is None else taken.get("conversion"),
            stop_epoch=stop_epoch,
            on_step=on_step,
            on_epoch=after_epoch,
        )
    except Diverged as end:
        return RunResult("diverged", end.reason, end.metrics, model)
    finally:
        report_unreadable()
    if len(metrics) < (epochs := length_of(config, task.steps_per_epoch).epochs):
        return RunResult("stopped", f"after {len(metrics)} of {epochs} epochs", metrics, model)
    return RunResult("finished", None, metrics, model)


def _start_from(
    config: TrainingConfig,
    setup: Setup,
    data: Any,
    model: nn.Module,
    init: Path | None,
    checkpoint: Path | None,
    processes: Processes,
) -> dict[str, Any] | None:
    """Load the weights that a run starts from; what was taken, None where nothing was to be.

    A run that goes on gets its weights with its checkpoint, and here the layers for them alone.
    """
    if config.init is None:
        return None
    there = checkpoint is not None and checkpoint.exists()  # the first process's counts
    if processes.broadcast_from_rank0(there) and checkpoint is not None:
        if config.converted_part is not None:
            _rebuild_from(config, model, checkpoint, processes)
        return None
    content = None
    if processes.first:
        content = read_checkpoint(init) if init is not None else None
        if content is None:
            where = f"{init} is missing" if init else "no checkpoint of it was given"
            raise ValueError(f"training starts from the weights of {config.init}, and {where}")
    content = processes.broadcast_from_rank0(content)
    assert content is not None
    weights, other = read_weights(content, init or Path(config.init), config.init)
    try:
        how = setup.warm_start(config, model, other)
        taken = load_weights(model, weights, how)
    except WarmStartError as error:
        what = f"the weights of {config.init} do not fit this run's {config.model}"
        raise ValueError(f"{what}: {error}") from None
    if how.finish is None:
        return taken
    # Its numbers differ in their last bits from machine to machine, and groups with them: one
    # process converts. The others get its layers here, and its weights when training begins.
    report = processes.broadcast_from_rank0(how.finish(data) if processes.first else None)
    assert report is not None
    if not processes.first:
        _rebuild(config, model, report)
    weights_in_memory_format(model, config.memory_format)
    return taken | {"conversion": report}


def _rebuild_from(
    config: TrainingConfig, model: nn.Module, checkpoint: Path, processes: Processes
) -> None:
    """Give the model the layers that the checkpoint of the first process has weights of."""
    content = processes.broadcast_from_rank0(
        read_checkpoint(checkpoint) if processes.first else None
    )
    assert content is not None
    report = kept_conversion(content, checkpoint, config)
    try:
        _rebuild(config, model, report)
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint} was written by another version: {error}; delete it to train this run "
            "from the start"
        ) from None
    weights_in_memory_format(model, config.memory_format)


def _rebuild(config: TrainingConfig, model: nn.Module, report: dict[str, Any]) -> None:
    """Give the converted part of the model the layers of a report, with no values that count."""
    part = config.converted_part
    assert part is not None
    rebuilt = rebuild(model.get_submodule(part), ConversionReport.from_dict(report))
    setattr(model, part, rebuilt)
