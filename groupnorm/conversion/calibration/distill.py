"""The student's outputs against the teacher's: how far apart they are, and bringing them nearer."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groupnorm.conversion.calibration.batches import Batches
from groupnorm.conversion.calibration.progress import Progress
from groupnorm.conversion.example import floats_in
from groupnorm.conversion.finite import NotFiniteError, all_finite
from groupnorm.conversion.output_error import OutputError

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
        "before it, the calibration output error is that after it."
    )


def held_out_error(batches: Batches, teacher: nn.Module, student: nn.Module) -> float | None:
    """`OutputError` on what is held out.

    Raises:
        NotFiniteError: an output is not finite.
    """
    error = OutputError()
    for i in range(len(batches)):
        if batches.held_out(i):
            outputs = batches.run(teacher, i), batches.run(student, i)
            if not all_finite(outputs):
                raise NotFiniteError("the network's output is not finite on the data")
            error.add(*outputs)
    return error.value


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
