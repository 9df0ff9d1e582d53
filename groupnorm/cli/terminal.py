"""What every command says to its user: output, errors in words, how to go on when stopped."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console

from groupnorm.files import describe_os_error
from groupnorm.printable import print_line, printable, shell_command

console = Console(emoji=False)
errors = Console(stderr=True, emoji=False)


@contextmanager
def report_user_errors(
    log_once: Callable[[Callable[[], None]], None] = lambda say: say(),
) -> Iterator[None]:
    """Turn the package's own errors and the system's about files into one message and status 2.

    A pipe whose reader has gone is left to typer, which ends quietly.

    Args:
        log_once: calls its argument in one of the processes that fail together.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        message = describe_os_error(error)
        log_once(lambda: say_error(message))
        raise typer.Exit(2) from None
    except (ValueError, RuntimeError) as error:
        if not type(error).__module__.startswith("groupnorm") and type(error) not in (
            ValueError,
            RuntimeError,
        ):
            raise
        message = str(error)
        log_once(lambda: say_error(message))
        raise typer.Exit(2) from None


@contextmanager
def report_interrupt(kept: Callable[[], str]) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into one message and exit status 130.

    Args:
        kept: says, after the work has stopped, what is kept of it and how to go on.
    """
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        say_stopped(kept())
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def say(text: str) -> None:
    """Print a plain text on standard output, as one line however long."""
    print_line(console, text)


def say_error(message: str) -> None:
    """Say what is wrong, on standard error."""
    print_line(errors, f"error: {message}")


def say_stopped(more: str = "") -> None:
    """Say on standard error that Ctrl-C ended the command, and what more there is to say."""
    print_line(errors, f"stopped; {more}" if more else "stopped")


def fail(message: str) -> NoReturn:
    """Say what is wrong and end with status 2."""
    say_error(message)
    raise typer.Exit(2)


def from_options(model: Callable[..., Any], fields: dict[str, Any]) -> Any:
    """A pydantic model of fields that a user typed; what does not fit becomes one ValueError."""
    from pydantic import ValidationError

    from groupnorm.training.config import describe_errors

    try:
        return model(**fields)
    except ValidationError as error:
        raise ValueError(describe_errors(error, model)) from None


def print_json(value: Any, indent: int | None = 2) -> None:
    """One JSON value on standard output."""
    unicode = console.encoding.startswith("utf")
    sys.stdout.write(json.dumps(value, indent=indent, ensure_ascii=not unicode) + "\n")
    sys.stdout.flush()


def escaped(text: str) -> str:
    """`text` as Rich prints it unchanged, where the terminal can show it."""
    from rich.markup import escape

    return escape(printable(text, console.encoding))


def this_command(encoding: str = "utf-8") -> str:
    """The command that was typed, as a shell takes it again."""
    return shell_command(["groupnorm", *sys.argv[1:]], encoding)
