"""Pickles of data sets, read without trust."""

from __future__ import annotations

from typing import Any

from groupnorm.array_pickle import load_arrays
from groupnorm.data.issues import DataError


def restricted_load(data: bytes, where: str) -> Any:
    """The value of a pickle of numbers, text and arrays; text of Python 2 is read as bytes.

    Args:
        data: the pickle.
        where: its name, for the message.

    Raises:
        DataError: the pickle is damaged, or asks for a name it does not need.
    """
    try:
        return load_arrays(data)
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{where} cannot be read as a pickle of arrays: {error}") from error
