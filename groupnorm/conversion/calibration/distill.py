"""The student's outputs against the teacher's: how far apart they are, and bringing them nearer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groupnorm.conversion.calibration.batches import Batches
from groupnorm.conversion.calibration.progress import Progress
from groupnorm.conversion.example import floats_in

TEMPERATURE = 2.0
"""Of the logits (Hinton et al. 2015, arXiv 1503.02531)."""
_LR, _MOMENTUM, _CLIP, _SAMPLES = 1e-3, 0.9, 5.0, 4
_WARM = 0.1  # part of the steps over which the rate rises; then it falls as a cosine


def check_distillation(teacher: nn.Module, student: nn.Module, batches: Batches) -> None:
    """Check that a student can be trained to give what its teacher gives.

    Args:
        teacher: and student, which has other norms already: how many objects a detector finds
            shows only then.
        student: see `teacher`.
        batches: the data, of which the first piece runs.

    Raises:
        ValueError: it cannot.
    """
    _trained(student)
    expected, found = (list(floats_in(batches.run(one, 0))) for one in (teacher, student))
    _loss(found, expected)


def distill(
    teacher: nn.Module,
    student: nn.Module,
    batches: Batches,
    steps: int,
    *,
    seed: int = 0,
    progress: bool = False,
) -> str:
    """Train the student to give what the teacher gives, without labels.

    SGD with momentum at a low rate, which rises at first and falls to 0: a fitted student loses
    what it has to a high one. Both networks stay in the mode in which they are, evaluation as a
    rule. Pieces that are held out are not trained on.

    Args:
        teacher: is not changed.
        student: whose parameters that require a gradient are trained.
        batches: the data.
        steps: of four samples each, or of a piece where these cannot be cut.
        seed: of the order of the samples.
        progress: whether to say how far it is.

    Returns:
        Two sentences for the report.

    Raises:
        ValueError: nothing can be trained, or the loss is not finite.
    """
    trained = _trained(student)
    optimizer = torch.optim.SGD(trained, lr=_LR, momentum=_MOMENTUM)
    drawn = batches.draws(_SAMPLES, torch.Generator().manual_seed(seed))
    shown, kind = Progress(steps, progress), ""
    for step in range(steps):
        if step % 10 == 0:
            shown.show(step, f"distillation, step {step + 1} of {steps}")
        piece = next(drawn)
        with torch.no_grad():
            expected = list(floats_in(batches.run_on(teacher, piece)))
        with torch.enable_grad():
            found = list(floats_in(batches.run_on(student, piece)))
            loss, kind = _loss(found, expected)
            if not bool(loss.isfinite()):
                raise ValueError(f"the distillation's loss is not finite at step {step + 1}")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, _CLIP)
        optimizer.param_groups[0]["lr"] = _LR * _share(step, steps)
        optimizer.step()
    return (
        f"Distilled over {steps} steps, by {kind}. Errors and offset shares of layers are those "
        "before it, the error of the output is that after it."
    )


def output_error(outputs: Iterable[tuple[Any, Any]]) -> float | None:
    """The squared difference of outputs over the variance of those expected.

    The variance is that about the mean of each channel (dimension 1) of maps, or of each number.

    Args:
        outputs: of each batch what is expected, and what there is.

    Returns:
        None where the outputs have not the same shapes, as lists of detections.
    """
    squared, sums = 0.0, dict[int, tuple[int, Tensor, Tensor]]()
    for pair in outputs:
        expected, found = ([t for t in floats_in(output) if t.numel()] for output in pair)
        if [t.shape for t in expected] != [t.shape for t in found]:
            return None
        for i, (want, got) in enumerate(zip(expected, found, strict=True)):
            want = want.double()
            squared += float((got.double() - want).square().sum())
            rows = want.movedim(1, -1).flatten(0, -2) if want.dim() > 2 else want
            rows = rows.reshape(len(rows), -1) if rows.dim() else rows.view(1, 1)
            count, first, second = sums.get(i, (0, rows.new_zeros(()), rows.new_zeros(())))
            if first.dim() and first.shape != rows.shape[1:]:
                return None
            sums[i] = count + len(rows), first + rows.sum(0), second + rows.square().sum(0)
    variance = sum(
        float((second - first.square() / count).clamp(min=0).sum())
        for count, first, second in sums.values()
    )
    return squared / variance if variance > 0 else None


def held_out_outputs(
    batches: Batches, teacher: nn.Module, student: nn.Module
) -> Iterator[tuple[Any, Any]]:
    """Both networks' outputs on what is held out."""
    for i in range(len(batches)):
        if batches.held_out(i):
            yield batches.run(teacher, i), batches.run(student, i)


def _share(step: int, steps: int) -> float:
    """Of the highest rate, at a step."""
    rising = min((step + 1) / max(_WARM * steps, 1), 1.0)
    return rising * 0.5 * (1 + math.cos(math.pi * step / steps))


def _trained(student: nn.Module) -> list[nn.Parameter]:
    trained = [p for p in student.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("finetune_steps: no parameter of the network requires a gradient")
    return trained


def _loss(found: list[Tensor], expected: list[Tensor]) -> tuple[Tensor, str]:
    """What is trained on: of logits (N, K) their distributions, of other outputs the values."""
    if not sum(t.numel() for t in expected):
        raise ValueError("finetune_steps: the network's output has no numbers to be compared")
    if [t.shape for t in found] != [t.shape for t in expected]:
        raise ValueError(
            "finetune_steps: the outputs of both networks have not the same shapes, so that they "
            "cannot be compared"
        )
    if len(found) == 1 and found[0].dim() == 2 and found[0].shape[1] > 1:
        new, old = found[0] / TEMPERATURE, expected[0] / TEMPERATURE
        distance = F.kl_div(
            new.log_softmax(1), old.log_softmax(1), reduction="batchmean", log_target=True
        )
        return TEMPERATURE**2 * distance, "the divergence of the logits"
    errors = [
        (new - old).square().mean() / old.var(correction=0).clamp(min=math.ulp(1.0))
        for new, old in zip(found, expected, strict=True)
    ]
    return torch.stack(errors).mean(), "the squared error of the outputs"
