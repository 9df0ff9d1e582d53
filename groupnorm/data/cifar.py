"""CIFAR-10 and CIFAR-100 in the official Python form, a folder or the archive, read without trust.

The files are pickles, and a pickle can run any code: they are read with an unpickler that knows
nothing but NumPy arrays. Archives are read member by member and never extracted.
"""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groupnorm.data.image_set import DataError, ImageSet
from groupnorm.data.places import check_digest, first_match, search_folders


@dataclass(frozen=True)
class _Form:
    """The official files of one of the two sets, with their MD5 sums."""

    name: str
    folder: str
    archive: str
    train: dict[str, str]
    test: dict[str, str]
    images_per_train_file: int
    label_key: bytes
    class_names: tuple[str, ...]


CIFAR10 = _Form(
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
CIFAR100 = _Form(
    name="cifar100",
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    train={"train": "16019d7e3df5f24257cddd939b257f8d"},
    test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    images_per_train_file=50_000,
    label_key=b"fine_labels",
    class_names=tuple(f"class {index}" for index in range(100)),
)
TEST_IMAGES = 10_000


def find_cifar10(root: Path | None = None) -> str:
    """The folder or archive of CIFAR-10; DataError when there is none."""
    return str(_place(CIFAR10, root))


def find_cifar100(root: Path | None = None) -> str:
    """The folder or archive of CIFAR-100; DataError when there is none."""
    return str(_place(CIFAR100, root))


def load_cifar10(root: Path | None = None) -> ImageSet:
    """CIFAR-10: 50,000 + 10,000 colour images, 32x32, 10 classes.

    Raises:
        DataError: not found, truncated, another checksum, or content that does not belong there.
    """
    return read(CIFAR10, _place(CIFAR10, root))


def load_cifar100(root: Path | None = None) -> ImageSet:
    """CIFAR-100 with its 100 fine labels; otherwise as `load_cifar10`."""
    return read(CIFAR100, _place(CIFAR100, root))


def read(form: _Form, place: Path, *, verify: bool = True, images: int | None = None) -> ImageSet:
    """Read a folder or an archive.

    Args:
        verify: compare the files' MD5 sums with the official ones.
        images: images per file, where it is not the official number.

    Raises:
        DataError: a file is missing, damaged, or holds what does not belong there.
    """
    content = _archive_reader(form, place) if place.is_file() else _folder_reader(form, place)
    splits = []
    for files, official in ((form.train, form.images_per_train_file), (form.test, TEST_IMAGES)):
        parts = []
        for name, md5 in files.items():
            where, data = f"{name} in {place}", content(name)
            if verify:
                check_digest(where, data, md5, "md5", _how_to_get(form))
            parts.append(_read_batch(form, where, data, images or official))
        splits.append([torch.cat([part[i] for part in parts]) for i in range(2)])
    return ImageSet(
        name=form.name,
        version="1",
        train_images=splits[0][0],
        train_labels=splits[0][1],
        test_images=splits[1][0],
        test_labels=splits[1][1],
        class_names=form.class_names,
        flip=True,
        pad=4,
    )


def _read_batch(form: _Form, where: str, data: bytes, images: int) -> tuple[Tensor, Tensor]:
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
    if not all(isinstance(label, int) for label in labels):
        raise DataError(f"{where}: expected whole numbers as labels")
    return torch.from_numpy(pixels.copy()).view(images, 3, 32, 32), torch.tensor(labels)


class _ArraysOnly(pickle.Unpickler):
    """Knows what an array of numbers is made of, and nothing else."""

    _KNOWN = frozenset(
        [
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        ]
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no image file needs")
        return super().find_class(module.replace("numpy.core.", "numpy._core."), name)


def restricted_load(data: bytes, where: str) -> Any:
    """The value of a pickle that may hold numbers, text, bytes, lists, dictionaries and arrays.

    Raises:
        DataError: the pickle is damaged, or asks for anything else.
    """
    try:
        return _ArraysOnly(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{where} cannot be read: {error}") from error


def _folder_reader(form: _Form, folder: Path) -> Callable[[str], bytes]:
    def content(name: str) -> bytes:
        try:
            return (folder / name).read_bytes()
        except OSError as error:
            raise DataError(
                f"cannot read {folder / name}: {error.strerror}. {_how_to_get(form)}"
            ) from error

    return content


def _archive_reader(form: _Form, archive: Path) -> Callable[[str], bytes]:
    wanted = {f"{form.folder}/{name}": name for name in (*form.train, *form.test)}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and member.name in wanted:
                    file = tar.extractfile(member)
                    found[wanted[member.name]] = file.read() if file else b""
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(f"cannot read {archive}: {error}. {_how_to_get(form)}") from error

    def content(name: str) -> bytes:
        if name not in found:
            raise DataError(f"{archive} has no {form.folder}/{name}. {_how_to_get(form)}")
        return found[name]

    return content


def _place(form: _Form, root: Path | None) -> Path:
    def match(folder: Path) -> Path | None:
        if folder.name == form.folder and folder.is_dir():
            return folder
        if (folder / form.folder).is_dir():
            return folder / form.folder
        return folder / form.archive if (folder / form.archive).is_file() else None

    what = f"{form.name} (folder {form.folder} or archive {form.archive})"
    return first_match(what, search_folders(root), match, _how_to_get(form))


def _how_to_get(form: _Form) -> str:
    kind = form.name.upper()
    return (
        f"Get it with: python -c \"import torchvision; torchvision.datasets.{kind}('data', "
        f'download=True)", or put {form.archive} into ./data or the folder named in the '
        "environment variable GROUPNORM_DATA"
    )
