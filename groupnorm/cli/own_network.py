"""The options of `groupnorm study convert` for a network of the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from groupnorm.cli.options import existing_folder, read_settings, whole_number
from groupnorm.cli.terminal import console, this_command
from groupnorm.experiments.conversion import OWN_IMAGES, own_trials

_PANEL = "A network of your own, in place of those that the study trains"
_KINDS: dict[str, Any] = {
    "network": Annotated[
        str | None,
        typer.Option(
            "--network",
            metavar="NAME",
            help="MODULE:FUNCTION that makes the network, torchvision/NAME or timm/NAME, as in "
            "groupnorm convert. Its code runs.",
            rich_help_panel=_PANEL,
        ),
    ],
    "checkpoint": Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            help="Its weights; by default those that the function gives it.",
            rich_help_panel=_PANEL,
        ),
    ],
    "images": Annotated[
        str | None,
        typer.Option(
            "--images",
            metavar="FOLDER",
            help=f"Images for it: up to {OWN_IMAGES[0]} calibrate, up to {OWN_IMAGES[1]} others "
            "are measured on.",
            rich_help_panel=_PANEL,
        ),
    ],
    "option": Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="NAME=VALUE",
            help="Argument of the network's function, as num_classes=10; repeatable.",
            rich_help_panel=_PANEL,
        ),
    ],
    "size": Annotated[
        int | None,
        typer.Option(
            "--size",
            parser=whole_number,
            metavar="N",
            help="Side of the images in pixels; by default timm's of the network, or 224.",
            rich_help_panel=_PANEL,
        ),
    ],
    "labels": Annotated[
        bool,
        typer.Option(
            "--labels",
            help="The folders in FOLDER are the classes, in the order of the outputs: measure "
            "accuracy in place of agreement.",
            rich_help_panel=_PANEL,
        ),
    ],
}
PARAMETERS = [
    inspect.Parameter(
        name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=False if name == "labels" else None,
        annotation=kind,
    )
    for name, kind in _KINDS.items()
]


def convert_own_network(
    given: Mapping[str, Any], out: Path, jobs: int | None, device: str
) -> tuple[Path, int]:
    """Do the trials with the network that these options describe.

    Returns:
        The page of the report, and how many trials failed.

    Raises:
        ValueError: an option is missing or does not fit, or the network cannot be used.
    """
    if given["network"] is None:
        option = next(name for name, value in given.items() if value)
        raise ValueError(f"--{option} goes with --network")
    images = existing_folder(given["images"], "--images")
    if images is None:
        raise ValueError("--network needs --images: a folder of images like those it is for")
    from groupnorm.run.conversion.network import build_network, current_folder_importable
    from groupnorm.study.conversions.own_network import OwnNetwork
    from groupnorm.study.conversions.own_study import convert_own
    from groupnorm.study.runners.local import available_cores
    from groupnorm.training.device import check_device

    check_device(device)
    options = read_settings(given["option"] or [])
    with current_folder_importable():
        usual = build_network(given["network"], options)
    asked = OwnNetwork(
        network=given["network"],
        options=options,
        checkpoint=given["checkpoint"],
        images=str(images),
        size=given["size"] or usual.size,
        mean=list(map(float, usual.mean)),
        std=list(map(float, usual.std)),
        calibration=OWN_IMAGES[0],
        held_out=OWN_IMAGES[1],
        labels=given["labels"],
    )
    at_a_time = jobs or (available_cores() if device == "cpu" else 1)
    return convert_own(
        asked, own_trials, out, command=this_command(), jobs=at_a_time, device=device,
        console=console,
    )  # fmt: skip
