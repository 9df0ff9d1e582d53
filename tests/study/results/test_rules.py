"""How errors are made, in words."""

import pytest

from groupnorm.study.results.rows import load_study
from groupnorm.study.results.rules import (
    each_result,
    epochs_rule,
    images_note,
    rules_note,
    title_images,
)
from tests.study.fake_store import batch_study, configured


def study_with(out, *configs):
    """A study with a run for each of the given parts of configurations."""
    norms = ("bn", "gn", "ln")[: len(configs)]
    study = load_study(batch_study(out, norms=norms, batches=(32,), seeds=1))
    for norm, keys in zip(norms, configs, strict=True):
        study = configured(study, f"{norm}-*", **keys)
    return study


@pytest.mark.parametrize(
    ("keys", "rule", "error"),
    [
        ({}, "median of the last 5 of 8 epochs", "the median of the last 5 epochs"),
        ({"reported_epochs": 1}, "last epoch of 8", "that of the last epoch"),
        (
            {"reported_epochs": 3, "epochs": 9},
            "median of the last 3 of 9 epochs",
            "the median of the last 3 epochs",
        ),
        ({"epochs": 4}, "median of 4 epochs", "the median of 4 epochs"),
        ({"epochs": 1}, "after 1 epoch", "that after 1 epoch"),
        ({"epochs": 1, "reported_epochs": 1}, "after 1 epoch", "that after 1 epoch"),
    ],
)
def test_the_rule_in_words(tmp_path, keys, rule, error):
    study = study_with(tmp_path, keys)
    assert epochs_rule(study) == rule
    assert each_result(study) == error
    assert rules_note(study) == ""


def test_different_rules_and_the_one_they_are_shown_by(tmp_path):
    study = study_with(tmp_path, {}, {"reported_epochs": 2}, {"reported_epochs": 5})
    assert rules_note(study) == (
        "The runs ask for the median of their last 2 or 5 epochs. All errors here are the median "
        "of the last 2 epochs, which every run has."
    )


def test_errors_of_held_out_images_are_said_to_be(tmp_path):
    study = study_with(tmp_path / "a", {}, {"validation_images": None})
    assert (title_images(study), images_note(study)) == ("", "")
    study = study_with(tmp_path / "b", *[{"validation_images": 1200}] * 2)
    assert title_images(study) == " on 1,200 validation images"
    assert "the runs have not seen the test images" in images_note(study)
    study = study_with(tmp_path / "c", {}, {"validation_images": 1200})
    assert title_images(study) == " on 1,200 validation images and test images"
    assert "only runs that were evaluated on the same images are compared" in images_note(study)
