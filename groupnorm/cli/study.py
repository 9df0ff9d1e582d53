"""groupnorm study: a comparison from the catalogue, and the list of the published ones."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.padding import Padding

from groupnorm.cli.options import (
    ClusterCommand,
    ClusterOption,
    CpusOption,
    DeviceOption,
    GpusOption,
    JobsOption,
    OutOption,
    RootOption,
    StopOption,
    TrackOption,
    existing_folder,
    named_folder,
    number,
    read_settings,
    whole_number,
)
from groupnorm.cli.own_network import PARAMETERS, convert_own_network
from groupnorm.cli.report import print_main_table
from groupnorm.cli.terminal import (
    console,
    errors,
    escaped,
    fail,
    print_json,
    report_interrupt,
    report_user_errors,
    say,
    this_command,
)
from groupnorm.counts import counted
from groupnorm.experiments import EXPERIMENTS, Options, build, study_plan
from groupnorm.experiments.catalog import Entry
from groupnorm.study import PlanError
from groupnorm.study.store import Record, damage
from groupnorm.training.config import describe_errors

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
        _print_list(as_json)
    elif context.invoked_subcommand is None:
        console.print(context.get_help(), highlight=False, markup=False)


def _print_list(as_json: bool) -> None:
    """Every published comparison: what it is, where it stands, what was published, how long."""
    published = {name: e for name in EXPERIMENTS if (e := build(name)).result is not None}
    if as_json:
        fields = ("title", "source", "result", "time", "seeds")
        print_json(
            [
                {"name": name, **{f: getattr(e, f) for f in fields}, "cells": len(e.variants)}
                for name, e in published.items()
            ]
        )
        return
    for name, e in published.items():
        console.print(f"[bold]{name}[/bold]  {escaped(e.title)}", highlight=False)
        found = f"Published {e.result_metric}: {e.result}"
        text = f"{e.source}. {found}. {counted(e.runs, 'run')}; {e.time}."
        console.print(Padding(escaped(text), (0, 0, 0, 4)), highlight=False)
    console.print(
        "Each is groupnorm study NAME, and --scale smoke tries it in a minute or a few. "
        "batch-size, norms and groups are such comparisons on small images, in minutes.",
        highlight=False,
    )


def _add_command(name: str, entry: Entry) -> None:
    """Give `groupnorm study` the command of an experiment."""
    experiment = build(name)
    text = f"{entry.summary or experiment.title}: {experiment.source}."
    panel = None
    if experiment.result is not None:
        text += f" Published {experiment.result_metric}: {experiment.result}."
        panel = "Published comparisons"

    def command(
        settings: list[str] | None = None,
        out: OutOption = None,
        jobs: JobsOption = None,
        device: DeviceOption = "cpu",
        data_root: RootOption = None,
        cluster: ClusterOption = None,
        cpus_per_trial: CpusOption = None,
        gpus_per_trial: GpusOption = None,
        track: TrackOption = None,
        stop_at_first_failure: StopOption = False,
        **chosen: Any,
    ) -> None:
        with report_user_errors():
            root = existing_folder(data_root, "--data-root")
            on = _cluster(cluster, cpus_per_trial, gpus_per_trial, device)
            own = {p.name: chosen.pop(p.name) for p in _own(entry)}
            options = _read_options(entry, settings or [], chosen)
            usual = f"groupnorm-study-{name}{'-search' if options.search else ''}"
            folder = named_folder(out, "--out") or Path(usual)
            if any(own.values()):
                others = {"--data-root": root, "--cluster": on, "--track": track,
                          "--stop-at-first-failure": stop_at_first_failure}  # fmt: skip
                more = [*options.given(), *(key for key, value in others.items() if value)]
                if more:
                    raise ValueError(f"{more[0]} does not go with a network of your own")
                _run_own(own, folder, jobs, device)
                return
            _run(name, options, folder, jobs, device, root, on, track, stop_at_first_failure)

    _give_options(command, entry)
    study_app.command(name, cls=ClusterCommand, help=text, rich_help_panel=panel)(command)


def _give_options(command: Callable[..., None], entry: Entry) -> None:
    """Put KEY=VALUE and an option for every field that `entry` takes into the signature."""
    signature = inspect.signature(command, eval_str=True)
    settings, *own, _ = signature.parameters.values()
    key = "epochs" if "epochs" in entry.takes else "seeds"
    text = f"What to change, as {key}=3 for --{key} 3. Keys: {', '.join(entry.takes)}."
    argument = typer.Argument(metavar="KEY=VALUE", help=text)
    settings = settings.replace(annotation=Annotated[list[str] | None, argument])
    taken = [_parameter(key, entry) for key in entry.takes]
    parameters = [settings, *taken, *_own(entry), *own]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}


def _own(entry: Entry) -> list[inspect.Parameter]:
    """The options for a network of the user's own, where the experiment takes one."""
    return PARAMETERS if entry.own_network else []


def _parameter(key: str, entry: Entry) -> inspect.Parameter:
    """The option of a field."""
    kinds = set(_types(Options.model_fields[key].annotation))
    if bool in kinds:
        flag = typer.Option(_option(key), help=entry.describe(key))
        return inspect.Parameter(
            key,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=None,
            annotation=Annotated[bool | None, flag],
        )
    parser: Callable[[str], Any] | None = None
    if int in kinds and tuple not in kinds:
        parser = whole_number
    elif float in kinds:
        parser = number
    option = typer.Option(
        _option(key), parser=parser, metavar="N" if parser else None, help=entry.describe(key)
    )
    return inspect.Parameter(
        key,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=None,
        annotation=Annotated[str | None, option],
    )


def _types(annotation: Any) -> Iterator[Any]:
    yield typing.get_origin(annotation) or annotation
    for inner in typing.get_args(annotation):
        yield from _types(inner)


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _read_options(entry: Entry, settings: list[str], chosen: dict[str, Any]) -> Options:
    """What the user chose, as KEY=VALUE or as options.

    Raises:
        ValueError: it makes no study; the message names each field as it was typed.
    """
    fields = read_settings(settings)
    entry.check_keys(fields)
    typed = {key: value for key, value in chosen.items() if value is not None}
    for key in typed:
        if key in fields:
            raise ValueError(f"{key} is given twice, as {key}= and as {_option(key)}")
    try:
        return Options(**fields, **typed)
    except PlanError as error:
        problems = error.__cause__
        assert isinstance(problems, ValidationError)
        names = {key: _option(key) for key in typed}
        raise ValueError(describe_errors(problems, Options, names)) from None


def _run(
    name: str,
    options: Options,
    out: Path,
    jobs: int | None,
    device: str,
    data_root: Path | None,
    cluster: Any,
    track: str | None,
    stop_at_first_failure: bool,
) -> None:
    plan = study_plan(name, options)
    count = f"{counted(len(plan.cells), 'cell')}, {counted(len(plan.configs), 'distinct run')}"
    if plan.next_stage is not None:
        count = f"{counted(len(plan.configs), 'configuration')}, in stages"
    say(f"{plan.title}: {count}, {plan.protocol} protocol, on {plan.data}, in {out}")
    for skip in plan.skipped:
        name = skip["labels"].get("arm") or skip["labels"]["norm"]
        say(f"skipped {name}: {skip['reason']}")
    from groupnorm.study import run_study

    with report_interrupt(
        lambda: f"what was finished is kept in {out}. To continue: {this_command(errors.encoding)}"
    ):
        outcome = run_study(
            plan,
            out,
            jobs=jobs,
            device=device,
            data_root=data_root,
            command=this_command(),
            console=console,
            cluster=cluster,
            track=track,
            stop_at_first_failure=stop_at_first_failure,
        )
    print_main_table(out)
    say(f"report: {outcome.report}")
    failed = [record for record in outcome.records if record.status == "failed"]
    if failed:
        left = sum(record.status in ("partial", "missing") for record in outcome.records)
        stopped = f" {left} others were stopped, or not begun." if stop_at_first_failure else ""
        fail(
            f"{len(failed)} of {len(outcome.records)} runs failed; the report says why.{stopped} "
            f"{_how_to_go_on(failed)}"
        )
    _end_with(outcome.failed_trials)


def _run_own(own: dict[str, Any], out: Path, jobs: int | None, device: str) -> None:
    """Convert a network of the user's own in place of those that the study trains."""
    with report_interrupt(
        lambda: f"what was finished is kept in {out}. To continue: {this_command(errors.encoding)}"
    ):
        page, failed = convert_own_network(own, out, jobs, device)
    print_main_table(out)
    say(f"report: {page}")
    _end_with(failed)


def _end_with(failed_trials: int) -> None:
    """The end of a command whose trials of conversions may have failed."""
    if failed_trials:
        fail(
            f"{counted(failed_trials, 'trial')} of conversions failed; the report says why. The "
            "same command tries again."
        )


def _how_to_go_on(failed: list[Record]) -> str:
    """What to do about runs that have failed: some files must be mended first."""
    damaged = [reason for run in failed if (reason := damage(run)) is not None]
    if not damaged:
        return "The same command tries again and goes on."
    shown = " Then: ".join(damaged[:3])
    more = f" And {len(damaged) - 3} more, in the report." if len(damaged) > 3 else ""
    return f"The same command fails again until this is done: {shown}.{more} Then it goes on."


def _cluster(address: str | None, cpus: int | None, gpus: float | None, device: str) -> Any:
    if address is None:
        for option, value in (("--cpus-per-trial", cpus), ("--gpus-per-trial", gpus)):
            if value is not None:
                raise ValueError(f"{option} goes with --cluster")
        return None
    from groupnorm.study import Cluster

    usual = 1 if device.startswith("cuda") else 0
    return Cluster(address, 1 if cpus is None else cpus, usual if gpus is None else gpus)


for _name, _entry in EXPERIMENTS.items():
    _add_command(_name, _entry)
