"""The words of a study of group divisions."""

from __future__ import annotations

from groupnorm.study.report.text.findings import compared, picked
from groupnorm.study.report.text.published import introduced
from groupnorm.study.report.text.verdicts import mean_text, verdict
from groupnorm.study.results.compare import first_table
from groupnorm.study.results.differences import row_difference
from groupnorm.study.results.published import DIVISIONS, has_groups
from groupnorm.study.results.rows import Row, Study
from groupnorm.study.results.wording import best_word, noun, rank, worst_word
from groupnorm.training.metric import Metric


def groups_headline(study: Study, rows: list[Row]) -> str:
    """The best division against one group (layer norm), or against the worst, with uncertainty."""
    for division in DIVISIONS:
        found = _finished(rows, division)
        if len(found) < 2:
            continue
        best, worst = _ends(study.metric, found)
        other = 1 if 1 in found and best != 1 else worst
        a, b = ((_name(division, value), found[value]) for value in (best, other))
        text = compared(study, rows, a, b, "")
        if found[best].spread is not None and len(found) > 2:
            text += picked(study.metric, a[0], len(found))
        return text
    return ""


def groups_text(study: Study, rows: list[Row]) -> list[str]:
    """A paragraph for each kind of division, and what the published table says."""
    table, metric = first_table(study, has_groups), study.metric
    best_is, worst_is = best_word(metric), worst_word(metric)
    paragraphs = []
    for division, words in DIVISIONS.items():
        found = _finished(rows, division)
        if not found:
            continue
        best, worst = _ends(metric, found)
        theirs = table.data.get(division, {}) if table else {}
        results = dict(zip(theirs.get("value", ()), theirs.get("result", ()), strict=True))
        name = {value: _name(division, value) for value in (*found, *results)}
        text = f"By {words}, {name[best]} has the {best_is} {noun(metric)}, "
        text += mean_text(metric, found[best].result)
        if best != worst:
            text += f", and {name[worst]} the {worst_is}, "
            text += f"{mean_text(metric, found[worst].result)}: "
            difference = row_difference(found[best], found[worst])
            text += verdict(metric, name[best], name[worst], difference)
        text += "."
        if 1 in found and best != 1 and worst != 1:
            found_1 = row_difference(found[best], found[1])
            text += f" The extreme: {verdict(metric, name[best], name[1], found_1)}."
        top = min(results, key=lambda value: rank(metric, results[value]), default=None)
        if table and top is not None:
            text += f" In {table.owner} {name[top]} is best with {results[top]}"
            text += f", {name[1]} has {results[1]}." if 1 in results else "."
        if best == 1:
            text += " Here, other than there," if 1 in results and top != 1 else " Here"
            text += f" the extreme has the {best_is} {noun(metric)}."
        elif 1 in found and 1 in results:
            difference = row_difference(found[1], found[best])
            text += (
                " That the extreme is worse than the best division is seen here too."
                if difference and difference.told_apart
                else " Whether the extreme is worse cannot be told from this study."
            )
        paragraphs.append(text)
    if not paragraphs:
        return ["No run has finished yet."]
    note = f"The {best_is} of many close values is partly chance"
    if table is None:
        return [*paragraphs, f"{note}."]
    owner = "the paper" if table.owner == "the paper" else "the table"
    where = f"here as in {owner}'s single runs" if table.runs == 1 else "here as there"
    return [*paragraphs, f"{introduced(table, study)} {note}, {where}."]


def _finished(rows: list[Row], division: str) -> dict[int, Row]:
    return {
        row.labels["value"]: row
        for row in rows
        if row.labels["division"] == division and row.result
    }


def _ends(metric: Metric, found: dict[int, Row]) -> tuple[int, int]:
    """The values of the best and of the worst mean."""
    means = {value: rank(metric, row.mean or 0.0) for value, row in found.items()}
    return min(means, key=lambda value: means[value]), max(means, key=lambda value: means[value])


def _name(division: str, value: int) -> str:
    if division == "groups":
        return "1 group (layer norm)" if value == 1 else f"{value} groups"
    return "1 channel per group (instance norm)" if value == 1 else f"{value} channels per group"
