"""Reading pickles without trust: numbers, text, bytes, lists, dictionaries and NumPy arrays.

A pickle can name any importable function and have it called. This reader knows the five names that
an array of numbers is made of, under NumPy's old and new module names, and refuses all others.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

_KNOWN = frozenset(
    [
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    ]
)


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")
        return super().find_class(module.replace("numpy.core.", "numpy._core."), name)


def load_arrays(data: bytes) -> Any:
    """The value of a pickle; text of Python 2 is read as bytes.

    Raises:
        pickle.UnpicklingError: it asks for a name that arrays do not need.
        Exception: nearly any other, when it is damaged.
    """
    return _ArraysOnly(io.BytesIO(data), encoding="bytes").load()
