"""The reader of arrays; what it refuses stands in data/test_restricted_pickle.py, too."""

import pickle

import numpy as np
import pytest

from groupnorm.array_pickle import load_arrays


def test_arrays_by_name():
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": {"c": [1, 2.5, "x"]}}
    found = load_arrays(pickle.dumps(arrays, 4))
    assert np.array_equal(found["a"], arrays["a"])
    assert found["b"] == arrays["b"]


def test_other_names_are_refused():
    with pytest.raises(pickle.UnpicklingError, match=r"asks for builtins\.print, which no array"):
        load_arrays(pickle.dumps(print))
