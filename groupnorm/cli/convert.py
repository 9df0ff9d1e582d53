"""groupnorm convert: a pretrained network with group norm, from a checkpoint and some images."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from groupnorm.cli.options import (
    DeviceOption,
    existing_folder,
    named_folder,
    number,
    read_settings,
    whole,
)
from groupnorm.cli.terminal import (
    console,
    errors,
    escaped,
    print_json,
    report_interrupt,
    report_user_errors,
    say,
    this_command,
)
from groupnorm.files import write_together
from groupnorm.printable import print_line
from groupnorm.study.results.format import counted

_FILES = ("report.json", "report.md", "layers.svg", "layers.pdf", "layers.png", "converted.pt")
_BATCH = 32  # images that are decoded, and run, at a time


def _three(text: str) -> tuple[float, ...]:
    values = tuple(number(part) for part in text.split(","))
    if len(values) != 3:
        raise typer.BadParameter(f"it takes three numbers, as 0.5,0.5,0.5, got {text}")
    return values


def _colours(option: str, what: str) -> Any:
    text = f"{what} of red, green and blue, for pixels from 0 to 1; by default timm's, or ImageNet's."
    return typer.Option(option, parser=_three, metavar="R,G,B", help=text)


def convert(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="Weights of the network with batch norm: a state dict, or a training script's "
            "file that has it under state_dict, model, model_state_dict or state_dict_ema; .pt, "
            ".pth or .safetensors. Only tensors and plain values are read from it.",
        ),
    ],
    network: Annotated[
        str,
        typer.Option(
            "--network",
            metavar="NAME",
            help="torchvision/resnet50, timm/resnet50, resnet50 (torchvision's, else timm's), or "
            "MODULE:FUNCTION that makes the network. MODULE is imported from this folder or the "
            "installed packages: its code runs.",
        ),
    ],
    images: Annotated[
        str | None,
        typer.Option(
            "--images",
            metavar="FOLDER",
            help="Images like those that the network is for, at any depth; no labels are needed.",
        ),
    ] = None,
    to: Annotated[
        str, typer.Option("--to", metavar="NORM", help="As gn, gn:groups=8, gn:size=16 or ln.")
    ] = "gn",
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            help="Folder of the result; by default CHECKPOINT without its ending, and -gn.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a result that is there.")
    ] = False,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="NAME=VALUE",
            help="Argument of the network's function, as num_classes=10; repeatable.",
        ),
    ] = None,
    count: Annotated[int, whole("--count", "Images to calibrate on.")] = 256,
    held_out: Annotated[int, whole("--held-out", "Further images, for the comparison alone.")] = 64,
    size: Annotated[
        int | None,
        whole("--size", "Side of the images in pixels; by default timm's of the network, or 224."),
    ] = None,
    mean: Annotated[Any, _colours("--mean", "Mean")] = None,
    std: Annotated[Any, _colours("--std", "Deviation")] = None,
    labels: Annotated[
        bool,
        typer.Option(
            "--labels",
            help="The folders in FOLDER are the classes, in the order of the outputs: compare "
            "accuracy, too.",
        ),
    ] = False,
    finetune_steps: Annotated[
        int, whole("--finetune-steps", "Steps of distillation from the network, without labels.")
    ] = 0,
    hybrid: Annotated[
        float,
        typer.Option(
            "--hybrid",
            parser=number,
            metavar="A",
            help="Below 1: statistics that are A times the group's, and stored ones for the rest.",
        ),
    ] = 1.0,
    plain: Annotated[
        bool, typer.Option("--plain", help="Have no layers but plain group norms.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="MODULE",
            help="Convert the norms in this module of the network, as backbone; repeatable.",
        ),
    ] = None,
    seed: Annotated[int, whole("--seed", "Of all that is drawn.")] = 0,
    device: DeviceOption = "cpu",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would become of each layer; write nothing."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report and the comparison as JSON.")
    ] = False,
) -> None:
    """Put group norm into a pretrained network: groupnorm convert resnet50.pth --network
    torchvision/resnet50 --images photos.

    Writes the weights, a report of every layer and a figure of their errors, and compares the
    network before and after on images that were held out.
    """
    with report_interrupt(lambda: "nothing was written"), report_user_errors():
        from groupnorm.run.conversion.network import current_folder_importable
        from groupnorm.training.device import check_device

        check_device(device)
        source = Path(checkpoint)
        folder = named_folder(out, "--out") or source.with_name(f"{source.stem}-{_slug(to)}")
        photos = existing_folder(images, "--images")
        if photos is None and not dry_run:
            raise ValueError("--images FOLDER is needed: images like those the network is for")
        if not (dry_run or overwrite):
            _check_free(folder)
        with current_folder_importable():
            found = _load(source, network, option or [], device, as_json)
            if dry_run:
                _preview(found, to, only, size, as_json)
                return
            ...


def _slug(to: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in to).split())
