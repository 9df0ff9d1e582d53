"""groupnorm plan, the memory fit: what fits into a given memory, for each norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from groupnorm.cli.options import JsonOption, whole_number
from groupnorm.cli.terminal import (
    console,
    errors,
    escaped,
    print_json,
    report_interrupt,
    report_user_errors,
    say,
)
from groupnorm.spec import NormSpec
from groupnorm.study.results.format import decimal_text

_NOTE = (
    "Memory of the tensors of a training step. Workspaces, the process (on CUDA its context) "
    "and what the allocator cannot use come on top: on the CPU the resident memory of a ResNet-20 "
    "was 1.3 to 1.4 times as much. docs/cost.md says what is counted."
)
MOST = 1_000_000
"""Of images, pixels and classes that a step's memory is counted for."""


def _count(text: str | int) -> int:
    number = whole_number(text)
    if not 1 <= number <= MOST:
        raise typer.BadParameter(f"it takes 1 to {MOST:,}, got {number}")
    return number


def _counted(option: str, text: str) -> Any:
    return typer.Option(option, parser=_count, metavar="N", help=text)


def memory_fit(
    model: Annotated[
        str,
        typer.Argument(
            help="Classifier or network for video (no detector), as resnet20 or i3d_resnet50."
        ),
    ],
    memory: Annotated[str, typer.Option("--memory", help="What there is, as 16GiB or 800MB.")],
    norms: Annotated[
        str, typer.Option("--norms", help="Normalizations, as bn,gn:groups=8,gn+ws.")
    ] = "bn,gn,gn+ws,frn",
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size", parser=_count, metavar="N", help="Side of the images in pixels."
        ),
    ] = None,
    frames: Annotated[
        int | None, _counted("--frames", "Of a clip, for networks for video.")
    ] = None,
    batch: Annotated[
        int | None, _counted("--batch", "Images of a step (32), or clips (8).")
    ] = None,
    num_classes: Annotated[int | None, _counted("--num-classes", "Outputs of the model.")] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="float32, or bfloat16 for mixed precision.")
    ] = "float32",
    optimizer: Annotated[str, typer.Option("--optimizer", help="sgd or adam.")] = "sgd",
    as_json: JsonOption = False,
) -> None:
    """Largest batch and largest images, or longest clips, that fit into a memory, for each norm.

    For classifiers and networks for video, not for detectors or networks that label pixels.
    """
    with report_interrupt(lambda: "nothing was written"), report_user_errors():
        from groupnorm.cost.fit import parse_memory
        from groupnorm.cost.peak import TrainingStep
        from groupnorm.experiments.options import read_norms

        limit, kind = parse_memory(memory), _kind_of(model, image_size, frames)
        batch = batch or kind.batch
        classes = num_classes or kind.classes
        try:
            specs = read_norms(norms)
        except ValueError as error:
            raise ValueError(f"--norms: {error}") from None
        fits = {}
        with errors.status("counting memory") as status:
            for spec in specs:

                def show(what: str, spec: NormSpec = spec) -> None:
                    status.update(Text(f"{model} with {spec}: {what}"))

                step = TrainingStep(
                    lambda spec=spec: kind.build(norm=spec, num_classes=classes),  # type: ignore[misc]
                    precision=precision,
                    optimizer=optimizer,
                )
                if not errors.is_terminal:
                    errors.print(f"{model} with {escaped(str(spec))} ...", highlight=False)
                fits[str(spec)] = kind.fit(step, limit, batch, show)
        asked = {
            "model": model, "memory_bytes": limit, **kind.asked, "batch": batch,
            "num_classes": classes, "precision": precision, "optimizer": optimizer,
        }  # fmt: skip
        if as_json:
            print_json({**asked, "norms": {spec: _as_json(found) for spec, found in fits.items()}})
            return
        _print(asked, fits)


@dataclass(frozen=True)
class _Kind:
    """What is asked of a model that takes images, or clips.

    Attributes:
        build: makes the model, of a norm and a number of classes.
        fit: from a step, the memory, a batch and what is told before each count to what fits.
        asked: the size of an example, for the record.
        batch: as a rule.
        classes: as a rule.
    """

    build: Callable[..., Any]
    fit: Callable[..., Any]
    asked: dict[str, int]
    batch: int
    classes: int


def _kind_of(model: str, image_size: int | None, frames: int | None) -> _Kind:
    """What is asked of a model by name.

    Raises:
        ValueError: unknown model, a detector, a network for segmentation, clips that it does not
            take, or a length of clips for a model that takes images.
    """
    from groupnorm import models
    from groupnorm.cost.fit import fit, fit_clips
    from groupnorm.models.detection.architectures import DETECTORS
    from groupnorm.models.segmentation.architectures import SEGMENTATION_MODELS
    from groupnorm.models.video.architectures import VIDEO_MODELS

    if model in DETECTORS or model in SEGMENTATION_MODELS:
        what = "is a detector" if model in DETECTORS else "labels pixels"
        raise ValueError(
            f"{model} {what}; plan counts classifiers, such as resnet50, and networks for "
            f"video, {' and '.join(VIDEO_MODELS)}"
        )
    if model not in VIDEO_MODELS:
        usual = models.usual_images(model)
        if frames is not None:
            raise ValueError(f"{model} takes images; --frames is for {' and '.join(VIDEO_MODELS)}")
        size = image_size or usual.size
        return _Kind(
            partial(models.build_model, model),
            lambda step, limit, batch, show: fit(
                step, limit, channels=3, image_size=size, batch=batch,
                multiple=usual.multiple, smallest=usual.smallest, on_count=show,
            ),
            {"image_size": size},
            32,
            usual.classes,
        )  # fmt: skip
    known = VIDEO_MODELS[model]
    models.check_video_model(model, frames=frames, size=image_size)
    size, length = image_size or known.size, frames or known.frames
    return _Kind(
        partial(models.build_video_model, model),
        lambda step, limit, batch, show: fit_clips(
            step, limit, channels=3, image_size=size, frames=length, batch=batch,
            fewest=known.fewest_frames, on_count=show,
        ),
        {"image_size": size, "frames": length},
        8,
        known.classes,
    )  # fmt: skip


def _as_json(found: Any) -> dict[str, Any]:
    fields = asdict(found)
    del fields["limit"]
    return {**fields, "peak": found.step.peak}


def _print(asked: dict[str, Any], fits: dict[str, Any]) -> None:
    size, batch, frames = asked["image_size"], asked["batch"], asked.get("frames")
    one, what = "image", f"{batch} images of {size} x {size}"
    if frames is not None:
        one, what = "clip", f"{batch} clips of {frames} frames of {size} x {size}"
    say(
        f"{asked['model']} in {decimal_text(asked['memory_bytes'] / 2**20, 0)} MiB, "
        f"{asked['precision']}, {asked['optimizer']}; step of {what}; memory in MiB"
    )
    table = Table()
    columns = (
        "norm", "weights", "gradients", "state", f"saved per {one}", "peak", "largest batch",
        "largest images" if frames is None else "most frames",
    )  # fmt: skip
    for index, title in enumerate(columns):
        table.add_column(title, justify="left" if index == 0 else "right")
    for spec, found in fits.items():
        step, saved, largest = found.step, *_found(found)
        numbers = (step.weights, step.gradients, step.optimizer, saved, step.peak)
        table.add_row(
            escaped(spec),
            *(decimal_text(number / 2**20) for number in numbers),
            f"{found.largest_batch:,}" if found.largest_batch else "none fits",
            str(largest) if largest else "none fits",
        )
    console.print(table)
    console.print(_NOTE, highlight=False)


def _found(found: Any) -> tuple[int, int | None]:
    """Bytes saved for one more image or clip, and the largest size."""
    from groupnorm.cost.fit import ClipFit

    if isinstance(found, ClipFit):
        return found.saved_per_clip, found.most_frames
    return found.saved_per_image, found.largest_image_size
