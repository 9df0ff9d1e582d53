"""Complete runs: recipes for small images, and published comparisons by name."""

from functools import partial

from groupnorm.experiments import cifar, imagenet
from groupnorm.experiments.experiment import Experiment, Recipe, Variant
from groupnorm.experiments.pets import pets
from groupnorm.experiments.small_images import paper, quick, standard

EXPERIMENTS: dict[str, Recipe] = {
    "imagenet-batch-size": imagenet.batch_size,
    "imagenet-norms": imagenet.norms,
    "imagenet-groups": imagenet.groups,
    "imagenet-resnet101": imagenet.resnet101,
    "imagenet-vgg16": imagenet.vgg16,
    "imagenet-batch-renorm": imagenet.batch_renorm,
    "imagenet-large-batch": imagenet.large_batch,
    "pets-resnet34": partial(pets, depth=34),
    "pets-resnet50": partial(pets, depth=50),
}
_CONVENTIONS: tuple[tuple[str, cifar.Convention], ...] = (
    ("", "per-256"),
    ("-one-worker", "per-32"),
)
for _depth in (56, 110):
    for _suffix, _convention in _CONVENTIONS:
        EXPERIMENTS[f"cifar10-resnet{_depth}-batch-size{_suffix}"] = partial(
            cifar.batch_size, depth=_depth, convention=_convention
        )
        EXPERIMENTS[f"cifar10-resnet{_depth}-groups{_suffix}"] = partial(
            cifar.groups, depth=_depth, convention=_convention
        )

__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "Variant",
    "paper",
    "quick",
    "standard",
]
