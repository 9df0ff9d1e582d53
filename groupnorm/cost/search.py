"""The largest size of something whose memory fits."""

from __future__ import annotations

from collections.abc import Callable

_LARGEST = 2**40


def largest(
    memory: Callable[[int], int], limit: int, *, start: int = 1, power: int = 1
) -> int | None:
    """The largest n >= 1 with `memory(n) <= limit`; None when n = 1 does not fit.

    Memory grows with n nearly as a + b * n ** power, so a straight line through two known sizes
    names the next one to look at; where that does not close in, halving does. The answer itself
    fits and the next size does not: both are counted, not extrapolated. Any axis goes: images, the
    side of an image (power 2), frames.

    Args:
        memory: bytes of size n, not decreasing.
        limit: bytes there are.
        start: the size to begin with.

    Raises:
        ValueError: the memory does not grow with n.
    """
    known: dict[int, int] = {}
    low, high = 0, _LARGEST  # what fits, and what does not
    guess = start
    while high - low > 1:
        guess = min(max(guess, low + 1), high - 1)
        known[guess] = memory(guess)
        low, high = (guess, high) if known[guess] <= limit else (low, guess)
        if len(known) % 4 == 0:
            guess = (low + high) // 2 if high < _LARGEST else 2 * low
        else:
            guess = _on_line(known, limit, low, high, power)
    if low == _LARGEST - 1:
        raise ValueError(f"the memory does not grow with the size: {known[low]} bytes at {low}")
    return low or None


def _on_line(known: dict[int, int], limit: int, low: int, high: int, power: int) -> int:
    """Where a line in n ** power through the two known sizes next to the limit meets it."""
    sizes = sorted(known)
    if len(sizes) == 1:
        return 2 * low if low else high // 2
    first = sizes.index(low if low else high)
    below, above = sizes[min(first, len(sizes) - 2) :][:2]
    slope = (known[above] - known[below]) / (above**power - below**power)
    if slope <= 0:
        return 2 * max(low, 1)
    room = below**power + (limit - known[below]) / slope
    return int(max(room, 0.0) ** (1 / power) + 1e-9)
