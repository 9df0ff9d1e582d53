"""COCO's AP: that of pycocotools, its corners, and detections in the size of the image's file."""

import builtins
import logging

import numpy as np
import pytest
import torch

from groupnorm.data import DataError
from groupnorm.data.detection import rle
from groupnorm.data.detection.annotations import AnnotatedImage, Annotation, Split
from groupnorm.data.detection.targets import Categories
from groupnorm.data.detection.writer import annotation_file
from groupnorm.training.evaluation.coco import CocoTruth, Detections, to_original
from tests.tolerances import DOUBLE, PRINTED

pytest.importorskip("faster_coco_eval")

CATEGORIES = Categories((3, 7, 90), ("cup", "bag", "shoe"), ("", "", ""))
SIDE = 60
AREAS = (12, 20)
NAMES = [
    f"{kind}_ap{suffix}"
    for kind in ("box", "mask")
    for suffix in ("", "50", "75", "_small", "_medium", "_large")
]


def rectangle(x0, y0, x1, y1):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


def split_of(images, tmp_path, masks=True):
    return Split(tmp_path / "instances_val.json", tmp_path, tuple(images), masks)


def annotation(number, label, box, crowd=False):
    x0, y0, x1, y1 = box
    return Annotation(
        number, label, (x0, y0, x1 - x0, y1 - y0), float((x1 - x0) * (y1 - y0)), crowd,
        rle.encode(rectangle(*box)),
    )  # fmt: skip


def found(image_id, boxes=(), labels=(), scores=()):
    return Detections(
        image_id,
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(labels, np.int64),
        np.array(scores, np.float64),
        tuple(rle.encode(rectangle(*box)) for box in boxes),
    )


def random_box(rng):
    x0, y0 = rng.integers(0, SIDE - 10, 2)
    x1, y1 = (min(SIDE, start + rng.integers(5, 30)) for start in (x0, y0))
    return int(x0), int(y0), int(x1), int(y1)


def random_world(seed, count=8, ties=False):
    """Annotations, a tenth of them crowds, and detections near them, far and of other labels."""
    rng = np.random.default_rng(seed)
    images, detections = [], []
    for k in range(count):
        image_id = 1000 - 7 * k
        truth = [
            annotation(0, int(rng.integers(1, 4)), random_box(rng), bool(rng.random() < 0.1))
            for _ in range(rng.integers(0, 6))
        ]
        images.append(AnnotatedImage(image_id, f"{k}.jpg", SIDE, SIDE, tuple(truth)))
        boxes, labels = [], []
        for one in truth:
            if rng.random() < 0.8:
                jitter = rng.integers(-2, 3, 4)
                box = np.clip(np.array(one.corners(SIDE, SIDE), int) + jitter, 0, SIDE)
                if box[0] < box[2] and box[1] < box[3]:
                    boxes.append(tuple(box.tolist()))
                    labels.append(one.label if rng.random() < 0.9 else 1)
        for _ in range(rng.integers(0, 4)):
            boxes.append(random_box(rng))
            labels.append(int(rng.integers(1, 4)))
        scores = rng.random(len(boxes))
        detections.append(found(image_id, boxes, labels, scores.round(1) if ties else scores))
    return images, detections


def reference(images, detections, tmp_path, kind, capsys):
    """What pycocotools says of the annotation file and of the results, in percent."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    file = tmp_path / "truth.json"
    file.write_text(annotation_file(images, CATEGORIES, {}))
    truth = COCO(str(file))
    results = []
    for one in detections:
        for i in range(len(one.scores)):
            x0, y0, x1, y1 = one.boxes[i].tolist()
            entry = {
                "image_id": one.image_id, "category_id": CATEGORIES.id(int(one.labels[i])),
                "score": float(one.scores[i]),
            }  # fmt: skip
            mask = {"size": [SIDE, SIDE], "counts": rle.to_string(one.masks[i])}
            results.append(
                {**entry, "bbox": [x0, y0, x1 - x0, y1 - y0]}
                if kind == "bbox"
                else {**entry, "segmentation": mask}
            )
    evaluation = COCOeval(truth, truth.loadRes(results), kind)
    small, large = (side**2 for side in AREAS)
    evaluation.params.areaRng = [[0, 1e10], [0, small], [small, large], [large, 1e10]]
    evaluation.params.imgIds = [one.image_id for one in detections]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    return [100 * value if value > -1 else None for value in evaluation.stats[:6]]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_pycocotools_ap(tmp_path, capsys, seed, ties):
    pytest.importorskip("pycocotools")
    images, detections = random_world(seed, ties=ties)
    metrics = CocoTruth(split_of(images, tmp_path), CATEGORIES, AREAS).ap(detections).metrics
    assert list(metrics) == NAMES
    expected = [
        value
        for kind in ("bbox", "segm")
        for value in reference(images, detections, tmp_path, kind, capsys)
    ]
    assert 5 < metrics["box_ap"] < 95
    for name, value in zip(NAMES, expected, strict=True):
        assert metrics[name] == pytest.approx(value, abs=100 * DOUBLE), name


def test_the_folds_are_the_ap_of_every_so_many_th_image(tmp_path):
    images, detections = random_world(5, 9)
    truth = CocoTruth(split_of(images, tmp_path), CATEGORIES, AREAS)
    result = truth.ap(detections, folds=3)
    assert list(result.folds) == list(result.metrics)
    for fold in range(3):
        part = [one for place, one in enumerate(detections[::-1], 1) if place % 3 == fold]
        alone = truth.ap(part).metrics
        assert {name: values[fold] for name, values in result.folds.items()} == alone
    assert len({*result.folds["box_ap"]}) == 3
    one = truth.ap(detections[:1], folds=10).folds["box_ap"]
    assert one.count(None) == 9, "nine folds have no image"


def test_the_mean_of_a_curve_is_its_ap_and_precision_falls_with_recall(tmp_path):
    images, detections = random_world(0)
    result = CocoTruth(split_of(images, tmp_path), CATEGORIES, AREAS).ap(detections)
    assert list(result.curves) == ["box_ap50", "box_ap75", "mask_ap50", "mask_ap75"]
    for name, curve in result.curves.items():
        assert len(curve) == 101
        assert sum(curve) / 101 == pytest.approx(result.metrics[name], abs=PRINTED), name
        assert curve == sorted(curve, reverse=True)
    assert result.curves["box_ap75"] != result.curves["box_ap50"]


def test_a_curve_falls_to_0_where_the_objects_end_that_were_found(tmp_path):
    """One of two objects of a category, by one of two detections, the worse one."""
    box, other = (2, 2, 12, 12), (20, 20, 50, 50)
    image = AnnotatedImage(1, "1.jpg", SIDE, SIDE, (annotation(0, 1, box), annotation(0, 1, other)))
    truth = CocoTruth(split_of([image], tmp_path), CATEGORIES, AREAS)
    curve = truth.ap([found(1, [(2, 40, 12, 50), box], [1, 1], [0.9, 0.8])]).curves["box_ap50"]
    assert curve == [50.0] * 51 + [0.0] * 50


def test_a_perfect_detector(tmp_path):
    """With the first annotation too, which an evaluator that is given the id 0 never matches."""
    images, _ = random_world(1)
    perfect = [
        found(
            image.id,
            [tuple(map(int, one.corners(SIDE, SIDE))) for one in image.objects],
            [one.label for one in image.objects],
            [0.9] * len(image.objects),
        )
        for image in images
    ]
    metrics = CocoTruth(split_of(images, tmp_path), CATEGORIES, AREAS).ap(perfect).metrics
    assert all(value == pytest.approx(100) for value in metrics.values())


def test_a_detection_in_a_crowd_is_neither_right_nor_wrong(tmp_path):
    box, region = (2, 2, 12, 12), (20, 20, 50, 50)
    image = AnnotatedImage(
        1, "1.jpg", SIDE, SIDE, (annotation(0, 1, box), annotation(0, 1, region, crowd=True))
    )
    truth = CocoTruth(split_of([image], tmp_path), CATEGORIES, AREAS)
    inside, outside = (25, 25, 35, 35), (2, 30, 12, 40)
    for other, ap in ((inside, 100), (outside, 50)):
        detections = [found(1, [other, box], [1, 1], [0.9, 0.8])]
        assert truth.ap(detections).metrics["box_ap"] == pytest.approx(ap)
        assert truth.ap(detections).metrics["mask_ap"] == pytest.approx(ap)
    assert truth.ap([found(1)]).metrics["box_ap"] == 0


def test_no_detections_are_0_and_no_objects_are_nothing(tmp_path, caplog):
    images, _ = random_world(2)
    truth = CocoTruth(split_of(images, tmp_path), CATEGORIES, AREAS)
    with caplog.at_level(logging.WARNING):
        metrics = truth.ap([found(image.id) for image in images]).metrics
    assert metrics == dict.fromkeys(NAMES, 0.0)
    empty = [AnnotatedImage(k, f"{k}.jpg", SIDE, SIDE) for k in (1, 2)]
    truth = CocoTruth(split_of(empty, tmp_path), CATEGORIES, AREAS)
    with caplog.at_level(logging.WARNING):
        for detections in ([found(1), found(2)], [found(1, [(1, 1, 9, 9)], [1], [0.5]), found(2)]):
            result = truth.ap(detections)
            assert result.metrics == dict.fromkeys(NAMES)
            assert result.folds["mask_ap50"] == [None] * 10
            assert result.curves["box_ap50"] == [None] * 101
    assert truth.ap([]).metrics == dict.fromkeys(NAMES)
    assert caplog.text == ""


def test_sizes_without_an_object_have_no_ap(tmp_path):
    image = AnnotatedImage(1, "1.jpg", SIDE, SIDE, (annotation(0, 1, (2, 2, 12, 12)),))
    truth = CocoTruth(split_of([image], tmp_path), CATEGORIES, AREAS)
    metrics = truth.ap([found(1, [(2, 2, 12, 12)], [1], [0.9])]).metrics
    assert metrics["box_ap_small"] == pytest.approx(100)
    assert metrics["box_ap_medium"] is metrics["box_ap_large"] is None


def test_images_without_an_entry_are_not_evaluated(tmp_path):
    """As those that could not be read: what is in them is not missed."""
    box = (2, 2, 12, 12)
    images = [AnnotatedImage(k, f"{k}.jpg", SIDE, SIDE, (annotation(0, 1, box),)) for k in (5, 6)]
    truth = CocoTruth(split_of(images, tmp_path), CATEGORIES, AREAS)
    right = found(5, [box], [1], [0.9])
    assert truth.ap([right]).metrics["box_ap"] == pytest.approx(100)
    assert truth.ap([right, found(6)]).metrics["box_ap"] < 60


def test_a_data_set_without_masks(tmp_path):
    images, detections = random_world(3)
    bare = [
        AnnotatedImage(
            i.id, i.file_name, SIDE, SIDE,
            tuple(Annotation(a.id, a.label, a.box, None, a.crowd, None) for a in i.annotations),
        )
        for i in images
    ]  # fmt: skip
    metrics = CocoTruth(split_of(bare, tmp_path, masks=False), CATEGORIES, AREAS).ap(detections)
    whole = CocoTruth(split_of(images, tmp_path), CATEGORIES, AREAS).ap(detections)
    assert metrics.metrics == {n: whole.metrics[n] for n in NAMES if n.startswith("box")}


def test_objects_with_an_empty_mask_are_not_missed(tmp_path):
    box = (2, 2, 12, 12)
    nothing = Annotation(0, 1, (30.0, 30.0, 9.0, 9.0), 81.0, False, rle.encode(np.zeros((60, 60))))
    image = AnnotatedImage(1, "1.jpg", SIDE, SIDE, (nothing, annotation(0, 1, box)))
    truth = CocoTruth(split_of([image], tmp_path), CATEGORIES, AREAS)
    assert truth.ap([found(1, [box], [1], [0.9])]).metrics["box_ap"] == pytest.approx(100)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_and_boxes_are_finite(value):
    with pytest.raises(ValueError, match="image 4: the scores of detections are not finite"):
        found(4, [(1, 1, 9, 9)], [1], [value])
    with pytest.raises(ValueError, match="image 4: the boxes of detections are not finite"):
        Detections(4, np.array([[1, 1, value, 9]]), np.array([1]), np.array([0.5]))


@pytest.mark.parametrize(
    ("detections", "why"),
    [
        ([found(77)], "has no image 77"),
        ([found(1000), found(1000)], "an image has detections twice"),
        ([found(1000, [(1, 1, 9, 9)], [0], [0.5])], "label from 1 to 3, got 0"),
        ([found(1000, [(1, 1, 9, 9)], [4], [0.5])], "label from 1 to 3, got 4"),
    ],
)
def test_detections_that_belong_to_nothing(tmp_path, detections, why):
    images, _ = random_world(0)
    with pytest.raises(ValueError, match=why):
        CocoTruth(split_of(images, tmp_path), CATEGORIES, AREAS).ap(detections)


@pytest.mark.parametrize("masks", [None, (rle.encode(np.ones((30, 30))),)])
def test_masks_of_another_size(tmp_path, masks):
    images, _ = random_world(0)
    one = Detections(1000, np.array([[1.0, 1, 9, 9]]), np.array([1]), np.array([0.5]), masks)
    with pytest.raises(ValueError, match="image 1000: expected masks of 60 x 60 pixels"):
        CocoTruth(split_of(images, tmp_path), CATEGORIES, AREAS).ap([one])


def test_without_the_evaluator(tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments, **keywords):
        if name == "faster_coco_eval":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(DataError, match=r"pip install 'groupnorm\[detection\]'"):
        CocoTruth(split_of([], tmp_path), CATEGORIES)


def test_a_models_output_in_the_size_of_the_file():
    masks = torch.zeros(2, 1, 40, 80)
    masks[0, 0, 10:20, 20:40] = 0.9
    masks[1, 0, 10:20, 20:40] = 0.4
    output = {
        "boxes": torch.tensor([[20.0, 10, 40, 20], [0, 0, 80, 40]], requires_grad=True),
        "labels": torch.tensor([2, 1]),
        "scores": torch.tensor([0.75, 0.5]),
        "masks": masks,
    }
    image = torch.zeros(3, 40, 80)
    same = to_original(output, image, image_id=12, original_size=(40, 80))
    assert (same.image_id, same.labels.tolist(), same.scores.tolist()) == (12, [2, 1], [0.75, 0.5])
    assert same.boxes.tolist() == [[20, 10, 40, 20], [0, 0, 80, 40]]
    assert (rle.decode(same.masks[0], 40, 80) == (masks[0, 0] > 0.5).numpy()).all()
    assert rle.area(same.masks[1]) == 0
    half = to_original(output, image, image_id=12, original_size=(20, 20))
    assert half.boxes.tolist() == [[5, 5, 10, 10], [0, 0, 20, 20]]
    mask = rle.decode(half.masks[0], 20, 20)
    assert mask[5:10, 5:10].all()
    assert mask.sum() == 25


def test_a_models_output_without_masks_and_without_detections():
    output = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "scores": torch.zeros(0)}
    nothing = to_original(output, torch.zeros(3, 40, 80), image_id=1, original_size=(40, 80))
    assert nothing.masks is None
    assert nothing.boxes.shape == (0, 4)
    masks = {**output, "masks": torch.zeros(0, 1, 40, 80)}
    assert (
        to_original(masks, torch.zeros(3, 40, 80), image_id=1, original_size=(40, 80)).masks == ()
    )
