"""Teachers: their images, their results and agreement with them."""

import copy

import pytest
import torch
from torch import nn

from groupnorm.data import load
from groupnorm.study.conversions.teacher import Predictions, RunTeacher
from groupnorm.study.plan import vary
from groupnorm.study.record import record_run
from groupnorm.study.store import read_run


def test_its_results_are_those_of_its_run(teacher, teacher_run):
    score = teacher.score(copy.deepcopy(teacher.network), held_out=True)
    assert score.held_out == read_run(teacher_run).metrics[-1]["val_error"]
    assert score.agreement == 100.0
    assert teacher.score(copy.deepcopy(teacher.network)).held_out is None


def test_it_is_tested_on_all_test_images(teacher):
    """A network that gives one class to all: the error follows from the labels."""

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.eye(10)[3])

        def forward(self, x):
            return self.weight.expand(len(x), 10)

    labels = load("digits").test_labels
    error = 100.0 * float((labels != 3).double().mean())
    assert teacher.score(Constant()).value == pytest.approx(error)


def test_calibration_images_are_held_out_and_in_the_order_of_the_seed(teacher):
    few, all_ = teacher.calibration_images(4), teacher.calibration_images(32)
    assert torch.equal(few, all_[:4])
    held_out = torch.cat([images for images, _ in teacher.data.test()])
    assert not torch.equal(all_, held_out)
    assert {tuple(image.flatten().tolist()) for image in all_} == {
        tuple(image.flatten().tolist()) for image in held_out
    }
    with pytest.raises(ValueError, match="33 images to calibrate with, but 32 are held out"):
        teacher.calibration_images(33)


def test_a_run_that_holds_nothing_out_is_no_teacher(teacher_config, tmp_path):
    config = vary(teacher_config, validation_images=None, steps=1)
    record_run(config, tmp_path, threads=1)
    with pytest.raises(ValueError, match="without validation_images"):
        RunTeacher(tmp_path, "cpu", None)


def test_agreement_counts_every_prediction():
    ours, theirs = Predictions(), Predictions()
    for found, logits in ((ours, [[0.0, 1], [1, 0]]), (theirs, [[0.0, 1], [0, 1]])):
        network = nn.Identity()
        with found.of(network):
            network(torch.tensor(logits))
        network(torch.tensor(logits))  # not recorded any more
    assert ours.agreement(theirs) == 50.0
