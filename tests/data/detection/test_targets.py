"""Category ids and labels: one map and its inverse."""

import pytest

from groupnorm.data import DataError
from groupnorm.data.detection.targets import Categories

HOLES = Categories((3, 7, 90), ("cup", "bag", "toothbrush"), ("kitchen", "", "indoor"))


def test_labels_count_from_one_in_the_order_of_the_ids():
    assert [HOLES.label(one) for one in (3, 7, 90)] == [1, 2, 3]
    assert [HOLES.id(label) for label in (1, 2, 3)] == [3, 7, 90]
    assert [HOLES.name(label) for label in (1, 2, 3)] == ["cup", "bag", "toothbrush"]
    assert len(HOLES) == 3
    assert Categories((0, 5), ("a", "b"), ("", "")).label(0) == 1


@pytest.mark.parametrize("label", [0, -1, 4])
def test_no_other_label_has_a_category(label):
    with pytest.raises(ValueError, match=rf"label from 1 to 3, got {label}"):
        HOLES.id(label)
    with pytest.raises(ValueError, match="label from 1 to 3"):
        HOLES.name(label)


def test_an_unknown_category():
    with pytest.raises(KeyError):
        HOLES.label(1)


@pytest.mark.parametrize("ids", [(), (2, 1), (1, 1)])
def test_ids_ascend(ids):
    with pytest.raises(DataError, match="ascending category ids"):
        Categories(ids, ("a",) * len(ids), ("",) * len(ids))


def test_every_category_has_a_name():
    with pytest.raises(DataError, match="each of 2 categories, got 1 and 2"):
        Categories((1, 2), ("a",), ("", ""))
