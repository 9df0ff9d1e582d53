"""The command line. Each verb imports its part when it is called."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

try:
    import typer
    from rich.console import Console
    from rich.table import Table
except ModuleNotFoundError as missing:
    raise SystemExit(
        f"the command line needs {missing.name}; install it with: pip install 'groupnorm[study]'"
    ) from None

app = typer.Typer(
    help="Group Normalization for PyTorch, and the study that compares normalizations.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
study_app = typer.Typer(
    help="Compare normalizations by training many small networks.", no_args_is_help=True
)
app.add_typer(study_app, name="study")
console = Console()
errors = Console(stderr=True)

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
EpochsOption = Annotated[int | None, typer.Option("--epochs", help="Passes over the data.")]
SeedsOption = Annotated[int | None, typer.Option("--seeds", help="Repetitions of every cell.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder of the study.")]
JobsOption = Annotated[
    int | None, typer.Option("--jobs", help="Trials at a time; by default one for every core.")
]
ScaleOption = Annotated[
    str,
    typer.Option(
        "--scale",
        help="quick: minutes; standard: more batch sizes, three seeds; paper: the paper's grid.",
    ),
]
RootOption = Annotated[
    Path | None, typer.Option("--data-root", help="Folder to look for data in first.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu or cuda.")]


@study_app.command("batch-size")
def study_batch_size(
    data: DataOption = None,
    model: ModelOption = None,
    norms: NormsOption = None,
    batch_sizes: SizesOption = None,
    protocol: ProtocolOption = None,
    epochs: EpochsOption = None,
    seeds: SeedsOption = None,
    scale: ScaleOption = "quick",
    out: OutOption = None,
    jobs: JobsOption = None,
    device: DeviceOption = "cpu",
    data_root: RootOption = None,
) -> None:
    """Error against images per worker, for several norms (the paper's Table 2)."""
    _study("batch-size", locals())


@study_app.command("norms")
def study_norms(
    data: DataOption = None,
    model: ModelOption = None,
    norms: NormsOption = None,
    batch_sizes: SizeOption = None,
    protocol: ProtocolOption = None,
    epochs: EpochsOption = None,
    seeds: SeedsOption = None,
    scale: ScaleOption = "quick",
    out: OutOption = None,
    jobs: JobsOption = None,
    device: DeviceOption = "cpu",
    data_root: RootOption = None,
) -> None:
    """Training and validation curves of BN, LN, IN and GN (the paper's Figure 4)."""
    _study("norms", locals())


@study_app.command("groups")
def study_groups(
    data: DataOption = None,
    model: ModelOption = None,
    batch_sizes: SizeOption = None,
    protocol: ProtocolOption = None,
    epochs: EpochsOption = None,
    seeds: SeedsOption = None,
    scale: ScaleOption = "quick",
    out: OutOption = None,
    jobs: JobsOption = None,
    device: DeviceOption = "cpu",
    data_root: RootOption = None,
) -> None:
    """Error against number of groups and channels per group (the paper's Table 3)."""
    _study("groups", locals())


def _study(name: str, given: dict[str, Any]) -> None:
    with _errors_in_words():
        from groupnorm.study import STUDIES, StudyOptions, run_study

        out: Path = given.pop("out") or Path(f"groupnorm-study-{name}")
        jobs, device, root = given.pop("jobs"), given.pop("device"), given.pop("data_root")
        chosen = {key: value for key, value in given.items() if value is not None}
        if "norms" in chosen:
            chosen["norms"] = split_norms(chosen["norms"])
        if "batch_sizes" in chosen:
            chosen["batch_sizes"] = _integers(chosen["batch_sizes"], "--batch-sizes")
        plan = STUDIES[name](_options(StudyOptions, chosen))
        command = shlex.join(["groupnorm", *sys.argv[1:]])
        console.print(
            f"{plan.title}: {len(plan.cells)} cells, {len(plan.configs)} distinct runs, "
            f"{plan.protocol} protocol, on {plan.options.data}, in {out}",
            highlight=False,
            soft_wrap=True,
        )
        for skip in plan.skipped:
            console.print(f"skipped {skip['labels']['norm']}: {skip['reason']}", highlight=False)
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            outcome = run_study(
                plan,
                out,
                jobs=jobs,
                device=device,
                data_root=root,
                command=command,
                console=console,
            )
        except KeyboardInterrupt:
            errors.print(
                f"stopped; what was finished is kept in {out}. To continue: {command}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
            raise typer.Exit(130) from None
        _print_main_table(out)
        console.print(f"report: {outcome.report}", highlight=False, soft_wrap=True)
        failed = [record for record in outcome.records if record.status == "failed"]
        if failed:
            _fail(
                f"{len(failed)} of {len(outcome.records)} runs failed; the report says why. "
                "The same command tries them again."
            )


@app.command("report")
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a study.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the main table as JSON.")] = False,
) -> None:
    """Rebuild report.html, tables.csv and the figures of a study from its records."""
    with _errors_in_words():
        from groupnorm.study.report import build_report, main_table

        path = build_report(folder)
        if as_json:
            header, rows = main_table(folder)
            _print_json([dict(zip(header, row, strict=True)) for row in rows])
            return
        _print_main_table(folder)
        console.print(f"report: {path}", highlight=False, soft_wrap=True)


@app.command("train")
def train(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="KEY=VALUE for the fields of RunConfig: model, width, shortcut, norm, data, "
            "train_images, workers, batch_per_worker, epochs or steps, schedule, warmup_epochs, "
            "base_lr, momentum, nesterov, weight_decay, precision, memory_format, seed."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="JSON file of a RunConfig to start from.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the record and the checkpoint to continue from."),
    ] = None,
    device: DeviceOption = "cpu",
    data_root: RootOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every epoch as JSON.")] = False,
) -> None:
    """Train one configuration: groupnorm train norm=bn batch_per_worker=2 epochs=5."""
    with _errors_in_words():
        import tempfile

        import torch

        from groupnorm.study.record import record_run
        from groupnorm.training.config import RunConfig

        run_config = _options(RunConfig, _read_settings(config, settings or []))

        def show(metrics: dict[str, Any]) -> None:
            if as_json:
                _print_json(metrics, indent=None)
                return
            console.print(
                f"epoch {metrics['epoch']}: train error {metrics['train_error']:.1f} %, "
                f"validation error {metrics['val_error']:.1f} %, "
                f"{metrics['timing']['images_per_second']:,.0f} images/s",
                highlight=False,
                soft_wrap=True,
            )

        with tempfile.TemporaryDirectory() as scratch:
            result = record_run(
                run_config,
                out or Path(scratch),
                threads=torch.get_num_threads(),
                device=device,
                data_root=data_root,
                on_epoch=show,
            )
        if result.status == "diverged":
            _fail(f"the run diverged: {result.reason}")


@app.command("doctor")
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    data_root: RootOption = None,
) -> None:
    """Versions, devices, backends and why one is off, data sets and where they were looked for."""
    with _errors_in_words():
        from groupnorm.doctor import examine

        found = examine(data_root)
        if as_json:
            _print_json(found)
            return
        for title, rows in (
            ("Versions", [(k, v or "not installed") for k, v in found["versions"].items()]),
            ("Devices", [(d["device"], d["name"]) for d in found["devices"]]),
            ("Backends", [(b["name"], b["reason"]) for b in found["backends"]]),
            ("Data sets", [(d["name"], d["where"]) for d in found["data"]]),
        ):
            table = Table(title=title, title_justify="left", show_header=False)
            for name, text in rows:
                table.add_row(name, _escaped(str(text)))
            console.print(table)


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


def _integers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(piece) for piece in text.split(","))
    except ValueError:
        raise ValueError(f"{option} takes whole numbers, as 32,8,2; got {text!r}") from None


def _read_settings(path: Path | None, settings: list[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if path is not None:
        try:
            fields = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"--config {path} cannot be read: {error}") from None
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"expected KEY=VALUE, got {setting!r}")
        fields[key] = value
    return fields


def _options(model: Callable[..., Any], fields: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    try:
        return model(**fields)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, e['loc'])) or 'configuration'}: "
            f"{e['msg'].removeprefix('Value error, ')}, got {e['input']!r}"
            for e in error.errors()
        ]
        raise ValueError("\n".join(problems)) from None


@contextmanager
def _errors_in_words() -> Iterator[None]:
    """Turn the package's own errors into one message and exit status 2."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if not type(error).__module__.startswith("groupnorm") and type(error) not in (
            ValueError,
            RuntimeError,
        ):
            raise
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    errors.print(f"error: {message}", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(2)


def _print_main_table(folder: Path) -> None:
    from groupnorm.study.report import main_table

    header, rows = main_table(folder)
    table = Table()
    for index, title in enumerate(header):
        table.add_column(title, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*(_escaped(cell) for cell in row))
    console.print(table)


def _print_json(value: Any, indent: int | None = 2) -> None:
    sys.stdout.write(json.dumps(value, indent=indent, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point of the `groupnorm` command."""
    app()
