"""What every command says to its user: output, errors in words, options that do not fit."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console

from groupnorm.files import describe_os_error

console = Console()
errors = Console(stderr=True)


@contextmanager
def errors_in_words(
    say_once: Callable[[Callable[[], None]], None] = lambda say: say(),
) -> Iterator[None]:
    """Turn the package's own errors and the system's about files into one message and status 2.

    A pipe whose reader has gone is left to typer, which ends quietly.

    Args:
        say_once: calls its argument in one of the processes that fail together.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        message = describe_os_error(error)
        say_once(lambda: say_error(message))
        raise typer.Exit(2) from None
    except (ValueError, RuntimeError) as error:
        if not type(error).__module__.startswith("groupnorm") and type(error) not in (
            ValueError,
            RuntimeError,
        ):
            raise
        message = str(error)
        say_once(lambda: say_error(message))
        raise typer.Exit(2) from None


def say_error(message: str) -> None:
    """Say what is wrong, on standard error."""
    errors.print(f"error: {message}", highlight=False, markup=False, soft_wrap=True)


def fail(message: str) -> NoReturn:
    """Say what is wrong and end with status 2."""
    say_error(message)
    raise typer.Exit(2)


def from_options(model: Callable[..., Any], fields: dict[str, Any]) -> Any:
    """A pydantic model of fields that a user typed; what does not fit becomes one ValueError."""
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


def print_json(value: Any, indent: int | None = 2) -> None:
    """One JSON value on standard output, in ASCII, which every locale can print."""
    sys.stdout.write(json.dumps(value, indent=indent) + "\n")
    sys.stdout.flush()


def escaped(text: str) -> str:
    """`text` as Rich prints it unchanged."""
    from rich.markup import escape

    return escape(text)
