"""COCO annotation files: what is read, what is left out and counted, and what is an error."""

import json

import numpy as np
import pytest

from groupnorm.data import DataError
from groupnorm.data.detection import rle
from groupnorm.data.detection.reader import read_split
from tests.data.detection.coco_files import annotation, data, image, write_split

INF, NAN = float("inf"), float("nan")
RUNS = {"size": [30, 40], "counts": [63, 3, 1134]}


def read(root, content, masks=True, pictures=None):
    return read_split(*write_split(root, content, pictures=pictures), masks=masks)


def refused(root, content, match, masks=True):
    with pytest.raises(DataError, match=match) as caught:
        read(root, content, masks)
    assert str(caught.value).startswith(str(root / "annotations" / "instances_train2017.json"))
    assert "\n" not in str(caught.value)


def test_an_annotation(tmp_path):
    split, categories, _ = read(tmp_path, data())
    assert (categories.ids, categories.names) == ((7, 90), ("shirt", "bag"))
    assert categories.supercategories == ("", "")
    (entry,) = split.images
    assert (entry.id, entry.file_name, entry.height, entry.width) == (1, "1.jpg", 30, 40)
    (found,) = entry.annotations
    assert (found.id, found.label, found.box, found.area) == (1, 1, (2, 3, 8, 6), 48)
    assert not found.crowd
    assert found.corners(30, 40) == (2, 3, 10, 9)
    assert found.mask(30, 40).sum() == 48
    assert split.notes == ()
    assert split.path(0) == str(tmp_path / "train2017" / "1.jpg")


def test_fields_that_may_be_missing(tmp_path):
    content = data([annotation(area=None, iscrowd=None)], info={"year": 2017}, licenses=[])
    split, _, _ = read(tmp_path, content)
    (found,) = split.images[0].annotations
    assert found.area is None
    assert found.area_in(30, 40) == 48
    assert not found.crowd
    assert split.notes == (
        "1 annotation of instances_train2017.json without an area: that of the mask is taken",
    )
    split, _, _ = read(tmp_path, content, masks=False)
    assert split.images[0].annotations[0].area_in(30, 40) == 48
    assert "that of the box is taken" in split.notes[0]


@pytest.mark.parametrize("kind", ["list", "string", "polygon"])
@pytest.mark.parametrize("crowd", [0, 1])
def test_masks_of_every_kind(tmp_path, kind, crowd):
    mask = np.zeros((30, 40), np.uint8)
    mask[3:9, 2:10] = 1
    runs = rle.encode(mask)
    segmentation = {
        "list": {"size": [30, 40], "counts": runs.tolist()},
        "string": {"size": [30, 40], "counts": rle.to_string(runs)},
        "polygon": annotation()["segmentation"],
    }[kind]
    content = data([annotation(segmentation=segmentation, iscrowd=crowd)])
    (entry,) = read(tmp_path, content)[0].images
    (found,) = entry.annotations
    assert (found.mask(30, 40) == mask).all()
    assert found.crowd == crowd
    assert entry.objects == ([] if crowd else [found])


@pytest.mark.parametrize("segmentation", [None, [], [[1, 2]], {"size": [1, 1]}, "garbage"])
def test_without_masks_no_segmentation_is_read(tmp_path, segmentation):
    content = data([annotation(segmentation=segmentation)])
    split, _, _ = read(tmp_path, content, masks=False)
    assert split.images[0].annotations[0].segmentation is None
    assert not split.masks
    with pytest.raises(ValueError, match="annotation 1 has no mask"):
        split.images[0].annotations[0].mask(30, 40)
    refused(tmp_path, content, "annotation 1: ")


def test_images_without_annotations_stay(tmp_path):
    crowd = annotation(2, 3, iscrowd=1, segmentation=RUNS)
    content = data([annotation(1, 2), crowd], [image(k, file_name=f"{k}.jpg") for k in (1, 2, 3)])
    split, _, _ = read(tmp_path, content)
    assert [len(entry.annotations) for entry in split.images] == [0, 1, 1]
    assert split.with_objects == (1,), "an image with crowds only is an empty image"
    assert len(read(tmp_path, data([]))[0].images) == 1


@pytest.mark.parametrize(
    ("box", "corners"),
    [
        ([2, 3, 1, 1], (2, 3, 3, 4)),
        ([-4, -2, 10, 10], (0, 0, 6, 8)),
        ([35.5, 20, 10, 1e300], (35.5, 20, 40, 30)),
        ([2, 3, 0, 5], None),
        ([2, 3, 5, 0], None),
        ([2, 3, 0.9, 5], None),
        ([39.5, 3, 8, 6], None),
        ([50, 3, 8, 6], None),
        ([-20, 3, 8, 6], None),
    ],
)
def test_boxes_are_cut_and_what_is_less_than_a_pixel_is_left_out(tmp_path, box, corners):
    content = data([annotation(), annotation(5, bbox=box)])
    split, _, _ = read(tmp_path, content)
    if corners:
        assert split.images[0].annotations[1].corners(30, 40) == corners
        assert split.notes == ()
    else:
        assert [a.id for a in split.images[0].annotations] == [1]
        assert split.notes == (
            "left out: 1 annotation of instances_train2017.json of whose box less than a pixel "
            "lies in the image: 5",
        )


def test_annotations_of_images_that_are_not_listed_are_left_out(tmp_path):
    content = data([annotation(), *(annotation(k, 99) for k in range(2, 10))])
    split, _, _ = read(tmp_path, content)
    assert len(split.images[0].annotations) == 1
    assert split.notes == (
        "left out: 8 annotations of instances_train2017.json of images that are not listed: "
        "2, 3, 4, 5, 6 and 3 more",
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"bbox": [1, 2, -3, 4]}, r"negative width or height: \[1, 2, -3, 4\]"),
        ({"bbox": [1, 2, 3, -4]}, "negative width or height"),
        ({"bbox": [1, 2, 3, NAN]}, "bbox of four finite numbers"),
        ({"bbox": [INF, 2, 3, 4]}, "bbox of four finite numbers"),
        ({"bbox": [10**400, 2, 3, 4]}, "bbox of four finite numbers"),
        ({"bbox": [1, 2, 3]}, r"bbox of four finite numbers, got \[1, 2, 3\]"),
        ({"bbox": ["1", 2, 3, 4]}, "bbox of four finite numbers"),
        ({"bbox": [1, 2, None, 4]}, "bbox of four finite numbers"),
        ({"bbox": [1, 2, 3, True]}, "bbox of four finite numbers"),
        ({"bbox": None}, "bbox of four finite numbers, got nothing"),
        ({"bbox": "1 2 3 4"}, "bbox of four finite numbers"),
        ({"area": -1}, "area of at least 0, got -1"),
        ({"area": NAN}, "area of at least 0, got nan"),
        ({"area": "48"}, "area of at least 0, got '48'"),
        ({"iscrowd": 2}, "iscrowd of 0 or 1, got 2"),
        ({"iscrowd": "0"}, "iscrowd of 0 or 1"),
        ({"iscrowd": []}, "iscrowd of 0 or 1"),
        ({"category_id": 1}, "category 1 is not in the list"),
        ({"category_id": "7"}, "whole number as category_id, got '7'"),
        ({"category_id": None}, "whole number as category_id, got nothing"),
        ({"image_id": "1"}, "whole number as image_id, got '1'"),
        ({"image_id": 1.0}, "whole number as image_id, got 1.0"),
        ({"segmentation": None}, "no segmentation, which training with masks needs"),
        ({"segmentation": "abc"}, "no segmentation"),
        ({"segmentation": []}, "segmentation is empty"),
        ({"segmentation": [[]]}, "at least 6; one has 0"),
        ({"segmentation": [[1, 2, 3, 4]]}, "at least 6; one has 4"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "even number"),
        ({"segmentation": {**RUNS, "size": [40, 30]}}, r"size \[40, 30\], the image \[30, 40\]"),
        ({"segmentation": {**RUNS, "counts": [5, 6]}}, "11 pixels, the image 1,200"),
        ({"segmentation": {**RUNS, "counts": [1203, -3]}}, "negative or longer"),
        ({"segmentation": {**RUNS, "counts": "garbage!"}}, "do not belong there"),
    ],
)
def test_a_malformed_annotation_is_named(tmp_path, changes, why):
    content = data([annotation(1), annotation(17, **changes)])
    refused(tmp_path, content, rf"annotation 17: .*{why}")


@pytest.mark.parametrize("number", ["3", None, 1.0, True, 2**63, [1]])
@pytest.mark.parametrize("key", ["annotations", "images", "categories"])
def test_ids_are_whole_numbers(tmp_path, key, number):
    content = data()
    content[key].append({**content[key][0], "id": number, "file_name": "2.jpg"})
    place = len(content[key]) - 1
    refused(tmp_path, content, rf"{key}\[{place}\]: expected a whole number as id")


def test_ids_may_be_zero_negative_and_large(tmp_path):
    content = data(
        [annotation(0, 2**40), annotation(2**62, -3, category_id=0)],
        [image(2**40), image(-3)],
        categories=[{"id": 2**33, "name": "a"}, {"id": 0, "name": "b"}, {"id": 7, "name": "c"}],
    )
    split, categories, _ = read(tmp_path, content)
    assert categories.ids == (0, 7, 2**33)
    assert [(e.id, e.annotations[0].id, e.annotations[0].label) for e in split.images] == [
        (2**40, 0, 2), (-3, 2**62, 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (data([annotation(), annotation()]), "annotation 1: there are two annotations"),
        (data(images=[image(), image()]), "image 1: there are two images of this id"),
        (data(images=[image(), image(2, file_name="1.jpg")]), "image 2: image 1 has the same file"),
        (
            data(images=[image(), image(2, file_name="./1.jpg")]),
            "image 2: image 1 has the same file",
        ),
        (data(categories=[{"id": 7, "name": "a"}] * 2), "category 7: there are two categories"),
        (data(categories=[]), "list 'categories' is empty"),
        (data([], images=[]), "list 'images' is empty"),
        (data(categories=[{"id": 7}]), "category 7: expected a text as name, got nothing"),
        (data(categories=[{"id": 7, "name": 7}]), "expected a text as name, got 7"),
        (
            data(categories=[{"id": 7, "name": "a", "supercategory": None}]),
            "text as supercategory",
        ),
        (data(categories=None), "expected a list 'categories', got nothing"),
        ({**data(), "annotations": {}}, "expected a list 'annotations', got {}"),
        ({**data(), "annotations": [3]}, r"annotations\[0\]: expected an object, got 3"),
    ],
)
def test_malformed_lists(tmp_path, content, why):
    refused(tmp_path, content, why)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"width": 0}, "height and width of at least 1, got 30 and 0"),
        ({"width": -40}, "got 30 and -40"),
        ({"width": "40"}, "got 30 and '40'"),
        ({"height": None}, "got nothing and 40"),
        ({"height": 30.0}, "got 30.0 and 40"),
        ({"height": 10**6, "width": 10**6}, "1000000 x 1000000 are more than 67,108,864 pixels"),
        ({"file_name": None}, "text as file_name, got nothing"),
        ({"file_name": ""}, "name of a file in the folder, got ''"),
        ({"file_name": "../secret.jpg"}, "name of a file in the folder, got '../secret.jpg'"),
        ({"file_name": "a/../../b.jpg"}, "name of a file in the folder"),
        ({"file_name": "/etc/passwd"}, "name of a file in the folder, got '/etc/passwd'"),
        ({"file_name": "a\0b"}, "name of a file in the folder"),
    ],
)
def test_a_malformed_image_is_named(tmp_path, changes, why):
    content = data(images=[image()])
    file, folder = write_split(tmp_path, content)
    file.write_text(json.dumps(data(images=[image(), image(12, **changes)])))
    with pytest.raises(DataError, match=f"image 12: .*{why}"):
        read_split(file, folder)


def test_images_without_a_file(tmp_path):
    content = data(images=[image(k, file_name=f"sub/{k}.jpg") for k in range(1, 9)])
    with pytest.raises(
        DataError,
        match=r"lists 7 images that are not files in .*train2017: sub/2.jpg, .*sub/6.jpg and 2 m",
    ):
        read(tmp_path, content, pictures=dict.fromkeys(f"sub/{k}.jpg" for k in range(2, 9)))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is no JSON file"),
        (b"{", "is no JSON file"),
        (b"\xff\xfe\xfa", "is no JSON file"),
        (b"[" * 100_000, "is no JSON file"),
        (b'{"images": ' + b"1" * 5000 + b"}", "is no JSON file"),
        (b"[]", "expected an object with images, annotations and categories"),
        (b"null", "expected an object"),
    ],
)
def test_what_is_no_annotation_file(tmp_path, content, why):
    file, folder = write_split(tmp_path, data())
    file.write_bytes(content)
    with pytest.raises(DataError, match=why):
        read_split(file, folder)


def test_a_file_that_is_missing_or_too_large(tmp_path, monkeypatch):
    file, folder = write_split(tmp_path, data())
    with pytest.raises(DataError, match=r"cannot read .*nothing\.json: No such file"):
        read_split(tmp_path / "nothing.json", folder)
    monkeypatch.setattr("groupnorm.data.detection.reader.LARGEST_JSON", 100)
    with pytest.raises(DataError, match="has more than 100 bytes"):
        read_split(file, folder)


def test_the_digest_follows_annotations_and_files(tmp_path):
    digests = {read(tmp_path / "a", data())[2], read(tmp_path / "b", data())[2]}
    assert len(digests) == 1, "not the place"
    digests.add(read(tmp_path / "a", data([annotation(bbox=[2, 3, 8, 7])]))[2])
    digests.add(read(tmp_path / "b", data(), pictures={"1.jpg": b"another file"})[2])
    assert len(digests) == 3
