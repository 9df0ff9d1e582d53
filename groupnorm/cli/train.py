"""groupnorm train: one configuration."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from groupnorm.cli.options import (
    DeviceOption,
    RootOption,
    TrackOption,
    existing_folder,
    named_folder,
    read_settings,
    settings_help,
)
from groupnorm.cli.terminal import (
    errors,
    from_options,
    print_json,
    report_interrupt,
    report_user_errors,
    say,
    say_error,
    this_command,
)
from groupnorm.printable import print_line
from groupnorm.run.tasks import describe_fields
from groupnorm.study.results.format import decimal_text
from groupnorm.training.metric import TRAIN_LOSS, Metric, metrics_of


def train(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help=settings_help(
                "The fields of the run, task=detection for a detector's, task=segmentation for "
                "those of labels of pixels, task=video for those of a classifier of videos. One of "
                "epochs and steps is needed.",
                describe_fields(),
            ),
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option("--config", metavar="FILE", help="JSON file of such fields to start from."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            help="Folder for the record and the checkpoint to continue from.",
        ),
    ] = None,
    device: DeviceOption = "cpu",
    data_root: RootOption = None,
    track: TrackOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every epoch as JSON.")] = False,
) -> None:
    """Train one configuration: groupnorm train norm=bn batch_per_worker=2 epochs=5.

    In many processes, each with its share of every step's images: torchrun --nproc-per-node 8 -m
    groupnorm train ...
    """
    with report_user_errors():
        import tempfile

        import torch

        from groupnorm.data.issues import describe_altered, describe_unreadable
        from groupnorm.files import describe_os_error
        from groupnorm.run.tasks import check, config_class
        from groupnorm.study.record import describe_checkpoint, named_run, record_run
        from groupnorm.study.runners.track import check_track, recorded_curves
        from groupnorm.study.store import UNREADABLE, check_run_place
        from groupnorm.training.device import check_device
        from groupnorm.training.launch import exit_on_signal, find_launch, joined

        launch = find_launch()

    curves, measured = None, metrics_of({})

    def kept() -> str:
        return describe_checkpoint(Path(out) if out else None)

    def on_exit(reason: str) -> None:
        launch.log_once(lambda: say_error(f"{reason}; {kept()}"))

    printed: set[str] = set()

    def print_once(text: str) -> None:
        if text not in printed:
            printed.add(text)
            print_line(errors, text)

    def started(env: dict[str, Any]) -> None:
        nonlocal measured
        measured = metrics_of(env)
        for note in env.get("data_notes", []):
            print_once(f"note: {note}")

    def say_and_end(say_it: Callable[[], None]) -> None:
        launch.log_once(say_it)
        launch.end(2)

    def kept_and_command() -> str:
        return f"{kept()}{f': {this_command(errors.encoding)}' if out else ''}"

    def show(metrics: dict[str, Any]) -> None:
        nonlocal curves
        counts = metrics.get("image_counts", {})
        if text := describe_unreadable(counts):
            print_once(f"{text}; named in {keep / UNREADABLE}" if keep else text)
        for text in describe_altered(counts).values():
            print_once(text)
        if track is not None and keep is not None:
            tracked = keep / "tensorboard" / run_config.run_name()
            curves = curves or recorded_curves(tracked, keep)
            curves.epoch(metrics)
        if as_json:
            print_json(metrics, indent=None)
            return
        reported, *others = measured
        trained = next(m for m in (*others, TRAIN_LOSS) if m.of_training)
        parts = [f"epoch {metrics['epoch']}: {trained.title} {_value(metrics, trained)}"]
        if reported.name in metrics:
            images = "validation" if run_config.validation_images else "test"
            parts.append(f"{images} {reported.title} {_value(metrics, reported)}")
        speed = decimal_text(metrics["timing"]["images_per_second"], 0)
        parts.append(f"{speed} {run_config.trained_on}/s")
        say(", ".join(parts))

    with (
        report_interrupt(kept_and_command),
        exit_on_signal(launch, on_exit),
        report_user_errors(say_and_end),
    ):
        # all of this before anything is written
        keep, root = named_folder(out, "--out"), existing_folder(data_root, "--data-root")
        if track is not None:
            check_track(track)
            if keep is None:
                raise ValueError("--track needs --out, the folder that gets the curves")
        if keep is not None:
            check_run_place(keep)
        fields, init = _read_fields(config, settings or []), None
        if isinstance(fields.get("init"), str):
            fields["init"], init = named_run(fields["init"])
        run_config = from_options(config_class(fields), fields)
        check(run_config)
        run_config.check_processes(launch.processes.count)
        own_device = launch.device(device)
        check_device(own_device)
        with joined(launch, own_device, kept), tempfile.TemporaryDirectory() as scratch:
            try:
                result = record_run(
                    run_config,
                    keep or Path(scratch),
                    threads=torch.get_num_threads(),
                    device=own_device,
                    data_root=root,
                    processes=launch.processes,
                    init=init,
                    on_epoch=show,
                    on_start=started,
                )
            except BrokenPipeError:  # of the output: nobody reads it any more
                raise
            except OSError as error:  # the disk is full, or a file cannot be read or written
                raise RuntimeError(f"{describe_os_error(error)}; {kept()}") from error
        if curves is not None:
            curves.close()
        if result.status == "diverged":
            raise RuntimeError(f"the run diverged: {result.reason}")


def _value(metrics: Mapping[str, Any], metric: Metric) -> str:
    """A metric of an epoch as text, or "-" where it has no value."""
    value = metrics.get(metric.name)
    if value is None:
        return "-"
    return f"{decimal_text(value, 1 if metric.unit else 3)} {metric.unit}".rstrip()


def _read_fields(path: str | None, settings: list[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if path is not None:
        try:
            fields = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise ValueError(f"--config {path} cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"--config {path} is not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise ValueError(
                f"--config {path} holds no JSON object with the fields of a run, such as "
                '{"norm": "gn", "epochs": 30}'
            )
    fields |= read_settings(settings)
    places = {key: fields.pop(key) for key in list(fields) if key.startswith(_PLACES)}
    if places and isinstance(fields.setdefault("norms", {}), dict):
        fields["norms"] |= {key.removeprefix(_PLACES): value for key, value in places.items()}
    return fields


_PLACES = "norms."
