"""A network before and after its conversion, on images that nothing was fitted to."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from groupnorm.conversion.example import evaluating, run
from groupnorm.conversion.finite import Position, all_finite, check_batch, with_positions
from groupnorm.conversion.output_error import OutputError
from groupnorm.data.issues import first_few

SCORES = ("out", "logits")
"""Where a dict has the scores of classes: in torchvision's segmentation networks, and others'."""
_NAMES = ("the network", "the converted network")
_REPEATS = 3  # of the first batch


@dataclass(frozen=True)
class Comparison:
    """What became of a network's outputs; pairs are before and after.

    Attributes:
        images: that it was measured on.
        agreement: share of them with the same largest score; of positions, where the outputs are
            maps of scores; None where they are no `class_scores`.
        scores: their shape without the first dimension; None likewise.
        accuracy: share with the right label; None without labels.
        output_error: the sum of squares of what differs, over that of the outputs before about the
            mean of each channel; None where the outputs cannot be compared.
        largest_difference: of a value; None likewise.
        largest_output: before; None likewise.
        milliseconds: for an image, in the fastest batch.
        parameters: how many.
        buffers: how many values they have.
    """

    images: int
    agreement: float | None
    scores: tuple[int, ...] | None
    accuracy: tuple[float, float] | None
    output_error: float | None
    largest_difference: float | None
    largest_output: float | None
    milliseconds: tuple[float, float]
    parameters: tuple[int, int]
    buffers: tuple[int, int]


def compare(
    before: nn.Module,
    after: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor | None]],
    device: str = "cpu",
) -> Comparison:
    """Run both networks on the same images, in evaluation mode.

    Args:
        before: on the device.
        after: on the device.
        batches: images with their labels, or with None.
        device: where the images go.

    Raises:
        ValueError: a network does not run on them, or there are none.
        NotFiniteError: an output is not finite; the message names the first layer and sample.
    """
    sums = _Sums()
    networks = (before, after)
    with evaluating(before), evaluating(after):
        for images, labels in batches:
            images = images.to(device)
            if not sums.images:  # a first time is slower
                sums.seconds += [_run_both(networks, images)[1] for _ in range(_REPEATS)][1:]
            outputs, seconds = _run_both(networks, images)
            if not all_finite(outputs):
                for name, one in zip(_NAMES, networks, strict=True):
                    check_batch(name, one, images, run, Position(0, sums.images))
            sums.add(outputs, seconds, len(images), None if labels is None else labels.to(device))
    if not sums.images:
        raise ValueError("there are no images to compare the networks on")
    return Comparison(
        images=sums.images,
        agreement=sums.agreeing / sums.classes if sums.scored else None,
        scores=sums.shape if sums.scored else None,
        accuracy=_pair(sums.right, sums.images) if sums.labelled and sums.scored else None,
        output_error=sums.error.value,
        largest_difference=sums.error.largest_difference if sums.error.comparable else None,
        largest_output=sums.error.largest_expected if sums.error.comparable else None,
        milliseconds=_pair([1000 * min(times) for times in zip(*sums.seconds, strict=True)]),
        parameters=_pair([sum(p.numel() for p in one.parameters()) for one in networks]),
        buffers=_pair([sum(b.numel() for b in one.buffers()) for one in networks]),
    )


def check_outputs(network: nn.Module, batches: Iterable[Tensor], device: str) -> None:
    """Check that a network has finite outputs, before it is converted.

    Args:
        network: on the device.
        batches: images.
        device: where the images go.

    Raises:
        ValueError: it does not run on them.
        NotFiniteError: as in `compare`.
    """
    with evaluating(network):
        for images, position in with_positions(batches):
            images = images.to(device)
            if not all_finite(run(network, images)):
                check_batch(_NAMES[0], network, images, run, position)


def check_classes(network: nn.Module, images: Tensor, classes: Sequence[str], device: str) -> None:
    """Check that a network has an output for each class.

    Args:
        network: on the device.
        images: a batch.
        classes: their names.
        device: where the images go.

    Raises:
        ValueError: it has not.
    """
    with evaluating(network):
        output = run(network, images[:2].to(device))
    scores = class_scores(output)
    if scores is None or scores.shape[1:] != (len(classes),):
        raise ValueError(
            f"the folder has {len(classes):,} classes ({first_few(classes)}); expected the output "
            f"({len(images[:2])}, {len(classes)}) of the network, got {described(output)}"
        )


def class_scores(output: Any) -> Tensor | None:
    """The scores of classes: of images (N, K), or of positions (N, K, H, W) or (N, K, D, H, W).

    None for an output that is neither such a tensor with K above 1 nor a dict that has one under
    one of `SCORES`; so it is for sequences (N, T, D), whose classes could be either dimension.
    """
    if isinstance(output, Mapping):
        output = next((output[key] for key in SCORES if key in output), None)
    if isinstance(output, Tensor) and output.dim() in (2, 4, 5) and output.shape[1] > 1:
        return output
    return None


def described(output: Any) -> str:
    """An output in a few words: its shape, the keys of a dict, or its class."""
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    kind = type(output).__name__
    return f"{kind} of {first_few(list(map(str, output)))}" if isinstance(output, Mapping) else kind


@dataclass
class _Sums:
    """What is added up over batches."""

    images: int = 0
    scored: bool = True
    shape: tuple[int, ...] | None = None
    labelled: bool = True
    classes: int = 0
    agreeing: int = 0
    right: list[int] = field(default_factory=lambda: [0, 0])
    error: OutputError = field(default_factory=OutputError)
    seconds: list[tuple[float, float]] = field(default_factory=list)

    def add(
        self,
        outputs: Sequence[Any],
        seconds: tuple[float, float],
        images: int,
        labels: Tensor | None,
    ) -> None:
        self.images += images
        self.seconds.append(seconds)
        before, after = map(class_scores, outputs)
        if before is None or after is None or before.shape != after.shape:
            self.scored = False
        else:
            classes = [scores.argmax(1) for scores in (before, after)]
            self.agreeing += int((classes[0] == classes[1]).sum())
            self.classes += classes[0].numel()
            self.shape = tuple(before.shape[1:])
            if labels is not None:
                for i in range(2):
                    self.right[i] += int((classes[i] == labels).sum())
        self.labelled = self.labelled and labels is not None
        self.error.add(*outputs)


def _run_both(
    networks: Sequence[nn.Module], images: Tensor
) -> tuple[list[Any], tuple[float, float]]:
    """The outputs, and the seconds for an image."""
    outputs, seconds = [], []
    for network in networks:
        _wait(images)
        began = time.perf_counter()
        outputs.append(run(network, images))
        _wait(images)
        seconds.append((time.perf_counter() - began) / len(images))
    return outputs, _pair(seconds)


def _wait(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)


def _pair(values: Sequence[Any], over: int | None = None) -> tuple[Any, Any]:
    first, second = values
    return (first, second) if over is None else (first / over, second / over)
