"""The comparison of norms at small batches in Keras: batch norm, group norm, group norm with WS.

    pip install -e '.[study,keras]'
    python examples/keras_pets.py [--data pets] [--seeds 3] [--out results.json]

trains a ResNet for small images with `model.fit` at 1 and 4 images a step, for as many epochs each,
at learning rate 0.1 N / 32 (the linear rule of Wu & He 2018, section 4.1), on TensorFlow or on what
KERAS_BACKEND says. By default the images are `fashion-scenes`, which the package makes; `--data
pets` takes Oxford-IIIT Pets, where its images are (the message says where to put them), scaled to
64 x 64.

The same in PyTorch, whose table stands beside this one in docs/frameworks.md:

    groupnorm train model=resnet8 norm=NORM batch_per_worker=N train_images=3000 epochs=8 \\
        workers=1 base_lr=0.8 schedule=cosine nesterov=false weight_decay=0 evaluate_every=8
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from PIL import Image

from groupnorm.data.catalog import load
from groupnorm.data.issues import DataError
from groupnorm.frameworks.keras import resnet

NORMS = ("bn", "gn:groups=8", "gn:groups=8+ws")
BATCHES = (4, 1)
PETS_SIDE = 64
PETS_PAD = 4

Images = np.ndarray[Any, Any]
Split = tuple[Images, Images]


class Augmented(keras.utils.PyDataset):  # type: ignore[misc]
    """Training images in a new order each epoch, shifted and mirrored at random as in PyTorch.

    The means and deviations of the channels normalize the images after that, so that what a shift
    brings in is black.
    """

    def __init__(self, split: Split, batch: int, pad: int, scale: Split, seed: int) -> None:
        super().__init__()
        self.images, self.labels = split
        self.batch, self.pad, self.scale = batch, pad, scale
        self.draw = np.random.default_rng(seed)
        self.order = self.draw.permutation(len(self.labels))

    def __len__(self) -> int:
        return len(self.labels) // self.batch

    def __getitem__(self, step: int) -> Split:
        chosen = self.order[step * self.batch :][: self.batch]
        images = np.stack([self.changed(self.images[i]) for i in chosen])
        return normalized(images, self.scale), self.labels[chosen]

    def on_epoch_end(self) -> None:
        """Draw the order of the next epoch."""
        self.order = self.draw.permutation(len(self.labels))

    def changed(self, image: Images) -> Images:
        """An image (H, W, C), shifted by up to `pad` pixels and mirrored half of the time."""
        top, left = self.draw.integers(0, 2 * self.pad + 1, 2)
        padded = np.pad(image, ((self.pad, self.pad), (self.pad, self.pad), (0, 0)))
        cropped = padded[top : top + image.shape[0], left : left + image.shape[1]]
        return cropped[:, ::-1] if self.draw.random() < 0.5 else cropped


def normalized(images: Images, scale: Split) -> Images:
    """Pixels 0 to 255 as float32, less their means and divided by their deviations."""
    mean, std = scale
    return ((images / np.float32(255) - mean) / std).astype(np.float32)


def images_of(name: str, count: int) -> tuple[Split, Split, Split, int, int]:
    """Training and test images (N, H, W, 3), their channels' scale, what to pad, and the classes.

    Raises:
        SystemExit: the images are not there, or there are fewer of them.
    """
    try:
        found: Any = load(name)
    except DataError as error:
        raise SystemExit(str(error)) from None
    labels = [np.asarray(part) for part in (found.train_labels, found.test_labels)]
    if count > len(labels[0]):
        raise SystemExit(f"--images {count}, but {name} has {len(labels[0])} of them")
    if hasattr(found, "train_paths"):
        chosen = np.random.default_rng(0).permutation(len(labels[0]))[:count]
        train = decoded([found.train_paths[i] for i in chosen])
        labels[0] = labels[0][chosen]
        test = decoded(found.test_paths)
        scale, pad = (train.mean((0, 1, 2)) / 255, train.std((0, 1, 2)) / 255), PETS_PAD
    else:
        train = np.asarray(found.train_images[:count].permute(0, 2, 3, 1))
        test = np.asarray(found.test_images.permute(0, 2, 3, 1))
        labels[0] = labels[0][:count]
        scale, pad = (np.asarray(found.mean), np.asarray(found.std)), found.pad
    scale = scale[0].astype(np.float32), scale[1].astype(np.float32)
    splits = (train, labels[0]), (normalized(test, scale), labels[1])
    return *splits, scale, pad, len(found.class_names)


def decoded(paths: Sequence[Any]) -> Images:
    """Photographs, scaled to a square."""
    side = (PETS_SIDE, PETS_SIDE)
    return np.stack([np.asarray(Image.open(p).convert("RGB").resize(side)) for p in paths])


def trained(model: keras.Model, data: Augmented, epochs: int) -> float:
    """Train a model with a cosine schedule; the seconds that it took."""
    schedule = keras.optimizers.schedules.CosineDecay(0.1 * data.batch / 32, epochs * len(data))
    model.compile(
        keras.optimizers.SGD(schedule, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    began = time.perf_counter()
    model.fit(data, epochs=epochs, verbose=0)
    return time.perf_counter() - began


def error(model: keras.Model, test: Split) -> float:
    """Top-1 error in percent."""
    found = model.predict(test[0], batch_size=256, verbose=0).argmax(1)
    return 100 * float((found != test[1]).mean())


def main() -> None:
    """Train all, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", default="fashion-scenes", help="or pets")
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    train, test, scale, pad, classes = images_of(options.data, options.images)
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for norm in NORMS:
            for batch in BATCHES:
                keras.utils.set_random_seed(seed)
                model = resnet(
                    options.depth, norm=norm, num_classes=classes, input_shape=train[0].shape[1:]
                )
                data = Augmented(train, batch, pad, scale, seed)
                seconds = trained(model, data, options.epochs)
                rows.append(
                    {"norm": norm, "batch": batch, "seed": seed, "error": error(model, test),
                     "seconds": seconds}
                )  # fmt: skip
                print(f"{norm}, {batch} images a step, seed {seed}: error {rows[-1]['error']:.1f} %"
                      f" after {seconds:.0f} s", flush=True)  # fmt: skip
    print(f"\n{'norm':<16}" + "".join(f"{f'{batch} a step':>14}" for batch in BATCHES))
    for norm in NORMS:
        cells = [
            [row["error"] for row in rows if (row["norm"], row["batch"]) == (norm, batch)]
            for batch in BATCHES
        ]
        print(f"{norm:<16}" + "".join(f"{shown(cell):>14}" for cell in cells))
    if options.out:
        record = {
            "command": f"python examples/keras_pets.py --seeds {options.seeds}",
            "options": {key: value for key, value in vars(options).items() if key != "out"},
            "keras": keras.version(), "backend": keras.backend.backend(), "rows": rows,
        }  # fmt: skip
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def shown(errors: list[float]) -> str:
    """A mean with its deviation over seeds, where there are several."""
    mean = statistics.mean(errors)
    return f"{mean:.1f}" if len(errors) < 2 else f"{mean:.1f} ± {statistics.stdev(errors):.1f}"


if __name__ == "__main__":
    main()
