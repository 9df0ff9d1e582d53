"""What a written file holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Description:
    """The contents of a file for a runtime.

    Attributes:
        operators: name -> how often.
        delegates: parts that another engine takes whole; None where the runtime has none.
    """

    operators: dict[str, int]
    delegates: int | None
