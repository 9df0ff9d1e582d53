"""Published numbers, each with its source: the one place they are read from (`published.json`)."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from groupnorm.spec import NormSpec
from groupnorm.study.results.format import decimal_text

PAPER = "1803.08494"
SPREAD = "_spread"
DIVISIONS = {"groups": "number of groups", "size": "channels per group"}
ARM = "arm"


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
        unit: title and unit of the metric of every number in `data` that is not an axis, as
            "top-1 error %"; in a table of arms that of its first metric, as "box AP %".
        dataset: what was trained on, e.g. "ImageNet".
        data: the table, column by column: in one of four forms, which `values` reads, a table of
            arms, which `results_by_arm` reads, or one of clips (`has_clips`).
        model: what was trained, e.g. "ResNet-50", several with "and" between; None where `data`
            lists models.
        batch_per_worker: images per worker of the whole table; None where `data` lists them or
            nothing is known of workers.
        runs: how many runs, with seeds of their own, a number is made of.
        note: what a reader must know besides; empty when there is nothing.
    """

    id: str
    title: str
    source: Source
    setting: str
    unit: str
    dataset: str
    data: dict[str, Any]
    model: str | None = None
    batch_per_worker: int | None = None
    runs: int = 1
    note: str = ""

    @property
    def owner(self) -> str:
        """Whose table it is in a sentence: "the paper" of this package, or the source's name."""
        return "the paper" if self.is_the_papers else self.source.paper.partition(", commit ")[0]

    @property
    def is_the_papers(self) -> bool:
        """Whether it is from the paper that this package reproduces."""
        return self.source.arxiv == PAPER


@dataclass(frozen=True)
class PublishedValue:
    """One number of a table.

    Attributes:
        norm: the normalization as a canonical spec string, e.g. "gn:groups=8".
        result: the number, in the table's unit; "spread" only where it was published.
        model: what was trained, as the source writes it or as this package's name; None if the
            source does not say.
        batch_per_worker: images per worker; None if it does not say.
        division: "groups" or "size" in a table of group divisions, else None.
        value: the number of groups or channels per group, None without `division`.
    """

    norm: str
    result: float
    spread: float | None = None
    model: str | None = None
    batch_per_worker: int | None = None
    division: str | None = None
    value: int | None = None


@dataclass(frozen=True)
class PublishedClips:
    """A line of a table of clips: its labels, and by the name of a metric the number in percent."""

    norm: str
    batch_per_worker: int
    frames: int
    stride: int
    results: dict[str, float]


def values(table: Published) -> list[PublishedValue]:
    """Every number of a table of norms, whatever its form, in its order; none of arms or clips.

    The forms: {"norm", "result"}; {"batch_per_worker", a column for each norm}; {"model", a column
    for each norm}; {"groups": {"value", "result"}, "size": {...}}. A column "<norm>_spread" holds
    standard deviations over runs. Where the source has no number the column holds null, which is
    left out. A norm listed several times stands for several runs.
    """
    data = table.data
    found = []
    if has_arms(table) or has_clips(table):
        return []
    if "norm" in data:
        pairs = zip(data["norm"], data["result"], strict=True)
        found = [
            PublishedValue(norm, result, None, table.model, table.batch_per_worker)
            for norm, result in pairs
        ]
    elif DIVISIONS.keys() & data.keys():
        for division, block in data.items():
            for value, result in zip(block["value"], block["result"], strict=True):
                norm = str(NormSpec.parse(f"gn:{division}={value}"))
                found.append(
                    PublishedValue(
                        norm, result, None, table.model, table.batch_per_worker, division, value
                    )
                )
    else:
        axis, positions = next(iter(data.items()))
        for norm in list(data)[1:]:
            if norm.endswith(SPREAD):
                continue
            spreads = data.get(norm + SPREAD, [None] * len(positions))
            for position, result, spread in zip(positions, data[norm], spreads, strict=True):
                fields = {
                    "model": table.model,
                    "batch_per_worker": table.batch_per_worker,
                    axis: position,
                }
                found.append(PublishedValue(norm, result, spread, **fields))
    return [value for value in found if value.result is not None]


def has_batches(table: Published) -> bool:
    """Whether a table has columns of norms over images per worker."""
    return "batch_per_worker" in table.data and not has_clips(table)


def has_norms(table: Published, batch: int | None) -> bool:
    """Whether a table compares norms, at its one batch size or at `batch`."""
    return bool(results_by_norm(table, batch))


def has_groups(table: Published) -> bool:
    """Whether a table goes by group division."""
    return any(division in table.data for division in DIVISIONS)


def has_arms(table: Published) -> bool:
    """Whether a table has a row for each arm and a column for each metric."""
    return ARM in table.data


def has_clips(table: Published) -> bool:
    """Whether a table has a row for each norm, number of clips per worker and length of the clips.

    It is {"norm": specs, "batch_per_worker": numbers, "frames": numbers, "stride": numbers,
    "val_accuracy": numbers, ...}: the labels of a study of clips, and a column for each metric, by
    its name in records, in percent.
    """
    return "frames" in table.data


def published_clips(table: Published) -> list[PublishedClips]:
    """The lines of a table for which `has_clips` is true, in its order."""
    data, count = table.data, len(table.data["frames"])
    names = [field.name for field in fields(PublishedClips) if field.name in data]
    metrics = [name for name in data if name not in names]
    return [
        PublishedClips(
            **{name: data[name][line] for name in names},
            results={name: n for name in metrics if (n := data[name][line]) is not None},
        )
        for line in range(count)
    ]


def results_by_arm(table: Published) -> dict[str, dict[str, float]]:
    """The numbers of each arm by the name of their metric, or nothing for a table of another form.

    Such a table is {"arm": names, "box_ap": numbers, ...}: a column for each metric, by its name in
    records (`Metric.name`), all in percent. Arms are called as in the experiment of the catalogue
    that has the table. Where the source has no number the column holds null, which is left out.
    """
    if not has_arms(table):
        return {}
    metrics = [name for name in table.data if name != ARM]
    return {
        arm: {name: n for name in metrics if (n := table.data[name][row]) is not None}
        for row, arm in enumerate(table.data[ARM])
    }


def results_by_norm(table: Published, batch: int | None) -> dict[str, float]:
    """Mean result of each norm, or nothing for a table of another form or without this batch."""
    if has_groups(table) or has_arms(table) or has_clips(table) or "model" in table.data:
        return {}
    results: dict[str, list[float]] = {}
    one_size = "norm" in table.data or len(table.data["batch_per_worker"]) == 1
    for found in values(table):
        if one_size or found.batch_per_worker == batch:
            results.setdefault(found.norm, []).append(found.result)
    return {norm: fmean(several) for norm, several in results.items()}


def batch_of(table: Published, batch: int | None) -> int | None:
    """Images per worker of what a table of norms has for a study at `batch`; None: not known."""
    sizes = table.data.get("batch_per_worker", [table.batch_per_worker])
    size: int | None = sizes[0] if len(sizes) == 1 else batch
    return size


def published_text(result: float) -> str:
    """A published number with two decimals, or with one where the second is a zero."""
    return decimal_text(result, 2).removesuffix("0")


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
