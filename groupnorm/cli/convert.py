"""groupnorm convert: a pretrained network with group norm, from a checkpoint and some images."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from groupnorm.cli.options import (
    ArgumentsOption,
    DeviceOption,
    existing_folder,
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
from groupnorm.counts import counted
from groupnorm.files import check_folder_name, check_writable, write_together
from groupnorm.printable import print_line

_FILES = ("report.json", "report.md", "layers.svg", "layers.pdf", "layers.png", "converted.pt")


def _three(text: str) -> tuple[float, ...]:
    values = tuple(number(part) for part in text.split(","))
    if len(values) != 3:
        raise typer.BadParameter(f"it takes three numbers, as 0.5,0.5,0.5, got {text}")
    return values


def _colours(option: str, what: str) -> Any:
    text = (
        f"{what} of red, green and blue, for pixels from 0 to 1; by default timm's, or ImageNet's."
    )
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
    option: ArgumentsOption = None,
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
    offset_limit: Annotated[
        float | None,
        typer.Option(
            "--offset-limit",
            parser=number,
            metavar="D",
            help="Largest offset of a channel before its norm, in deviations of the channel; 4 by "
            "default. With less, layers normalize more and the network loses more; 0 allows none.",
        ),
    ] = None,
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
    written: list[Path] = []

    def kept() -> str:
        return f"the result is in {written[0]}" if written else "nothing was written"

    with report_interrupt(kept), report_user_errors():
        from groupnorm.conversion import preview
        from groupnorm.run.conversion.network import current_folder_importable
        from groupnorm.training.device import check_device

        check_device(device)
        _check_choices(to, hybrid, plain, finetune_steps, seed)
        source = Path(checkpoint)
        if not source.is_file():
            raise ValueError(f"there is no file {checkpoint!r}; expected the network's weights")
        default = source.with_name(f"{source.stem}-{_slug(to)}")
        chosen = str(default) if out is None else out
        check_folder_name(chosen, "--out")
        folder = Path(chosen)
        photos = existing_folder(images, "--images")
        if photos is None and not dry_run:
            raise ValueError("--images is needed: a folder of images like those of the network")
        if not dry_run:
            _check_folder(folder, overwrite)
        tell = _nothing if as_json else say
        with current_folder_importable():
            built, about = _load(source, network, option or [], device, tell)
            size = built.size if size is None else size
            if dry_run:
                _preview(built.model, to, only, size, device, as_json)
                return
            assert photos is not None
            preview(built.model, to, only=only or None)  # what is wrong is found at once
            limits = _limits(offset_limit)
            choice = (count, held_out, size, mean or built.mean, std or built.std)
            split = _split(photos, choice, to, labels, built.model, device, tell)
            converted, report = _converted(
                built.model, to, split, only=only or None, hybrid=hybrid, plain=plain,
                finetune_steps=finetune_steps, seed=seed, progress=True, **limits,
            )  # fmt: skip
            found = _compared(built.model, converted, split, device)
        about["images"] = "; ".join([f"{photos}: {_in_words(split, choice)}", *split.notes])
        code = _code(built.code, folder)
        write_together(folder, _files(converted, report, found, about, code))
        written.append(folder)
        if as_json:
            print_json(
                {
                    **about,
                    "folder": str(folder),
                    "unreadable": split.unreadable,
                    "notes": list(split.notes),
                    "comparison": asdict(found),
                    "report": report.to_dict(),
                }
            )
            return
        _print_result(report, found, split, folder, code)


def _check_choices(to: str, hybrid: float, plain: bool, finetune_steps: int, seed: int) -> None:
    """Check what `convert` would refuse in Python's words, once all images are decoded."""
    from groupnorm.spec import NormSpec

    spec = NormSpec.parse(to)
    no_number = spec.groups is None and spec.size is None
    if not spec.is_group_norm or (no_number and spec.num_groups(2) == 2):  # a group a channel
        raise ValueError(
            f"--to must be gn, with groups or size if wanted, or ln, got {to!r}: others have no "
            "groups, or compute what the network does"
        )
    if not 0 <= hybrid <= 1:
        raise ValueError(f"--hybrid must be a number from 0 to 1, got {hybrid:g}")
    if plain and hybrid != 1:
        raise ValueError(f"--plain has no --hybrid below 1, which is no plain norm, got {hybrid:g}")
    for option, value in (("--finetune-steps", finetune_steps), ("--seed", seed)):
        if value < 0:
            raise ValueError(f"{option} must be a whole number, 0 or more, got {value}")


def _slug(to: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in to).split())


def _nothing(_: str) -> None:
    """What `say` does for --json."""


def _check_folder(folder: Path, overwrite: bool) -> None:
    """Check that the result can be written, before anything is converted."""
    there = [name for name in _FILES if (folder / name).exists()]
    if there and not overwrite:
        raise ValueError(
            f"{folder} holds {', '.join(there)}; name another folder with --out, or replace these "
            "with --overwrite"
        )
    for name in there:
        if (folder / name).is_dir():
            raise ValueError(f"{folder / name} is a folder; name another folder with --out")
    exists = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        check_writable(exists)
    except OSError as error:
        raise ValueError(
            f"{exists} cannot be written to ({error.strerror}); name another folder with --out"
        ) from None


def _limits(offset_limit: float | None) -> dict[str, Any]:
    """The argument of `convert` for the limits that are asked for."""
    from groupnorm.conversion import FitLimits

    if offset_limit is None:
        return {}
    try:
        return {"limits": FitLimits(offset_limit=offset_limit)}
    except ValueError as error:
        raise ValueError(f"--offset-limit: {error}") from None


def _load(
    source: Path, name: str, options: Sequence[str], device: str, tell: Callable[[str], None]
) -> tuple[Any, dict[str, str]]:
    """The network with the weights of the checkpoint, and what is said of both."""
    from groupnorm.run.conversion.network import build_network
    from groupnorm.run.conversion.weights import load_weights

    built = build_network(name, read_settings(options))
    tell(f"network: {built.origin}")
    notes = load_weights(built.model, source)
    for note in notes:
        tell(f"{source}: {note}")
    built.model.to(device).eval()
    return built, {
        "network": built.origin,
        "checkpoint": f"{source}{''.join(f'; {note}' for note in notes)}",
    }


def _preview(
    model: Any, to: str, only: list[str] | None, size: int, device: str, as_json: bool
) -> None:
    import torch

    from groupnorm.conversion import preview
    from groupnorm.run.conversion.memory import check_memory

    check_memory(2, size)
    report = preview(model, to, only=only or None, example=torch.zeros(2, 3, size, size).to(device))
    if as_json:
        print_json(report.to_dict())
        return
    say(str(report))
    say("nothing was written; groups are those without images, which may ask for others")


def _split(
    folder: Path,
    choice: tuple[Any, ...],
    to: str,
    labels: bool,
    model: Any,
    device: str,
    tell: Callable[[str], None],
) -> Any:
    """The images in two parts, of which the held-out ones have fitting labels."""
    from groupnorm.run.conversion.comparison import check_classes, check_outputs
    from groupnorm.run.conversion.images import split_images

    split = split_images(folder, *choice, to=to, with_classes=labels)
    for note in split.notes:
        print_line(errors, f"note: {note}")
    for part, paths in zip((split.calibration, split.held_out), split.paths, strict=True):
        with _memory_in_words(), _in_words_of_the_command(paths):
            check_outputs(model, part, device)
    if labels:
        check_classes(model, split.held_out[0], split.classes, device)
    tell(f"images: {_in_words(split, choice)}")
    return split


def _in_words(split: Any, choice: tuple[Any, ...]) -> str:
    size, mean, std = choice[2:]
    calibration, held_out = map(len, split.paths)
    colours = "; ".join(
        f"{what} {', '.join(f'{value:g}' for value in values)}"
        for what, values in (("mean", mean), ("deviation", std))
    )
    return (
        f"{calibration:,} to calibrate on, {held_out:,} held out, {size} x {size} pixels, {colours}"
    )


@contextmanager
def _memory_in_words() -> Iterator[None]:
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise RuntimeError(
            "the GPU has too little memory; take fewer images (--count), smaller ones (--size), or "
            "--device cpu"
        ) from None


@contextmanager
def _in_words_of_the_command(paths: Sequence[str]) -> Iterator[None]:
    """An error about a sample says which file that is; one about the input, what to do."""
    from groupnorm.conversion.example import NotRunError
    from groupnorm.conversion.finite import NotFiniteError

    try:
        yield
    except NotRunError as error:
        raise ValueError(
            f"{error}. Where it takes anything but colour images (N, 3, S, S), --network "
            "MODULE:FUNCTION can name a function that makes a module around it"
        ) from None
    except NotFiniteError as error:
        which = "" if error.sample is None else f"; that is {paths[error.sample]}"
        raise ValueError(f"{error}{which}") from None


def _converted(model: Any, to: str, split: Any, **options: Any) -> tuple[Any, Any]:
    from groupnorm.conversion import convert

    with _memory_in_words(), _in_words_of_the_command(split.paths[0]):
        return convert(model, to, data=split.calibration, **options)


def _compared(before: Any, after: Any, split: Any, device: str) -> Any:
    from groupnorm.run.conversion.comparison import compare

    with _memory_in_words(), _in_words_of_the_command(split.paths[1]):
        return compare(before, after, split.labelled(), device)


def _code(made: Sequence[str], folder: Path) -> list[str]:
    """Lines of Python that load the result."""
    imports, model = made
    return [
        "import torch",
        imports,
        "",
        "from groupnorm.conversion import ConversionReport, rebuild",
        "",
        model,
        f"model = rebuild(model, ConversionReport.load({str(folder / 'report.json')!r}))",
        f"model.load_state_dict(torch.load({str(folder / 'converted.pt')!r}))",
        "model.eval()",
    ]


def _files(
    converted: Any, report: Any, found: Any, about: dict[str, str], code: Sequence[str]
) -> dict[str, Any]:
    """The files of the result, the weights at the end."""
    import torch

    from groupnorm.environment import software
    from groupnorm.study.report.conversion_page import conversion_files

    about = {"command": this_command(), **about}
    about["versions"] = ", ".join(f"{key} {value}" for key, value in software().items())
    state = {key: value.detach().cpu() for key, value in converted.state_dict().items()}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    files: dict[str, Any] = {
        "report.json": json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n",
        **conversion_files(report, found, about, code),
        "converted.pt": [buffer.getbuffer()],
    }
    return {name: files[name] for name in _FILES}


def _print_result(report: Any, found: Any, split: Any, folder: Path, code: Sequence[str]) -> None:
    from groupnorm.study.report.conversion_page import HEADER, comparison_notes, comparison_rows

    say(report.summary())
    table = Table()
    for index, title in enumerate(HEADER):
        table.add_column(title, justify="left" if index == 0 else "right")
    for row in comparison_rows(found):
        table.add_row(*map(escaped, row))
    console.print(table)
    for note in [*split.notes, *comparison_notes(found), *report.notes]:
        say(note)
    if report.skipped:
        say(f"{counted(len(report.skipped), 'norm')} left as they are: report.md has the reasons")
    say(f"written: {', '.join(_FILES)} in {folder}")
    say("To load it:")
    for line in code:
        say(f"    {line}".rstrip())
