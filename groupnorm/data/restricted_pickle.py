"""Reading pickles without trust: numbers, text, bytes, lists, dictionaries and NumPy arrays.

A pickle can name any importable function and have it called. This reader knows the five names that
an array of numbers is made of, under NumPy's old and new module names, and refuses all others.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

from groupnorm.data.issues import DataError

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
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no image file needs")
        return super().find_class(module.replace("numpy.core.", "numpy._core."), name)


def restricted_load(data: bytes, where: str) -> Any:
    """The value of a pickle; text of Python 2 is read as bytes.

    Args:
        data: the pickle.
        where: its name, for the message.

    Raises:
        DataError: the pickle is damaged, or asks for a name it does not need.
    """
    try:
        return _ArraysOnly(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{where} cannot be read as a pickle of arrays: {error}") from error
