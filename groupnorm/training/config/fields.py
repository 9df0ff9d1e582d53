"""The types of a configuration's fields: how each is read, bounded and written."""

from __future__ import annotations

import itertools
import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator
from pydantic_core import PydanticKnownError

from groupnorm.spec import NormSpec

Count = Annotated[int, Field(ge=1, le=10**9)]
ImageSize = Annotated[int, Field(ge=32, le=4096)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


def _read_norm(value: Any) -> NormSpec:
    if isinstance(value, NormSpec):
        return value
    if not isinstance(value, str):
        raise PydanticKnownError("string_type")
    return NormSpec.parse(value)


Norm = Annotated[NormSpec, PlainValidator(_read_norm), PlainSerializer(str, return_type=str)]
"""A normalization: read from its string once, a NormSpec from then on, written as its string."""


def _read_size_schedule(value: Any) -> tuple[tuple[int, float], ...]:
    try:
        pairs = value
        if isinstance(value, str):
            pairs = [pair.split(":") for pair in value.split(",")] if value else []
        schedule = tuple((int(str(size)), float(share)) for size, share in pairs)
    except (TypeError, ValueError):
        raise ValueError(
            "expected sizes in pixels, each with the share of the run that it lasts to, as "
            f"16:0.3,24:0.7; got {value!r}"
        ) from None
    sizes, shares = [0, *(size for size, _ in schedule)], [0, *(share for _, share in schedule), 1]
    if not all(a < b for rising in (sizes, shares) for a, b in itertools.pairwise(rising)):
        raise ValueError(
            "sizes must be above 0 and rise, shares lie between 0 and 1 and rise; "
            f"got {_size_schedule_text(schedule)}"
        )
    return schedule


def _size_schedule_text(schedule: tuple[tuple[int, float], ...]) -> str:
    return ",".join(f"{size}:{share}" for size, share in schedule)


SizeSchedule = Annotated[
    tuple[tuple[int, float], ...],
    PlainValidator(_read_size_schedule),
    PlainSerializer(_size_schedule_text, return_type=str),
]
"""Pixels by share of a run: read from text as 16:0.3,24:0.7, or from pairs; written as text."""


def _read_drops(value: Any) -> tuple[float, ...]:
    try:
        parts = value
        if isinstance(value, str):
            parts = value.split(",") if value else []
        drops = tuple(float(share) for share in parts)
    except (TypeError, ValueError):
        raise ValueError(f"expected shares of the run, as 0.3,0.6,0.9; got {value!r}") from None
    if not all(a < b for a, b in itertools.pairwise((0.0, *drops, 1.0))):
        raise ValueError(f"shares lie between 0 and 1 and rise; got {_drops_text(drops)}")
    return drops


def _drops_text(drops: tuple[float, ...]) -> str:
    return ",".join(map(str, drops))


Drops = Annotated[
    tuple[float, ...],
    PlainValidator(_read_drops),
    PlainSerializer(_drops_text, return_type=str),
]
"""Shares of a run: read from text as 0.3,0.6,0.9, or from numbers; written as text."""


def is_run_name(text: str) -> bool:
    """Whether a text has the form of what `TrainingConfig.run_name` gives."""
    return re.fullmatch(r"[0-9A-Za-z-]+-s[0-9]+-[0-9a-f]{10}", text) is not None


def _read_run_name(value: str) -> str:
    if not is_run_name(value):
        raise ValueError(f"expected the name of a run, as gn-1x256-s0-52d863f086; got {value!r}")
    return value


RunName = Annotated[str, AfterValidator(_read_run_name)]
"""What `run_name` gives."""
