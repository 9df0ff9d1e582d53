"""The words of a study of arms: the best one against the first one, the next and the worst.

Only arms that agree in their other labels, such as the length of training, are compared.
"""

from __future__ import annotations

from groupnorm.study.report.text.findings import alone, best_first, compared, picked
from groupnorm.study.report.text.verdicts import beyond_next, mean_text, verdict_on_parts
from groupnorm.study.results.differences import groups_of, part_difference, row_difference
from groupnorm.study.results.labels import group_labels, heading, row_name
from groupnorm.study.results.pretraining import (
    pretraining_metrics,
    pretraining_result,
    started_from,
)
from groupnorm.study.results.rows import Row, Study
from groupnorm.study.results.rules import evaluation_word
from groupnorm.study.results.wording import (
    best_word,
    noun,
    rank,
    value_text,
    with_article,
    worst_word,
)


def arms_headline(study: Study, rows: list[Row]) -> str:
    """The finding with its uncertainty: the best arm against the first one, of those like it.

    Where the first one is the best, or has no result, the next best one takes its place.
    """
    return _best_against_first(study, rows, groups_of(study, rows)[0])


def _best_against_first(study: Study, rows: list[Row], alike: list[Row]) -> str:
    found = _with_result(study, alike)
    ranked = best_first(found, study.metric)
    if len(ranked) < 2:
        return alone(study.metric, list(found.items()), "")
    first = row_name(study, alike[0])
    best, others = ranked[0], ranked[1:]
    other = first if first in others else others[0]
    text = compared(study, rows, (best, found[best]), (other, found[other]), "")
    on_parts = part_difference(found[best], found[other], study.metric)
    images = evaluation_word(study)
    if told := verdict_on_parts(study.metric, best, other, on_parts, images):
        text += f" {told}"
    if len(ranked) > 2:
        text += picked(study.metric, best, len(ranked))
    return text


def arms_text(study: Study, rows: list[Row]) -> str:
    """Of the arms like the first one the best against the next, and the worst; the finding among
    those of every other kind; and what has no result."""
    first, *others = groups_of(study, rows)
    sentences = [_best_and_worst(study, first)]
    sentences += [_best_against_first(study, rows, alike) for alike in others]
    if without := [f"{row_name(study, r)} ({r.status})" for r in rows if r.result is None]:
        sentences.append(f"Without a result: {', '.join(without)}.")
    return " ".join(sentence for sentence in sentences if sentence)


def _best_and_worst(study: Study, alike: list[Row]) -> str:
    metric, found = study.metric, _with_result(study, alike)
    ranked = best_first(found, metric)
    if len(ranked) < 2:
        return ""
    best, second, last = ranked[0], ranked[1], ranked[-1]
    difference = row_difference(found[best], found[second])
    values = ", ".join(f"{heading(name)}: {alike[0].labels[name]}" for name in group_labels(study))
    kind = f" ({values})" if values else ""
    text = (
        f"Of {len(ranked)} arms{kind} {best} has the {best_word(metric)} {noun(metric)}, "
        f"{mean_text(metric, found[best].result)}{beyond_next(metric, second, difference)}"
    )
    if len(ranked) > 2:
        text += f"; {last} has the {worst_word(metric)}, {mean_text(metric, found[last].result)}"
    return f"{text}."


def pretraining_text(study: Study, rows: list[Row]) -> str:
    """How far apart the runs are that the arms start from, and whether seeds share one of them."""
    metric = next(iter(pretraining_metrics(study)), None)
    if metric is None:
        return ""
    starts = [(row, records) for row in rows if (records := started_from(study, row))]
    results = {row_name(study, row): pretraining_result(records, metric)
               for row, records in starts}  # fmt: skip
    known = {name: result.mean for name, result in results.items() if result}
    ranked = sorted(known, key=lambda name: rank(metric, known[name]))
    text = ""
    if ranked and known[ranked[0]] != known[ranked[-1]]:
        ends = [f"{value_text(metric, known[name])} ({name})" for name in (ranked[0], ranked[-1])]
        text = (
            f"The arms start from runs with {with_article(metric.title)} of {ends[0]} to "
            f"{ends[1]}. What separates two arms may in part be what separates their pretraining. "
        )
    several = any(len(row.runs) > 1 for row, _ in starts)
    if several and all(len(records) == 1 for _, records in starts):
        text += (
            "All seeds of an arm start from the same run, so no interval here holds what another "
            "pretraining would change."
        )
    return text.rstrip()


def _with_result(study: Study, rows: list[Row]) -> dict[str, Row]:
    return {row_name(study, row): row for row in rows if row.result}
