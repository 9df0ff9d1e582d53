"""Successive halving as arithmetic: from results to what a rung keeps, and refinement by part.

Everything here is computed from a function `result(name, epochs)`: the value of a metric that a
candidate has after so many epochs, None while that is not known, infinity, of the sign that is
worse, where training diverged. Planning and report both read a search through it, so that neither
can tell another story than the records do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from groupnorm.study.results.format import decimal_text
from groupnorm.study.results.wording import is_better, rank
from groupnorm.training.metric import Metric

ResultOf = Callable[[str, int], float | None]
KEPT = 3
"""Candidates that the first rung keeps; the second keeps one."""
GROWTH = 3
"""Each rung trains so many times as long as the one before."""
LONGEST = 0.43
"""Greatest part of the full schedule that a search trains anything for."""
WORTH_REFINING = 0.5
"""Between the best and the worst of the first rung, above which parts are tried."""


@dataclass(frozen=True)
class Rung:
    """Candidates that were trained for as many epochs, and what became of them.

    Attributes:
        epochs: since the beginning of the training.
        results: by candidate; infinite where training diverged. Those that are not known yet are
            missing.
        asked: the candidates, first those that a tie favours.
        kept: of these the best, best first; empty while a result is missing, or when all diverged.
    """

    epochs: int
    results: dict[str, float]
    asked: tuple[str, ...]
    kept: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every result is known."""
        return len(self.results) == len(self.asked)

    @property
    def dropped(self) -> tuple[str, ...]:
        """Those that go no further; nothing while a result is missing."""
        return tuple(name for name in self.asked if name not in self.kept) if self.complete else ()

    @property
    def tied(self) -> tuple[str, ...]:
        """Candidates of one result of which some were kept and some dropped, by their order alone.

        Empty where results decided, and while one is missing.
        """
        border = {_rounded(self.results[name]) for name in self.kept}
        border &= {_rounded(self.results[name]) for name in self.dropped}
        return tuple(name for name in self.asked if _rounded(self.results[name]) in border)

    @property
    def lowest(self) -> float:
        """The lowest result; infinity where there is none."""
        return min(self.results.values(), default=math.inf)

    @property
    def spread(self) -> float:
        """Between the best and the worst of those that did not diverge."""
        finite = [result for result in self.results.values() if math.isfinite(result)]
        return max(finite) - min(finite) if finite else 0.0


@dataclass(frozen=True)
class Step:
    """One part of the network, and what other norms of it give.

    Attributes:
        part: as "stage1".
        before: the candidate that was best before.
        results: of the alternatives, as in `Rung`.
        asked: the alternatives, each `before` with another norm of this part.
        best: what is best now; None while a result is missing.
    """

    part: str
    before: str
    results: dict[str, float]
    asked: tuple[str, ...]
    best: str | None


def first_epochs(full: int) -> int:
    """Epochs of the first rung: the most with which the last one fits into `LONGEST` of `full`.

    0 when there is no such number.
    """
    return math.floor(LONGEST * full / GROWTH**2 + 1e-9)


def least_epochs() -> int:
    """The shortest full schedule that can be searched."""
    return math.ceil(GROWTH**2 / LONGEST)


def rung_epochs(first: int) -> tuple[int, int, int]:
    """Epochs at the end of each rung."""
    return first, first * GROWTH, first * GROWTH**2


def reported_epochs(first: int) -> int:
    """How many last epochs of a rung its result is the median of: half of the first rung's."""
    return (first + 1) // 2


def cost(candidates: int, first: int, seeds: int) -> int:
    """Epochs that a search without refinement trains: 31 r for ten candidates and two seeds."""
    one, three, nine = rung_epochs(first)
    kept = min(KEPT, candidates)
    return candidates * one + kept * (three - one) + (nine - three) + (seeds - 1) * nine


def climb(
    names: Sequence[str], epochs: Sequence[int], result: ResultOf, metric: Metric
) -> list[Rung]:
    """The rungs so far, up to the first one of which a result is missing.

    Of equal results the candidate that `names` has first counts as better. One that diverged is
    kept by no rung.

    Args:
        names: the candidates, in the order that a tie prefers.
        epochs: at the end of each rung.
        metric: what the results are values of.
    """
    rungs: list[Rung] = []
    asked = tuple(names)
    for number, end in enumerate(epochs):
        results = _known(asked, end, result)
        kept: tuple[str, ...] = ()
        if len(results) == len(asked):
            # stable: ties keep the order
            ranked = sorted(asked, key=lambda name: rank(metric, _rounded(results[name])))
            finite = [name for name in ranked if math.isfinite(results[name])]
            kept = tuple(finite[: KEPT if number == 0 else 1])
        rungs.append(Rung(end, results, asked, kept))
        if not kept:
            break
        asked = tuple(name for name in asked if name in kept)
    return rungs


def coordinate_steps(
    start: str,
    parts: Sequence[str],
    alternatives: Callable[[str, str], Sequence[str] | None],
    epochs: int,
    result: ResultOf,
    metric: Metric,
) -> list[Step]:
    """One step for each part in turn, up to the first one of which a result is missing.

    An alternative is taken when its result is better than that of what was best before it.

    Args:
        start: the candidate to begin with, whose result is known.
        alternatives: from a part and the best candidate so far to candidates that differ in it;
            None for a part that has not begun, which ends the steps.
        epochs: that each is trained for.
        metric: what the results are values of.
    """
    steps: list[Step] = []
    best = start
    for part in parts:
        found = alternatives(part, best)
        if found is None:
            return steps
        asked = tuple(found)
        results = _known(asked, epochs, result)
        if len(results) < len(asked):
            return [*steps, Step(part, best, results, asked, None)]
        now = result(best, epochs)
        assert now is not None
        other = min(asked, key=lambda name: rank(metric, results[name]), default=best)
        better = is_better(metric, results.get(other, now) - now)
        before, best = best, other if better else best
        steps.append(Step(part, before, results, asked, best))
    return steps


def unusual(
    measured: Mapping[str, tuple[float, float]], ratio: float = 2.0, least: int = 4
) -> dict[str, str]:
    """Candidates that a look at the untrained network discards, each with the reason.

    The backward gain of a layer is good near 1, and statistics are good that vary little between
    images. Only what lies far off is discarded, and never so much that fewer than `least` are left:
    of more, those stay that lie the least far off.

    Args:
        measured: by candidate, gain and noise (`study.initial_pass`); a noise of infinity
            stands for groups of a single value.
        ratio: between 1 / `ratio` and `ratio` the gain is usual, and up to its logarithm the noise.
    """
    limit = math.log(ratio)
    excess = {
        name: max(abs(math.log(gain)), noise) - limit for name, (gain, noise) in measured.items()
    }
    far = sorted((name for name in measured if excess[name] > 0), key=lambda name: excess[name])
    spared = max(0, least - (len(measured) - len(far)))
    return {name: _why(*measured[name], ratio) for name in far[spared:]}


def _why(gain: float, noise: float, ratio: float) -> str:
    reasons = []
    if abs(math.log(gain)) > math.log(ratio):
        reasons.append(
            f"the gradient grows by a factor of {decimal_text(gain, 2)} a layer, outside "
            f"{decimal_text(1 / ratio, 2)} to {decimal_text(ratio, 2)}"
        )
    if math.isinf(noise):
        reasons.append("a group has a single value in some layer")
    elif noise > math.log(ratio):
        reasons.append(
            "a group's standard deviation varies between images by a factor of "
            f"{decimal_text(math.exp(noise), 2)} in some layer, above {decimal_text(ratio, 2)}"
        )
    return "; ".join(reasons)


def _rounded(result: float) -> float:
    """What results are sorted by: medians of the same counts may differ in their last bits."""
    return round(result, 9)


def _known(names: Sequence[str], epochs: int, result: ResultOf) -> dict[str, float]:
    found = {name: result(name, epochs) for name in names}
    return {name: value for name, value in found.items() if value is not None}
