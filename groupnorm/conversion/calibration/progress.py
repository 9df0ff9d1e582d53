"""Lines on how far a conversion is, with the time left."""

from __future__ import annotations

import sys
import time


class Progress:
    """Says on standard error what begins, and how long the rest will take.

    Args:
        steps: how many there are.
        shown: False says nothing.
    """

    def __init__(self, steps: int, shown: bool) -> None:
        self._steps, self._shown, self._began = steps, shown, time.monotonic()

    def show(self, done: int, what: str) -> None:
        """Say what begins, with `done` steps behind."""
        if not self._shown:
            return
        left = ""
        if done:
            seconds = (time.monotonic() - self._began) / done * (self._steps - done)
            left = f", {seconds:.0f} s left" if seconds < 100 else f", {seconds / 60:.0f} min left"
        sys.stderr.write(f"{what}{left}\n")
