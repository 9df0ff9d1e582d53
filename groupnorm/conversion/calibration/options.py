"""How a network is fitted to data, checked before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

from groupnorm.conversion.calibration.fit import DEFAULT_LIMITS, FitLimits
from groupnorm.conversion.calibration.group_rule import ERROR_BUDGET
from groupnorm.conversion.rules import MIN_CHANNELS


@dataclass(frozen=True)
class Options:
    """How a network is fitted; each as the keyword of `convert`.

    Attributes:
        free: whether the number of groups of each norm is chosen by the error budget.
        min_channels: of each group, where there is a choice.
        limits: see `convert`.
        refit: see `convert`.
        budget: see `convert`.
        plain: see `convert`.
        hybrid: see `convert`.
        finetune_steps: see `convert`.
        seed: see `convert`.
        progress: see `convert`.
        reorder: see `convert`.

    Raises:
        ValueError: a number is out of its range.
        TypeError: `limits` are none.
    """

    free: bool = True
    min_channels: int = MIN_CHANNELS
    limits: FitLimits = DEFAULT_LIMITS
    hybrid: float = 1.0
    refit: bool = True
    budget: float = ERROR_BUDGET
    plain: bool = False
    finetune_steps: int = 0
    seed: int = 0
    progress: bool = False
    reorder: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.limits, FitLimits):
            raise TypeError(f"limits must be FitLimits, got {self.limits!r}")
        for name, allowed, expected in (
            ("hybrid", 0 <= self.hybrid <= 1, "a number from 0 to 1"),
            ("budget", 0 < self.budget < 1, "a number between 0 and 1"),
            ("finetune_steps", _is_whole(self.finetune_steps, 2**63), "a whole number, 0 or more"),
            ("seed", _is_whole(self.seed, 2**63), "a whole number from 0 to 2**63 - 1"),
        ):
            if not allowed:
                raise ValueError(f"{name} must be {expected}, got {getattr(self, name)!r}")


def _is_whole(value: object, below: int) -> bool:
    return isinstance(value, int) and 0 <= value < below
