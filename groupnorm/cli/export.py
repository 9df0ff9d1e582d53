"""groupnorm export: a network for another runtime, run there before it is kept."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from groupnorm.cli.export_inspect import inspect
from groupnorm.cli.options import (
    ArgumentsOption,
    ReportJsonOption,
    existing_folder,
    number,
    read_settings,
    whole,
)
from groupnorm.cli.terminal import (
    console,
    escaped,
    print_json,
    report_interrupt,
    report_user_errors,
    say,
)
from groupnorm.counts import counted

if TYPE_CHECKING:
    from groupnorm.export import ExportReport

_WRITE = "network"
EVERY = "all"


class _Export(TyperGroup):
    """`groupnorm export NETWORK OUT` beside the commands `inspect` and `verify`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """What is no command is a network."""
        if args and args[0] not in self.commands:
            args = [_WRITE, *args]
        return super().resolve_command(ctx, args)


export_app = typer.Typer(
    cls=_Export,
    help="Take a network to another runtime, and prove it by running the file there.\n\n"
    "groupnorm export NETWORK OUT writes one; groupnorm export network --help has its options.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _shape(text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"it takes sizes, as 1x3x224x224, got {text}")
    return tuple(map(int, parts))


def _axes(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isdecimal() for part in parts):
        raise typer.BadParameter(f"it takes numbers of axes, as 0,2,3, got {text}")
    return tuple(int(part) for part in parts)


@export_app.command(_WRITE)
def write(
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK",
            help="MODULE:FUNCTION that makes the network, torchvision/NAME or timm/NAME. MODULE is "
            "imported from this folder or the installed packages: its code runs. The network is "
            "put into evaluation mode.",
        ),
    ],
    out: Annotated[
        str,
        typer.Argument(
            metavar="OUT",
            help="The file to write, with the runtime's ending, as net.onnx; with --to all a "
            "folder.",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="RUNTIME",
            help="onnxruntime, openvino, ncnn, executorch, executorch-portable, litert, coreml, or "
            "all that are installed.",
        ),
    ] = "onnxruntime",
    example: Annotated[
        Any,
        typer.Option(
            "--example",
            parser=_shape,
            metavar="SHAPE",
            help="Shape of the network's input, as 1x3x224x224; normal numbers are drawn.",
        ),
    ] = "1x3x224x224",
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            help="The network's weights, .pt, .pth or .safetensors; by default those that the "
            "function gives it.",
        ),
    ] = None,
    option: ArgumentsOption = None,
    dynamic: Annotated[
        Any,
        typer.Option(
            "--dynamic",
            parser=_axes,
            metavar="AXES",
            help="Axes whose size may change, as 0,2,3 for batch, height and width.",
        ),
    ] = "",
    dtype: Annotated[
        str, typer.Option("--dtype", metavar="DTYPE", help="float32 or float16.")
    ] = "float32",
    calibrate: Annotated[
        str | None,
        typer.Option(
            "--calibrate",
            metavar="FOLDER",
            help="Images like those that the network is for: what goes into its norms is brought "
            "near to zero, which half types need.",
        ),
    ] = None,
    count: Annotated[int, whole("--count", "Images to calibrate on.")] = 64,
    form: Annotated[
        str | None,
        typer.Option(
            "--form",
            metavar="FORM",
            help="plain, instance, pooled or blocked: how group norm is written, in place of what "
            "the runtime does best.",
        ),
    ] = None,
    opset: Annotated[
        int | None,
        whole("--opset", "Of ONNX; from 21 on --tolerance is needed, for ONNX Runtime's is wrong."),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            parser=number,
            metavar="E",
            help="Largest absolute error of the outputs to allow, in place of four times "
            "PyTorch's own.",
        ),
    ] = None,
    as_json: ReportJsonOption = False,
) -> None:
    """Write a network for a runtime, run the file there, and keep it if it is right."""
    with report_interrupt(lambda: "no half-written file is left"), report_user_errors():
        from groupnorm.export.targets import TARGETS, target_of
        from groupnorm.run.conversion.network import build_network, current_folder_importable
        from groupnorm.run.conversion.weights import load_weights

        if to != EVERY:
            target_of(to)
        folder = existing_folder(calibrate, "--calibrate")
        with current_folder_importable():
            built = build_network(network, read_settings(option or []))
            if checkpoint is not None:
                if not Path(checkpoint).is_file():
                    raise ValueError(f"--checkpoint: there is no file {checkpoint!r}")
                for note in load_weights(built.model, Path(checkpoint)):
                    say(f"{checkpoint}: {note}") if not as_json else None
            built.model.eval()
            images = None if folder is None else _images(folder, count, example, built)
            options = {
                "dynamic": dynamic, "dtype": dtype, "calibration": images, "form": form,
                "opset": opset, "tolerance": tolerance,
            }  # fmt: skip
            paths = {to: Path(out)}
            if to == EVERY:
                Path(out).mkdir(parents=True, exist_ok=True)
                paths = {name: Path(out) / f"{name}{TARGETS[name].ending}" for name in TARGETS}
            reports, refused = _save_each(built.model, paths, example, options, to == EVERY)
        if as_json:
            print_json(
                {
                    "reports": {name: _values(report) for name, report in reports.items()},
                    "refused": refused,
                }
            )
        else:
            _print(reports, refused, paths)
        if not reports:
            raise typer.Exit(2)


@export_app.command("verify")
def verify(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A file that was exported.")],
    as_json: ReportJsonOption = False,
) -> None:
    """Run an exported file again, as on another machine, on the inputs that its report keeps."""
    with report_user_errors():
        from groupnorm.export import verify as check

        report = check(path)
    if as_json:
        print_json(_values(report))
        return
    console.print(_checks(report))


export_app.command("inspect")(inspect)


def _images(folder: Path, count: int, example: tuple[int, ...], built: Any) -> Any:
    """Calibration images of the example's size, in batches."""
    from groupnorm.run.conversion.images import FEWEST, split_images

    if len(example) != 4 or example[1] != 3 or example[2] != example[3]:
        raise ValueError(
            f"--calibrate takes colour images of one side, so --example must be Nx3xSxS, got "
            f"{'x'.join(map(str, example))}"
        )
    split = split_images(folder, count, FEWEST[1], example[2], built.mean, built.std, to="gn")
    return split.calibration


def _save_each(
    model: Any,
    paths: dict[str, Path],
    example: tuple[int, ...],
    options: dict[str, Any],
    every: bool,
) -> tuple[dict[str, ExportReport], dict[str, str]]:
    """Reports of what was written, and, where all runtimes were asked for, reasons for the rest."""
    import torch

    from groupnorm.export import ExportError, save

    drawn = torch.randn(example, generator=torch.Generator().manual_seed(0))
    reports, refused = {}, {}
    for name, path in paths.items():
        try:
            own = dict(options)
            if every and name != "onnxruntime":  # no other runtime's files have an opset
                del own["opset"]
            with console.status(f"{name}: writing, running, comparing"):
                reports[name] = save(model, path, drawn, name, **own)
        except ExportError as error:
            if not every:
                raise
            refused[name] = str(error)
    return reports, refused


def _values(report: ExportReport) -> dict[str, Any]:
    """A report without the inputs that it keeps."""
    return {key: value for key, value in asdict(report).items() if key != "kept"}


def _print(
    reports: dict[str, ExportReport], refused: dict[str, str], paths: dict[str, Path]
) -> None:
    if len(paths) == 1:
        (report,) = reports.values()
        _print_changes(report)
        console.print(_checks(report))
        say(_summary(report))
    elif reports:
        console.print(_comparison(reports))
    for name, report in reports.items():
        say(f"wrote {paths[name]}")
        if report.not_run is not None:
            say(f"  {report.not_run}; its numbers were not checked")
        for form, why in report.refused_forms.items():
            say(f"  not as {form}: {', '.join(line.strip() for line in why.splitlines()[:2])}")
        for note in report.notes:
            say(f"  {note}")
    for name, reason in refused.items():
        say(f"not written, {name}: {reason}")


def _print_changes(report: ExportReport) -> None:
    counts: dict[str, int] = {}
    for row in report.prepared:
        counts[row["action"]] = counts.get(row["action"], 0) + 1
    for action, many in counts.items():
        say(f"{action}: {many}")
    if report.ranges:
        table = Table("norm", "|mean| / spread", "conditioned", "largest |x|", "conditioned")
        for row in report.ranges:
            table.add_row(
                escaped(row["layer"]),
                *(
                    f"{row[key]:.3g}"
                    for key in (
                        "offset_before", "offset_after", "largest_before", "largest_after",
                    )
                ),
            )  # fmt: skip
        console.print(table)


def _summary(report: ExportReport) -> str:
    parts = [f"group norms in the form {report.form}", f"{report.nbytes / 1000:,.0f} KB"]
    parts.append(counted(sum(report.operators.values()), "operator"))
    if report.delegates is not None:
        parts.append(counted(report.delegates, "delegate"))
    if report.milliseconds:
        ours, eager = (report.milliseconds[key] for key in ("runtime", "PyTorch"))
        parts.append(f"{ours:.2f} ms, PyTorch {eager:.2f} ms on one thread")
    return "; ".join(parts)


def _checks(report: ExportReport) -> Table:
    """Of the network each check, of each norm the one that comes nearest to what is allowed."""
    from groupnorm.export.gate.check import label
    from groupnorm.export.gate.norms import nearest

    table = Table("on", "error", "allowed", "PyTorch", "|mean| / spread")
    for check in report.checks:
        table.add_row(
            label(check), f"{check.error:.1e}", f"{check.allowed:.1e}", f"{check.pytorch:.1e}", ""
        )
    for norm in nearest(report.norms):
        table.add_row(
            escaped(label(norm)), f"{norm.error:.1e}", f"{norm.allowed:.1e}", "",
            f"{norm.ratio:.3g}",
        )  # fmt: skip
    return table


def _comparison(reports: dict[str, ExportReport]) -> Table:
    table = Table("runtime", "form", "error", "allowed", "ms", "PyTorch", "KB", "operators")
    for name, report in reports.items():
        worst = max(report.checks, key=lambda check: check.closeness, default=None)
        table.add_row(
            name,
            report.form,
            "not run" if worst is None else f"{worst.error:.1e}",
            "" if worst is None else f"{worst.allowed:.1e}",
            *(
                f"{report.milliseconds[key]:.2f}" if report.milliseconds else ""
                for key in ("runtime", "PyTorch")
            ),
            f"{report.nbytes / 1000:,.0f}",
            str(sum(report.operators.values())),
        )
    return table
