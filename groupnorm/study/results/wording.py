"""How a metric reads: its nouns and unit, which of two values is better, and in which words.

"error 27.3 %" is better the lower it is, "box AP 31.4" the higher. A study may be about either, so
texts, tables and axes ask here for what depends on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from groupnorm.study.results.estimates import Interval
from groupnorm.study.results.format import decimal_text
from groupnorm.training.metric import Metric

PERCENT = "%"
_WHOLE = (0.0, 100.0)


def noun(metric: Metric) -> str:
    """The title in short: "error" of "top-1 error". One that ends in a name stays, as "box AP"."""
    last = metric.title.split()[-1]
    return last if last.islower() else metric.title


def plural(metric: Metric) -> str:
    """The noun of several values, e.g. "errors"."""
    one = noun(metric)
    if one.endswith("acy"):
        return f"{one.removesuffix('y')}ies"
    return f"{one}es" if one.endswith("s") else f"{one}s"


def with_article(text: str) -> str:
    """A noun with "a" or "an" before it."""
    return f"{'an' if text[0].lower() in 'aeiou' else 'a'} {text}"


def capital(text: str) -> str:
    """A text that begins a sentence or a title."""
    return text[:1].upper() + text[1:]


def key(metric: Metric) -> str:
    """What the metric is called in the numbers for programs: "error" of "val_error"."""
    return metric.name.removeprefix("val_")


def slug(metric: Metric) -> str:
    """The noun in names of files, e.g. "error" or "box-ap"."""
    return "-".join(noun(metric).lower().split())


def in_unit(metric: Metric, between: str = " ") -> str:
    """What follows a noun where the unit stands in words, as " in percent"; empty without a unit.

    Args:
        between: the noun and the unit.
    """
    unit = unit_words(metric)
    return f"{between}in {unit}" if unit else ""


def unit_words(metric: Metric) -> str:
    """The unit in words, e.g. "percent"; empty without one."""
    return "percent" if metric.unit == PERCENT else metric.unit


def unit_in_full(metric: Metric) -> str:
    """What a published table calls it, title and unit, e.g. "top-1 error %"."""
    return f"{metric.title} {metric.unit}".rstrip()


def axis_label(metric: Metric, text: str) -> str:
    """A noun with the unit as an axis has it, e.g. "error (%)"; without one as it is."""
    return f"{text} ({metric.unit})" if metric.unit else text


def value_text(metric: Metric, value: float, digits: int = 1) -> str:
    """A value with its unit, e.g. "27.3 %"."""
    return f"{decimal_text(value, digits)} {metric.unit}".rstrip()


def gap_unit(metric: Metric) -> str:
    """The unit of a difference: points, where values are in percent or have no unit."""
    return "points" if metric.unit in (PERCENT, "") else metric.unit


def gap_unit_in_full(metric: Metric) -> str:
    """The same in a title: "percentage points" of values in percent."""
    return "percentage points" if metric.unit == PERCENT else gap_unit(metric)


def bounds(metric: Metric) -> tuple[float, float] | None:
    """Between which values the metric lies; None where its unit does not tell."""
    return _WHOLE if metric.unit == PERCENT else None


def beyond_bounds(metric: Metric, intervals: Iterable[Interval | None], shown: str = "") -> str:
    """A sentence, after a space, where an interval of a mean leaves 0 to 100 %; else empty.

    Args:
        intervals: None where a mean has none.
        shown: how such an interval is shown, to end the sentence with.
    """
    limits = bounds(metric)
    known = [interval for interval in intervals if interval is not None]
    if limits is None or all(limits[0] <= low and high <= limits[1] for low, high in known):
        return ""
    return (
        " An interval of few seeds that vary much reaches below 0 or above 100 %, because "
        f"Student's t knows no bounds{shown}."
    )


def is_share(metric: Metric) -> bool:
    """Whether it is the share of the images that were classified wrong, or right."""
    return metric.unit == PERCENT and noun(metric) in ("error", "accuracy")


def lower_is_better(metric: Metric) -> bool:
    """Whether the lower of two values is the better one."""
    return metric.better == "lower"


def rank(metric: Metric, value: float) -> float:
    """What sorts values, the best first."""
    return value if lower_is_better(metric) else -value


def worst_value(metric: Metric) -> float:
    """Worse than any value: what stands for a training that diverged."""
    return math.inf if lower_is_better(metric) else -math.inf


def best_word(metric: Metric) -> str:
    """What the best value is: "lowest" or "highest"."""
    return "lowest" if lower_is_better(metric) else "highest"


def worst_word(metric: Metric) -> str:
    """What the worst value is: "highest" or "lowest"."""
    return "highest" if lower_is_better(metric) else "lowest"


def better_word(metric: Metric) -> str:
    """How a better value compares: "lower" or "higher"."""
    return "lower" if lower_is_better(metric) else "higher"


def beyond_word(metric: Metric) -> str:
    """How much a better value is than another: so many points "less" or "more"."""
    return "less" if lower_is_better(metric) else "more"


def is_better(metric: Metric, difference: float) -> bool:
    """Whether a value minus another says that the first one is better; of equal ones neither is."""
    return rank(metric, difference) < 0


def ahead(metric: Metric, gap: str, than: str = "") -> str:
    """What the better of two does, e.g. "has 6.2 points less error than bn".

    Args:
        gap: their difference.
        than: the other one; without it the sentence leaves it out.
    """
    other = f" than {than}" if than else ""
    if lower_is_better(metric):
        return f"has {gap} less {noun(metric)}{other}"
    return f"is {gap} better{other} in {noun(metric)}"


def short_comparison(metric: Metric, better: bool) -> str:
    """The same as a cell: "less error" or "more error", "higher box AP" or "lower box AP"."""
    if lower_is_better(metric):
        return f"{'less' if better else 'more'} {noun(metric)}"
    return f"{'higher' if better else 'lower'} {noun(metric)}"


def per_worker(batch: int | str) -> str:
    """A batch size in words, e.g. "1 image per worker"; or several, given as "32 and 8"."""
    return f"{batch} image{'' if batch in (1, '1') else 's'} per worker"
