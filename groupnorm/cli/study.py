"""groupnorm study ... and groupnorm report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.table import Table

from groupnorm.cli.experiments import add_experiments, print_list
from groupnorm.cli.options import (
    ClusterCommand,
    ClusterOption,
    CpusOption,
    DataOption,
    DeviceOption,
    EpochsOption,
    GpusOption,
    ImageSizeOption,
    ImagesOption,
    JobsOption,
    ModelOption,
    NormsOption,
    OutOption,
    ProtocolOption,
    RootOption,
    ScaleOption,
    SeedsOption,
    SizeOption,
    SizesOption,
    TrackOption,
    UnreadableOption,
    existing_folder,
    integers,
    named_folder,
    split_norms,
)
from groupnorm.cli.terminal import (
    console,
    errors,
    escaped,
    fail,
    from_options,
    print_json,
    report_interrupt,
    report_user_errors,
    say,
    this_command,
)

study_app = typer.Typer(
    help="Compare normalizations by training many networks.", invoke_without_command=True
)


@study_app.callback()
def study(
    context: typer.Context,
    as_list: Annotated[
        bool, typer.Option("--list", help="Show the published comparisons.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --list: as JSON.")] = False,
) -> None:
    """Compare normalizations by training many networks."""
    if as_list and context.invoked_subcommand is not None:
        fail(f"--list stands alone; got {context.invoked_subcommand!r} after it")
    if as_json and not as_list:
        fail("--json goes with --list here; a study's results as JSON: groupnorm report OUT --json")
    if as_list:
        print_list(as_json)
    elif context.invoked_subcommand is None:
        console.print(context.get_help(), highlight=False, markup=False)


@study_app.command("batch-size", cls=ClusterCommand)
def study_batch_size(
    data: DataOption = None,
    model: ModelOption = None,
    norms: NormsOption = None,
    batch_sizes: SizesOption = None,
    protocol: ProtocolOption = None,
    train_images: ImagesOption = None,
    image_size: ImageSizeOption = None,
    max_unreadable: UnreadableOption = None,
    epochs: EpochsOption = None,
    seeds: SeedsOption = None,
    scale: ScaleOption = "quick",
    out: OutOption = None,
    jobs: JobsOption = None,
    device: DeviceOption = "cpu",
    data_root: RootOption = None,
    cluster: ClusterOption = None,
    cpus_per_trial: CpusOption = None,
    gpus_per_trial: GpusOption = None,
    track: TrackOption = None,
) -> None:
    """Error against images per worker, for several norms (the paper's Table 2)."""
    run_named("batch-size", locals())


@study_app.command("norms", cls=ClusterCommand)
def study_norms(
    data: DataOption = None,
    model: ModelOption = None,
    norms: NormsOption = None,
    batch_sizes: SizeOption = None,
    protocol: ProtocolOption = None,
    train_images: ImagesOption = None,
    image_size: ImageSizeOption = None,
    max_unreadable: UnreadableOption = None,
    epochs: EpochsOption = None,
    seeds: SeedsOption = None,
    scale: ScaleOption = "quick",
    out: OutOption = None,
    jobs: JobsOption = None,
    device: DeviceOption = "cpu",
    data_root: RootOption = None,
    cluster: ClusterOption = None,
    cpus_per_trial: CpusOption = None,
    gpus_per_trial: GpusOption = None,
    track: TrackOption = None,
) -> None:
    """Training and validation curves of BN, LN, IN and GN (the paper's Figure 4)."""
    run_named("norms", locals())


@study_app.command("groups", cls=ClusterCommand)
def study_groups(
    data: DataOption = None,
    model: ModelOption = None,
    batch_sizes: SizeOption = None,
    protocol: ProtocolOption = None,
    train_images: ImagesOption = None,
    image_size: ImageSizeOption = None,
    max_unreadable: UnreadableOption = None,
    epochs: EpochsOption = None,
    seeds: SeedsOption = None,
    scale: ScaleOption = "quick",
    out: OutOption = None,
    jobs: JobsOption = None,
    device: DeviceOption = "cpu",
    data_root: RootOption = None,
    cluster: ClusterOption = None,
    cpus_per_trial: CpusOption = None,
    gpus_per_trial: GpusOption = None,
    track: TrackOption = None,
) -> None:
    """Error against number of groups and channels per group (the paper's Table 3)."""
    run_named("groups", locals())


def run_named(name: str, given: dict[str, Any]) -> None:
    """Run a study by name with what the user gave; None leaves an option at its default."""
    with report_user_errors():
        from groupnorm.experiments.published_plans import experiment_plan
        from groupnorm.experiments.studies import STUDIES
        from groupnorm.study import ExperimentOptions, StudyOptions, run_study

        out = named_folder(given.pop("out"), "--out") or Path(f"groupnorm-study-{name}")
        root = existing_folder(given.pop("data_root"), "--data-root")
        jobs, device = given.pop("jobs"), given.pop("device")
        track = given.pop("track")
        cluster = _cluster(
            given.pop("cluster"), given.pop("cpus_per_trial"), given.pop("gpus_per_trial"), device
        )
        chosen = {key: value for key, value in given.items() if value is not None}
        if "norms" in chosen:
            chosen["norms"] = split_norms(chosen["norms"])
        if "batch_sizes" in chosen:
            chosen["batch_sizes"] = integers(chosen["batch_sizes"], "--batch-sizes")
        if name in STUDIES:
            plan = STUDIES[name](from_options(StudyOptions, chosen))
        else:
            plan = experiment_plan(name, from_options(ExperimentOptions, chosen))
        say(
            f"{plan.title}: {len(plan.cells)} cells, {len(plan.configs)} distinct runs, "
            f"{plan.protocol} protocol, on {plan.data}, in {out}"
        )
        for skip in plan.skipped:
            say(f"skipped {skip['labels']['norm']}: {skip['reason']}")
        with report_interrupt(
            lambda: (
                f"what was finished is kept in {out}. To continue: {this_command(errors.encoding)}"
            )
        ):
            outcome = run_study(
                plan,
                out,
                jobs=jobs,
                device=device,
                data_root=root,
                command=this_command(),
                console=console,
                cluster=cluster,
                track=track,
            )
        _print_main_table(out)
        say(f"report: {outcome.report}")
        failed = [record for record in outcome.records if record.status == "failed"]
        if failed:
            fail(
                f"{len(failed)} of {len(outcome.records)} runs failed; the report says why. "
                "The same command tries them again."
            )


def _cluster(address: str | None, cpus: int | None, gpus: float | None, device: str) -> Any:
    if address is None:
        for option, value in (("--cpus-per-trial", cpus), ("--gpus-per-trial", gpus)):
            if value is not None:
                raise ValueError(f"{option} goes with --cluster")
        return None
    from groupnorm.study import Cluster

    usual = 1 if device.startswith("cuda") else 0
    return Cluster(address, 1 if cpus is None else cpus, usual if gpus is None else gpus)


add_experiments(study_app, run_named)


def report(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder of a study.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the main table as JSON.")] = False,
) -> None:
    """Rebuild report.html, tables.csv and the figures of a study from its records."""
    with (
        report_interrupt(lambda: f"the records are as they were. Again: {this_command()}"),
        report_user_errors(),
    ):
        from groupnorm.study.report.page import build_report, main_table

        out = named_folder(folder, "report")
        assert out is not None
        path = build_report(out)
        if as_json:
            header, rows = main_table(out, repeat=True)
            print_json([dict(zip(header, row, strict=True)) for row in rows])
            return
        _print_main_table(out)
        say(f"report: {path}")


def _print_main_table(folder: Path) -> None:
    """The title and the table, or a list of its cells where the terminal is too narrow for it."""
    from groupnorm.study.report.page import main_table, main_title

    header, rows = main_table(folder)
    say(main_title(folder))
    widths = [max(map(cell_len, column)) for column in zip(header, *rows, strict=True)]
    if sum(widths) + 3 * len(widths) + 1 > console.width:  # with its borders
        say(f"{header[0]}: error")
        for name, *cells in rows:
            say(name)
            for column, cell in zip(header[1:], cells, strict=True):
                say(f"  {column}: {cell}")
        return
    table = Table()
    for index, title in enumerate(header):
        table.add_column(title, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(escaped(cell) for cell in row))
    console.print(table)
