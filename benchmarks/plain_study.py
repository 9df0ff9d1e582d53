"""The script a user would write without this package: the yardstick of bench_study.py.

torchvision data set and transforms, DataLoader with two workers, `torch.nn` norms, default threads,
one trial after the other. Batch norm over chunks of N images of a 32-image step is what a user does
to emulate small workers in one process: forward and backward for each chunk, then one step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from groupnorm.data import ImageSet

STEP_IMAGES = 32


class Images(Dataset[tuple[Tensor, int]]):
    """uint8 images (N, H, W, 3) through PIL and a transform, as torchvision's own data sets do."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Callable[[Any], Tensor]) -> None:
        self.images = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(np.asarray(self.images[index]))), self.labels[index]


class StandardizedConv(nn.Conv2d):
    """A weight-standardized convolution as users write it."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with standardized weights."""
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        std = weight.flatten(1).var(1, unbiased=False).add(1e-6).sqrt().view(-1, 1, 1, 1)
        output: Tensor = self._conv_forward(x, weight / std, self.bias)
        return output


class Block(nn.Module):
    """A basic block with an option A shortcut."""

    def __init__(self, c_in: int, c_out: int, stride: int, norm: Any, conv: Any) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(c_in, c_out, 3, stride, 1, bias=False), norm(c_out)
        self.conv2, self.norm2 = conv(c_out, c_out, 3, 1, 1, bias=False), norm(c_out)
        self.stride, self.extra = stride, c_out - c_in

    def forward(self, x: Tensor) -> Tensor:
        """Two convolutions and the shortcut."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.extra:
            half = self.extra // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        return F.relu(y + x)


def resnet8(norm: Any, conv: Any, num_classes: int) -> nn.Module:
    """ResNet-8 for 32x32 colour images."""
    return nn.Sequential(
        conv(3, 16, 3, 1, 1, bias=False),
        norm(16),
        nn.ReLU(),
        Block(16, 16, 1, norm, conv),
        Block(16, 32, 2, norm, conv),
        Block(32, 64, 2, norm, conv),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )


def train(data: ImageSet, norm: str, chunk: int, epochs: int) -> dict[str, Any]:
    """One trial; `norm` is "bn", "gn" or "gn+ws", `chunk` the images of batch norm's statistics."""
    normalize = transforms.Normalize(data.mean.tolist(), data.std.tolist())
    augmented = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    train_set = Images(
        data.train_images,
        data.train_labels,
        transforms.Compose([*augmented, transforms.ToTensor(), normalize]),
    )
    test_set = Images(
        data.test_images, data.test_labels, transforms.Compose([transforms.ToTensor(), normalize])
    )
    loader = DataLoader(train_set, STEP_IMAGES, shuffle=True, num_workers=2, drop_last=True)
    test_loader = DataLoader(test_set, 256, num_workers=2)
    make_norm = nn.BatchNorm2d if norm == "bn" else lambda c: nn.GroupNorm(8, c)
    model = resnet8(make_norm, StandardizedConv if norm.endswith("ws") else nn.Conv2d, 10)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    seconds, images, error = 0.0, 0, 0.0
    for _ in range(epochs):
        began = time.perf_counter()
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            for part, labels in zip(x.split(chunk), y.split(chunk), strict=True):
                loss = F.cross_entropy(model(part), labels) * (len(part) / len(x))
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            images += len(x)
        seconds += time.perf_counter() - began
        model.eval()
        wrong = 0
        with torch.no_grad():
            for x, y in test_loader:
                wrong += int((model(x).argmax(1) != y).sum())
        error = 100 * wrong / len(test_set)
    return {"images_per_second": images / seconds, "error": error}
