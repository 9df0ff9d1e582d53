"""The published comparisons as commands: groupnorm study imagenet-batch-size, and their list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.padding import Padding

from groupnorm.cli.options import (
    ClusterCommand,
    ClusterOption,
    CpusOption,
    DataOption,
    DeviceOption,
    EpochsOption,
    GpusOption,
    ImageSizeOption,
    ImagesOption,
    JobsOption,
    OutOption,
    RootOption,
    SeedsOption,
    TrackOption,
    UnreadableOption,
)
from groupnorm.cli.terminal import console, escaped, print_json

ScaleOption = Annotated[
    str,
    typer.Option(
        "--scale",
        help="full: as published, days on GPUs; smoke: two steps of each run, seconds on a CPU.",
    ),
]


def add_experiments(app: typer.Typer, study: Callable[[str, dict[str, Any]], None]) -> None:
    """Give `app` a command for every published comparison.

    Args:
        study: runs a study by name with the options given.
    """
    from groupnorm.experiments import EXPERIMENTS

    for name, recipe in EXPERIMENTS.items():
        experiment = recipe("full")
        text = f"{experiment.title}: {experiment.source}. Published: {experiment.result}."
        app.command(name, cls=ClusterCommand, help=text, rich_help_panel="Published comparisons")(
            _command(name, study)
        )


def _command(name: str, study: Callable[[str, dict[str, Any]], None]) -> Callable[..., None]:
    def command(
        scale: ScaleOption = "full",
        data: DataOption = None,
        train_images: ImagesOption = None,
        image_size: ImageSizeOption = None,
        max_unreadable: UnreadableOption = None,
        epochs: EpochsOption = None,
        seeds: SeedsOption = None,
        out: OutOption = None,
        jobs: JobsOption = None,
        device: DeviceOption = "cpu",
        data_root: RootOption = None,
        cluster: ClusterOption = None,
        cpus_per_trial: CpusOption = None,
        gpus_per_trial: GpusOption = None,
        track: TrackOption = None,
    ) -> None:
        given = {key: value for key, value in locals().items() if key not in ("name", "study")}
        study(name, given)

    return command


def print_list(as_json: bool) -> None:
    """Every published comparison: what it is, where it stands, what was published, how long."""
    from groupnorm.experiments import EXPERIMENTS

    experiments = [recipe("full") for recipe in EXPERIMENTS.values()]
    if as_json:
        fields = ("name", "title", "source", "result", "time", "seeds")
        print_json(
            [{**{f: getattr(e, f) for f in fields}, "cells": len(e.variants)} for e in experiments]
        )
        return
    for e in experiments:
        runs = len(e.variants) * e.seeds
        console.print(f"[bold]{e.name}[/bold]  {escaped(e.title)}", highlight=False)
        text = f"{e.source}. Published error in %: {e.result}. {runs} runs; {e.time}."
        console.print(Padding(escaped(text), (0, 0, 0, 4)), highlight=False)
    console.print(
        "Each is groupnorm study NAME, and --scale smoke tries it in seconds. batch-size, norms "
        "and groups are such comparisons on small images, in minutes.",
        highlight=False,
    )
