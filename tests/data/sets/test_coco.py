"""coco: the layout of COCO 2017, with and without the year, and its two splits."""

import pytest
import torch

from groupnorm.data import DataError, find, load_detection
from groupnorm.data.batches import Step
from groupnorm.data.detection.batches import AnnotatedBatches
from groupnorm.data.sets import coco
from tests.data.detection.coco_files import annotation, data, image, many, write_split


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GROUPNORM_DATA", raising=False)
    monkeypatch.setenv("GROUPNORM_CACHE", str(tmp_path / "cache"))


def write(root, year="2017", train=None, val=None):
    write_split(root, train or many(), f"train{year}")
    write_split(root, val or many(5), f"val{year}")
    return root


@pytest.mark.parametrize("year", ["2017", ""])
@pytest.mark.parametrize("below", ["", "coco", "COCO"])
def test_the_layout(tmp_path, year, below):
    write(tmp_path / "root" / below, year)
    found = load_detection("coco", tmp_path / "root")
    assert find("coco", tmp_path / "root") == str(tmp_path / "root" / below).rstrip("/")
    assert (found.name, len(found.train.images), len(found.test.images)) == ("coco", 8, 5)
    assert (found.short_side, found.long_side, found.area_sides) == (800, 1333, (32, 96))
    assert found.flip
    assert found.notes == (f"not trained on: 3 images of train{year}/ without an object",)


def test_2017_comes_first(tmp_path):
    write(tmp_path / "coco", "", val=many(4))
    write(tmp_path / "coco", "2017")
    assert coco.load(tmp_path).test.file.name == "instances_val2017.json"


def test_all_is_needed(tmp_path):
    root = write(tmp_path / "coco")
    (root / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(DataError, match=r"^coco \(annotations/instances_train2017"):
        coco.find(tmp_path)


@pytest.mark.parametrize(
    ("categories", "why"),
    [
        ([{"id": 7, "name": "shirt"}], r"only one has the ids \[90\]"),
        ([{"id": 7, "name": "bag"}, {"id": 90, "name": "shirt"}], "names differ"),
    ],
)
def test_the_splits_have_the_same_categories(tmp_path, categories, why):
    write(tmp_path, val=data(categories=categories))
    with pytest.raises(DataError, match=rf"train2017\.json and .*val2017\.json .*: {why}"):
        coco.load(tmp_path)


def test_a_category_that_is_never_used(tmp_path):
    only = data([annotation()], [image()])
    assert len(coco.load(write(tmp_path, train=only)).categories) == 2


def test_without_masks(tmp_path):
    bare = data([annotation(segmentation=None)])
    write(tmp_path, train=bare)
    found = coco.load(tmp_path, masks=False)
    (batch,) = AnnotatedBatches(found).train([Step(0, torch.tensor([0]))])
    assert batch.targets[0]["masks"].shape == (1, 0, 0)
    with pytest.raises(DataError, match="annotation 1: it has no segmentation"):
        coco.load(tmp_path)


def test_the_version_follows_the_data_not_the_place(tmp_path):
    versions = [coco.load(write(tmp_path / name)).version for name in ("a", "b")]
    assert versions[0] == versions[1]
    assert coco.load(write(tmp_path / "c", val=many(6))).version != versions[0]
    assert coco.load(tmp_path / "a", masks=False).version != versions[0]


def test_images_have_the_papers_size(tmp_path):
    (batch, *_) = AnnotatedBatches(coco.load(write(tmp_path))).test()
    assert batch.images[0].shape == (3, 800, 1067)
