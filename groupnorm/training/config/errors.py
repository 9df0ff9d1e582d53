"""What of a configuration does not fit, in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "dict": "norms by place, as norms.stage3=gn:groups=16",
}
_BOUNDS = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
    "literal_error": "{expected}",
}


def describe_errors(
    error: ValidationError, model: Callable[..., Any], typed: Mapping[str, str] | None = None
) -> str:
    """What of a model's fields does not fit, one line for each, in the words of NormSpec's errors.

    Args:
        model: the pydantic class whose fields were given.
        typed: what the user typed for a field, where it is not the field's own name.
    """
    return "\n".join(_describe(problem, model, typed or {}) for problem in error.errors())


def _describe(problem: Any, model: Any, typed: Mapping[str, str]) -> str:
    kind, name = problem["type"], ".".join(map(str, problem["loc"]))
    name = typed.get(name, name)
    if kind == "extra_forbidden":
        return f"unknown key {name!r}; known keys: {', '.join(model.model_fields)}"
    if kind == "value_error":  # of this package, in words already
        message: str = problem["msg"].removeprefix("Value error, ")
        return f"{name}: {message}" if name else message
    wanted = _BOUNDS.get(kind) or _WANTED.get(kind.split("_")[0], problem["msg"])
    limits = {
        key: f"{limit:,}".removesuffix(".0") if isinstance(limit, (int, float)) else limit
        for key, limit in problem.get("ctx", {}).items()
    }
    return f"{name} must be {wanted.format(**limits)}, got {problem['input']!r}"
