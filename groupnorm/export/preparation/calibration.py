"""What the group norms of a network get on calibration images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from groupnorm.conversion.example import (
    Example,
    NotRunError,
    evaluating,
    first_input,
    input_of,
    run,
)
from groupnorm.export.errors import ExportError
from groupnorm.export.moments import group_moments, group_offsets
from groupnorm.export.preparation.precision import moved
from groupnorm.files import first_line

PIECE = 16
"""Images of a tensor that go through the network at a time."""


def calibration_batches(calibration: object, example: Example) -> list[Example]:
    """The batches of the calibration images, each as an example of the network.

    Args:
        calibration: a tensor (N, *), or an iterable of batches, which is gone through once and
            stays in memory: tensors, lists or tuples that begin with one, as data loaders yield
            them, or callables as examples may be. Where the example is a tuple of several
            arguments, a batch begins with as many.
        example: of the network, as in `prepare`.

    Raises:
        TypeError: it is none of these.
        ValueError: there are no images.
    """
    if isinstance(calibration, str | os.PathLike):
        raise TypeError(
            "calibration takes batches of images; groupnorm.data.folder_images(folder) gives those "
            "of a folder"
        )
    if isinstance(calibration, Tensor):
        if calibration.dim() == 0:
            raise TypeError("calibration must be a tensor (N, *) of images, got one number")
        batches: list[Any] = list(torch.split(calibration, PIECE)) if len(calibration) else []
    elif isinstance(calibration, Iterable):
        batches = list(calibration)
    else:
        raise TypeError(
            "calibration must be a tensor or an iterable of batches, got "
            f"{type(calibration).__name__}"
        )
    if not batches:
        raise ValueError("calibration has no images")
    return [_like(example, batch) for batch in batches]


def _like(example: Example, batch: Any) -> Example:
    """A batch as an example of the kind of another."""
    if callable(batch) and not isinstance(batch, Tensor):
        as_callable: Callable[[nn.Module], Any] = batch
        return as_callable
    if isinstance(example, tuple) and len(example) > 1:
        if not (isinstance(batch, list | tuple) and len(batch) >= len(example)):
            raise TypeError(
                f"the example has {len(example)} arguments, so that a batch of the calibration "
                f"begins with as many, got {type(batch).__name__}"
            )
        return tuple(batch[: len(example)])
    if isinstance(example, list):  # one argument, as detectors take a list of images
        return batch if isinstance(batch, list) else list(batch[0])
    return input_of(batch)


@dataclass
class NormInputs:
    """The inputs of one group norm.

    Attributes:
        groups: G.
        eps: of each group, (G,).
        samples: how many there were.
        means: (G,), sum over the samples of the means.
        variances: (G,), sum over the samples of the biased variances.
        offset: the largest |mean| / sqrt(var + eps) of a sample's group.
        largest: the largest |x|.
    """

    groups: int
    eps: Tensor
    samples: int
    means: Tensor
    variances: Tensor
    offset: float = 0.0
    largest: float = 0.0

    def add(self, x: Tensor) -> None:
        """Add an input (N, C, *)."""
        var, mean = group_moments(x, self.groups)
        self.samples += len(x)
        self.means += mean.sum(0)
        self.variances += var.sum(0)
        self.offset = max(self.offset, float(group_offsets(var, mean, self.eps).max()))
        self.largest = max(self.largest, float(x.abs().max()))


def measure_inputs(
    network: nn.Module,
    norms: Mapping[str, nn.Module],
    batches: Iterable[Example],
    dtype: torch.dtype | None,
    group_eps: Mapping[nn.Module, Tensor],
) -> dict[str, NormInputs]:
    """What group norms get on calibration images.

    Args:
        network: in evaluation mode, on the CPU.
        norms: those to measure, by name.
        batches: examples of the network.
        dtype: as in `moved`.
        group_eps: of norms that have another eps for each group.

    Returns:
        By name, those that ran.

    Raises:
        ExportError: a norm gets values that are infinite or NaN.
        ValueError: the network does not run on a batch.
    """
    found: dict[str, NormInputs] = {}
    odd: list[str] = []
    handles = []
    for name, norm in norms.items():

        def note(
            module: nn.Module,
            args: tuple[Any, ...],
            named: dict[str, Any],
            name: str = name,
            norm: nn.Module = norm,
        ) -> None:
            x = first_input(args, named)
            if x is None or x.numel() == 0:
                return
            if not bool(x.isfinite().all()):
                odd.append(name)
                return
            assert isinstance(norm, nn.GroupNorm)
            groups = norm.num_groups
            eps = group_eps.get(norm, torch.full((groups,), norm.eps, dtype=torch.float64))
            zeros = torch.zeros(2, groups, dtype=torch.float64)
            found.setdefault(name, NormInputs(groups, eps, 0, zeros[0], zeros[1])).add(x)

        handles.append(norm.register_forward_pre_hook(note, with_kwargs=True))
    try:
        with evaluating(network):
            for number, batch in enumerate(batches):
                try:
                    run(network, moved(batch, dtype))
                except NotRunError as error:
                    why = first_line(error.__cause__ or error)
                    raise ValueError(
                        f"the network does not run on batch {number} of the calibration: {why}"
                    ) from error
                if odd:
                    raise ExportError(
                        f"the input of {odd[0] or 'the network'} has values that are infinite or "
                        f"NaN on batch {number} of the calibration; check the images and how they "
                        "are normalized"
                    )
    finally:
        for handle in handles:
            handle.remove()
    return found
