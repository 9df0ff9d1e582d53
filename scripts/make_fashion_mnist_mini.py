"""Make groupnorm/data/shipped/fashion_mnist_mini.bz2 from the full Fashion-MNIST, byte for byte.

    python scripts/make_fashion_mnist_mini.py [--source FOLDER] [--out FILE]

FOLDER holds {train,t10k}-{images-idx3,labels-idx1}-ubyte.gz; the default is where the Debian
package dataset-fashion-mnist puts them. The result's sha256 must be the one in
fashion_mnist_mini.py.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import hashlib
from pathlib import Path

from groupnorm.data.sets.fashion_mnist_mini import FILE, NUM_TEST, NUM_TRAIN, SIDE

SOURCE = Path("/usr/share/datasets/fashion-mnist")
IMAGES_HEADER, LABELS_HEADER = 16, 8  # bytes before the values of an IDX file


def make(source: Path) -> bytes:
    """The contents of fashion_mnist_mini.bz2: training and test images, then their labels."""
    images, labels = [], []
    for prefix, count in (("train", NUM_TRAIN), ("t10k", NUM_TEST)):
        pixels = gzip.decompress((source / f"{prefix}-images-idx3-ubyte.gz").read_bytes())
        classes = gzip.decompress((source / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())
        images.append(pixels[IMAGES_HEADER : IMAGES_HEADER + count * SIDE * SIDE])
        labels.append(classes[LABELS_HEADER : LABELS_HEADER + count])
    return bz2.compress(b"".join(images + labels), 9)


def main() -> None:
    """Write the file and print its size and checksum."""
    parser = argparse.ArgumentParser(description="make fashion_mnist_mini.bz2")
    parser.add_argument("--source", type=Path, default=SOURCE)
    parser.add_argument("--out", type=Path, default=FILE)
    arguments = parser.parse_args()
    data = make(arguments.source)
    arguments.out.write_bytes(data)
    print(f"{arguments.out}: {len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
