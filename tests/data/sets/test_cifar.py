"""CIFAR readers on small look-alikes of the official files, whole and damaged."""

import gzip
import hashlib
import io
import os
import pickle
import tarfile
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from groupnorm.data import DataError
from groupnorm.data.sets import cifar
from groupnorm.data.sets.cifar import (
    CIFAR10,
    CIFAR100,
    find_cifar10,
    find_cifar100,
    load_cifar10,
    read,
)
from tests.data.sets.cifar_miniature import digests, members, write_archive

N = 6  # images in each file
FORMS = pytest.mark.parametrize("form", [CIFAR10, CIFAR100], ids=["cifar10", "cifar100"])
KINDS = pytest.mark.parametrize("kind", ["folder", "archive"])


def batches(form):
    """name -> the dictionary of each file."""
    rng = np.random.default_rng(0)
    return {
        name: {
            b"data": rng.integers(0, 256, (N, 3072), dtype=np.uint8),
            form.label_key: rng.integers(0, len(form.class_names), N).tolist(),
            b"coarse_labels": [0] * N,
        }
        for name in (*form.train, *form.test)
    }


def add(tar, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write(root, form, kind, files, extra=()):
    """Write files, as dictionaries or bytes, in the official layout; returns their place."""
    raw = {k: v if isinstance(v, bytes) else pickle.dumps(v, 2) for k, v in files.items()}
    if kind == "folder":
        place = root / form.folder
        place.mkdir(parents=True)
        for name, data in raw.items():
            (place / name).write_bytes(data)
        return place
    place = root / form.archive
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(place, "w:gz") as tar:
        for name, data in raw.items():
            add(tar, f"{form.folder}/{name}", data)
        for name, data in extra:
            add(tar, name, data)
    return place


@FORMS
@KINDS
def test_contents(tmp_path, form, kind):
    files = batches(form)
    images = read(form, write(tmp_path, form, kind, files), verify=False, images=N)
    for names, pixels, labels in (
        (form.train, images.train_images, images.train_labels),
        (form.test, images.test_images, images.test_labels),
    ):
        expected = np.concatenate([files[name][b"data"] for name in names])
        assert (pixels.numpy().reshape(-1, 3072) == expected).all()
        assert labels.tolist() == [v for name in names for v in files[name][form.label_key]]
        assert labels.dtype == torch.int64
        assert pixels.shape[1:] == (3, 32, 32)
    assert (images.name, images.flip, images.pad) == (form.name, True, 4)


def test_the_archive_as_python_2_wrote_it(tmp_path, monkeypatch):
    place = write_archive(tmp_path, images=20)
    with tarfile.open(place) as tar:
        assert {Path(name).name for name in tar.getnames()} == {
            CIFAR10.folder, "batches.meta", *CIFAR10.train, *CIFAR10.test, "readme.html"
        }  # fmt: skip
    data = members(20)["data_batch_1"]
    assert b"_codecs" not in data, "Python 3 writes bytes as a call"
    assert b"U\x06labels" in data
    with pytest.raises(DataError, match=r"data_batch_1 in .* damaged .*md5 c99cafc1.*Get it with"):
        load_cifar10(tmp_path)
    for sums in (CIFAR10.train, CIFAR10.test):
        for name in sums:
            monkeypatch.setitem(sums, name, digests(20)[name])
    with pytest.raises(DataError, match="expected 10000 x 3072 pixels, got"):
        load_cifar10(tmp_path)
    images = read(CIFAR10, place, images=20)
    assert images.train_labels.tolist() == list(range(10)) * 10
    assert images.test_images.shape == (20, 3, 32, 32)


def test_class_names():
    assert CIFAR10.class_names[:4] == ("airplane", "automobile", "bird", "cat")
    assert len(CIFAR10.class_names) == 10
    assert len(set(CIFAR100.class_names)) == 100
    assert list(CIFAR100.class_names) == sorted(CIFAR100.class_names)


@KINDS
def test_checksums(tmp_path, kind, monkeypatch):
    files = {name: pickle.dumps(value, 2) for name, value in batches(CIFAR10).items()}
    place = write(tmp_path, CIFAR10, kind, files)
    with pytest.raises(DataError, match=r"data_batch_1 in .* damaged .*md5 c99cafc1.*Get it with"):
        read(CIFAR10, place, images=N)
    for sums in (CIFAR10.train, CIFAR10.test):
        for name in sums:
            monkeypatch.setitem(sums, name, hashlib.md5(files[name]).hexdigest())
    read(CIFAR10, place, images=N)


@KINDS
def test_official_size_is_expected(tmp_path, kind):
    place = write(tmp_path, CIFAR10, kind, batches(CIFAR10))
    with pytest.raises(DataError, match=r"data_batch_1.*expected 10000 x 3072 pixels, got \(6, "):
        read(CIFAR10, place, verify=False)


def without(batch, key):
    return {k: v for k, v in batch.items() if k != key}


@KINDS
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: pickle.dumps(b, 2)[:-500], "cannot be read as a pickle"),
        (lambda b: b"", "cannot be read as a pickle"),
        (lambda b: [1, 2], "expected a dictionary, got list"),
        (lambda b: without(b, b"data"), "to be an array of bytes"),
        (lambda b: {**b, b"data": b[b"data"].astype(np.float32)}, "to be an array of bytes"),
        (lambda b: {**b, b"data": b[b"data"][:, :-1]}, r"6 x 3072 pixels, got \(6, 3071\)"),
        (lambda b: without(b, b"labels"), "to be a list of 6 labels"),
        (lambda b: {**b, b"labels": b[b"labels"][:-1]}, "to be a list of 6 labels"),
        (lambda b: {**b, b"labels": [0, 1, 2, 3, 4, 10]}, "from 0 to 9, got 10"),
        (lambda b: {**b, b"labels": [0, 1, 2, 3, 4, -1]}, "from 0 to 9, got -1"),
        (lambda b: {**b, b"labels": [0, 1, 2, 3, 4, 2**80]}, "from 0 to 9, got 12089"),
        (lambda b: {**b, b"labels": [0, 1, 2, 3, 4, 1.5]}, r"from 0 to 9, got 1\.5"),
        (lambda b: {**b, b"labels": [0, 1, 2, 3, 4, True]}, "from 0 to 9, got True"),
    ],
)
def test_damaged_file(tmp_path, kind, damage, message):
    files = batches(CIFAR10)
    files["data_batch_3"] = damage(files["data_batch_3"])
    place = write(tmp_path, CIFAR10, kind, files)
    with pytest.raises(DataError, match=rf"data_batch_3 in .*{message}"):
        read(CIFAR10, place, verify=False, images=N)


class Makes:
    """A pickle that makes a folder when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@KINDS
def test_malicious_file(tmp_path, kind):
    trace = tmp_path / "trace"
    files = batches(CIFAR10)
    files["test_batch"] = {b"data": Makes(trace)}
    place = write(tmp_path, CIFAR10, kind, files)
    with pytest.raises(DataError, match=r"test_batch in .*\.mkdir, which no array needs"):
        read(CIFAR10, place, verify=False, images=N)
    assert not trace.exists()


@KINDS
def test_missing_file(tmp_path, kind):
    files = batches(CIFAR10)
    del files["data_batch_4"]
    place = write(tmp_path, CIFAR10, kind, files)
    with pytest.raises(DataError, match=r"data_batch_4.*Get it with"):
        read(CIFAR10, place, verify=False, images=N)


@pytest.mark.parametrize("keep", [0, 10, 1000, -40])
def test_truncated_archive(tmp_path, keep):
    place = write(tmp_path, CIFAR10, "archive", batches(CIFAR10))
    place.write_bytes(place.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz.*Get it with"):
        read(CIFAR10, place, verify=False, images=N)


def test_bytes_changed_inside_the_archive(tmp_path):
    place = write(tmp_path, CIFAR10, "archive", batches(CIFAR10))
    data = bytearray(place.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    place.write_bytes(data)
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz"):
        read(CIFAR10, place, verify=False, images=N)


def test_compressed_stream_broken_inside_a_member(tmp_path):
    place = write(tmp_path, CIFAR10, "archive", batches(CIFAR10))
    raw = gzip.decompress(place.read_bytes())
    squeeze = zlib.compressobj(wbits=31)
    begin = squeeze.compress(raw[:12_000]) + squeeze.flush(zlib.Z_FULL_FLUSH)
    place.write_bytes(begin + b"\x07" * 100)  # a block of a type that does not exist
    with pytest.raises(DataError, match=r"cannot read .*tar\.gz: .*invalid block.*Get it with"):
        read(CIFAR10, place, verify=False, images=N)


@pytest.mark.parametrize(
    "name", ["../escaped", "/escaped", "cifar-10-batches-py/../../escaped", "a/../b"]
)
def test_names_that_leave_the_archive(tmp_path, name):
    place = write(tmp_path / "in", CIFAR10, "archive", batches(CIFAR10), [(name, b"content")])
    with pytest.raises(DataError, match=r"not the official one: it holds .*[./]"):
        read(CIFAR10, place, verify=False, images=N)
    assert not list(tmp_path.rglob("escaped"))


def test_an_archive_is_read_in_memory_and_links_are_not_followed(tmp_path):
    files = batches(CIFAR10)
    outside = tmp_path / "outside"
    outside.write_bytes(pickle.dumps(files.pop("test_batch"), 2))
    place = write(tmp_path / "in", CIFAR10, "archive", files, [("notes.txt", b"ignored")])
    linked = tmp_path / "in" / "linked.tar.gz"
    with tarfile.open(place) as source, tarfile.open(linked, "w:gz") as target:
        for member in source:
            target.addfile(member, source.extractfile(member))
        link = tarfile.TarInfo(f"{CIFAR10.folder}/test_batch")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        target.addfile(link)
    with pytest.raises(DataError, match="has no cifar-10-batches-py/test_batch"):
        read(CIFAR10, linked, verify=False, images=N)
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == [place.name, linked.name]


def test_search(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GROUPNORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GROUPNORM_DATA", str(tmp_path / "named"))
    for attempt in (find_cifar10, load_cifar10):
        with pytest.raises(DataError) as caught:
            attempt(tmp_path / "root")
        for part in ("cifar-10-batches-py", "cifar-10-python.tar.gz", "root", "named", "Get it"):
            assert part in str(caught.value)
    files = batches(CIFAR10)
    last = write(tmp_path / "data", CIFAR10, "folder", files)
    assert find_cifar10() == str(last.relative_to(tmp_path))
    named = write(tmp_path / "named", CIFAR10, "archive", files)
    assert find_cifar10() == str(named)
    root = write(tmp_path / "root", CIFAR10, "folder", files)
    assert find_cifar10(tmp_path / "root") == str(root)
    assert find_cifar10(root) == str(root), "the folder itself may be named"
    with pytest.raises(DataError, match="md5"):
        load_cifar10(root)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cifar-10-batches-bin/", "binary"),
        ("cifar-10-binary.tar.gz", "binary"),
        ("cifar-10-batches-mat/", "matlab"),
        ("cifar-10-matlab.tar.gz", "matlab"),
        ("cifar-100-binary/", "binary"),
        ("cifar-100-matlab.tar.gz", "matlab"),
    ],
)
def test_other_forms_get_a_hint(tmp_path, name, kind):
    place = tmp_path / name
    place.mkdir() if name.endswith("/") else place.touch()
    find, archive = find_cifar10, "cifar-10-python.tar.gz"
    if "100" in name:
        find, archive = find_cifar100, "cifar-100-python.tar.gz"
    roots = [tmp_path, place] if place.is_dir() else [tmp_path]
    for root in roots:
        with pytest.raises(DataError) as caught:
            find(root)
        hint = f"There is {place}, the {kind} form; the Python form is needed, {archive}.\n"
        assert hint in str(caught.value)


@pytest.mark.parametrize("kind", ["member", "header", "sparse"])
def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch, kind):
    """In the data, in what describes it, or as zeros that are not even stored."""
    monkeypatch.setattr(cifar, "_LARGEST", 200_000)
    files = batches(CIFAR10)
    files["test_batch"] = bytes(30 << 20) if kind == "member" else files["test_batch"]
    place = write(tmp_path, CIFAR10, "archive", files)
    if kind == "header":
        member = tarfile.TarInfo("note")
        member.pax_headers = {"comment": "x" * (30 << 20)}
        with tarfile.open(place, "w:gz", format=tarfile.PAX_FORMAT) as target:
            target.addfile(member)
    elif kind == "sparse":
        member = tarfile.TarInfo(f"{CIFAR10.folder}/test_batch")
        member.pax_headers = {
            "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(30 << 20),
            "GNU.sparse.map": "0,0", "GNU.sparse.name": member.name,
        }  # fmt: skip
        with tarfile.open(place, "w:gz", format=tarfile.PAX_FORMAT) as target:
            target.addfile(member)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"unpacks to more than 200,000 bytes|has no cifar"):
        read(CIFAR10, place, verify=False, images=N)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000
