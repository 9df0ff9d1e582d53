"""Annotation files that are written: numbered from 1, and read by this package and by others."""

import json

import numpy as np
import pytest

from groupnorm.data.detection import rle
from groupnorm.data.detection.annotations import AnnotatedImage, Annotation
from groupnorm.data.detection.reader import read_split
from groupnorm.data.detection.targets import Categories
from groupnorm.data.detection.writer import annotation_file
from tests.data.files.image_trees import photo, write

CATEGORIES = Categories((7, 90), ("shirt", "bag"), ("tops", ""))
MASK = np.zeros((30, 40), np.uint8)
MASK[3:9, 2:10] = MASK[12:20, 6:9] = 1
POLYGON = (np.array([[2.0, 3], [10, 3], [10, 9], [2.5, 9.25]]),)


def images():
    box = (2.0, 3.0, 8.0, 17.0)
    return [
        AnnotatedImage(5, "5.jpg", 30, 40),
        AnnotatedImage(
            3,
            "3.jpg",
            30,
            40,
            (
                Annotation(0, 2, box, 72.0, False, rle.encode(MASK)),
                Annotation(9, 1, box, None, True, POLYGON),
            ),
        ),
        AnnotatedImage(8, "8.jpg", 30, 40, (Annotation(0, 1, box, None, False, None),)),
    ]


def written(tmp_path, entries):
    for entry in entries:
        write(tmp_path / "train" / entry.file_name, photo(entry.id))
    file = tmp_path / "instances_train.json"
    file.write_text(annotation_file(entries, CATEGORIES, {"year": 2017}))
    return file


def test_what_is_written_is_read_again(tmp_path):
    file = written(tmp_path, images()[:2])
    split, categories, _ = read_split(file, tmp_path / "train")
    assert categories == CATEGORIES
    assert [(e.id, e.file_name, len(e.annotations)) for e in split.images] == [
        (5, "5.jpg", 0), (3, "3.jpg", 2),
    ]  # fmt: skip
    first, second = split.images[1].annotations
    assert (first.label, first.box, first.area, first.crowd) == (2, (2, 3, 8, 17), 72, False)
    assert (first.mask(30, 40) == MASK).all()
    assert (second.label, second.crowd) == (1, True)
    assert (second.segmentation[0] == POLYGON[0]).all()
    assert second.area == second.mask(30, 40).sum() > 0


def test_annotations_are_numbered_from_1(tmp_path):
    """Evaluators take the id 0 for no match: a perfect detection would have an AP of 0."""
    data = json.loads(written(tmp_path, images()).read_text())
    assert [entry["id"] for entry in data["annotations"]] == [1, 2, 3]
    assert [entry["category_id"] for entry in data["annotations"]] == [90, 7, 7]
    assert "segmentation" not in data["annotations"][2], "a data set without masks"
    assert data["annotations"][2]["area"] == 8 * 17
    assert data["info"] == {"year": 2017}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_reads_it(tmp_path, capsys):
    coco = pytest.importorskip("pycocotools.coco")
    read = coco.COCO(str(written(tmp_path, images()[:2])))
    capsys.readouterr()
    first, second = read.loadAnns(read.getAnnIds(imgIds=3))
    assert (read.annToMask(first) == MASK).all()
    _, entry = images()[1].annotations
    assert (read.annToMask(second) == entry.mask(30, 40)).all()
    assert read.loadCats([90])[0]["name"] == "bag"
