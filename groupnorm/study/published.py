"""Published numbers, each with its source: the one place they are read from (`published.json`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Source:
    """Where a number was published. `arxiv` is None for a repository."""

    paper: str
    arxiv: str | None
    where: str

    def __str__(self) -> str:
        return f"{self.paper}, {self.where}"


@dataclass(frozen=True)
class Published:
    """One published table.

    Attributes:
        id: its name here.
        title: what the table shows.
        source: paper or repository, and the place in it.
        setting: model, data and protocol in words.
        unit: unit of every number in `data` that is not an axis.
        data: the table, column by column.
        note: what a reader must know besides; empty when there is nothing.
    """

    id: str
    title: str
    source: Source
    setting: str
    unit: str
    data: dict[str, Any]
    note: str = ""


def load(id: str) -> Published:
    """The published table called `id`.

    Raises:
        ValueError: no table has this name; the message lists those that exist.
    """
    tables = _read()
    if id not in tables:
        raise ValueError(f"no published table is called {id!r}; known: {', '.join(tables)}")
    return tables[id]


def ids() -> tuple[str, ...]:
    """The names of all published tables, in the file's order."""
    return tuple(_read())


@cache
def _read() -> dict[str, Published]:
    entries = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
    tables = [Published(**{**entry, "source": Source(**entry["source"])}) for entry in entries]
    return {table.id: table for table in tables}
