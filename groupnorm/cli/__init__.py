"""The command line. Each verb imports its part when it is called."""

from __future__ import annotations

import io
import sys

try:
    import typer

    from groupnorm.cli import doctor, plan, study, train
except ModuleNotFoundError as missing:
    raise SystemExit(
        f"the command line needs {missing.name}; install it with: pip install 'groupnorm[study]'"
    ) from None

app = typer.Typer(
    help="Group Normalization for PyTorch, and the study that compares normalizations.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(study.study_app, name="study")
app.command("report")(study.report)
app.command("train")(train.train)
app.command("plan")(plan.plan)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Entry point of the `groupnorm` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # the locale's encoding may lack a character
            stream.reconfigure(errors="backslashreplace")
    app()
