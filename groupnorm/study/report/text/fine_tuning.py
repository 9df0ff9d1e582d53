"""The words of a study of fine-tuning: what the first arm gains over the others, early and late."""

from __future__ import annotations

from typing import Any

from groupnorm.study.report.text.findings import alone, compared
from groupnorm.study.report.text.verdicts import gap, uncertainty
from groupnorm.study.results.by_step import difference_at, shown_steps
from groupnorm.study.results.differences import groups_of, row_difference
from groupnorm.study.results.estimates import Difference
from groupnorm.study.results.format import counted
from groupnorm.study.results.labels import SIZE
from groupnorm.study.results.rows import Row, Study
from groupnorm.study.results.wording import is_better, noun


def fine_tuning_headline(study: Study, rows: list[Row]) -> str:
    """The finding with its uncertainty: the first arm against each other one after the last step,
    at the fewest images per worker."""
    here = min(groups_of(study, rows), key=lambda alike: int(alike[0].labels[SIZE]))
    where = f" at {counted(here[0].labels[SIZE], 'image')} per worker"
    return _first_against_others(study, rows, here, where, None)


def fine_tuning_text(study: Study, rows: list[Row]) -> str:
    """The same at other numbers of images per worker, of the arms that depend on it, and after the
    first step that is shown; which arms have no result."""
    fewest, *others = sorted(groups_of(study, rows), key=lambda here: int(here[0].labels[SIZE]))
    sentences = []
    if steps := shown_steps(study)[:-1]:
        at = f" after {counted(steps[0], 'step')}"
        sentences.append(_first_against_others(study, rows, fewest, at, steps[0]))
    told = {row.runs for row in fewest}
    for here in others:
        alike = [here[0], *(row for row in here[1:] if row.runs not in told)]
        if len(alike) > 1:
            where = f" at {counted(here[0].labels[SIZE], 'image')} per worker"
            sentences.append(_first_against_others(study, rows, alike, where, None))
    missing = dict.fromkeys(f"{_name(study, r)} ({r.status})" for r in rows if r.result is None)
    if missing:
        sentences.append(f"Without a result: {', '.join(missing)}.")
    return " ".join(sentence for sentence in sentences if sentence)


def conversions_note(study: Study) -> str:
    """What the conversions of the weights that arms start from did, and what they left."""
    reports = [
        found
        for record in study.records.values()
        if (found := record.env.get("init", {}).get("conversion")) is not None
    ]
    if not reports:
        return ""
    layers = sorted({len(report["layers"]) for report in reports})
    errors = [e for report in reports if (e := report["output_error"]) is not None]
    text = (
        f"Each conversion replaced {' or '.join(map(str, layers))} norms of the encoder "
        f"({counted(len(reports), 'conversion')}"
    )
    if errors:
        ends = " to ".join(dict.fromkeys(f"{end:.2g}" for end in (min(errors), max(errors))))
        text += (
            f"; error of the encoder's maps {ends} of their variance, on images that nothing was "
            "fitted to"
        )
    return f"{text}). {_skipped(reports)} The reports are in `env.json` of the runs."


def _skipped(reports: list[dict[str, Any]]) -> str:
    left = {(one["name"], one["reason"]) for report in reports for one in report["skipped"]}
    if not left:
        return "None was left as it was."
    return "Left as they were: " + "; ".join(f"{n}: {why}" for n, why in sorted(left)) + "."


def _first_against_others(
    study: Study, rows: list[Row], here: list[Row], where: str, step: int | None
) -> str:
    """One sentence: what the first arm gains or loses, and from which arms it is not told apart.

    Args:
        where: follows the name of the first arm.
        step: after which; None: at the end.
    """
    done = [row for row in here if row.result]
    if len(done) < 2 or done[0] is not here[0]:
        return alone(study.metric, [(_name(study, row), row) for row in done[:1]], where)
    first, *others = done
    found = {
        _name(study, row): row_difference(first, row)
        if step is None
        else difference_at(study, first, row, step)
        for row in others
    }
    name = _name(study, first)
    if all(one is None or one.told_apart is None for one in found.values()):
        if step is not None:
            return ""
        best = others[0]
        return compared(study, rows, (name, first), (_name(study, best), best), where)
    better = _listed(study, {n: f for n, f in found.items() if _told(study, f) == "better"})
    worse = _listed(study, {n: f for n, f in found.items() if _told(study, f) == "worse"})
    equal = [
        f"{n} ({uncertainty(f)})"
        for n, f in found.items()
        if f is not None and f.told_apart is False
    ]
    parts = []
    if better:
        parts.append(f"has a higher {noun(study.metric)} than {better}")
    if worse:
        parts.append(f"has a lower {noun(study.metric)} than {worse}")
    if untold := [name for name, one in found.items() if one is None or one.told_apart is None]:
        parts.append(f"has no interval of its difference from {' and '.join(untold)}")
    if equal:
        parts.append(f"cannot be told apart from {' and '.join(equal)}")
    return f"{name[0].upper()}{name[1:]}{where} {'; it '.join(parts)}."


def _told(study: Study, found: Difference | None) -> str:
    if found is None or not found.told_apart:
        return ""
    return "better" if is_better(study.metric, found.mean) else "worse"


def _listed(study: Study, found: dict[str, Difference | None]) -> str:
    texts = []
    for name, one in found.items():
        assert one is not None
        size = one if one.mean > 0 else one.negated
        texts.append(f"{name} by {gap(study.metric, one)} ({uncertainty(size)})")
    return " and ".join(texts)


def _name(study: Study, row: Row) -> str:
    return study.label(row.labels)
