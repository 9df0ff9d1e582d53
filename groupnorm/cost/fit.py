"""What fits into a given memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from groupnorm.cost.peak import StepMemory, TrainingStep

_LARGEST = 2**40
_UNITS = {"B": 1} | {
    f"{prefix}{unit}": base**power
    for unit, base in (("B", 1000), ("iB", 1024))
    for power, prefix in enumerate("KMGT", 1)
}


@dataclass(frozen=True)
class Fit:
    """What of one model fits into `limit` bytes.

    Attributes:
        step: the memory of a step at the batch and image size asked for.
        saved_per_image: bytes kept for the backward pass that every further image adds.
        largest_batch: images at the image size asked for, and `largest_image_size`, the side in
            pixels at the batch asked for; None when the smallest does not fit.
    """

    limit: int
    step: StepMemory
    saved_per_image: int
    largest_batch: int | None
    largest_image_size: int | None


def parse_memory(text: str) -> int:
    """Bytes of a text such as 16GiB, 800MB or 2e9B.

    kB, MB, GB and TB are powers of 1000; KiB, MiB, GiB and TiB powers of 1024; capitals do not
    matter.

    Raises:
        ValueError: unreadable, without a unit, or not positive.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?(?:e[0-9]+)?)\s*([a-z]*)\s*", text, re.I | re.A)
    units = {unit.lower(): size for unit, size in _UNITS.items()}
    if found and not found[2]:
        raise ValueError(f"memory {text!r} has no unit; write {found[1]}GiB, {found[1]}MB or such")
    if not found or found[2].lower() not in units or float(found[1]) <= 0:
        raise ValueError(f"memory is a number and a unit, as 16GiB, 800MB or 24GB; got {text!r}")
    bytes_ = float(found[1]) * units[found[2].lower()]
    if not 1 <= bytes_ < 2**60:
        raise ValueError(f"memory lies between 1 byte and 2**60 bytes, got {text!r}")
    return int(bytes_)


def fit(
    step: TrainingStep,
    limit: int,
    *,
    channels: int,
    image_size: int,
    batch: int,
    multiple: int,
    smallest: int,
    on_count: Callable[[str], None] = lambda text: None,
) -> Fit:
    """The largest batch and the largest image whose training step fits into `limit` bytes.

    Args:
        channels: of the square images.
        image_size: side of the images in pixels, for the largest batch.
        batch: images, for the largest image size.
        multiple: image sizes looked at are multiples of it, from `smallest` on.
        on_count: called before each count with what is counted.

    Raises:
        ValueError: images that the model does not take.
    """

    def count(images: int, size: int) -> StepMemory:
        on_count(f"{images} images of {size} x {size}")
        with _refused(images, size):
            return step.memory((channels, size, size), images)

    def side(n: int) -> int:
        return smallest + (n - 1) * multiple

    asked, twice = count(batch, image_size), count(2 * batch, image_size)
    known = {batch: asked.peak, 2 * batch: twice.peak}
    at_start = max(1, round((image_size - smallest) / multiple) + 1)
    images = largest(
        lambda n: known.get(n) or count(n, image_size).peak, limit, start=batch, power=1
    )
    n = largest(lambda n: count(batch, side(n)).peak, limit, start=at_start, power=2)
    return Fit(
        limit=limit,
        step=asked,
        saved_per_image=(twice.saved - asked.saved) // batch,
        largest_batch=images,
        largest_image_size=None if n is None else side(n),
    )


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


@contextmanager
def _refused(images: int, size: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # an operation of the model says what does not fit
        raise ValueError(
            f"the model does not take {images} images of {size} x {size} pixels: {error}"
        ) from None
