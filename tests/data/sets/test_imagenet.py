"""ImageNet in its official layouts; the devkit as torchvision reads it."""

import hashlib
import shutil
import tarfile

import numpy as np
import pytest
import torch
import torchvision.datasets.imagenet as theirs
from scipy.io import savemat

from groupnorm import data
from groupnorm.data import DataError
from groupnorm.data.sets import imagenet
from tests.data.files.image_trees import class_folders, photo, write

# wnid -> ILSVRC2012_ID: not in the same order, as in the official devkit
IDS = {"n01440764": 3, "n02102040": 1, "n03000684": 2}
TRUTH = [2, 3, 1, 3]
LABELS = [2, 0, 1, 0]  # places of the wnids in sorted order


def write_devkit(folder, synsets=IDS, truth=TRUTH, packed=False):
    """The two files that matter, meta.mat with an inner node as the official one has."""
    kind = [
        ("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"),
        ("num_children", "O"), ("children", "O"), ("wordnet_height", "O"),
        ("num_train_images", "O"),
    ]  # fmt: skip
    rows = [(n, wnid, f"{wnid}, thing", "?", 0, [], 0, 2) for wnid, n in synsets.items()]
    rows.append((len(rows) + 1, "n00000001", "entity", "?", 2, [1, 2], 3, 0))
    table = np.array([*sorted(rows)], dtype=kind).reshape(-1, 1)
    (folder / "data").mkdir(parents=True)
    savemat(folder / "data/meta.mat", {"synsets": table}, do_compression=packed)
    lines = "".join(f"{n}\n" for n in truth)
    (folder / "data/ILSVRC2012_validation_ground_truth.txt").write_text(lines)


@pytest.fixture
def root(tmp_path):
    """The flat layout."""
    class_folders(tmp_path / "train", list(IDS), images=2, name="n_{}.JPEG")
    for number in range(1, len(TRUTH) + 1):
        write(tmp_path / f"val/ILSVRC2012_val_{number:08}.JPEG", photo(number))
    write_devkit(tmp_path / "ILSVRC2012_devkit_t12")
    return tmp_path


def test_flat_validation(root):
    files = data.load("imagenet", root)
    assert files.class_names == tuple(sorted(IDS))
    assert files.train_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert files.test_labels.tolist() == LABELS
    assert files.test_paths[0].endswith("val/ILSVRC2012_val_00000001.JPEG")


def test_validation_in_class_folders(root):
    flat = data.load("imagenet", root)
    for path, label in zip(flat.test_paths, LABELS, strict=True):
        place = root / "val" / sorted(IDS)[label]
        place.mkdir(exist_ok=True)
        shutil.move(path, place)
    shutil.rmtree(root / "ILSVRC2012_devkit_t12")
    files = data.load("imagenet", root)
    assert sorted(files.test_labels.tolist()) == sorted(LABELS)
    of = dict(zip([p.rsplit("/", 1)[1] for p in files.test_paths], files.test_labels.tolist(),
                  strict=True))  # fmt: skip
    assert [of[f"ILSVRC2012_val_{n:08}.JPEG"] for n in range(1, 5)] == LABELS


def test_the_devkit_is_read_as_torchvision_reads_it(root, monkeypatch):
    archive = root / "ILSVRC2012_devkit_t12.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root / "ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12")
    digest = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(theirs.ARCHIVE_META, "devkit", (archive.name, digest))
    theirs.parse_devkit_archive(root)
    wnids = torch.load(root / "meta.bin", weights_only=True)[1]
    assert [sorted(IDS)[label] for label in data.load("imagenet", root).test_labels] == wnids


def test_where_it_is_looked_for(root, tmp_path_factory):
    assert data.find("imagenet", root) == str(root)
    above = tmp_path_factory.mktemp("above")
    for name in ("imagenet", "ILSVRC2012"):
        root.rename(above / name)
        assert data.find("imagenet", above) == str(above / name)
        (above / name).rename(root)


def test_a_folder_of_other_classes_is_not_imagenet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        class_folders(tmp_path / split, images=1)
    with pytest.raises(DataError, match=r"(?s)^imagenet \(.*tar -xf ILSVRC2012_img_train.tar"):
        data.find("imagenet", tmp_path)


def test_strange_class_folder(root):
    class_folders(root / "train", ("zebra",), images=1)
    with pytest.raises(DataError, match="only folders as n01440764, got zebra"):
        data.load("imagenet", root)


def test_no_devkit(root):
    shutil.rmtree(root / "ILSVRC2012_devkit_t12")
    with pytest.raises(DataError, match=r"(?s)meta.mat, which is missing.*tar -xzf"):
        data.load("imagenet", root)


def test_damaged_devkit(root):
    devkit = root / "ILSVRC2012_devkit_t12/data"
    truth = devkit / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("2\n3\nx\n3\n")
    with pytest.raises(DataError, match=r"cannot read .*ground_truth.txt: invalid literal"):
        data.load("imagenet", root)
    (devkit / "meta.mat").write_bytes((devkit / "meta.mat").read_bytes()[:200])
    with pytest.raises(DataError, match=r"cannot read .*meta.mat"):
        data.load("imagenet", root)


def test_a_small_devkit_that_unpacks_to_a_huge_one_is_refused(root, monkeypatch):
    monkeypatch.setattr(imagenet, "LARGEST_META", 1_000_000)
    meta = root / "ILSVRC2012_devkit_t12/data/meta.mat"
    savemat(meta, {"synsets": np.zeros(4 << 20)}, do_compression=True)
    assert meta.stat().st_size < 100_000
    with pytest.raises(
        DataError, match=r"cannot read .*meta.mat: .*unpacks to more than 1,000,000"
    ):
        data.load("imagenet", root)
    write_devkit(root / "packed", packed=True)
    assert imagenet.read_meta(root / "packed/data/meta.mat")[3] == "n01440764"


def test_incomplete_validation(root):
    (root / "val/ILSVRC2012_val_00000002.JPEG").unlink()
    with pytest.raises(DataError, match=r"val has 3 images, .* labels 4, numbered from 1"):
        data.load("imagenet", root)


def test_other_names_in_a_flat_validation_folder(root):
    write(root / "val/cat.jpg", photo())
    with pytest.raises(DataError, match=r"ILSVRC2012_val_00000001.JPEG, got cat.jpg"):
        data.load("imagenet", root)


def test_hidden_files_and_a_byte_order_mark_do_not_matter(root):
    before = data.load("imagenet", root)
    for name in ("val/.DS_Store", "val/._ILSVRC2012_val_00000001.JPEG", "train/.thumbs/0.JPEG"):
        write(root / name, b"")
    truth = root / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
    truth.write_text(truth.read_text(encoding="utf-8"), encoding="utf-8-sig")
    (root / "val/.hidden").mkdir()
    files = data.load("imagenet", root)
    assert files.version == before.version
    assert files.test_labels.equal(before.test_labels)


def test_flat_validation_of_a_class_that_is_not_there(root):
    shutil.rmtree(root / "train/n02102040")
    with pytest.raises(DataError, match=r"image 3 is of class 1 \(n02102040\).*val/<wnid>/"):
        data.load("imagenet", root)


def test_inner_nodes_of_the_hierarchy_are_no_classes(root):
    meta = imagenet.read_meta(root / "ILSVRC2012_devkit_t12/data/meta.mat")
    assert meta == {n: wnid for wnid, n in IDS.items()}
