"""What scenes are made from: Fashion-MNIST garments and photographs, in two disjoint splits."""

from __future__ import annotations

from pathlib import Path

from groupnorm.data.sets import fashion_mnist_mini
from groupnorm.data.synthetic import photographs
from groupnorm.data.synthetic.resample import Array, area_table
from groupnorm.data.synthetic.scenes import Garments, cut_out


def find_sources() -> str:
    """The folders of the photographs; garments are in the package.

    Raises:
        DataError: a photograph or the garments are missing.
    """
    fashion_mnist_mini.find()
    return ", ".join(sorted({str(Path(path).parent) for path in photographs.find()}))


def load_sources(split: str) -> tuple[list[Array], Garments]:
    """Backgrounds (tables of their area) and garments of "train" or "test", for `make_scene`.

    Raises:
        DataError: a photograph or the garments are missing or damaged.
    """
    source = fashion_mnist_mini.load()
    images = source.train_images if split == "train" else source.test_images
    labels = source.train_labels if split == "train" else source.test_labels
    backgrounds = [area_table(photographs.split(image)[split]) for image in photographs.load()]
    return backgrounds, cut_out(images[:, 0].numpy(), labels.numpy())
