"""What became of everything that a search tried, and what the search took."""

from __future__ import annotations

import math

from groupnorm.study.results.format import decimal_text
from groupnorm.study.results.labels import NOTHING, row_text
from groupnorm.study.results.rows import Row, Study
from groupnorm.study.results.search import RULES, Search
from groupnorm.study.results.wording import rank


def search_of(study: Study) -> Search:
    """The search of a study that is one."""
    assert study.search is not None
    return study.search


def epochs_trained(study: Study) -> int:
    """Epochs of all runs together."""
    return sum(len(record.metrics) for record in study.records.values())


def full_runs(study: Study) -> float:
    """The same as a number of trainings of one configuration to the end of its schedule."""
    return epochs_trained(study) / search_of(study).full_epochs


def refinement_epochs(study: Study) -> int:
    """Of `epochs_trained` those of the runs that the refinement by stage asked for."""
    runs = {cell.run for cell in study.cells if cell.labels["step"] != RULES}
    return sum(len(study.records[run].metrics) for run in runs)


def as_settings(norm: str) -> str:
    """A norm as `groupnorm train` takes it: "norm=gn:groups=8 norms.stage1=gn:groups=4"."""
    first, *places = norm.split(" ")
    return " ".join([f"norm={first}", *(f"norms.{place}" for place in places)])


def runner_up(search: Search) -> tuple[str, int, float] | None:
    """Of the rules beside the best one that which came farthest, and was best there.

    Its name, the epoch that it came to, and by how much its result is worse than that of the best
    rule there, with the first seed. None without one that did not diverge.
    """
    for rung in reversed(search.rungs):
        others = [n for n in rung.results if n != search.rule and math.isfinite(rung.results[n])]
        if others and search.rule in rung.results:
            ranks = {norm: rank(search.metric, rung.results[norm]) for norm in rung.results}
            best = min(others, key=lambda norm: ranks[norm])
            return best, rung.epochs, ranks[best] - ranks[search.rule]
    return None


def rung_table(study: Study, rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and one line for every norm: its result at each rung, and what became of it.

    Those that came farthest are first. At the last rung a result is the mean over seeds.
    """
    search = search_of(study)
    ends = search.settings["rungs"]
    body = []
    for row in sorted(rows, key=lambda row: _place(search, row.labels["norm"])):
        norm = row.labels["norm"]
        results = {rung.epochs: rung.results.get(norm) for rung in search.rungs}
        cells = [_result_text(results.get(end)) for end in ends[:-1]]
        at_the_end = search.epochs_asked(norm) == ends[-1]
        cells.append(row_text(row, row.result) if at_the_end else NOTHING)
        body.append([study.called(norm), *cells, outcome(search, norm)])
    return ["rule", *(f"epoch {end}" for end in ends), "outcome"], body


def norms_of(search: Search) -> list[str]:
    """Every norm that was to be trained, the rules first."""
    asked = [rung.asked for rung in search.rungs] + [step.asked for step in search.steps]
    return list(dict.fromkeys(norm for norms in asked for norm in norms))


def outcome(search: Search, norm: str) -> str:
    """What became of a norm, e.g. "dropped after epoch 6" or "chosen"."""
    if norm == search.chosen:
        return "chosen" if search.done else "best so far"
    for step in search.steps:
        if norm in step.asked:
            if step.best is None:
                return "being tried"
            worse = "better, then refined further" if norm == step.best else "not better"
            return worse if math.isfinite(step.results[norm]) else "diverged"
    rung = [rung for rung in search.rungs if norm in rung.asked][-1]
    if not rung.complete:
        return "being trained"
    if not math.isfinite(rung.results[norm]):
        return "diverged"
    return "best rule, then refined" if norm in rung.kept else f"dropped after epoch {rung.epochs}"


def _place(search: Search, norm: str) -> tuple[bool, int, float]:
    """What sorts the norms: the chosen one, then by how far they came, then by their result."""
    reached = search.epochs_asked(norm)
    results = [rung.results[norm] for rung in search.rungs if norm in rung.results]
    results += [step.results[norm] for step in search.steps if norm in step.results]
    last = rank(search.metric, results[-1]) if results else math.inf
    return norm != search.chosen, -reached, last


def _result_text(result: float | None) -> str:
    if result is None:
        return NOTHING
    return decimal_text(result) if math.isfinite(result) else "diverged"
