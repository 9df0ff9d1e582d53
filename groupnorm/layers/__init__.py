"""Modules: parameters, initialization, repr."""

from groupnorm.layers.batch_norm import BatchNorm, SyncBatchNorm
from groupnorm.layers.factory import IMPLEMENTED, NormLayer, conv_layer, norm_layer
from groupnorm.layers.group_norm import GroupNorm, GroupNormAct
from groupnorm.layers.precise_bn import recomputed_statistics
from groupnorm.layers.weight_standardization import WSConv2d, standardize

__all__ = [
    "IMPLEMENTED",
    "BatchNorm",
    "GroupNorm",
    "GroupNormAct",
    "NormLayer",
    "SyncBatchNorm",
    "WSConv2d",
    "conv_layer",
    "norm_layer",
    "recomputed_statistics",
    "standardize",
]
