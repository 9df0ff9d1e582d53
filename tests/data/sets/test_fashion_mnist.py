"""fashion-mnist: IDX files in every layout, whole and damaged, on small look-alikes."""

import gzip
import hashlib
import struct
import tracemalloc

import numpy as np
import pytest
import torch

from groupnorm.data import DataError
from groupnorm.data.sets import fashion_mnist

SHAPES = {"train-images": (9, 28, 28), "train-labels": (9,), "t10k-images": (4, 28, 28)}
SHAPES["t10k-labels"] = (4,)


def idx(values):
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + bytes(
        values.tobytes()
    )


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Values of a small look-alike, whose checksums are the expected ones; nothing else is near."""
    rng = np.random.default_rng(0)
    values, files = {}, {}
    for name in fashion_mnist.FILES:
        shape = SHAPES[name.rsplit("-", 2)[0]]
        high = 256 if len(shape) == 3 else 10
        values[name] = rng.integers(0, high, shape, dtype=np.uint8)
        files[name] = shape, hashlib.sha256(idx(values[name])).hexdigest()
    monkeypatch.setattr(fashion_mnist, "FILES", files)
    monkeypatch.setattr(fashion_mnist, "_DEBIAN", tmp_path / "debian")
    monkeypatch.delenv("GROUPNORM_DATA", raising=False)
    monkeypatch.setenv("GROUPNORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return values


def write(folder, values, compressed=True):
    folder.mkdir(parents=True)
    for name, array in values.items():
        data = gzip.compress(idx(array)) if compressed else idx(array)
        (folder / (f"{name}.gz" if compressed else name)).write_bytes(data)


@pytest.mark.parametrize("compressed", [True, False], ids=["gz", "plain"])
@pytest.mark.parametrize("below", ["", "fashion-mnist", "FashionMNIST/raw"])
def test_contents_in_every_layout(tmp_path, small, below, compressed):
    folder = tmp_path / "root" / below
    write(folder, small, compressed)
    assert fashion_mnist.find(tmp_path / "root") == str(folder)
    images = fashion_mnist.load(tmp_path / "root")
    assert torch.equal(
        images.train_images[:, 0], torch.from_numpy(small["train-images-idx3-ubyte"])
    )
    assert images.train_labels.tolist() == small["train-labels-idx1-ubyte"].tolist()
    assert torch.equal(images.test_images[:, 0], torch.from_numpy(small["t10k-images-idx3-ubyte"]))
    assert images.test_labels.tolist() == small["t10k-labels-idx1-ubyte"].tolist()
    assert (images.flip, images.pad, images.num_classes) == (True, 2, 10)


def test_search(tmp_path, small, monkeypatch):
    with pytest.raises(DataError) as caught:
        fashion_mnist.load(tmp_path / "root")
    for part in ("train-images-idx3-ubyte[.gz]", "root", "debian", "cache", "apt-get install"):
        assert part in str(caught.value)
    for place in ("debian", "named", "root"):
        write(tmp_path / place, small)
        if place == "named":
            assert fashion_mnist.find() == str(tmp_path / "debian")
            monkeypatch.setenv("GROUPNORM_DATA", str(tmp_path / "named"))
            assert fashion_mnist.find() == str(tmp_path / "named")
    assert fashion_mnist.find(tmp_path / "root") == str(tmp_path / "root")


def test_a_folder_without_all_files_is_passed_over(tmp_path, small):
    write(tmp_path / "root", small)
    (tmp_path / "root" / "t10k-labels-idx1-ubyte.gz").unlink()
    write(tmp_path / "debian", small)
    assert fashion_mnist.find(tmp_path / "root") == str(tmp_path / "debian")


IMAGES = "train-images-idx3-ubyte"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], r"holds 7071 bytes, expected 7072"),
        (lambda data: data + b"x", r"holds more bytes, expected 7072"),
        (lambda data: data[:10], r"is not an IDX file of 9 x 28 x 28 bytes"),
        (lambda data: b"", r"is not an IDX file"),
        (lambda data: data[:2] + b"\x0d" + data[3:], r"it begins with 00000d03"),
        (lambda data: data[:7] + b"\x08" + data[8:], r"is not an IDX file"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), r"is damaged or another file.*sha256"),
    ],
)
@pytest.mark.parametrize("compressed", [True, False], ids=["gz", "plain"])
def test_damaged_content(tmp_path, small, damage, message, compressed):
    write(tmp_path / "root", small, compressed)
    path = tmp_path / "root" / (f"{IMAGES}.gz" if compressed else IMAGES)
    data = damage(idx(small[IMAGES]))
    path.write_bytes(gzip.compress(data) if compressed else data)
    with pytest.raises(DataError, match=rf"{IMAGES}.*{message}.*Get it with: apt-get"):
        fashion_mnist.load(tmp_path / "root")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-20],
        lambda data: b"plain",
        lambda data: data[:10] + b"\x07" + data[11:],  # a block of a type that does not exist
        lambda data: data[:-8] + bytes(4) + data[-4:],  # another checksum of gzip's own
    ],
)
def test_damaged_compression(tmp_path, small, damage):
    write(tmp_path / "root", small)
    path = tmp_path / "root" / f"{IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"cannot read .*{IMAGES}\.gz.*Get it with"):
        fashion_mnist.load(tmp_path / "root")


def test_a_small_file_that_unpacks_to_a_huge_one_is_not_unpacked(tmp_path, small):
    write(tmp_path / "root", small)
    path = tmp_path / "root" / f"{IMAGES}.gz"
    path.write_bytes(gzip.compress(idx(small[IMAGES]) + bytes(30 << 20), compresslevel=1))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"holds more bytes, expected 7072"):
        fashion_mnist.load(tmp_path / "root")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_names_with_a_dot_get_a_hint(tmp_path, small, ending):
    (tmp_path / "root/fashion-mnist").mkdir(parents=True)
    path = tmp_path / f"root/fashion-mnist/train-images.idx3-ubyte{ending}"
    path.touch()
    with pytest.raises(DataError) as caught:
        fashion_mnist.find(tmp_path / "root")
    hint = f"There is {path}: name the files with a hyphen, as train-images-idx3-ubyte.\n"
    assert hint in str(caught.value)
