"""Whether a search finds what training every number of groups to its end finds.

Compares the record of a search with that of the full grid: the same network, data, protocol and
schedule, in which every way of dividing was trained to its end with several seeds and evaluated on
test images. `scripts/update_readme.py` puts the result into docs/number-of-groups.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groupnorm.study.results.estimates import Difference, Estimate, paired_difference
from groupnorm.study.results.format import decimal_text
from groupnorm.study.results.rows import Row, Study, load_study, summarize_study

SAME = ("model", "data", "train_images", "workers", "batch_per_worker", "epochs", "base_lr")
"""Fields that the runs of the two records must share."""


@dataclass(frozen=True)
class Proof:
    """What a search picked, beside the full grid.

    Attributes:
        model: the network.
        batch: images per worker.
        picked: what the search chose, as a row of the grid.
        best: the row of the grid with the lowest mean error.
        best_tried: the same of the rules that the search tried.
        cost: epochs that the search trained, in full trainings.
        grid_cost: runs of the grid, which are full trainings.
    """

    model: str
    batch: int
    picked: Row
    best: Row
    best_tried: Row
    cost: float
    grid_cost: int

    @property
    def behind(self) -> Difference:
        """How far the pick's error lies above that of the best, over the seeds of the grid."""
        found = paired_difference(self.picked.results, self.best.results)
        assert found is not None
        return found

    @property
    def within(self) -> bool:
        """Whether the pick's mean lies at most one standard deviation of the best above it."""
        result = estimated(self.best)
        return self.behind.mean <= (result.spread or 0.0)


def prove(search_folder: Path, grid_folder: Path) -> Proof:
    """The pick of one record in the grid of another.

    Raises:
        SystemExit: the records are of different runs, one is not finished, or the grid lacks a way
            of dividing that the search tried.
    """
    search, grid = load_study(search_folder), load_study(grid_folder)
    rows = summarize_study(grid)
    unfinished = [row.labels["norm"] for row in rows if row.finished != row.asked]
    found = search.search
    if found is None or found.chosen is None or found.seeds_left or unfinished:
        raise SystemExit(f"{search_folder.name} or {grid_folder.name} is not finished {unfinished}")
    run, other = _config(search), _config(grid)
    if differing := [name for name in SAME if run[name] != other[name]]:
        raise SystemExit(f"{search_folder.name} and {grid_folder.name} differ in {differing}")
    by_norm = {row.labels["norm"]: row for row in rows}
    tried = {cell.labels["norm"] for cell in search.cells}
    if missing := tried - by_norm.keys():
        raise SystemExit(f"{grid_folder.name} has not trained {', '.join(sorted(missing))}")
    epochs = sum(len(record.metrics) for record in search.records.values())
    return Proof(
        model=run["model"],
        batch=by_norm[found.chosen].labels["batch_per_worker"],
        picked=by_norm[found.chosen],
        best=_best(rows),
        best_tried=_best([by_norm[norm] for norm in tried]),
        cost=epochs / run["epochs"],
        grid_cost=sum(row.asked for row in rows),
    )


def estimated(row: Row) -> Estimate:
    """The mean error of a row of the grid, over seeds."""
    assert row.result is not None
    return row.result


def table(proofs: list[Proof]) -> tuple[list[str], list[list[str]]]:
    """Header and a line for every search."""
    header = [
        "network", "images per worker", "search picked", "its error in the grid",
        "best of the rules it tried", "best of the grid", "its error",
        "behind the best, 95 % interval", "within the best's spread",
        "search, full trainings", "grid, full trainings",
    ]  # fmt: skip
    return header, [_line(proof) for proof in proofs]


def _line(proof: Proof) -> list[str]:
    behind = proof.behind
    text = f"{decimal_text(behind.mean)} points"
    if behind.interval:
        low, high = map(decimal_text, behind.interval)
        text += f", {low} to {high}"
    return [
        proof.model,
        str(proof.batch),
        proof.picked.labels["norm"],
        _error(proof.picked),
        f"{proof.best_tried.labels['norm']}, {_error(proof.best_tried)}",
        proof.best.labels["norm"],
        _error(proof.best),
        "the same" if proof.picked is proof.best else text,
        "yes" if proof.within else "no",
        f"{proof.cost:.2f}",
        str(proof.grid_cost),
    ]


def _error(row: Row) -> str:
    found = estimated(row)
    spread = "" if found.spread is None else f" ± {found.spread:.1f}"
    return f"{found.mean:.1f}{spread}"


def _best(rows: list[Row]) -> Row:
    return min(rows, key=lambda row: estimated(row).mean)


def _config(study: Study) -> dict[str, Any]:
    return next(iter(study.records.values())).config
