"""What does not fit, as the error lists it."""

import pytest

from groupnorm.frameworks.weights.problems import WeightsError, differing, refuse


def test_settings_that_differ():
    assert differing([("a", 1e-5, 1e-5), ("", 1e-6, 1e-5)]) == [
        "the model itself: 1e-06, in PyTorch 1e-05"
    ]


def test_nothing_to_refuse():
    refuse({"in PyTorch alone": []})


def test_every_line_is_listed_under_its_heading():
    with pytest.raises(WeightsError, match=r"(?s)nothing was loaded:\n  one:\n    a\n    b$"):
        refuse({"one": ["b", "a"], "none": []})
