"""A network of the user's own as a teacher."""

import json

import pytest
import torch
from torch import nn

from groupnorm.study.conversions.own_network import (
    OWN_FILE,
    OwnRecord,
    OwnTeacher,
    read_own_network,
)
from groupnorm.study.store import StoreError
from groupnorm.training.metric import CLASSIFICATION
from tests.study.conversions.own import own_network


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_images_are_divided_and_measured_with_labels(folder):
    asked = own_network(folder)
    teacher = OwnTeacher(asked, "cpu")
    assert asked.metric == CLASSIFICATION[0]
    assert teacher.images == 16
    assert teacher.calibration_images(16).shape == (16, 3, 16, 16)
    with pytest.raises(ValueError, match="17 images to calibrate with, but the folder has 16"):
        teacher.calibration_images(17)
    score = teacher.score(teacher.network)
    assert (score.agreement, score.held_out) == (100.0, None)
    assert score.value * 8 / 100 == pytest.approx(round(score.value * 8 / 100))


def test_a_network_that_always_says_the_first_class_is_right_for_half_of_the_images(folder):
    class First(nn.Module):
        def forward(self, x):
            return torch.tensor([1.0, 0.0]).expand(len(x), 2)

    assert OwnTeacher(own_network(folder), "cpu").score(First()).value == 50.0


def test_without_labels_the_agreement_is_the_result(folder):
    asked = own_network(folder, labels=False)
    score = OwnTeacher(asked, "cpu").score(OwnTeacher(asked, "cpu").network)
    assert asked.metric.name == "agreement"
    assert score.value == score.agreement == 100.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "mine_for_tests:nothing"}, "nothing"),
        ({"options": {"outputs": "3"}}, "2 classes"),
        ({"checkpoint": "no-such.pt"}, "no-such.pt"),
    ],
)
def test_what_does_not_fit_is_said(folder, changes, message):
    with pytest.raises((ValueError, OSError), match=message):
        OwnTeacher(own_network(folder, **changes), "cpu")


def test_a_network_without_logits_is_refused(folder):
    asked = own_network(folder, labels=False)
    teacher = OwnTeacher(asked, "cpu")
    with pytest.raises(
        ValueError, match=r"expected scores .* got tuple; --network MODULE:FUNCTION"
    ):
        teacher.score(Wrapped(lambda x: (x, x)))
    maps = teacher.score(Wrapped(lambda x: {"aux": x, "out": x}))
    assert maps == teacher.score(Wrapped(lambda x: x))


class Wrapped(nn.Module):
    """The means of the first two colours, in what a function makes of them."""

    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(x[:, :2].mean((2, 3)))


def test_the_file_is_read_back_and_checked(folder):
    asked = own_network(folder)
    assert read_own_network(folder) is None
    record = OwnRecord(asked, "0" * 64, ["one"])
    (folder / OWN_FILE).write_text(json.dumps(record.as_json()))
    assert read_own_network(folder) == record
    (folder / OWN_FILE).write_text(json.dumps({**record.as_json(), "size": 0}))
    with pytest.raises(StoreError, match="has size=0"):
        read_own_network(folder)
