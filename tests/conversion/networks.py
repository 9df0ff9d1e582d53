"""Networks with trained statistics for tests of conversions, by hand and of other libraries."""

from __future__ import annotations

import torch
from torch import nn


def train_statistics(model):
    """Give every batch norm statistics, scale and shift such as training leaves; the model."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        for key, low, high in (
            ("running_mean", -0.3, 0.3),
            ("running_var", 0.5, 2.0),
            ("weight", 0.5, 1.5),
            ("bias", -0.3, 0.3),
        ):
            value = getattr(module, key, None)
            if getattr(module, "running_mean", None) is not None and value is not None:
                with torch.no_grad():
                    value.copy_(torch.rand(value.shape, generator=generator) * (high - low) + low)
    return model


def batch_norms(model):
    """The layers that still have batch statistics."""
    return [name for name, m in model.named_modules() if "running_mean" in m._buffers]


def small_network():
    """Convolutions, norms and a residual sum."""
    return train_statistics(Residual())


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32))
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {"conv": nn.Conv2d(32, 32, 3, padding=1), "bn": nn.BatchNorm2d(32, eps=1e-3)}
            )
            for _ in range(2)
        )
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = x + torch.relu(block["bn"](block["conv"](x)))
        return self.head(x.mean((2, 3)))


class UNet(nn.Module):
    """A U-Net with skip connections and transposed convolutions, in `dims` dimensions.

    Diffusion policies have it in one dimension, segmentation in two.
    """

    def __init__(self, inputs=3, classes=2, width=16, dims=2):
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        up = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
        norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1]

        def block(fan_in, fan_out):
            return nn.Sequential(conv(fan_in, fan_out, 3, padding=1), norm(fan_out), nn.ReLU())

        self.down = nn.ModuleList([block(inputs, width), block(width, 2 * width)])
        self.pool = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[dims - 1](2)
        self.up = nn.Sequential(up(2 * width, width, 2, stride=2), norm(width), nn.ReLU())
        self.last = nn.Sequential(block(2 * width, width), conv(width, classes, 1))

    def forward(self, x):
        skip = self.down[0](x)
        x = self.up(self.down[1](self.pool(skip)))
        return self.last(torch.cat([skip, x], 1))


class Merging(nn.Linear):
    """An adapter: for evaluation it merges a second matrix into its weights, as LoRA's layers."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.delta = nn.Parameter(torch.ones(outputs, inputs))
        self.merged = False

    def train(self, mode=True):
        if mode == self.merged:
            with torch.no_grad():
                self.weight.add_(self.delta, alpha=-1 if mode else 1)
            self.merged = not mode
        return super().train(mode)

    def forward(self, x):
        weight = self.weight if self.merged else self.weight + self.delta
        return nn.functional.linear(x, weight, self.bias)
