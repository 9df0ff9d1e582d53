"""How many groups each norm gets: as many as one error budget for the network allows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from groupnorm.conversion.calibration.fit import (
    DEFAULT_LIMITS,
    FitLimits,
    LayerFit,
    fit_layer,
    inherited_error,
    relative_error,
)
from groupnorm.conversion.calibration.moments import LayerMoments
from groupnorm.conversion.rules import CANDIDATES, MIN_CHANNELS

MIN_SAMPLES = 8
"""Samples without which held-out errors say nothing."""
ERROR_BUDGET = 0.03
"""What the norms of a network may add together. On a ResNet-20 (128 images, one seed) budgets of
0.02, 0.05 and 0.1 kept 99.5, 98.9 and 97.2 % of the teacher's accuracy."""
_STEPS_OF_TRIALS = 50


@dataclass(frozen=True)
class GroupChoice:
    """The number of groups of a norm, and why.

    Attributes:
        fit: over the rows to fit on.
        error: its relative error on held-out rows.
        inherited: what of it no choice could have avoided, `inherited_error` there.
        allowed: what the layer was allowed to add to it.
        reason: a sentence for the report.
    """

    fit: LayerFit
    error: float
    inherited: float
    allowed: float
    reason: str

    @property
    def added(self) -> float:
        """The error that the groups' statistics add."""
        return max(self.error - self.inherited, 0.0)


class ErrorBudget:
    """One error for a whole network, spent norm by norm in the order in which they run.

    A norm that adds the relative error e leaves 1 - w e of what the network knows, and the norms
    together the product of these: early errors multiply. The product shall stay above 1 - total.
    What is left of it is shared equally, by its logarithm, among the norms to come: one that needs
    less than its share leaves more to the others, one that cannot keep to it less.

    Args:
        weights: w of each norm in order, above 0: see `norm_weights`.
        total: the budget, above 0 and below 1.
    """

    def __init__(self, weights: Sequence[float], total: float = ERROR_BUDGET) -> None:
        if not 0 < total < 1:
            raise ValueError(f"the error budget must lie between 0 and 1, got {total}")
        if not all(weight > 0 for weight in weights):
            raise ValueError(f"weights of norms must be above 0, got {list(weights)}")
        self._left = -math.log1p(-total)
        self._weights = list(weights)

    @property
    def left(self) -> float:
        """Part of what the network knows that may still be lost; below 0 when it is overspent."""
        return -math.expm1(-self._left)

    def allowance(self) -> float:
        """The error that the next norm may add; 0 when nothing is left.

        Raises:
            ValueError: every norm has spent already.
        """
        if not self._weights:
            raise ValueError("every norm of the budget has spent its share")
        share = max(self._left, 0.0) / len(self._weights)
        return -math.expm1(-share) / self._weights[0]

    def spend(self, error: float) -> None:
        """Take off what the next norm adds, and go on to the one after it.

        Raises:
            ValueError: every norm has spent already.
        """
        if not self._weights:
            raise ValueError("every norm of the budget has spent its share")
        loss = min(self._weights.pop(0) * max(error, 0.0), 1 - 1e-9)
        self._left += math.log1p(-loss)


def candidate_groups(channels: int, min_channels: int = MIN_CHANNELS) -> list[int]:
    """Those of `CANDIDATES` that divide the channels and leave enough of them, and always 1."""
    return [
        groups
        for groups in CANDIDATES
        if groups == 1 or (channels % groups == 0 and channels // groups >= min_channels)
    ]


def choose_groups(
    fitting: LayerMoments,
    held_out: LayerMoments,
    budget: ErrorBudget,
    *,
    min_channels: int = MIN_CHANNELS,
    fit: Callable[..., LayerFit] = fit_layer,
    limits: FitLimits = DEFAULT_LIMITS,
) -> GroupChoice:
    """The most groups whose error on held-out rows stays within the budget, which is spent.

    From the most groups to one, a short fit is tried; the first that adds no more than the
    allowance is taken, or else the one with the smallest error, and fitted in full.

    Args:
        fitting: rows to fit on.
        held_out: other rows.
        budget: of the network, whose next norm this is.
        min_channels: of each group.
        fit: `fit_layer` with what the layer asks for.
        limits: of the fit.

    Raises:
        ValueError: fewer than `MIN_SAMPLES` rows to fit on.
    """
    if fitting.samples < MIN_SAMPLES:
        raise ValueError(
            f"the number of groups is chosen from {MIN_SAMPLES} samples or more besides those held "
            f"out, got {fitting.samples}: give more images, or a fixed number of groups"
        )
    inherited = inherited_error(held_out)
    allowed = budget.allowance()
    short = dataclasses.replace(limits, steps=min(limits.steps, _STEPS_OF_TRIALS))
    errors: dict[int, float] = {}
    for groups in candidate_groups(fitting.channels, min_channels):
        errors[groups] = relative_error(fit(fitting, groups, limits=short), held_out)
        if errors[groups] - inherited <= allowed:
            break
    within = errors[groups] - inherited <= allowed
    found = groups if within else min(errors, key=errors.__getitem__)
    full = fit(fitting, found, limits=limits)
    error = relative_error(full, held_out)
    choice = GroupChoice(full, error, inherited, allowed, _reason(errors, found, within))
    budget.spend(choice.added)
    return choice


def norm_weights(channels: Sequence[int], linear: Sequence[bool]) -> list[float]:
    """How much the error of each norm counts, for `ErrorBudget`.

    1, and for a narrow linear bottleneck (no activation behind it, as the last norm of MobileNet's
    blocks) the square root of how much narrower it is than the widest norm, 4 at most: its output
    is added to a stream that all later blocks read, and few channels carry what many did.

    Args:
        channels: of each norm.
        linear: whether no activation follows it.
    """
    widest = max(channels, default=1)
    return [
        min(math.sqrt(widest / count), 4.0) if bottleneck else 1.0
        for count, bottleneck in zip(channels, linear, strict=True)
    ]


def _reason(errors: dict[int, float], found: int, within: bool) -> str:
    first = next(iter(errors))
    if within and found == first:
        return f"the most groups that leave enough channels, error {errors[found]:.3f}"
    if within:
        refused = [groups for groups in errors if groups != found][-1]
        return f"{refused} groups would lose too much, error {errors[refused]:.3f}"
    return f"no number of groups keeps to the error budget; {found} has the smallest error"
