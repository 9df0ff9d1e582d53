"""Trials as values: what makes none, and their names."""

from dataclasses import replace

import pytest

from groupnorm.study.conversions.trial import (
    DISTILLATION,
    METHODS,
    WITH_IMAGES,
    NetworkTrials,
    Trial,
)

TUNED = Trial("fit", "gn", 4, 128, 100, DISTILLATION, 1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "magic"}, "unknown method 'magic'; known: teacher, reset"),
        ({"method": "fit", "to": "gn"}, "fit with 0 images"),
        ({"method": "reset", "to": "gn", "images": 8}, "reset with 8 images"),
        ({"method": "reset", "to": "gn", "steps": 3, "rate": 0.1}, "target ''"),
        ({"method": "reset", "to": "gn", "target": "labels"}, "0 steps"),
        ({"method": "reset", "to": "gn", "steps": 3, "target": "labels"}, "rate 0.0"),
    ],
)
def test_what_is_no_trial_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Trial(**fields)


def test_every_field_is_in_the_name():
    others = [
        replace(TUNED, **change)
        for change in (
            {"method": "fit, no signs"}, {"to": "gn:groups=8"}, {"min_channels": 1},
            {"images": 64}, {"steps": 99}, {"target": "labels"}, {"rate": 1e-2},
        )
    ]  # fmt: skip
    assert len({trial.name for trial in (TUNED, *others)}) == 8
    assert TUNED.name == "fit-gn-100-steps-distillation-" + TUNED.name[-10:]


def test_names_are_names_of_files_for_every_method():
    for method in METHODS:
        images = 8 if method in WITH_IMAGES else 0
        name = Trial(method, "gn:size=1", 1, images).name
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")


def test_a_trial_is_what_its_values_give_back():
    found = NetworkTrials((TUNED, Trial("teacher")), {"gn": 99.0})
    assert NetworkTrials.from_json(found.as_json()) == found
    assert TUNED.converted == Trial("fit", "gn", 4, 128)
