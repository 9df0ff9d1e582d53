"""The search for the number of groups: which rules there are, and what is like them.

The rules are numbers of groups and of channels per group for the whole network. `study.search`
trains them for a while and drops the worse ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from groupnorm.models import channel_widths, places_of, widths_of_place
from groupnorm.spec import DEFAULT_NUM_GROUPS, NormSpec
from groupnorm.study.plan import PlanError, vary
from groupnorm.study.results.halving import LONGEST, first_epochs, least_epochs
from groupnorm.study.search import Rules
from groupnorm.training.config import RunConfig

GROUPS = (32, 16, 8, 4, 2, 1)
CHANNELS_PER_GROUP = (2, 4, 8, 16)
SEEDS = 2
"""Of the rule that is chosen, at the last rung."""
EPOCHS = 42
"""The full schedule of a search whose recipe has too few epochs for one: the first rung has 2."""


def long_enough(base: RunConfig, epochs: int | None) -> RunConfig:
    """The configuration with a schedule that can be searched.

    Args:
        epochs: those that the user asks for; None leaves them to the recipe, or to `EPOCHS` if it
            has too few.

    Raises:
        PlanError: `epochs` are too few, or the recipe counts steps.
    """
    if base.epochs is None:
        raise PlanError("a search counts epochs; its runs cannot be given a number of steps")
    if first_epochs(base.epochs):
        return base
    if epochs is not None:
        raise PlanError(
            f"a search trains its best rule for nine times as long as all of them, and for at most "
            f"{LONGEST:g} of the full schedule: give epochs={least_epochs()} at least, got {epochs}"
        )
    return vary(base, epochs=EPOCHS)


def rules_of(base: RunConfig) -> tuple[Rules, list[tuple[NormSpec, str]]]:
    """The rules for the network of `base`, and those that it cannot have, with the reason.

    Rules that give the same layers are one. They come in the order in which a tie is decided:
    nearest to 32 groups first, as the mean of |log2(groups / 32)| over the network's widths; of
    equally near ones that with fewer channels per group.

    Raises:
        PlanError: there are fewer than two.
    """
    widths = channel_widths(base.model, base.width)
    found: dict[tuple[int, ...], NormSpec] = {}
    same, skipped = {}, []
    for spec in _specs():
        if misfit := _misfit(spec, widths):
            skipped.append((spec, misfit))
            continue
        groups = tuple(spec.num_groups(width) for width in widths)
        if groups in found:
            same[str(spec)] = str(found[groups])
        else:
            found[groups] = spec
    if len(found) < 2:
        raise PlanError(
            f"{base.model} with {', '.join(map(str, widths))} channels has only one of the "
            "divisions that are searched; there is nothing to choose"
        )
    order = sorted(found, key=lambda groups: _preference(groups, widths))
    rules = Rules(
        tuple(vary(base, norm=found[groups]) for groups in order),
        same,
        tuple(place for place in places_of(base.model) if place != "stem"),
        alternatives,
    )
    return rules, skipped


def alternatives(config: RunConfig, place: str) -> Sequence[RunConfig]:
    """The configurations with twice and with half the groups in one place of the network.

    Those that its channels cannot be divided into are left out.
    """
    now = config.norms.get(place, config.norm)
    widths = widths_of_place(config.model, place, config.width)
    found = []
    for factor in (2.0, 0.5):
        spec = _scaled(now, factor)
        if spec is not None and not _misfit(spec, widths):
            found.append(vary(config, norms={**config.norms, place: spec}))
    return found


def _specs() -> Iterable[NormSpec]:
    yield from (NormSpec("gn", groups=number) for number in GROUPS)
    yield from (NormSpec("gn", size=number) for number in CHANNELS_PER_GROUP)


def _misfit(spec: NormSpec, widths: Sequence[int]) -> str | None:
    """Why a layer cannot have the division; None when all can."""
    number = spec.size or spec.groups
    assert isinstance(number, int)
    parts = f"groups of {number}" if spec.size else f"{number} groups"
    return next(
        (f"{width} channels cannot be divided into {parts}" for width in widths if width % number),
        None,
    )


def _scaled(spec: NormSpec, factor: float) -> NormSpec | None:
    """The division with so many times the groups; None where that is no whole number."""
    if spec.size is not None:
        size = spec.size / factor
        return NormSpec(spec.kind, size=int(size)) if size >= 1 and size % 1 == 0 else None
    assert isinstance(spec.groups, int)
    groups = spec.groups * factor
    return NormSpec(spec.kind, groups=int(groups)) if groups >= 1 and groups % 1 == 0 else None


def _preference(groups: Sequence[int], widths: Sequence[int]) -> tuple[float, int]:
    far = [abs(math.log2(number / DEFAULT_NUM_GROUPS)) for number in groups]
    return round(sum(far) / len(far), 9), max(widths) // groups[widths.index(max(widths))]
