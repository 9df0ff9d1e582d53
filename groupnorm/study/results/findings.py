"""What was published of two rows of a study, and whether it appears in what it measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from groupnorm.counts import counted
from groupnorm.study.results.differences import (
    gains,
    has_parts,
    part_difference,
    row_difference,
)
from groupnorm.study.results.estimates import Difference, paired_difference
from groupnorm.study.results.format import plain_text
from groupnorm.study.results.labels import NOTHING, interval_text
from groupnorm.study.results.rows import Row, Study
from groupnorm.study.results.wording import is_better
from groupnorm.training.metric import Metric

YES, OPPOSITE, NO_RESULT = "yes", "no, the opposite", "no result to compare"
DIFFERENT = "no, they differ by more"


@dataclass(frozen=True)
class Finding:
    """A published statement that one row of a table is better than another, or as good as it.

    Attributes:
        statement: in words, as "GN is above frozen BN".
        source: where it was published, with its numbers.
        better: the labels of the row that is better by it; of an equality those of either.
        worse: the labels of the other one.
        than: "better" and "worse" of another pair, which differ by less: then the statement is that
            the first pair gains more than this one, as group norm gains more than batch norm from
            longer clips. None: it is about one pair.
        within: the statement is that the two are equal within so many of the metric's units, that
            is, that they differ by less. None: it is that one is better.
    """

    statement: str
    source: str
    better: dict[str, Any]
    worse: dict[str, Any]
    than: dict[str, dict[str, Any]] | None = None
    within: float | None = None

    def as_json(self) -> dict[str, Any]:
        """As it stands in `study.json`."""
        fields = asdict(self)
        return {key: value for key, value in fields.items() if value is not None}


@dataclass(frozen=True)
class Appearance:
    """A finding beside what a study measured: the better row minus the other one.

    Of a finding about two pairs it is the first pair's gain minus the other's.

    Attributes:
        over_seeds: None where no seed of all rows has a result.
        on_parts: None where no run has values on parts of the test images, and of two pairs.
        answer: whether it appears, in a few words.
    """

    finding: Finding
    over_seeds: Difference | None
    on_parts: Difference | None
    answer: str


def appearances(study: Study, rows: Sequence[Row]) -> list[Appearance]:
    """Every finding that the study's record names, in its order."""
    found = []
    for named in study.manifest.get("findings") or ():
        finding = Finding(**named)
        better, worse = _row(rows, finding.better), _row(rows, finding.worse)
        over_seeds = on_parts = None
        if finding.than is not None:
            other = [_row(rows, finding.than[key]) for key in ("better", "worse")]
            over_seeds = paired_difference(gains(better, worse), gains(*other))
        elif better and worse:
            over_seeds = row_difference(better, worse)
            on_parts = part_difference(better, worse, study.metric)
        if finding.within is None:
            answer = appears(study.metric, over_seeds, on_parts)
        else:
            answer = equal_within(finding.within, over_seeds)
        found.append(Appearance(finding, over_seeds, on_parts, answer))
    return found


def appears(metric: Metric, over_seeds: Difference | None, on_parts: Difference | None) -> str:
    """Whether a difference says that the first arm is better, in a few words.

    It appears where the seeds tell it. What the test images alone tell is of these networks, and
    another training may have another result.
    """
    if over_seeds is None:
        return NO_RESULT
    same = is_better(metric, over_seeds.mean)
    if over_seeds.told_apart:
        return YES if same else OPPOSITE
    seeds = _seeds(over_seeds)
    if on_parts is not None and on_parts.told_apart:
        way = "same" if is_better(metric, on_parts.mean) else "other"
        return f"not told by {seeds}; these networks differ the {way} way"
    return f"not told by {seeds}"


def equal_within(margin: float, over_seeds: Difference | None) -> str:
    """Whether a difference is less than `margin`, in a few words.

    It is where the whole interval over seeds is, and is not where no part of the interval is. That
    an interval holds 0 does not tell it, for few seeds give wide ones.
    """
    if over_seeds is None:
        return NO_RESULT
    if over_seeds.interval is not None:
        low, high = over_seeds.interval
        if -margin < low and high < margin:
            return YES
        if low >= margin or high <= -margin:
            return DIFFERENT
    return f"not told by {_seeds(over_seeds)}"


def _seeds(found: Difference) -> str:
    return "one seed" if found.pairs == 1 else "these seeds"


def findings_header(study: Study) -> list[str]:
    """What stands above `findings_lines`."""
    on_parts = ["95 % interval over parts"] if has_parts(study) else []
    return [
        "published", "does it appear here?", "difference here", "95 % interval over seeds",
        *on_parts, "source",
    ]  # fmt: skip


def findings_lines(study: Study, found: Sequence[Appearance]) -> list[list[str]]:
    """The lines of a table below `findings_header`."""
    with_parts = has_parts(study)
    return [
        [
            one.finding.statement,
            one.answer,
            NOTHING if one.over_seeds is None else plain_text(one.over_seeds.shown),
            _interval(one.over_seeds),
            *([_interval(one.on_parts)] if with_parts else []),
            one.finding.source,
        ]
        for one in found
    ]


def findings_sentence(found: Sequence[Appearance], what: str = "arms") -> str:
    """How many of the findings, about these `what`, appear; empty without any."""
    if not found:
        return ""
    answers = [one.answer for one in found]
    yes, opposite, different, without = (
        answers.count(one) for one in (YES, OPPOSITE, DIFFERENT, NO_RESULT)
    )
    told = counted(len(found), "published finding")
    appear = f"{yes or 'none'} {'appear' if yes > 1 else 'appears'}"
    text = f"Of {told} about these {what} {appear} here"
    if opposite:
        text += f", of {opposite} the opposite appears"
    if different:
        text += f", {different} {'do' if different > 1 else 'does'} not"
    if left := len(found) - yes - opposite - different - without:
        text += f", {left} cannot be told by these seeds"
    if without:
        text += f", {without} {'have' if without > 1 else 'has'} no result to compare here"
    return f"{text}; each stands below with its difference."


def _row(rows: Sequence[Row], labels: Mapping[str, Any]) -> Row | None:
    return next((row for row in rows if row.labels == labels), None)


def _interval(found: Difference | None) -> str:
    return NOTHING if found is None or found.interval is None else interval_text(found.interval)
