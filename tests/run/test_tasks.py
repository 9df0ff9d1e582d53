"""The tasks by name."""

import pytest

from groupnorm.run import classification, config_class, setup_of
from groupnorm.training.config import RunConfig


def test_a_configuration_without_a_task_is_of_a_classifier():
    assert config_class({}) is config_class({"task": "classification"}) is RunConfig
    assert setup_of(RunConfig(epochs=1)) is classification


@pytest.mark.parametrize("name", ["detect", 3, None, []])
def test_an_unknown_task_is_answered_with_the_known_ones(name):
    with pytest.raises(ValueError, match=r"unknown task .*; known: classification"):
        config_class({"task": name})
