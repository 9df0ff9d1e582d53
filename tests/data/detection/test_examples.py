"""Single images with their objects: resized as in the paper, mirrored, and what is left out."""

import numpy as np
import pytest
import torch
from PIL import Image

from groupnorm.data import DataError
from groupnorm.data.detection import polygons, rle
from groupnorm.data.detection.examples import Size, make_target, mirrored, read_image
from groupnorm.data.detection.reader import read_split
from groupnorm.data.files.decode import UnreadableError
from tests.data.detection.coco_files import SQUARE, annotation, data, image, write_split
from tests.data.files.image_trees import encoded, photo
from tests.tolerances import CLEARLY

AS_IT_IS = Size(None, 1333)


def split_of(tmp_path, annotations=None, images=None, masks=True, pictures=None):
    content = data(annotations, images)
    return read_split(*write_split(tmp_path, content, pictures=pictures), masks=masks)[0]


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((640, 426), (1202, 800)),
        ((500, 200), (1333, 533)),
        ((427, 640), (800, 1199)),
        ((1, 640), (2, 1333)),
        ((3000, 4000), (800, 1067)),
    ],
)
def test_the_short_side_has_800_pixels_or_the_long_one_1333(size, resized):
    assert Size(800, 1333).of(*size) == resized
    assert AS_IT_IS.of(*size) == size


def test_a_target_is_torchvisions(tmp_path):
    split = split_of(tmp_path, [annotation(), annotation(2, category_id=90)])
    target, empty = make_target(split, 0, AS_IT_IS)
    assert target["boxes"].dtype == torch.float32
    assert target["boxes"].tolist() == [[2, 3, 10, 9]] * 2
    assert target["labels"].dtype == torch.int64
    assert target["labels"].tolist() == [1, 2]
    assert target["masks"].dtype == torch.uint8
    assert target["masks"].shape == (2, 30, 40)
    assert target["masks"].sum((1, 2)).tolist() == [48, 48]
    assert (target["image_id"], target["original_size"]) == (1, (30, 40))
    assert empty == {}


@pytest.mark.parametrize("masks", [True, False])
def test_an_image_without_objects(tmp_path, masks):
    split = split_of(tmp_path, [annotation(iscrowd=1)], masks=masks)
    target, _ = make_target(split, 0, AS_IT_IS)
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)
    assert target["masks"].shape == ((0, 30, 40) if masks else (0, 0, 0))


def test_without_masks(tmp_path):
    target, _ = make_target(split_of(tmp_path, masks=False), 0, Size(60, 100))
    assert target["boxes"].tolist() == [[4, 6, 20, 18]]
    assert target["masks"].shape == (1, 0, 0)


def test_many_objects_and_equal_ones(tmp_path):
    split = split_of(tmp_path, [annotation(k) for k in range(1, 131)])
    target, _ = make_target(split, 0, AS_IT_IS)
    assert target["boxes"].shape == (130, 4)
    assert target["masks"].shape == (130, 30, 40)


def test_box_and_mask_are_taken_as_they_are(tmp_path):
    """A box that is not the mask's, and a mask that has no pixel in its box."""
    split = split_of(tmp_path, [annotation(bbox=[20, 20, 5, 5])])
    target, _ = make_target(split, 0, AS_IT_IS)
    assert target["boxes"].tolist() == [[20, 20, 25, 25]]
    assert target["masks"][0, 3:9, 2:10].all()


@pytest.mark.parametrize(
    "segmentation",
    [[[2, 2, 9, 9, 18, 18]], [[99, 99, 120, 99, 120, 110]], {"size": [30, 40], "counts": [1200]}],
)
def test_objects_with_an_empty_mask_are_left_out_and_named(tmp_path, segmentation):
    split = split_of(tmp_path, [annotation(4, segmentation=segmentation), annotation(5)])
    target, empty = make_target(split, 0, AS_IT_IS)
    assert empty == {4: "its mask is empty"}
    assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"]) == 1
    assert target["masks"].any()


def test_a_mask_that_cannot_be_drawn_is_named(tmp_path, monkeypatch):
    split = split_of(tmp_path, [annotation(23)])
    monkeypatch.setattr(polygons, "MOST_CROSSINGS", 3)
    with pytest.raises(DataError, match=r"train2017\.json: annotation 23: the edges of a polygon"):
        make_target(split, 0, AS_IT_IS)


def test_image_boxes_and_masks_are_resized_together(tmp_path):
    """A white square on black stays where its box and its mask are."""
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[3:9, 2:10] = 255
    picture = encoded(Image.fromarray(pixels), "PNG")
    split = split_of(tmp_path, pictures={"1.jpg": picture})
    for size in (Size(60, 1000), Size(90, 100), Size(15, 100)):
        made, converted = read_image(split, 0, size)
        assert not converted
        target, _ = make_target(split, 0, size)
        height, width = size.of(30, 40)
        assert made.shape == (3, height, width)
        assert made.dtype == torch.uint8
        (mask,) = target["masks"]
        assert mask.shape == (height, width)
        wrong = (mask.bool() != (made[0] > 127)).float().mean()
        assert wrong < 0.02
        rows, columns = torch.where(mask)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert (abs(target["boxes"][0] - torch.tensor(box)) <= 0.5 + CLEARLY).all()
        assert target["original_size"] == (30, 40)


def test_a_resized_mask_has_the_pixels_at_its_centres(tmp_path):
    mask = np.random.default_rng(0).random((30, 40)) < 0.5
    runs = {"size": [30, 40], "counts": rle.to_string(rle.encode(mask))}
    split = split_of(tmp_path, [annotation(segmentation=runs)])
    target, _ = make_target(split, 0, Size(10, 100))
    columns = [int((k + 0.5) * 40 / 13) for k in range(13)]
    assert (target["masks"][0].numpy() == mask[1::3][:, columns]).all()


def test_mirrored(tmp_path):
    split = split_of(tmp_path, [annotation(segmentation=[SQUARE, [20, 20, 30, 20, 30, 28]])])
    made, _ = read_image(split, 0, AS_IT_IS)
    target, _ = make_target(split, 0, AS_IT_IS)
    flipped, turned = mirrored(made, target)
    assert torch.equal(flipped, made.flip(2))
    assert turned["boxes"].tolist() == [[30, 3, 38, 9]]
    assert torch.equal(turned["masks"], target["masks"].flip(2))
    assert turned["masks"][0, 3:9, 30:38].all()
    again, back = mirrored(flipped, turned)
    assert torch.equal(again, made)
    assert torch.equal(back["boxes"], target["boxes"])
    _, nothing = mirrored(made, make_target(split_of(tmp_path, []), 0, AS_IT_IS)[0])
    assert nothing["boxes"].shape == (0, 4)


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "1"])
def test_images_that_are_not_rgb_are_converted(tmp_path, mode):
    picture = photo(1).convert(mode)
    kind = "JPEG" if mode in ("L", "CMYK") else "PNG"
    split = split_of(tmp_path, pictures={"1.jpg": encoded(picture, kind)})
    made, converted = read_image(split, 0, AS_IT_IS)
    assert made.shape == (3, 30, 40)
    assert converted


def test_a_rotation_in_exif_is_not_applied(tmp_path):
    """COCO's sizes and coordinates are those of the pixels as they are stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = split_of(tmp_path / "a", pictures={"1.jpg": encoded(photo(1))})
    turned = split_of(tmp_path / "b", pictures={"1.jpg": encoded(photo(1), exif=exif)})
    assert torch.equal(read_image(plain, 0, AS_IT_IS)[0], read_image(turned, 0, AS_IT_IS)[0])


@pytest.mark.parametrize(
    ("picture", "why"),
    [
        (photo(1, (30, 40)), r"the file has 30 x 40 pixels, instances_train2017.json says 40 x 30"),
        (b"", "the file is empty"),
        (b"\xff\xd8 no photograph", "not an image"),
    ],
)
def test_a_file_that_is_not_the_image(tmp_path, picture, why):
    split = split_of(tmp_path, images=[image()], pictures={"1.jpg": picture})
    with pytest.raises(UnreadableError, match=why):
        read_image(split, 0, AS_IT_IS)
