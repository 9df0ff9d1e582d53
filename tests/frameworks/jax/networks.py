"""Networks in flax that are, name for name, networks of this package in PyTorch."""

import jax
import jax.numpy as jnp
from flax import nnx

from groupnorm.frameworks.jax import WS_FORMS, GroupNorm, standardize


class WSConv(nnx.Conv):
    """A convolution without bias whose kernel is standardized."""

    def __init__(self, *args, ws_form="timm", ws_eps=None, **kwargs):
        self.ws_form = ws_form
        self.ws_eps = WS_FORMS[ws_form] if ws_eps is None else ws_eps

        def convolve(x, kernel, *rest, **others):
            kernel = standardize(kernel, self.ws_form, self.ws_eps)
            return jax.lax.conv_general_dilated(x, kernel, *rest, **others)

        super().__init__(*args, use_bias=False, conv_general_dilated=convolve, **kwargs)


class Block(nnx.Module):
    """Two convolutions and a shortcut that subsamples and pads with zero channels."""

    def __init__(self, channels, out, stride, groups, rngs):
        self.stride, self.new = stride, out - channels
        self.conv1 = WSConv(channels, out, (3, 3), strides=stride, padding=1, rngs=rngs)
        self.norm1 = GroupNorm(out, groups, rngs=rngs)
        self.conv2 = WSConv(out, out, (3, 3), padding=1, rngs=rngs)
        self.norm2 = GroupNorm(out, groups, rngs=rngs)

    def __call__(self, x):
        z = self.norm2(self.conv2(nnx.relu(self.norm1(self.conv1(x)))))
        shortcut = x[:, :: self.stride, :: self.stride]
        before = self.new // 2
        return nnx.relu(z + jnp.pad(shortcut, [(0, 0)] * 3 + [(before, self.new - before)]))


class ResNetCifar(nnx.Module):
    """`groupnorm.models.ResNetCifar` with group normalization and standardized weights."""

    def __init__(self, depth, groups, rngs):
        self.conv1 = WSConv(3, 16, (3, 3), padding=1, rngs=rngs)
        self.norm1 = GroupNorm(16, groups, rngs=rngs)
        stages, channels = [], 16
        for out in (16, 32, 64):
            blocks = []
            for position in range((depth - 2) // 6):
                stride = 2 if out > 16 and position == 0 else 1
                blocks.append(Block(channels, out, stride, groups, rngs))
                channels = out
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.linear = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm1(self.conv1(x)))
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return self.linear(x.mean((1, 2)))
