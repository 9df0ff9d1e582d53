"""The options that several commands share, and how their texts are read."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand


def whole_number(text: str | int) -> int:
    """The whole number that an option is given."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"it takes a whole number, got {text!r}") from None


def number(text: str | float) -> float:
    """The number that an option is given."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"it takes a number, got {text!r}") from None


def whole(option: str, text: str) -> Any:
    """An option that takes a whole number; `text` is its help."""
    return typer.Option(option, parser=whole_number, metavar="N", help=text)


DataOption = Annotated[
    str | None, typer.Option("--data", help="Data set; 'groupnorm doctor' lists them.")
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="resnet8, resnet14, ... resnet110, resnet18, 34, 50, 101, vgg16."),
]
NormsOption = Annotated[
    str | None,
    typer.Option("--norms", help="Normalizations, as bn,gn:groups=8,gn:groups=8+ws,ln,in."),
]
SizesOption = Annotated[
    str | None, typer.Option("--batch-sizes", help="Images per worker, as 32,8,2.")
]
SizeOption = Annotated[
    str | None, typer.Option("--batch-sizes", help="Images per worker: one number.")
]
ProtocolOption = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        help="fixed-step: every step sees the same images, only batch norm's chunk varies; "
        "paper: 8 workers, the step and its learning rate follow the batch size.",
    ),
]
ImagesOption = Annotated[
    int | None,
    typer.Option(
        "--train-images",
        parser=whole_number,
        metavar="N",
        help="Train on so many images only: the first ones of a data set in memory, a sample with "
        "the same share of every class of image files.",
    ),
]
ImageSizeOption = Annotated[
    int | None, whole("--image-size", "Pixels of the square crop from image files; 224.")
]
UnreadableOption = Annotated[
    float | None,
    typer.Option(
        "--max-unreadable",
        parser=number,
        metavar="SHARE",
        help="Greatest share of the image files that cannot be decoded, as 0.05; more are an "
        "error; 0.01.",
    ),
]
EpochsOption = Annotated[int | None, whole("--epochs", "Passes over the data.")]
SeedsOption = Annotated[int | None, whole("--seeds", "Repetitions of every cell.")]
OutOption = Annotated[
    str | None, typer.Option("--out", metavar="FOLDER", help="Folder of the study.")
]
JobsOption = Annotated[
    int | None, whole("--jobs", "Trials at a time; by default one for every core.")
]
ScaleOption = Annotated[
    str,
    typer.Option(
        "--scale",
        help="quick: minutes; standard: more batch sizes, three seeds; paper: the paper's grid.",
    ),
]
RootOption = Annotated[
    str | None,
    typer.Option("--data-root", metavar="FOLDER", help="Folder to look for data in first."),
]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, or cuda:N for GPU N.")]

TrackOption = Annotated[
    str | None,
    typer.Option("--track", help="tensorboard: curves for TensorBoard, in OUT/tensorboard."),
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="[ADDRESS]",
        help="Run the trials on a Ray cluster. Without ADDRESS, or with local: a Ray started for "
        "this study; auto: the one on this machine; HOST:PORT or ray://HOST:PORT: that one.",
    ),
]
CpusOption = Annotated[
    int | None, whole("--cpus-per-trial", "With --cluster: CPUs, and threads, of a trial; 1.")
]
GpusOption = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-trial",
        parser=number,
        metavar="N",
        help="With --cluster: GPUs of a trial, as 0.5; 1 with --device cuda, else 0.",
    ),
]


class ClusterCommand(TyperCommand):
    """A command whose option --cluster may stand without a value, which then is `local`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a bare --cluster its value, then parse as always."""
        return super().parse_args(ctx, with_address(args))


def with_address(arguments: list[str]) -> list[str]:
    """The arguments with `local` after a --cluster that nothing, or another option, follows."""
    given = []
    for argument, following in zip(arguments, [*arguments, "-"][1:], strict=True):
        given.append(argument)
        if argument == "--cluster" and following.startswith("-"):
            given.append("local")
    return given


def split_norms(text: str) -> tuple[str, ...]:
    """Split a list of specs at its commas, leaving the commas inside a spec alone.

    A piece such as `eps=1e-6` goes on with the spec before it; every other piece begins one.
    """
    specs: list[str] = []
    for piece in text.split(","):
        if specs and re.match(r"\s*\w+\s*=", piece):
            specs[-1] += "," + piece
        else:
            specs.append(piece.strip())
    return tuple(specs)


def integers(text: str, option: str) -> tuple[int, ...]:
    """The whole numbers of a list such as 32,8,2."""
    try:
        return tuple(int(piece) for piece in text.split(","))
    except ValueError:
        raise ValueError(f"{option} takes whole numbers, as 32,8,2; got {text!r}") from None


def named_folder(text: str | None, option: str) -> Path | None:
    """The folder that `option` names; it need not exist.

    Raises:
        ValueError: an empty name, or a file.
    """
    if text is None:
        return None
    if not text.strip():
        raise ValueError(f"{option} is empty; name a folder, or write . for the current one")
    if os.path.exists(text) and not os.path.isdir(text):
        raise ValueError(f"{option} takes a folder, {text} is a file")
    return Path(text)


def existing_folder(text: str | None, option: str) -> Path | None:
    """The folder that `option` names.

    Raises:
        ValueError: an empty name, a file, or nothing there.
    """
    path = named_folder(text, option)
    if path is not None and not path.is_dir():
        raise ValueError(f"{option} takes a folder, {text} does not exist")
    return path
