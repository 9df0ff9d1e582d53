"""Changes to existing models: norms, statistics, weights, standardized convolutions."""

from groupnorm.conversion.calibration.fit import FitLimits
from groupnorm.conversion.checkpoints import load_published
from groupnorm.conversion.constants.fold import fold
from groupnorm.conversion.constants.freeze import freeze, unfreeze
from groupnorm.conversion.constants.freeze_groups import freeze_groups
from groupnorm.conversion.detectors import load_backbone, load_detector
from groupnorm.conversion.inflate import inflate, load_inflated
from groupnorm.conversion.precise_bn import recompute_statistics, recomputed_statistics
from groupnorm.conversion.rebuild import rebuild
from groupnorm.conversion.report import ConversionReport
from groupnorm.conversion.surgery import convert, preview
from groupnorm.conversion.weight_standardize import (
    RescaledWeightStandardization,
    WeightStandardization,
    standardize_convolutions,
    standardize_weights,
)

__all__ = [
    "ConversionReport",
    "FitLimits",
    "RescaledWeightStandardization",
    "WeightStandardization",
    "convert",
    "fold",
    "freeze",
    "freeze_groups",
    "inflate",
    "load_backbone",
    "load_detector",
    "load_inflated",
    "load_published",
    "preview",
    "rebuild",
    "recompute_statistics",
    "recomputed_statistics",
    "standardize_convolutions",
    "standardize_weights",
    "unfreeze",
]
