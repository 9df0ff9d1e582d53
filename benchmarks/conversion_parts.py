"""What signs, scales and offsets in front of a group norm do, norm by norm.

    python benchmarks/conversion_parts.py [--groups 8] [--images 256] [--out FOLDER]
    python benchmarks/conversion_parts.py --redraw FOLDER

Trains a ResNet-20 with batch norm on fashion-mnist-mini, takes what each of its norms sees of
training images, and fits a group norm to each norm alone: with nothing in front of it (least
squares for gamma and beta), with signs of channels, with signs and scales, and with offsets too.
Every norm gets the trained network's own input, so that no error of one norm reaches the next.
Writes `conversion_parts.json` with the relative errors on held-out images and, for one group of one
norm, the mean and the deviation in each image; and the figure `conversion_parts.png` of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from torch import Tensor, nn

from groupnorm.conversion.calibration.fit import FitLimits, LayerFit, fit_layer, relative_error
from groupnorm.conversion.calibration.moments import LayerMoments, MomentAccumulator
from groupnorm.conversion.rules import groups_asked
from groupnorm.data import ImageSet
from groupnorm.data.catalog import load
from groupnorm.data.memory.augment import normalize
from groupnorm.environment import environment
from groupnorm.layers import BatchNorm
from groupnorm.run import run
from groupnorm.study.report.figures.render import render_files
from groupnorm.study.report.figures.style import (
    BLUE,
    GREEN,
    ORANGE,
    VERMILLION,
    FigureSpec,
    Panel,
)
from groupnorm.training.config import RunConfig

NAME = "conversion_parts"
PARTS = {
    "least squares": FitLimits(signs=False, scale_limit=0, offset_limit=0),
    "and signs": FitLimits(scale_limit=0, offset_limit=0),
    "and scales": FitLimits(offset_limit=0),
    "and offsets": FitLimits(),
}
COLORS = dict(zip(PARTS, (BLUE, GREEN, ORANGE, VERMILLION), strict=True))
BATCH = 64


def teacher(epochs: int, width: float) -> tuple[nn.Module, RunConfig, float]:
    """A trained network with batch norm, its configuration, and its error on test images in %."""
    config = RunConfig(
        model="resnet20",
        width=width,
        data="fashion-mnist-mini",
        epochs=epochs,
        norm="bn",
        workers=1,
        batch_per_worker=64,
        schedule="cosine",
        base_lr=0.4,
        zero_gamma=False,
        reported_epochs=1,
        evaluate_every=epochs,
    )
    found = run(config, with_cost=False)
    return found.model.eval(), config, found.metrics[-1]["val_error"]


@torch.no_grad()
def moments_of(model: nn.Module, images: Tensor) -> dict[str, LayerMoments]:
    """What each batch norm sees and gives: its name -> the moments of each image and channel."""
    found = {
        name: MomentAccumulator()
        for name, module in model.named_modules()
        if isinstance(module, BatchNorm)
    }
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, inputs, output, name=name: found[name].add(inputs[0], output)
        )
        for name in found
    ]
    for part in images.split(BATCH):  # type: ignore[no-untyped-call]
        model(part)
    for handle in handles:
        handle.remove()
    return {name: accumulator.moments() for name, accumulator in found.items()}


def group_statistics(fit: LayerFit, moments: LayerMoments, group: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation of a group in each image (N,), both in the group's typical deviation."""
    shape = (moments.samples, fit.groups, -1)
    mean_v = (fit.input_scale * moments.mean_x + fit.input_shift).view(shape)[:, group]
    var_v = (fit.input_scale**2 * moments.var_x).view(shape)[:, group]
    mean = mean_v.mean(1)
    var = (var_v + (mean_v - mean.unsqueeze(1)) ** 2).mean(1) + fit.eps
    typical = var.mean().sqrt()
    return (mean - mean.mean()) / typical, var.sqrt() / typical


def measure(model: nn.Module, images: Tensor, groups: int) -> dict[str, Any]:
    """The errors of every norm, and the statistics of one group of the norm in the middle."""
    held = torch.arange(len(images)) % 4 == 2
    found, held_out_of = (moments_of(model, images[part]) for part in (~held, held))
    rows: list[dict[str, Any]] = []
    shown: dict[str, Any] = {}
    for number, (name, fitting) in enumerate(found.items()):
        held_out = held_out_of[name]
        eps = float(model.get_submodule(name).eps)  # type: ignore[arg-type]
        count, _ = groups_asked(name, fitting.channels, f"gn:groups={groups}")
        fits = {
            part: fit_layer(fitting, count, eps=eps, limits=limits)
            for part, limits in PARTS.items()
        }
        rows.append(
            {
                "norm": name,
                "channels": fitting.channels,
                "groups": count,
                "errors": {part: relative_error(fit, held_out) for part, fit in fits.items()},
                "offset_share": fits["and offsets"].offset_share,
            }
        )
        if number == len(found) // 2:
            shown = {"norm": name, "group": 0, "channels": fitting.channels // count}
            for part, fit in fits.items():
                mean, deviation = group_statistics(fit, held_out, 0)
                shown[part] = {"mean": mean.tolist(), "deviation": deviation.tolist()}
        print(name, count, *(f"{error:.4f}" for error in rows[-1]["errors"].values()), flush=True)
    return {"rows": rows, "shown": shown}


def figure(record: Mapping[str, Any]) -> FigureSpec:
    """Statistics of one group over images, and the errors of all norms, for each part."""
    shown = record["shown"]
    what = f"{shown['norm']}, a group of {shown['channels']} channels"
    return FigureSpec(
        NAME,
        "What signs, scales and offsets steady",
        "",
        [
            *(
                Panel(
                    lambda axes, key=key: _spread(axes, shown, key),  # type: ignore[misc]
                    alt=f"{what}: its {key} in each held-out image, for each part of the method",
                    width=3.8,
                )
                for key in ("mean", "deviation")
            ),
            Panel(
                lambda axes: _errors(axes, record["rows"]),
                alt="relative squared error of each norm on held-out images, in order",
            ),
        ],
        columns=3,
    )


def _spread(axes: Axes, shown: Mapping[str, Any], key: str) -> None:
    for row, part in enumerate(PARTS):
        values = shown[part][key]
        axes.plot(values, [-row] * len(values), "|", color=COLORS[part], markersize=13, alpha=0.6)
        axes.annotate(
            f"{part}: {statistics.pstdev(values):.3f}",
            (0.02, -row + 0.4),
            xycoords=("axes fraction", "data"),
            color=COLORS[part],
            fontsize=9,
            va="center",
        )
    axes.set_ylim(-len(PARTS) + 0.5, 0.8)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("in the group's typical deviation")
    axes.set_title(f"{key} of one group in each image")


def _errors(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    for part in PARTS:
        errors = [row["errors"][part] for row in rows]
        axes.plot(range(1, len(rows) + 1), errors, color=COLORS[part], label=part, marker=".")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xticks(range(1, len(rows) + 1, 3))
    axes.set_xlabel("norm, from input to output")
    axes.set_ylabel("relative squared error")
    axes.set_title("error of each norm alone")


def main() -> None:
    """Train, measure, print, write the record and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, default=8, help="at most, 4 channels each at least")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--redraw", type=Path, help="draw the figure of this folder's record")
    arguments = parser.parse_args()
    if arguments.redraw:
        _draw(arguments.redraw)
        return
    torch.set_num_threads(1)
    model, config, error = teacher(arguments.epochs, arguments.width)
    print(f"error of {config.run_name()} on test images: {error:.1f} %", flush=True)
    images = load(config.data)
    assert isinstance(images, ImageSet)
    seen = normalize(images.train_images[: arguments.images], images.mean, images.std)
    record = {
        "command": f"python benchmarks/{NAME}.py",
        "environment": environment(),
        "config": config.model_dump(mode="json"),
        "test_error": error,
        "images": arguments.images,
        **measure(model, seen, arguments.groups),
    }
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record, indent=1) + "\n"
        (arguments.out / f"{NAME}.json").write_text(text, encoding="utf-8")
        _draw(arguments.out)


def _draw(folder: Path) -> None:
    record = json.loads((folder / f"{NAME}.json").read_text(encoding="utf-8"))
    (folder / f"{NAME}.png").write_bytes(render_files(figure(record))["png"])


if __name__ == "__main__":
    main()
