"""Augmentation and evaluation of photographs as in the paper, on torchvision's transforms v2.

The paper follows fb.resnet.torch: a random crop of 8 to 100 % of the area and aspect 3/4 to 4/3,
resized with cubic interpolation; brightness, contrast and saturation times 0.6 to 1.4, in random
order; noise along the principal colours; a horizontal flip; evaluation on the centre of the image,
7/8 of its short side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's pixels in [0, 1], as published with fb.resnet.torch
STD = (0.229, 0.224, 0.225)
# Eigenvalues and eigenvectors (columns) of the covariance of ImageNet's RGB values in [0, 1]: the
# numbers of fb.resnet.torch, datasets/imagenet.lua, for the method of Krizhevsky et al., 2012, 4.1.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)

Transform = Callable[[Image.Image], Tensor]


class Lighting(v2.Transform):  # type: ignore[misc]
    """Add one colour to all pixels: a normal draw along each principal colour of ImageNet.

    The draw's standard deviation is `strength` times the eigenvalue. Takes and gives float tensors
    (3, H, W), in [0, 1] before; nothing is clipped.
    """

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the colour, float32 (3,)."""
        weights = torch.randn(3) * self.strength * torch.tensor(EIGENVALUES)
        return {"colour": torch.tensor(EIGENVECTORS) @ weights}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Add the colour drawn."""
        return inpt + params["colour"].view(3, 1, 1)


def train_transform(image_size: int) -> Transform:
    """Augment an RGB image: float32 (3, image_size, image_size), normalized."""
    augment: Transform = v2.Compose(
        [
            v2.RandomResizedCrop(
                image_size,
                scale=(0.08, 1.0),
                ratio=(3 / 4, 4 / 3),
                interpolation=v2.InterpolationMode.BICUBIC,
            ),
            *_to_float(),
            v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),  # in random order
            Lighting(0.1),
            v2.RandomHorizontalFlip(),
            v2.Normalize(MEAN, STD),
        ]
    )
    return augment


def evaluation_transform(
    image_size: int,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    interpolation: v2.InterpolationMode = v2.InterpolationMode.BICUBIC,
) -> Transform:
    """Resize the short side to image_size * 256 / 224, cut out the centre, normalize."""
    prepare: Transform = v2.Compose(
        [
            v2.Resize(round(image_size * 256 / 224), interpolation=interpolation),
            v2.CenterCrop(image_size),
            *_to_float(),
            v2.Normalize(mean, std),
        ]
    )
    return prepare


@contextmanager
def draws_of(seed: int, position: int) -> Iterator[None]:
    """Inside, torch draws what follows from (seed, position), on one thread; afterwards as before.

    One thread, because a sum over pixels is rounded differently when several share it. Only the
    CPU's generator is touched: `torch.manual_seed` would seed those of the GPUs too.

    Args:
        seed: non-negative, of the step.
        position: of the example among the step's.
    """
    mixed = np.random.SeedSequence((position, seed)).generate_state(1, np.uint64)[0]
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.default_generator.manual_seed(int(mixed))
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_rng_state(state)
        torch.set_num_threads(threads)


def _to_float() -> list[v2.Transform]:
    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()]
