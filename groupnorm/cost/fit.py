"""What fits into a given memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

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


@dataclass(frozen=True)
class ClipFit:
    """What of one network for video fits into `limit` bytes.

    Attributes:
        step: the memory of a step at the batch and length of the clips asked for.
        saved_per_clip: bytes kept for the backward pass that every further clip adds.
        largest_batch: clips of the length asked for, and `most_frames`, of a clip at the batch
            asked for; None when not even the smallest fits.
    """

    limit: int
    step: StepMemory
    saved_per_clip: int
    largest_batch: int | None
    most_frames: int | None


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

    found = _search(
        step,
        limit,
        lambda side: (channels, side, side),
        _Sizes(image_size, batch, multiple, smallest, power=2),
        lambda images, side: f"{images} images of {side} x {side}",
        on_count,
    )
    return Fit(limit, *found)


def fit_clips(
    step: TrainingStep,
    limit: int,
    *,
    channels: int,
    image_size: int,
    frames: int,
    batch: int,
    fewest: int,
    on_count: Callable[[str], None] = lambda text: None,
) -> ClipFit:
    """The largest batch and the longest clips whose training step fits into `limit` bytes.

    Args:
        channels: of the square frames.
        image_size: side of the frames in pixels.
        frames: of a clip, for the largest batch.
        batch: clips, for the greatest length.
        fewest: frames that the network takes.
        on_count: called before each count with what is counted.

    Raises:
        ValueError: clips that the network does not take.
    """
    found = _search(
        step,
        limit,
        lambda length: (channels, length, image_size, image_size),
        _Sizes(frames, batch, 1, fewest, power=1),
        lambda clips, length: f"{clips} clips of {length} frames of {image_size} x {image_size}",
        on_count,
    )
    return ClipFit(limit, *found)


class _Sizes(NamedTuple):
    """What is asked for, and the sizes looked at: multiples of `multiple` from `smallest` on.

    Memory grows with a size as its `power`.
    """

    asked: int
    batch: int
    multiple: int
    smallest: int
    power: int


def _search(
    step: TrainingStep,
    limit: int,
    shape: Callable[[int], tuple[int, ...]],
    sizes: _Sizes,
    words: Callable[[int, int], str],
    on_count: Callable[[str], None],
) -> tuple[StepMemory, int, int | None, int | None]:
    """The step asked for, bytes saved for one more example, the largest batch and size.

    Args:
        shape: of one example, by its size.
        words: a batch and a size in words.
    """
    asked, batch, multiple, smallest, power = sizes

    def count(examples: int, size: int) -> StepMemory:
        on_count(words(examples, size))
        with _refused(words(examples, size)):
            return step.memory(shape(size), examples)

    def nth(n: int) -> int:
        return smallest + (n - 1) * multiple

    first, twice = count(batch, asked), count(2 * batch, asked)
    known = {batch: first.peak, 2 * batch: twice.peak}
    at_start = max(1, round((asked - smallest) / multiple) + 1)
    examples = largest(lambda n: known.get(n) or count(n, asked).peak, limit, start=batch, power=1)
    n = largest(lambda n: count(batch, nth(n)).peak, limit, start=at_start, power=power)
    saved = (twice.saved - first.saved) // batch
    return first, saved, examples, None if n is None else nth(n)


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
def _refused(what: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # an operation of the model says what does not fit
        raise ValueError(f"the model does not take {what} pixels: {error}") from None
