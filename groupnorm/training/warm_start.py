"""Training from another run's weights: which of them go where, and what is left as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from groupnorm.spec import NormSpec
from groupnorm.training.config import TrainingConfig


class WarmStartError(ValueError):
    """Another run's weights do not fit the model."""


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """How the weights of another run fit a model.

    Attributes:
        rename: from a key of the other run's model to that of this one; None leaves it out.
        fresh: how keys of this model begin that keep their first values where the other has none.
        finish: from the training data, once the model has the weights, to the report of the
            conversion that it does to a part of the model in place
            (`TrainingConfig.converted_part`), as `ConversionReport.to_dict`; None for no such
            thing.
        convert: from the renamed weights to those of this model, key by key; what it raises is a
            `WarmStartError`.
    """

    rename: Callable[[str], str | None] = lambda key: key
    fresh: Sequence[str] = ()
    finish: Callable[[Any], dict[str, Any]] | None = None
    convert: Callable[[dict[str, Tensor]], Mapping[str, Tensor]] = lambda weights: weights


def check_norm(own: NormSpec, trained: NormSpec) -> None:
    """Refuse weights that another norm was trained with: they may fit, and compute something else.

    Raises:
        WarmStartError: see `NormSpec.may_take_weights_of`.
    """
    if not own.may_take_weights_of(trained):
        raise WarmStartError(
            f"they were trained with {trained}; with {own} the same weights compute something else"
        )


def check_norms(config: TrainingConfig, other: Mapping[str, Any]) -> None:
    """The same for a run of the same task, in every place.

    Args:
        other: that run's `identity()`.
    """
    check_norm(config.norm, trained := NormSpec.parse(other["norm"]))
    places = {place: NormSpec.parse(norm) for place, norm in other.get("norms", {}).items()}
    for place in sorted({*config.norms, *places}):
        check_norm(config.norms.get(place, config.norm), places.get(place, trained))


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], how: WarmStart) -> dict[str, Any]:
    """Put another model's parameters and buffers into `model`; what became of them, for the record.

    A layer may take or leave out keys as it does in any `load_state_dict`.

    Returns:
        `loaded`, the number of entries that were taken, and the names of the others: `left_out` of
        those given, `fresh` of those of the model.

    Raises:
        WarmStartError: a key of the model is missing and not `fresh`, one is given that the model
            does not have, or a shape differs.
    """
    renamed = {key: how.rename(key) for key in weights}
    given = how.convert({new: weights[key] for key, new in renamed.items() if new is not None})
    try:
        found = model.load_state_dict(given, strict=False)
    except RuntimeError as error:  # of shapes, one line for each
        _, *lines = str(error).splitlines()
        raise WarmStartError("; ".join(line.strip().rstrip(".") for line in lines)) from None
    missing = [key for key in found.missing_keys if not key.startswith(tuple(how.fresh))]
    for what, keys in (("lacks", missing), ("has", found.unexpected_keys)):
        if keys:
            others = "" if len(keys) == 1 else f" and {len(keys) - 1} more"
            besides = " that the model does not have" if what == "has" else ""
            raise WarmStartError(f"{what} {keys[0]}{others}{besides}")
    return {
        "loaded": len(given),
        "left_out": [key for key, new in renamed.items() if new is None],
        "fresh": list(found.missing_keys),
    }
