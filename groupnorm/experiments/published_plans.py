"""Published comparisons as studies: `groupnorm.experiments.EXPERIMENTS` with the user's changes."""

from __future__ import annotations

from typing import Any

from groupnorm.data import IMAGE_FILES
from groupnorm.experiments import EXPERIMENTS
from groupnorm.study.plan import (
    ExperimentOptions,
    Plan,
    PlanBuilder,
    PlanError,
    check_options,
    vary,
)


def experiment_plan(name: str, options: ExperimentOptions) -> Plan:
    """The plan of a published comparison.

    Raises:
        PlanError: an unknown name or data set, a number that is out of range, or both epochs and
            the smoke scale, whose length is its own.
    """
    if name not in EXPERIMENTS:
        raise PlanError(f"unknown study {name!r}; known: {', '.join(EXPERIMENTS)}")
    check_options(options)
    if options.scale == "smoke" and options.epochs is not None:
        raise PlanError("the smoke scale has two steps; leave --epochs out")
    experiment = EXPERIMENTS[name](options.scale)
    changes: dict[str, Any] = {
        key: value
        for key in ("data", "train_images", "image_size", "max_unreadable", "epochs")
        if (value := getattr(options, key)) is not None
    }
    if options.data is not None and options.data not in IMAGE_FILES and options.image_size is None:
        changes["image_size"] = None  # the recipe's own is for image files
    builder = PlanBuilder()
    for variant in experiment.variants:
        config = vary(variant.config, **changes)
        labels = {**variant.labels, "norm": config.norm}
        builder.add(labels, config, options.seeds or experiment.seeds)
    title = experiment.title
    if options.scale == "smoke":
        title += " (smoke scale: nothing is learned)"
    return Plan(
        name,
        title,
        "paper",
        options,
        builder.cells,
        builder.configs,
        shows=experiment.shows,
        published=experiment.published,
        tuned_over=experiment.tuned_over,
    )
