"""What converters print and raise, brought into order."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator


def first(error: BaseException) -> str:
    """The first line of the message of the error that an error comes from."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()
    return next((line.strip() for line in lines if line.strip()), "no message")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep converters' warnings, log lines and progress bars to themselves."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.ERROR))
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
