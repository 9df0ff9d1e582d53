"""groupnorm plan, the memory fit: what fits into a given memory, for each norm."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from groupnorm.cli.options import whole_number
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
    model: Annotated[str, typer.Argument(help="Model, as resnet20, resnet50 or vgg16.")],
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
    batch: Annotated[int, _counted("--batch", "Images of a step.")] = 32,
    num_classes: Annotated[int | None, _counted("--num-classes", "Outputs of the model.")] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="float32, or bfloat16 for mixed precision.")
    ] = "float32",
    optimizer: Annotated[str, typer.Option("--optimizer", help="sgd or adam.")] = "sgd",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Largest batch and largest images that fit into a memory, for each norm."""
    with report_interrupt(lambda: "nothing was written"), report_user_errors():
        from groupnorm.cost.fit import fit, parse_memory
        from groupnorm.cost.peak import TrainingStep
        from groupnorm.experiments.options import read_norms
        from groupnorm.models import build_model, usual_images

        limit, usual = parse_memory(memory), usual_images(model)
        size = image_size or usual.size
        classes = num_classes or usual.classes
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
                    lambda spec=spec: build_model(model, norm=spec, num_classes=classes),  # type: ignore[misc]
                    precision=precision,
                    optimizer=optimizer,
                )
                if not errors.is_terminal:
                    errors.print(f"{model} with {escaped(str(spec))} ...", highlight=False)
                fits[str(spec)] = fit(
                    step, limit, channels=3, image_size=size, batch=batch,
                    multiple=usual.multiple, smallest=usual.smallest, on_count=show,
                )  # fmt: skip
        asked = {
            "model": model, "memory_bytes": limit, "image_size": size, "batch": batch,
            "num_classes": classes, "precision": precision, "optimizer": optimizer,
        }  # fmt: skip
        if as_json:
            print_json({**asked, "norms": {spec: _as_json(found) for spec, found in fits.items()}})
            return
        _print(asked, fits)


def _as_json(found: Any) -> dict[str, Any]:
    fields = asdict(found)
    del fields["limit"]
    return {**fields, "peak": found.step.peak}


def _print(asked: dict[str, Any], fits: dict[str, Any]) -> None:
    size, batch = asked["image_size"], asked["batch"]
    say(
        f"{asked['model']} in {decimal_text(asked['memory_bytes'] / 2**20, 0)} MiB, "
        f"{asked['precision']}, {asked['optimizer']}; step of {batch} images of {size} x {size}; "
        "memory in MiB"
    )
    table = Table()
    columns = (
        "norm", "weights", "gradients", "state", "saved per image", "peak", "largest batch",
        "largest images",
    )  # fmt: skip
    for index, title in enumerate(columns):
        table.add_column(title, justify="left" if index == 0 else "right")
    for spec, found in fits.items():
        step, side = found.step, found.largest_image_size
        numbers = (step.weights, step.gradients, step.optimizer, found.saved_per_image, step.peak)
        table.add_row(
            escaped(spec),
            *(decimal_text(number / 2**20) for number in numbers),
            f"{found.largest_batch:,}" if found.largest_batch else "none fits",
            str(side) if side else "none fits",
        )
    console.print(table)
    console.print(_NOTE, highlight=False)
