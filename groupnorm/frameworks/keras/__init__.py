"""Group normalization for Keras, on TensorFlow, JAX and PyTorch.

The functions compute with tensors, the layers also build models. Without Keras's torch backend
nothing here loads PyTorch, but for `from_torch` and `to_torch`, which carry weights.
"""

from groupnorm.frameworks.arguments import WS_FORMS
from groupnorm.frameworks.keras.factory import conv_layer, norm_layer
from groupnorm.frameworks.keras.group_norm import group_norm
from groupnorm.frameworks.keras.layers import GroupNormalization, WSConv1D, WSConv2D, WSConv3D
from groupnorm.frameworks.keras.resnet import resnet
from groupnorm.frameworks.keras.weight_standardization import standardize
from groupnorm.frameworks.keras.weights import from_torch, to_torch

__all__ = [
    "WS_FORMS",
    "GroupNormalization",
    "WSConv1D",
    "WSConv2D",
    "WSConv3D",
    "conv_layer",
    "from_torch",
    "group_norm",
    "norm_layer",
    "resnet",
    "standardize",
    "to_torch",
]
