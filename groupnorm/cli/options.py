"""The options that several commands share, and how their texts are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from groupnorm.files import check_folder_name


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


OutOption = Annotated[
    str | None, typer.Option("--out", metavar="FOLDER", help="Folder of the study.")
]
JobsOption = Annotated[
    int | None, whole("--jobs", "Trials at a time; by default one for every core.")
]
RootOption = Annotated[
    str | None,
    typer.Option("--data-root", metavar="FOLDER", help="Folder to look for data in first."),
]
ArgumentsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="Argument of the network's function, as num_classes=10; repeatable.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
ReportJsonOption = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, or cuda:N for GPU N.")]

TrackOption = Annotated[
    str | None,
    typer.Option("--track", help="tensorboard: curves for TensorBoard, in OUT/tensorboard."),
]
StopOption = Annotated[
    bool,
    typer.Option(
        "--stop-at-first-failure",
        help="End the study when a trial fails; the others are stopped, and go on next time.",
    ),
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
    """The arguments with `local` after a --cluster that no address follows.

    That is nothing, another option, or KEY=VALUE.
    """
    given = []
    for argument, following in zip(arguments, [*arguments, "-"][1:], strict=True):
        given.append(argument)
        if argument == "--cluster" and (following.startswith("-") or "=" in following):
            given.append("local")
    return given


def read_settings(settings: Iterable[str]) -> dict[str, Any]:
    """KEY=VALUE arguments as a dict.

    Raises:
        ValueError: an argument without "=", or a key that is given twice.
    """
    fields: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"expected KEY=VALUE, got {setting!r}")
        if key in fields:
            raise ValueError(f"{key} is given twice, as {key}={fields[key]} and as {setting}")
        fields[key] = value
    return fields


def settings_help(intro: str, fields: Mapping[str, str]) -> str:
    """The help of KEY=VALUE arguments: a line for each field."""
    lines = [f"{name}: {' '.join(text.split())}" for name, text in fields.items()]
    return "\n\n".join([intro, *lines])  # the help joins lines, but not paragraphs


def named_folder(text: str | None, option: str) -> Path | None:
    """The folder that `option` names; it need not exist.

    Raises:
        ValueError: there can be no such folder.
    """
    if text is None:
        return None
    check_folder_name(text, option)
    return Path(text)


def existing_folder(text: str | None, option: str) -> Path | None:
    """The folder that `option` names.

    Raises:
        ValueError: an empty name, a file, or nothing there.
    """
    path = named_folder(text, option)
    if path is not None and not path.is_dir():
        raise ValueError(f"{option} takes a folder, {text} does not exist; name one that does")
    return path
