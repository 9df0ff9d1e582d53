"""CIFAR-10 and CIFAR-100 in the official Python form, a folder or the archive, read without trust.

Krizhevsky, Learning multiple layers of features from tiny images, 2009. The files are pickles, and
a pickle can run any code: they are read with an unpickler that knows nothing but NumPy arrays.
Archives are read in memory, the known members alone, and never extracted.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from groupnorm.data.issues import DataError
from groupnorm.data.memory.image_set import ImageSet
from groupnorm.data.paths import check_digest, first_match, search_folders
from groupnorm.data.restricted_pickle import restricted_load


@dataclass(frozen=True)
class Form:
    """The official files of one of the two sets, with their MD5 sums."""

    name: str
    folder: str
    archive: str
    train: dict[str, str]
    test: dict[str, str]
    images_per_train_file: int
    label_key: bytes
    class_names: tuple[str, ...]


CIFAR10 = Form(
    name="cifar10",
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    train={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test={"test_batch": "40351d587109b95175f43aff81a1287e"},
    images_per_train_file=10_000,
    label_key=b"labels",
    class_names=(
        "airplane", "automobile", "bird", "cat", "deer",
        "dog", "frog", "horse", "ship", "truck",
    ),
)  # fmt: skip
CIFAR100 = Form(
    name="cifar100",
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    train={"train": "16019d7e3df5f24257cddd939b257f8d"},
    test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    images_per_train_file=50_000,
    label_key=b"fine_labels",
    class_names=(
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle",
        "bottle", "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle",
        "caterpillar", "cattle", "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch",
        "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox",
        "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
        "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom",
        "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
        "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road",
        "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake",
        "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
        "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle",
        "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
    ),
)  # fmt: skip
TEST_IMAGES = 10_000
_LARGEST = 1 << 28  # bytes of a file and of an unpacked archive; the official ones have up to 186e6


def find_cifar10(root: Path | None = None) -> str:
    """The folder or archive of CIFAR-10; DataError when there is none."""
    return str(_find(CIFAR10, root))


def find_cifar100(root: Path | None = None) -> str:
    """The folder or archive of CIFAR-100; DataError when there is none."""
    return str(_find(CIFAR100, root))


def load_cifar10(root: Path | None = None) -> ImageSet:
    """CIFAR-10: 50,000 + 10,000 colour images, 32x32, 10 classes.

    Raises:
        DataError: not found, truncated, another checksum, or content that does not belong there.
    """
    return read(CIFAR10, _find(CIFAR10, root))


def load_cifar100(root: Path | None = None) -> ImageSet:
    """CIFAR-100 with its 100 fine labels; otherwise as `load_cifar10`."""
    return read(CIFAR100, _find(CIFAR100, root))


def read(form: Form, path: Path, *, verify: bool = True, images: int | None = None) -> ImageSet:
    """Read a folder or an archive.

    Args:
        form: `CIFAR10` or `CIFAR100`.
        path: of the folder or the archive.
        verify: compare the files' MD5 sums with the official ones.
        images: images in each file, where it is not the official number.

    Raises:
        DataError: a file is missing, damaged, or holds what does not belong there.
    """
    content = _archive_reader(form, path) if path.is_file() else _folder_reader(form, path)

    def split(files: dict[str, str], official: int) -> tuple[Tensor, Tensor]:
        parts = []
        for name, md5 in files.items():
            where, data = f"{name} in {path}", content(name)
            if verify:
                check_digest(where, data, md5, "md5", _how_to_get(form))
            parts.append(_read_batch(form, where, data, images or official))
        pixels, labels = zip(*parts, strict=True)
        return torch.cat(pixels), torch.cat(labels)

    train_images, train_labels = split(form.train, form.images_per_train_file)
    test_images, test_labels = split(form.test, TEST_IMAGES)
    return ImageSet(
        name=form.name,
        version="1",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        class_names=form.class_names,
        flip=True,
        pad=4,
    )


def _read_batch(form: Form, where: str, data: bytes, images: int) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) and labels of one file."""
    batch = restricted_load(data, where)
    if not isinstance(batch, dict):
        raise DataError(f"{where}: expected a dictionary, got {type(batch).__name__}")
    pixels, labels = batch.get(b"data"), batch.get(form.label_key)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        raise DataError(f"{where}: expected b'data' to be an array of bytes")
    if pixels.shape != (images, 3072):
        raise DataError(f"{where}: expected {images} x 3072 pixels, got {pixels.shape}")
    if not isinstance(labels, list) or len(labels) != images:
        raise DataError(f"{where}: expected {form.label_key!r} to be a list of {images} labels")
    classes = len(form.class_names)
    wrong = [value for value in labels if type(value) is not int or not 0 <= value < classes]
    if wrong:
        raise DataError(f"{where}: expected labels from 0 to {classes - 1}, got {wrong[0]!r}")
    return torch.from_numpy(pixels.copy()).view(images, 3, 32, 32), torch.tensor(labels)


def _folder_reader(form: Form, folder: Path) -> Callable[[str], bytes]:
    def content(name: str) -> bytes:
        try:
            with (folder / name).open("rb") as file:
                return file.read(_LARGEST)
        except OSError as error:
            raise DataError(
                f"cannot read {folder / name}: {error.strerror}. {_how_to_get(form)}"
            ) from error

    return content


def _archive_reader(form: Form, archive: Path) -> Callable[[str], bytes]:
    wanted = {f"{form.folder}/{name}": name for name in (*form.train, *form.test)}
    found: dict[str, bytes] = {}
    try:
        with gzip.open(archive) as file:
            unpacked = file.read(_LARGEST + 1)  # no more: a small file can unpack to a huge one
        if len(unpacked) > _LARGEST:
            raise DataError(
                f"{archive} is not the official one: it unpacks to more than {_LARGEST:,} bytes. "
                f"{_how_to_get(form)}"
            )
        with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts:
                    raise DataError(f"{archive} is not the official one: it holds {member.name!r}")
                if member.name in wanted and member.isfile() and member.size <= _LARGEST:
                    content_of = tar.extractfile(member)
                    found[wanted[member.name]] = content_of.read() if content_of else b""
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"cannot read {archive}: {error}. {_how_to_get(form)}") from error

    def content(name: str) -> bytes:
        if name not in found:
            raise DataError(f"{archive} has no {form.folder}/{name}. {_how_to_get(form)}")
        return found[name]

    return content


def _find(form: Form, root: Path | None) -> Path:
    def match(folder: Path) -> Path | None:
        if folder.name == form.folder and folder.is_dir():
            return folder
        if (folder / form.folder).is_dir():
            return folder / form.folder
        return folder / form.archive if (folder / form.archive).is_file() else None

    what = f"{form.name} (folder {form.folder} or archive {form.archive})"

    def hint(folder: Path) -> str:
        stem = form.name.replace("cifar", "cifar-")
        for kind, short in (("binary", "bin"), ("matlab", "mat")):
            for name in (f"{stem}-batches-{short}", f"{stem}-{kind}", f"{stem}-{kind}.tar.gz"):
                path = folder if folder.name == name else folder / name
                if path.exists():
                    return (
                        f"There is {path}, the {kind} form; the Python form is needed, "
                        f"{form.archive}."
                    )
        return ""

    return first_match(what, search_folders(root), match, _how_to_get(form), hint)


def _how_to_get(form: Form) -> str:
    kind = form.name.upper()
    return (
        f"Get it with: python -c \"import torchvision; torchvision.datasets.{kind}('data', "
        f'download=True)", or put {form.archive} into ./data or the folder named in the '
        "environment variable GROUPNORM_DATA"
    )
