"""The CIFAR-type ResNet of He et al. 2016 (arXiv 1512.03385, section 4.2) in Keras.

The network of `groupnorm.models` of the same name: layers are called by the paths that its modules
have there, with dashes for dots, so that `from_torch` and `to_torch` match them.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from groupnorm.frameworks.keras.factory import conv_layer, norm_layer
from groupnorm.spec import NormSpec

DEPTHS = (8, 14, 20, 32, 44, 56)
_WIDTHS = (16, 32, 64)


@keras.saving.register_keras_serializable("groupnorm")
class SubsampleAndPad(layers.Layer):  # type: ignore[misc]
    """Option A of He et al. 2016: every stride-th pixel, and zeros for the new channels.

    Args:
        stride: of the pixels.
        new_channels: number of channels of zeros, half of them in front.
        options: of a Keras layer.
    """

    def __init__(self, stride: int, new_channels: int, **options: Any) -> None:
        super().__init__(**options)
        self.stride = stride
        self.new_channels = new_channels

    def call(self, x: Any) -> Any:
        """(N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), C + new_channels)."""
        before = self.new_channels // 2
        pads = ((0, 0), (0, 0), (0, 0), (before, self.new_channels - before))
        return ops.pad(x[:, :: self.stride, :: self.stride, :], pads)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """The shape of the result."""
        batch, *sides, channels = input_shape
        short = (None if side is None else -(-side // self.stride) for side in sides)
        return (batch, *short, channels + self.new_channels)

    def get_config(self) -> dict[str, Any]:
        """What makes the same layer."""
        own = {"stride": self.stride, "new_channels": self.new_channels}
        return {**super().get_config(), **own}


def resnet(
    depth: int = 20,
    *,
    norm: str | NormSpec = "gn",
    num_classes: int = 10,
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
    zero_gamma: bool = True,
) -> keras.Model:
    """A functional model (N, H, W, C) -> (N, num_classes) logits, channels last.

    Initialization as in `groupnorm.models`: He normal (fan-out) for convolutions, N(0, 0.01) and
    zero bias for the dense layer, gamma = 0 on the last norm of each block (Wu & He 2018, section
    4.1). Strided convolutions stand behind a `ZeroPadding2D`: with padding="same" TensorFlow would
    pad (0, 1) where PyTorch pads (1, 1).

    Args:
        depth: 8, 14, 20, 32, 44 or 56.
        norm: of every layer, as in `norm_layer`. With +ws every convolution is standardized.
        num_classes: number of outputs.
        input_shape: of an image.
        zero_gamma: as above; with False gamma = 1.

    Raises:
        groupnorm.spec.NormSpecError: the norm cannot be read.
        ValueError: another depth, or a norm without a layer in Keras.
    """
    if depth not in DEPTHS:
        raise ValueError(f"depth must be one of {', '.join(map(str, DEPTHS))}, got {depth}")
    spec = NormSpec.parse(norm)
    norm_of, conv_of = norm_layer(spec), conv_layer(spec)

    def conv(x: Any, channels: int, stride: int, name: str) -> Any:
        x = layers.ZeroPadding2D(1, name=f"{name}-padding")(x)
        initializer = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
        return conv_of(
            channels, 3, strides=stride, use_bias=not spec.normalizes,
            kernel_initializer=initializer, name=name,
        )(x)  # fmt: skip

    def block(x: Any, channels: int, stride: int, name: str) -> Any:
        out = conv(x, channels, stride, f"{name}-conv1")
        out = layers.ReLU(name=f"{name}-act1")(norm_of(channels, name=f"{name}-norm1")(out))
        out = conv(out, channels, 1, f"{name}-conv2")
        last = norm_of(channels, name=f"{name}-norm2")
        if zero_gamma and spec.normalizes and spec.affine:
            last.gamma_initializer = keras.initializers.Zeros()
        out = last(out)
        if stride != 1:
            x = SubsampleAndPad(stride, channels - x.shape[-1], name=f"{name}-shortcut")(x)
        return layers.ReLU(name=f"{name}-act2")(layers.Add(name=f"{name}-sum")([out, x]))

    inputs = keras.Input(input_shape, name="images")
    x = conv(inputs, _WIDTHS[0], 1, "conv1")
    x = layers.ReLU(name="act1")(norm_of(_WIDTHS[0], name="norm1")(x))
    for stage, channels in enumerate(_WIDTHS):
        for position in range((depth - 2) // 6):
            stride = 2 if stage > 0 and position == 0 else 1
            x = block(x, channels, stride, f"stages-{stage}-{position}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    initializer = keras.initializers.RandomNormal(stddev=0.01)
    outputs = layers.Dense(num_classes, kernel_initializer=initializer, name="linear")(x)
    return keras.Model(inputs, outputs, name=f"resnet{depth}")
