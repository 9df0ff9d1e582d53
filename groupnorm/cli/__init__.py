"""The command line. Each verb imports its part when it is called."""

from __future__ import annotations

import io
import sys
from typing import Any, NoReturn

try:
    import typer
    from typer.core import TyperGroup

    from groupnorm.cli import convert, detect, doctor, export, memory_fit, report, study, train
    from groupnorm.cli.terminal import say_error, say_stopped
except KeyboardInterrupt:  # these imports take a second or more
    sys.stderr.write("stopped\n")
    raise SystemExit(130) from None
except ModuleNotFoundError as missing:
    raise SystemExit(
        f"the command line needs {missing.name}; install it with: pip install 'groupnorm[study]'"
    ) from None


class _Group(TyperGroup):
    """Commands that end with one line and status 130 on Ctrl-C, whatever they are at."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say_stopped()
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Group,
    help="Group Normalization for PyTorch, and the study that compares normalizations.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(study.study_app, name="study")
app.command("report")(report.report)
app.command("train")(train.train)
app.command("detect")(detect.detect)
app.command("convert")(convert.convert)
app.add_typer(export.export_app, name="export")
app.command("plan")(memory_fit.memory_fit)
app.command("doctor")(doctor.doctor)


# The command line's own errors (an unknown option, a missing argument): typer's copy of click has
# them under a private name, and older versions of typer in click itself.
_UsageError: Any = typer.BadParameter.__bases__[0]


def main() -> NoReturn:
    """Entry point of the `groupnorm` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what it cannot hold stops no command
    try:
        sys.exit(app(prog_name="groupnorm", standalone_mode=False))
    except (KeyboardInterrupt, typer.Abort):  # before or after a command
        say_stopped()
        sys.exit(130)
    except _UsageError as error:
        # where typer leaves the check of a value to pydantic, that says so first
        message = error.format_message().replace(": Value error, ", ": ", 1)
        if message:  # none comes with the help that a command without arguments shows
            # None where the last option has no value
            path = error.ctx.command_path if error.ctx else "groupnorm"
            say_error(f"{message}\n'{path} --help' lists what it takes")
        sys.exit(2)
