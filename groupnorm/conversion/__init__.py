"""Changes to existing models: statistics, weights, standardized convolutions."""

from groupnorm.conversion.calibrate import recomputed_statistics
from groupnorm.conversion.checkpoints import load_published
from groupnorm.conversion.detectors import load_backbone, load_detector
from groupnorm.conversion.inflate import inflate, load_inflated
from groupnorm.conversion.weight_standardize import WeightStandardization, standardize_convolutions

__all__ = [
    "WeightStandardization",
    "inflate",
    "load_backbone",
    "load_detector",
    "load_inflated",
    "load_published",
    "recomputed_statistics",
    "standardize_convolutions",
]
