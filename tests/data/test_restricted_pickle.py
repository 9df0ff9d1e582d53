"""The unpickler reads arrays and refuses everything that could do something."""

import os
import pickle

import numpy as np
import pytest

from groupnorm.data import DataError
from groupnorm.data.restricted_pickle import restricted_load


class Runs:
    """A pickle that calls a function when it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_lists_and_bytes(protocol):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    data = pickle.dumps({b"data": pixels, b"labels": [3, 1, 2], b"name": b"x"}, protocol)
    if protocol == 5:  # arrays of protocol 5 use another function, which no official file has
        with pytest.raises(DataError, match="_frombuffer"):
            restricted_load(data, "file")
        return
    value = restricted_load(data, "file")
    assert (value[b"data"] == pixels).all()
    assert value[b"labels"] == [3, 1, 2]


def test_pickles_of_python_2():
    """Text is a byte string there, and the array's module has its old name."""
    data = (
        b"(dp0\nS'data'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n"
        b"(I0\ntp4\nS'b'\np5\ntp6\nRp7\n(I1\n(I2\ntp8\ncnumpy\ndtype\np9\n(S'u1'\np10\nI0\nI1\n"
        b"tp11\nRp12\n(I3\nS'|'\np13\nNNNI-1\nI-1\nI0\ntp14\nbI00\nS'\\x07\\xff'\np15\ntp16\nbs."
    )
    value = restricted_load(data, "file")
    assert list(value) == [b"data"]
    assert value[b"data"].tolist() == [7, 255]


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "named"), [(os.system, "system"), (eval, "eval"), (os.mkdir, "mkdir")]
)
def test_functions_are_refused_and_not_called(tmp_path, function, named, protocol):
    trace = tmp_path / "trace"
    argument = {
        "system": f"touch {trace}",
        "eval": f"open({str(trace)!r}, 'w')",
        "mkdir": str(trace),
    }[named]
    data = pickle.dumps({b"data": Runs(function, argument)}, protocol)
    with pytest.raises(DataError, match=rf"^batch cannot be read.*asks for \w+\.{named}"):
        restricted_load(data, "batch")
    assert not trace.exists()


def test_the_danger_is_real(tmp_path):
    """The same pickle does run when it is read without care."""
    trace = tmp_path / "trace"
    pickle.loads(pickle.dumps(Runs(os.mkdir, str(trace)), 2))
    assert trace.exists()


@pytest.mark.parametrize(
    "text",
    [
        b"cnumpy\nload\n.",
        b"cnumpy.core.multiarray\nscalar\n.",
        b"cnumpy._core.multiarray._reconstruct\n__globals__\n.",
        b"c_codecs\nlookup\n.",
    ],
)
def test_other_names_of_the_same_modules_are_refused(text):
    with pytest.raises(DataError, match="which no array needs"):
        restricted_load(text, "file")


def test_dotted_names_do_not_reach_further():
    data = b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93."
    with pytest.raises(DataError, match=r"numpy\.ndarray\.__class__"):
        restricted_load(data, "file")


@pytest.mark.parametrize("data", [b"", b"not a pickle", pickle.dumps([1, 2, 3])[:-3]])
def test_damage(data):
    with pytest.raises(DataError, match=r"^file cannot be read"):
        restricted_load(data, "file")
