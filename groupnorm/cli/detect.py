"""groupnorm detect: what a trained detector finds in images."""

from __future__ import annotations

import io
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from groupnorm.cli.options import DeviceOption, named_folder, number
from groupnorm.cli.terminal import (
    console,
    errors,
    escaped,
    fail,
    print_json,
    report_interrupt,
    report_user_errors,
    say,
    say_error,
)
from groupnorm.counts import counted
from groupnorm.files import write_atomic
from groupnorm.printable import print_line
from groupnorm.study.results.format import decimal_text

_USUAL = "detections"
_READABLE = 480  # pixels of the long side that a drawing has at least, about
_SECONDS = 2.0  # what takes longer shows how far it has come
_SOFTWARE = "groupnorm detect"  # what the drawings say of themselves


def _score(text: str | float) -> float:
    value = number(text)
    if not 0 <= value <= 1:
        raise typer.BadParameter(f"it takes a number from 0 to 1, got {text}")
    return value


def detect(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="Folder of a run of groupnorm train task=detection, or the checkpoint.pt in it; "
            "the runs of a study are in OUT/runs. Its data set is not needed.",
        ),
    ],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...",
            help="Files: JPEG, PNG, GIF, BMP, PPM, TIFF or WEBP, of any colour space, with pixels "
            "as they are stored (a rotation in EXIF is not applied).",
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            help=f"Folder of the drawings; {_USUAL} by default. With --json nothing is drawn "
            "unless this is given.",
        ),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold",
            parser=_score,
            metavar="SCORE",
            help="Lowest score that is shown, from 0 to 1; detectors have none below 0.05.",
        ),
    ] = 0.5,
    device: DeviceOption = "cpu",
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON: the objects of each image with category, score, box (x0 y0 x1 y1 in "
            "pixels of the image) and mask (COCO's compressed RLE).",
        ),
    ] = False,
) -> None:
    """Draw what a trained detector finds in images: groupnorm detect RUN a.jpg b.jpg.

    Boxes, masks, categories and scores are drawn into OUT/NAME.png and listed. An image that
    cannot be decoded is named and the others go on; the status then is 2.
    """
    folder: Path | None = None

    def kept() -> str:
        return f"what was drawn is kept in {folder}" if folder else "nothing was written"

    with report_interrupt(kept), report_user_errors():
        from groupnorm.data.files.decode import UnreadableError
        from groupnorm.data.issues import DataError
        from groupnorm.study.trained import find_run

        run_folder = find_run(Path(checkpoint))
        folder = named_folder(_USUAL if out is None and not as_json else out, "--out")
        detector, about = _open(run_folder, device)
        if not as_json:
            say(f"run {about['run']}: {about['model']} with {about['norm']}")
        paths = [Path(text) for text in images]
        drawings = [None] * len(paths) if folder is None else _drawings(paths, folder)
        found: list[dict[str, Any]] = []
        unreadable: dict[str, str] = {}
        with _progress(len(paths)) as advance:
            for path, drawing in zip(paths, drawings, strict=True):
                try:
                    found.append(_detect(detector, path, drawing, threshold))
                except UnreadableError as error:
                    unreadable[str(path)] = f"{path}: {error}"
                except DataError as error:
                    unreadable[str(path)] = str(error)
                if str(path) in unreadable:
                    say_error(unreadable[str(path)])
                advance()
        if as_json:
            print_json({**about, "threshold": threshold, "images": found, "unreadable": unreadable})
        else:
            _print_table(found)
            if found:
                say(f"drawn: {counted(len(found), 'image')} in {folder}")
        if unreadable:
            fail(f"{len(paths) - len(found)} of {counted(len(paths), 'image')} could not be read")


def _open(folder: Path, device: str) -> tuple[Any, dict[str, Any]]:
    """The detector of a run, and what is said of it."""
    from groupnorm.run.detector import BuiltFor, TrainedDetector
    from groupnorm.study.trained import read_trained
    from groupnorm.training.device import check_device

    check_device(device)
    run = read_trained(folder)
    config = run.config
    detector = TrainedDetector(config, BuiltFor(**run.built_for), run.weights, device)
    if run.record.status != "finished":
        how = f"note: the run has not finished ({run.record.status})"
        print_line(errors, f"{how}; its weights are those of its last checkpoint")
    about = {
        "run": config.run_name(),
        "model": config.model,
        "norm": config.norm_text,
        "categories": detector.built_for.categories,
    }
    return detector, about


def _detect(detector: Any, path: Path, drawing: Path | None, threshold: float) -> dict[str, Any]:
    """What is found in an image, which is drawn into the file `drawing`.

    Raises:
        UnreadableError, DataError: it cannot be decoded, or not be opened.
    """
    from groupnorm.data.files.decode import is_turned, read_rgb

    image, _ = read_rgb(str(path))
    if is_turned(image):
        print_line(errors, f"note: {path} is used as it is stored; its EXIF says to turn it")
    found = detector.find(image, threshold)
    if found.not_finite:
        what = counted(found.not_finite, "detection")
        print_line(errors, f"note: {path}: {what} whose score or box is not a number are left out")
    if drawing is not None:
        _draw(image, found.objects, detector.built_for.categories, drawing)
    return {
        "image": str(path),
        "width": image.width,
        "height": image.height,
        "drawing": None if drawing is None else str(drawing),
        "objects": found.objects,
    }


def _draw(image: Any, objects: Any, categories: Sequence[str], file: Path) -> None:
    import numpy as np
    from PIL import Image, PngImagePlugin

    from groupnorm.data.detection.drawing import draw_objects, drawn_object

    enlarge = max(1, round(_READABLE / max(image.size)))
    shown = [drawn_object(one, categories, image.height, image.width) for one in objects]
    pixels = draw_objects(np.asarray(image), shown, enlarge)
    about = PngImagePlugin.PngInfo()
    about.add_text("Software", _SOFTWARE)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=about)
    write_atomic(file, buffer.getvalue())


def _drawings(images: Sequence[Path], folder: Path) -> list[Path]:
    """The file of each drawing: NAME.png, or NAME-2.png and so on where that is taken.

    Taken is what another image of this command has, and every file that no such command drew.
    """
    inputs = {path.resolve() for path in images}
    taken: set[str] = set()
    drawings = []
    for path in images:
        stem = os.fsdecode(os.fsencode(path.stem)[:200])  # with what is added, a name has 255 bytes
        names = itertools.chain([stem], (f"{stem}-{n}" for n in itertools.count(2)))
        for name in names:
            drawing = folder / f"{name}.png"
            if name.casefold() not in taken and _may_be_written(drawing, inputs):
                break
        taken.add(name.casefold())
        drawings.append(drawing)
    return drawings


def _may_be_written(file: Path, inputs: set[Path]) -> bool:
    from PIL import Image

    if not os.path.lexists(file):
        return True
    if file.resolve() in inputs or not file.is_file():
        return False
    try:
        with Image.open(file, formats=["PNG"]) as drawing:
            return bool(drawing.info.get("Software") == _SOFTWARE)
    except Exception:  # a damaged image can raise nearly anything
        return False


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """A function to call after each image; on a terminal a bar appears if it takes long."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    )
    task = bar.add_task("images", total=total)
    began = time.monotonic()

    def advance() -> None:
        bar.advance(task)
        if time.monotonic() - began > _SECONDS and not bar.finished:
            bar.start()

    try:
        yield advance
    finally:
        bar.stop()


def _print_table(found: Sequence[dict[str, Any]]) -> None:
    table = Table()
    for title, justify in (
        ("image", "left"), ("category", "left"), ("score", "right"), ("box (x0 y0 x1 y1)", "right"),
    ):  # fmt: skip
        table.add_column(title, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for image in found:
        name = image["image"]
        for one in image["objects"] or [None]:
            cells = ("nothing found", "", "")
            if one is not None:
                box = " ".join(decimal_text(value, 0) for value in one["box"])
                cells = (one["category"], decimal_text(one["score"], 2), box)
            table.add_row(*(escaped(text) for text in (name, *cells)))
            name = ""
    if found:
        console.print(table)
