"""The ways to convert a teacher's network: from a trial to a network and its report.

Two of them are what other tools do, and keep next to nothing. They are here to be compared with,
and nowhere else in the package:

- "reset": gamma 1 and beta 0, as converters for training with differential privacy have it.
- "copy": the batch norm's gamma and beta, as most scripts have it.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from typing import TypeAlias

import torch
from torch import nn

from groupnorm.conversion import ConversionReport, convert, freeze
from groupnorm.conversion.calibration.fit import DEFAULT_LIMITS, FitLimits
from groupnorm.spec import NormSpec
from groupnorm.study.conversions.teacher import RunTeacher, Teacher
from groupnorm.study.conversions.trial import Trial
from groupnorm.training.config import TrainingConfig

_NOTHING_IN_FRONT = FitLimits(signs=False, scale_limit=0.0, offset_limit=0.0, steps=0)
LIMITS = {
    "least squares": _NOTHING_IN_FRONT,
    "fit": DEFAULT_LIMITS,
    "fit, no signs": dataclasses.replace(DEFAULT_LIMITS, signs=False),
    "fit, no scales": dataclasses.replace(DEFAULT_LIMITS, scale_limit=0.0),
    "fit, no offsets": dataclasses.replace(DEFAULT_LIMITS, offset_limit=0.0),
    "fit, small offsets": dataclasses.replace(DEFAULT_LIMITS, offset_limit=1.0),
    "fit, no descent": dataclasses.replace(DEFAULT_LIMITS, steps=0),
    "fit, no refit": DEFAULT_LIMITS,
}
"""What the affine in front of the norm may do, by method."""
WITHOUT_REFIT = ("least squares", "fit, no refit")
"""Methods that leave the convolution in front as it is but for that affine."""


Converted: TypeAlias = tuple[nn.Module, ConversionReport | None]
"""A network, and the report of its conversion; None where no layer is converted."""


def converted(teacher: Teacher, trial: Trial) -> Converted:
    """The network of a trial before its fine-tuning.

    Raises:
        ValueError: it cannot be converted.
    """
    if trial.method == "teacher":
        return copy.deepcopy(teacher.network), None
    if trial.method == "frozen BN":
        return freeze(teacher.network)[0], None
    if trial.method in ("BN", "scratch"):
        assert isinstance(teacher, RunTeacher)
        return _trained(teacher, trial), None
    if trial.images:
        return convert(
            teacher.network,
            trial.to,
            min_channels=trial.min_channels,
            data=teacher.calibration_images(trial.images),
            limits=LIMITS[trial.method],
            refit=trial.method not in WITHOUT_REFIT,
            seed=teacher.seed,
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*without data", UserWarning)
        network, report = convert(teacher.network, trial.to, min_channels=trial.min_channels)
    if trial.method != "data-free":
        set_affine(network, teacher.network, report, copied=trial.method == "copy")
    return network, report


def _trained(teacher: RunTeacher, trial: Trial) -> nn.Module:
    """The teacher with batch norm over the 4 images of a step, or fresh group norm."""
    config = of_four(teacher.config)
    if trial.method == "BN":
        return teacher.build(config)
    config = config.model_copy(update={"norm": NormSpec.parse(trial.to), "norms": {}})
    return teacher.setup.build(config, teacher.data, teacher.device)


def of_four(config: TrainingConfig) -> TrainingConfig:
    """The configuration with one worker of 4 images a step, as a fine-tuning has."""
    return config.model_copy(update={"workers": 1, "batch_per_worker": 4, "accumulate": 1})


@torch.no_grad()
def set_affine(
    network: nn.Module, before: nn.Module, report: ConversionReport, *, copied: bool
) -> None:
    """Give every converted layer gamma 1 and beta 0, or those of the layer before."""
    for row in report.layers:
        new, old = network.get_submodule(row.name), before.get_submodule(row.name)
        for name, value in (("weight", 1.0), ("bias", 0.0)):
            parameter, source = getattr(new, name), getattr(old, name)
            if copied and source is not None:
                parameter.copy_(source)
            else:
                parameter.fill_(value)
