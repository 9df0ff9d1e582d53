"""Recall and precision at a score that other images choose: which detections are right."""

import numpy as np
import pytest

from groupnorm.data.detection.annotations import AnnotatedImage, Annotation, Split
from groupnorm.training.evaluation.coco import Detections
from groupnorm.training.evaluation.threshold import (
    AtThreshold,
    Judged,
    at_chosen_threshold,
    best_threshold,
    judge,
)

A, B = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 10.0, 10.0)  # x, y, width, height
FAR = (40, 40, 50, 50)
ON_A, ON_B = (0, 0, 10, 10), (20, 0, 30, 10)


def image(*boxes, label=1, crowd=False, number=1):
    annotations = (Annotation(1, label, box, None, crowd, None) for box in boxes)
    return AnnotatedImage(number, f"{number}.jpg", 60, 60, tuple(annotations))


def found(boxes, scores, labels=None, number=1):
    return Detections(
        number,
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(labels or [1] * len(boxes), np.int64),
        np.array(scores, np.float64),
    )


def right(entry, detections):
    return judge(entry, detections).right.tolist()


def test_a_detection_is_right_on_an_object_of_its_category():
    assert right(image(A), found([ON_A], [0.5])) == [True]
    assert right(image(A), found([ON_A], [0.5], [2])) == [False]
    assert right(image(A), found([FAR], [0.5])) == [False]
    assert right(image(), found([FAR], [0.5])) == [False]
    assert judge(image(A, B), found([], [])).objects == 2


def test_an_overlap_of_half_is_enough():
    assert right(image(A), found([(0, 0, 10, 5)], [0.5])) == [True]
    assert right(image(A), found([(0, 0, 10, 4.99)], [0.5])) == [False]
    assert right(image(A), found([(0, 0, 10, 20.1)], [0.5])) == [False]


def test_each_object_is_found_once_by_the_best():
    judged = judge(image(A, B), found([ON_A, ON_A, ON_B], [0.3, 0.8, 0.1]))
    assert judged.scores.tolist() == [0.8, 0.3, 0.1]
    assert judged.right.tolist() == [True, False, True]


def test_a_detection_takes_the_object_that_it_fits_best():
    near = (2.0, 0.0, 10.0, 10.0)
    assert right(image(A, near), found([(2, 0, 12, 10), (0, 0, 10, 10)], [0.9, 0.8])) == [True] * 2


def test_what_lies_in_a_crowd_does_not_count():
    crowd = image((0.0, 0.0, 40.0, 40.0), crowd=True)
    judged = judge(crowd, found([ON_A, FAR, ON_B], [0.9, 0.8, 0.7], [1, 1, 2]))
    assert judged.scores.tolist() == [0.8, 0.7], "another category's crowd is none"
    assert judged.right.tolist() == [False, False]
    assert judged.objects == 0


def judged(scores, flags, objects):
    return Judged(np.array(scores), np.array(flags, np.bool_), objects)


def test_the_best_threshold_has_the_greatest_f1():
    assert best_threshold(judged([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 0], 2)) == 0.7
    assert best_threshold(judged([0.6, 0.7, 0.8, 0.9], [0, 0, 0, 1], 3)) == 0.9
    assert best_threshold(judged([0.9, 0.8], [0, 0], 2)) is None
    assert best_threshold(judged([], [], 2)) is None


def test_detections_of_one_score_are_kept_or_cut_together():
    """After the first of the five the F1 would be best, but no threshold is there."""
    assert best_threshold(judged([0.9, *[0.5] * 5], [1, 1, 0, 0, 0, 0], 3)) == 0.9


def test_best_threshold_is_that_of_trying_all():
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores, flags = rng.random(30).round(1), rng.random(30) < 0.4
        objects = int(flags.sum()) + 3
        f1 = {
            s: 2 * flags[scores >= s].sum() / ((scores >= s).sum() + objects) for s in set(scores)
        }
        chosen = best_threshold(judged(scores, flags, objects))
        assert f1[chosen] == max(f1.values())


def world():
    """Images 0 and 2 choose 0.7; of images 1 and 3, two objects of three are found above it."""
    images = [image(A, B, number=0), image(A, B, number=1), image(number=2), image(A, number=3)]
    detections = [
        found([ON_A, FAR, ON_B], [0.9, 0.3, 0.7], number=0),
        found([ON_A, ON_B, FAR], [0.95, 0.6, 0.8], number=1),
        found([FAR], [0.2], number=2),
        found([ON_A], [0.7], number=3),
    ]
    return images, detections


def split_of(images, tmp_path):
    return Split(tmp_path / "instances_val.json", tmp_path, tuple(images), False)


def test_every_second_image_chooses_for_the_others(tmp_path):
    images, detections = world()
    split = split_of(images, tmp_path)
    result = at_chosen_threshold(split, detections[::-1])
    assert result.score_threshold == 0.7
    assert result.recall == pytest.approx(100 * 2 / 3)
    assert result.precision == pytest.approx(100 * 2 / 3)
    without = at_chosen_threshold(split, detections[:3])
    assert without.recall == pytest.approx(50), "an image without an entry is not evaluated"


def test_nothing_found_and_nothing_to_find(tmp_path):
    images, detections = world()
    split = split_of(images, tmp_path)
    nothing = [found([], [], number=k) for k in range(4)]
    assert at_chosen_threshold(split, nothing) == AtThreshold(None, 0.0, None)
    assert at_chosen_threshold(split, []) == AtThreshold(None, None, None)
    chosen = [detections[0], *nothing[1:]]
    assert at_chosen_threshold(split, chosen) == AtThreshold(0.7, 0.0, None)
    empty = split_of([images[0], image(number=1)], tmp_path)
    result = at_chosen_threshold(empty, [detections[0], found([FAR], [0.9], number=1)])
    assert result == AtThreshold(0.7, None, 0.0)


def test_an_image_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="has no image 9"):
        at_chosen_threshold(split_of(world()[0], tmp_path), [found([], [], number=9)])
