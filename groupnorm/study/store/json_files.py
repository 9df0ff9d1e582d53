"""Reading the store's JSON files: each is checked, and what is wrong is named with its remedy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from groupnorm.files import file_above

FORMAT = 1

# What to do about a damaged file besides restoring it.
_REMEDIES = {
    "cost.json": "delete it: the command that made the study times the steps again",
    "initial.json": "delete it: the command that made the study measures it again",
    "samples.json": "delete it: the command that made the study predicts again",
    "study.json": "delete it: the command that made the study writes it again and keeps the runs",
    "config.json": "delete it: the command that trained the run writes it again",
    "env.json": "delete it and DONE beside it: training writes them again from the checkpoint",
    "metrics.jsonl": "delete it and DONE beside it: training writes them again from the checkpoint",
    "DONE": "delete it: the command that trained the run finishes it from its checkpoint",
    "FAILED": "delete it: the same command tries the run again",
}
_REMEDY_FOR_TRIALS = "delete it: the command that made the study does the trial again"
_LARGEST = 2**64  # of whole numbers: seeds have up to 64 bits


Form = TypeVar("Form", bound=BaseModel)


class StoreError(RuntimeError):
    """The folder is not a study, or is damaged."""


def to_json(value: Any) -> str:
    """The one JSON form of the store: indented, keys in the given order, newline at the end."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _check_format(path: Path, value: dict[str, Any]) -> None:
    if value.get("format") != FORMAT:
        refuse(path, f"has format {value.get('format')!r}, this version reads {FORMAT}")


def read_checked(
    path: Path, form: type[BaseModel], *, versioned: bool = False
) -> dict[str, Any] | None:
    """A JSON object that fits `form`; None when the file is absent.

    Args:
        versioned: it has the number of its format, which is checked first.

    Raises:
        StoreError: the file is damaged, as in every function here.
    """
    value = read_object(path)
    if value is not None:
        if versioned:
            _check_format(path, value)
        check(path, value, form)
    return value


def read_object(path: Path) -> dict[str, Any] | None:
    """A JSON object of any form; None when the file is absent."""
    text = text_of(path)
    return None if text is None else parse(path, text)


def text_of(path: Path) -> str | None:
    """The text of a file; None when it is not there."""
    try:
        return path.read_bytes().decode("utf-8-sig")  # an editor may have put a mark before it
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise StoreError(
            f"{file_above(path)} is a file and should be a folder; remove or rename it"
        ) from None
    except PermissionError as error:
        raise StoreError(
            f"{path} cannot be read ({error.strerror}); allow reading it, or copy what may be read "
            "to a folder of your own"
        ) from error
    except OSError as error:
        refuse(path, f"cannot be read ({error.strerror})")
    except UnicodeDecodeError as error:
        refuse(path, f"is not text in UTF-8 (byte {error.start})")


def parse(path: Path, text: str, line: str = "") -> dict[str, Any]:
    """The JSON object that `text` is; `line` says in messages which line of the file that was."""
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        refuse(path, f"{line}is not JSON ({error})" if text.strip() else f"{line}is empty")
    if not isinstance(value, dict):
        refuse(path, f"{line}should hold a JSON object, it holds {type(value).__name__}")
    return value


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not a finite number")
    return value


def _whole(text: str) -> int:
    if abs(value := int(text)) >= _LARGEST:
        raise ValueError(f"{text[:20]}... is too large")
    return value


def check(path: Path, value: dict[str, Any], form: type[Form], line: str = "") -> Form:
    """A value as what `form` says that it holds; `line` as in `parse`."""
    try:
        return form.model_validate(value, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        if first["type"] == "extra_forbidden":
            what = f"has the key {where!r}, which this version does not know"
        elif first["type"] == "missing":
            what = f"lacks {where!r}"
        else:
            found = repr(first["input"])
            found = found if len(found) <= 60 else f"{found[:60]}..."
            what = f"has {where}={found}: {first['msg'].removeprefix('Value error, ')}"
        refuse(path, line + what)


def refuse(path: Path, what: str) -> NoReturn:
    """Raise StoreError for a file of the store: what is wrong with it, and what to do."""
    remedy = _REMEDIES.get(path.name, _REMEDY_FOR_TRIALS)  # a trial's file has a name of its own
    raise StoreError(f"{path} {what}. Restore it, or {remedy}") from None
