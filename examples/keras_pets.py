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
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from PIL import Image

from groupnorm.data.catalog import load
from groupnorm.frameworks.keras import resnet

NORMS = ("bn", "gn:groups=8", "gn:groups=8+ws")
BATCHES = (4, 1)
PETS_SIDE = 64

Split = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def images_of(name: str, count: int) -> tuple[Split, Split, int]:
    """Training and test images (N, H, W, 3), normalized by the training images, and the classes."""
    found: Any = load(name)
    if hasattr(found, "train_paths"):
        every = len(found.train_paths) // min(count, len(found.train_paths))
        train = decoded(found.train_paths[::every][:count]), found.train_labels[::every][:count]
        test = decoded(found.test_paths), found.test_labels
    else:
        train = found.train_images[:count].permute(0, 2, 3, 1), found.train_labels[:count]
        test = found.test_images.permute(0, 2, 3, 1), found.test_labels
    pixels = [np.asarray(split[0], np.float32) / 255 for split in (train, test)]
    mean, std = pixels[0].mean((0, 1, 2)), pixels[0].std((0, 1, 2))
    labels = [np.asarray(split[1]) for split in (train, test)]
    a, b = ((x - mean) / std for x in pixels)
    return (a, labels[0]), (b, labels[1]), len(found.class_names)


def decoded(paths: tuple[str, ...]) -> np.ndarray[Any, Any]:
    """Photographs, scaled to a square."""
    side = (PETS_SIDE, PETS_SIDE)
    return np.stack([np.asarray(Image.open(p).convert("RGB").resize(side)) for p in paths])


def trained(
    model: keras.Model, train: Split, batch: int, epochs: int, seed: int
) -> tuple[keras.Model, float]:
    """The model after a cosine schedule, and the seconds that it took."""
    keras.utils.set_random_seed(seed)
    steps = epochs * (len(train[0]) // batch)
    schedule = keras.optimizers.schedules.CosineDecay(0.1 * batch / 32, steps)
    model.compile(
        keras.optimizers.SGD(schedule, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    began = time.perf_counter()
    whole = len(train[0]) // batch * batch
    model.fit(train[0][:whole], train[1][:whole], batch, epochs, verbose=0)
    return model, time.perf_counter() - began


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
    train, test, classes = images_of(options.data, options.images)
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for norm in NORMS:
            for batch in BATCHES:
                keras.utils.set_random_seed(seed)
                model = resnet(
                    options.depth, norm=norm, num_classes=classes, input_shape=train[0].shape[1:]
                )
                model, seconds = trained(model, train, batch, options.epochs, seed)
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
            "command": "python examples/keras_pets.py",
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
