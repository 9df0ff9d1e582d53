"""Recipes for small images (28 to 32 pixels) at three scales.

Each is one configuration; a study varies its norm, its batch size and its seed. No norm has a
learning rate, schedule or initialization of its own.
"""

from __future__ import annotations

from groupnorm.training.config import RunConfig

STEP_IMAGES = 64
"""Images of a step under the fixed-step protocol."""
QUICK_IMAGES = 6000
"""Training images of the quick and standard scales, of the data sets that they were made for."""
QUICK_SETS = ("fashion-scenes", "fashion-mnist-mini", "fashion-mnist", "cifar10", "cifar100")
"""Those data sets; of every other one all training images are used."""


def quick(data: str = "fashion-scenes", epochs: int = 10) -> RunConfig:
    """ResNet-8 in a few minutes on two CPU cores: the scale of the default study.

    Few steps have to do, so the learning rate is far above the paper's 0.1 per 256 images, the
    same for every norm: gamma = 0 keeps this shallow network near chance for its first hundred
    steps, which a small learning rate only prolongs.
    """
    return RunConfig(
        model="resnet8",
        data=data,
        train_images=QUICK_IMAGES if data in QUICK_SETS else None,
        norm="gn:groups=8",
        workers=STEP_IMAGES // 32,
        batch_per_worker=32,
        epochs=epochs,
        schedule="cosine",
        base_lr=0.8,
        memory_format="channels_last",
    )


def standard(data: str = "fashion-scenes", epochs: int = 10) -> RunConfig:
    """The quick recipe; a study of this scale adds batch sizes and seeds, not epochs."""
    return quick(data, epochs)


def paper(data: str = "fashion-scenes", epochs: int = 100) -> RunConfig:
    """The paper's ImageNet recipe (Wu & He 2018, section 4.1) on a CIFAR-type ResNet-20.

    8 workers, 32 images each, 100 epochs, learning rate 0.1 * N / 32 divided by 10 after 30, 60
    and 90 epochs, Nesterov momentum 0.9, weight decay 1e-4 on everything.
    """
    return RunConfig(
        model="resnet20",
        data=data,
        norm="gn:groups=8",
        workers=8,
        batch_per_worker=32,
        epochs=epochs,
        schedule="step",
        base_lr=0.1,
        memory_format="channels_last",
    )
