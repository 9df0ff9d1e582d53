"""groupnorm train: one configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from groupnorm.cli.options import DeviceOption, RootOption, TrackOption
from groupnorm.cli.terminal import (
    console,
    errors,
    errors_in_words,
    from_options,
    print_json,
    say_error,
)
from groupnorm.rounding import decimal_text


def train(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="KEY=VALUE for the fields of RunConfig: model, width, shortcut, norm, data, "
            "train_images, workers, batch_per_worker, accumulate, epochs or steps, schedule, "
            "warmup_epochs, base_lr, optimizer, momentum, nesterov, weight_decay, precision, "
            "compile, memory_format, seed."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="JSON file of a RunConfig to start from.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the record and the checkpoint to continue from."),
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
    with errors_in_words():
        import tempfile

        import torch

        from groupnorm.data.issues import describe_unreadable
        from groupnorm.files import describe_os_error
        from groupnorm.study.record import record_run, what_is_kept
        from groupnorm.study.store import UNREADABLE, check_run_place
        from groupnorm.study.track import check_track, recorded_curves
        from groupnorm.training.config import RunConfig
        from groupnorm.training.launch import find_launch, joined, told_to_end

        launch = find_launch()

    curves = None

    def kept() -> str:
        return what_is_kept(out)

    def last_words(reason: str) -> None:
        launch.say_once(lambda: say_error(f"{reason}; {kept()}"))

    told: set[str] = set()

    def tell(text: str) -> None:
        if text not in told:
            told.add(text)
            errors.print(text, markup=False, highlight=False, soft_wrap=True)

    def show_notes(env: dict[str, Any]) -> None:
        for note in env.get("data_notes", []):
            tell(f"note: {note}")

    def show(metrics: dict[str, Any]) -> None:
        nonlocal curves
        if text := describe_unreadable(metrics.get("image_counts", {})):
            tell(f"{text}; named in {out / UNREADABLE}" if out else text)
        if track is not None and out is not None:
            folder = out / "tensorboard" / run_config.run_name()
            curves = curves or recorded_curves(folder, out)
            curves.epoch(metrics)
        if as_json:
            print_json(metrics, indent=None)
            return
        console.print(
            f"epoch {metrics['epoch']}: train error {decimal_text(metrics['train_error'])} %, "
            f"validation error {decimal_text(metrics['val_error'])} %, "
            f"{decimal_text(metrics['timing']['images_per_second'], 0)} images/s",
            highlight=False,
            soft_wrap=True,
        )

    with told_to_end(launch, last_words), errors_in_words(launch.say_once):
        if track is not None:  # before anything is trained
            check_track(track)
            if out is None:
                raise ValueError("--track needs --out, the folder that gets the curves")
        if out is not None:
            check_run_place(out)
        run_config = from_options(RunConfig, _read_settings(config, settings or []))
        own_device = launch.device(device)
        with joined(launch, own_device, kept), tempfile.TemporaryDirectory() as scratch:
            try:
                result = record_run(
                    run_config,
                    out or Path(scratch),
                    threads=torch.get_num_threads(),
                    device=own_device,
                    data_root=data_root,
                    processes=launch.processes,
                    on_epoch=show,
                    on_start=show_notes,
                )
            except BrokenPipeError:  # of the output: nobody reads it any more
                raise
            except OSError as error:  # the disk is full, or a file cannot be read or written
                raise RuntimeError(f"{describe_os_error(error)}; {kept()}") from error
        if curves is not None:
            curves.close()
        if result.status == "diverged":
            raise RuntimeError(f"the run diverged: {result.reason}")


def _read_settings(path: Path | None, settings: list[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if path is not None:
        try:
            fields = json.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise ValueError(f"--config {path} cannot be read: {error}") from None
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"expected KEY=VALUE, got {setting!r}")
        fields[key] = value
    return fields
