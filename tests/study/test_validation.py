"""How many training images a study holds out; the same rule for tuning and for a search."""

import pytest

from groupnorm.study.plan import PlanError
from groupnorm.study.validation import validation_count, with_validation
from groupnorm.training.config import RunConfig

DATA = {"name": "digits", "train": 1437, "test": 360, "classes": 10}


def config(train_images=None):
    return RunConfig(data="digits", epochs=1, train_images=train_images)


@pytest.mark.parametrize(
    ("limits", "asked", "images"),
    [
        ([None], None, 143),
        ([500, None, 300], None, 30),
        ([64], None, 10),
        ([2000], None, 143),
        ([64], 300, 300),
        ([None], 1436, 1436),
    ],
)
def test_one_in_ten_unless_asked_and_one_of_each_class_at_least(limits, asked, images):
    assert validation_count(DATA, map(config, limits), asked) == images


@pytest.mark.parametrize("asked", [1437, 5000])
def test_something_is_left_to_train_on(asked):
    with pytest.raises(PlanError, match=f"validation_images={asked} leaves nothing to train on"):
        validation_count(DATA, [config()], asked)
    few = {**DATA, "train": 10}
    with pytest.raises(PlanError, match="validation_images=10 leaves nothing"):
        validation_count(few, [config()])


@pytest.mark.parametrize(("limit", "left"), [(None, None), (500, 500), (1437, 1294)])
def test_a_run_has_no_more_images_than_are_left(limit, left):
    fields = with_validation(config(limit), DATA, 143)
    assert fields == {"validation_images": 143, "train_images": left}
