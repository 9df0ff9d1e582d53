"""Modules: parameters, initialization, repr."""

from groupnorm.layers.batch_norm import BatchNorm, SyncBatchNorm, rows_per_worker
from groupnorm.layers.batch_renorm import BatchRenorm
from groupnorm.layers.calibrated_group_norm import CalibratedGroupNorm
from groupnorm.layers.conv import (
    ScaledWSConv2d,
    WSConv1d,
    WSConv2d,
    WSConv3d,
    WSConvTranspose1d,
    WSConvTranspose2d,
    WSConvTranspose3d,
)
from groupnorm.layers.evonorm import EvoNormS0
from groupnorm.layers.factory import NormLayer, conv_layer, norm_and_activation, norm_layer
from groupnorm.layers.filter_response_norm import FilterResponseNorm
from groupnorm.layers.frozen_batch_norm import FrozenBatchNorm
from groupnorm.layers.group_norm import GroupNorm, GroupNormAct
from groupnorm.layers.layer_norm import LayerNorm2d
from groupnorm.layers.norms import norm_modules
from groupnorm.ops.weight_standardization import WS_FORMS, standardize

__all__ = [
    "WS_FORMS",
    "BatchNorm",
    "BatchRenorm",
    "CalibratedGroupNorm",
    "EvoNormS0",
    "FilterResponseNorm",
    "FrozenBatchNorm",
    "GroupNorm",
    "GroupNormAct",
    "LayerNorm2d",
    "NormLayer",
    "ScaledWSConv2d",
    "SyncBatchNorm",
    "WSConv1d",
    "WSConv2d",
    "WSConv3d",
    "WSConvTranspose1d",
    "WSConvTranspose2d",
    "WSConvTranspose3d",
    "conv_layer",
    "norm_and_activation",
    "norm_layer",
    "norm_modules",
    "rows_per_worker",
    "standardize",
]
