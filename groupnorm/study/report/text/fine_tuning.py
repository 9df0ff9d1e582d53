"""The words of a study of fine-tuning: what the first arm gains over the others, early and late."""

from __future__ import annotations

from typing import Any

from groupnorm.counts import counted
from groupnorm.study.report.text.findings import alone, best_first, compared, picked
from groupnorm.study.report.text.verdicts import gap, uncertainty, verdict
from groupnorm.study.results.by_step import difference_at, shown_steps
from groupnorm.study.results.differences import groups_of, row_difference
from groupnorm.study.results.estimates import Difference
from groupnorm.study.results.labels import RECOMPUTED
from groupnorm.study.results.rows import Row, Study, by_runs
from groupnorm.study.results.wording import (
    better_word,
    capital,
    is_better,
    lower_is_better,
    noun,
)

WHAT_ELSE_DIFFERS = (
    "Arms differ in more than their norms: where batch norm is frozen its gamma and beta are too, "
    "and a converted encoder has biases in its convolutions, which decay as the weights do. In all "
    "arms the images are normalized by the moments of the new data, not by those that the "
    "classifier was trained with."
)


def fine_tuning_headline(study: Study, rows: list[Row]) -> str:
    """The finding with its uncertainty: the first arm against each other one after the last step,
    at the fewest images per worker."""
    here = min(groups_of(study, rows), key=lambda alike: int(alike[0].labels["batch_per_worker"]))
    return _first_against_others(study, rows, here, _at(here[:1]), None)


def fine_tuning_text(study: Study, rows: list[Row]) -> str:
    """The same at other numbers of images per worker, of the arms that depend on it, and after the
    first step that is shown; which arms have no result; what else differs between arms."""
    fewest, *others = sorted(
        groups_of(study, rows), key=lambda here: int(here[0].labels["batch_per_worker"])
    )
    sentences = []
    if steps := shown_steps(study)[:-1]:
        at = f"{_at(fewest[:1])} after {counted(steps[0], 'step')}"
        sentences.append(_first_against_others(study, rows, fewest, at, steps[0]))
    told = {row.runs for row in fewest}
    for here in others:
        alike = [here[0], *(row for row in here[1:] if row.runs not in told)]
        if len(alike) > 1:
            sentences.append(_first_against_others(study, rows, alike, _at(here[:1]), None))
    missing = [
        f"{_name(study, same[0])}{_at(same)} ({same[0].status})"
        for same in by_runs(rows)
        if same[0].result is None
    ]
    if missing:
        sentences.append(f"Without a result: {', '.join(missing)}.")
    return " ".join(sentence for sentence in [*sentences, WHAT_ELSE_DIFFERS] if sentence)


def conversions_note(study: Study) -> str:
    """What the conversions of the weights that arms start from did, by arm, and what they left."""
    arms: dict[str, dict[str, dict[str, Any]]] = {}
    for cell in study.cells:
        found = study.records[cell.run].env.get("init", {}).get("conversion")
        if found is not None:
            arms.setdefault(study.label(cell.labels), {})[cell.run] = found
    if not arms:
        return ""
    told = [_conversions_of(arm, list(reports.values())) for arm, reports in arms.items()]
    notes = dict.fromkeys(
        note for of_arm in arms.values() for one in of_arm.values() for note in one["notes"]
    )
    return " ".join(
        [
            *told,
            "Errors are on images that no values were fitted to; numbers of groups, and whether to "
            "refit, were chosen on them.",
            *(f"The conversion says: {note}" for note in notes),
            "The reports are in `env.json` of the runs.",
        ]
    )


def _conversions_of(arm: str, reports: list[dict[str, Any]]) -> str:
    layers = sorted({len(report["layers"]) for report in reports})
    errors = [e for report in reports if (e := report["output_error"]) is not None]
    text = (
        f"{capital(arm)}: {counted(len(reports), 'conversion')} replaced "
        f"{' or '.join(map(str, layers))} norms of the encoder"
    )
    if errors:
        ends = " to ".join(dict.fromkeys(f"{end:.2g}" for end in (min(errors), max(errors))))
        text += f", with an error of its maps of {ends} of their variance"
    left = {(one["name"], one["reason"]) for report in reports for one in report["skipped"]}
    if not left:
        return f"{text}; none was left as it was."
    return f"{text}. Left as they were: {'; '.join(f'{n}: {why}' for n, why in sorted(left))}."


def _first_against_others(
    study: Study, rows: list[Row], here: list[Row], where: str, step: int | None
) -> str:
    """What the first arm gains or loses, from which arms it is not told apart, and which it is not
    compared with.

    Args:
        where: follows the name of the first arm.
        step: after which; None: at the end.
    """
    first, *others = here
    name = _name(study, first)
    if not first.result:
        no_result = f"{capital(name)}{where} has no result ({first.status}), so that no arm can be "
        return f"{no_result}compared with it." if step is None else ""
    found: list[tuple[Row, Difference | None]] = [
        (
            row,
            row_difference(first, row) if step is None else difference_at(study, first, row, step),
        )
        for row in others
    ]
    if all(one is None or one.told_apart is None for _, one in found):
        return _without_intervals(study, rows, here, where) if step is None else ""
    listed = {
        word: [
            f"{_name(study, row)} by {_size(study, one)}"
            for row, one in found
            if one is not None and _told(study, one) == word
        ]
        for word in ("better", "worse")
    }
    better = better_word(study.metric)
    worse = "higher" if lower_is_better(study.metric) else "lower"
    parts = [
        f"has a {word} {noun(study.metric)} than {' and '.join(those)}"
        for word, those in ((better, listed["better"]), (worse, listed["worse"]))
        if those
    ]
    equal = [
        f"{_name(study, row)} ({uncertainty(one)})"
        for row, one in found
        if one is not None and one.told_apart is False
    ]
    if equal:
        parts.append(f"cannot be told apart from {' and '.join(equal)}")
    left = [
        f"{_name(study, row)} ({_why_not(first, row, one)})"
        for row, one in found
        if one is None or one.told_apart is None
    ]
    recomputed = _recomputed(study, first, others) if step is None else ""
    return f"{capital(name)}{where} {'; it '.join(parts)}.{recomputed}{_not_compared(left)}"


def _without_intervals(study: Study, rows: list[Row], here: list[Row], where: str) -> str:
    """The first arm against trained batch norm, or the best other arm, where no seeds tell them
    apart."""
    first, *others = here
    name, done = _name(study, first), {_name(study, row): row for row in others if row.result}
    left = [f"{_name(study, row)} ({row.status})" for row in others if not row.result]
    if not done:
        return alone(study.metric, [(name, first)], where) + _not_compared(left)
    own = [n for n, row in done.items() if row.precise_results]
    other = (own or best_first(done, study.metric))[0]
    text = compared(study, rows, (name, first), (other, done[other]), where)
    if not own and len(done) > 1:
        text += picked(study.metric, other, len(done))
    return f"{text}{_recomputed(study, first, others)}{_not_compared(left)}"


def _not_compared(left: list[str]) -> str:
    return f" Not compared: {', '.join(left)}." if left else ""


def _why_not(first: Row, row: Row, found: Difference | None) -> str:
    if not row.result:
        return row.status
    if found is None:
        apart = first.evaluated_on != row.evaluated_on
        return "evaluated on different images" if apart else "no result of a seed that both have"
    return counted(found.pairs, "seed")


def _told(study: Study, found: Difference | None) -> str:
    if found is None or not found.told_apart:
        return ""
    return "better" if is_better(study.metric, found.mean) else "worse"


def _recomputed(study: Study, first: Row, others: list[Row]) -> str:
    """The same against arms with recomputed statistics, as sentences; else it is running ones."""
    name = _name(study, first)
    return "".join(
        f" Against {_name(study, row)} with recomputed statistics: "
        + verdict(
            study.metric,
            name,
            f"{_name(study, row)} {RECOMPUTED}",
            row_difference(first, row, recomputed_b=True),
        )
        + "."
        for row in others
        if row.precise_results
    )


def _size(study: Study, found: Difference) -> str:
    size = found if found.mean > 0 else found.negated
    return f"{gap(study.metric, found)} ({uncertainty(size)})"


def _at(same: list[Row]) -> str:
    """Where some rows are, as " at 1 image per worker"."""
    sizes = list(dict.fromkeys(str(row.labels["batch_per_worker"]) for row in same))
    noun_of_them = "image" if sizes == ["1"] else "images"
    return f" at {', '.join(sizes)} {noun_of_them} per worker"


def _name(study: Study, row: Row) -> str:
    return study.label(row.labels)
