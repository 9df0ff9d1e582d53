"""Numbers of things in a sentence."""

from __future__ import annotations


def counted(count: int, thing: str) -> str:
    """A number of things, e.g. "1 cell" or "1,024 cells"."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
