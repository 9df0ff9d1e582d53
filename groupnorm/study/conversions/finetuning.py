"""Fine-tuning a converted network for some steps of 4 images, by the package's training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groupnorm.data.batches import Step, TrainingData
from groupnorm.study.conversions.methods import of_four
from groupnorm.study.conversions.teacher import RunTeacher
from groupnorm.study.conversions.trial import DISTILLATION, Trial
from groupnorm.training.config import TrainingConfig
from groupnorm.training.distributed import ALONE
from groupnorm.training.loop import Diverged, train
from groupnorm.training.metric import Metric
from groupnorm.training.task import EpochTotals, Metrics, Part, Task

TEMPERATURE = 2.0
"""Of the softmax of teacher and student in distillation (Hinton et al. 2015, arXiv 1503.02531)."""
CLIP_NORM = 5.0
WARMUP_SHARE = 0.2
"""Of the steps, in which the rate rises: the first steps at the full rate undo a part of a
calibration."""


def fine_tune(network: nn.Module, teacher: RunTeacher, trial: Trial) -> None:
    """Train a network in place as a trial says.

    SGD with momentum 0.9 on the training examples of the teacher's run, 4 a step, in the order and
    with the augmentation of its seed. The rate rises over the first fifth of the steps and falls to
    0 along a cosine; gradients longer than 5 are scaled down.

    Raises:
        ValueError: the loss became NaN or infinite.
    """
    config = _config(teacher.config, trial)
    task = teacher.setup.make_task(config, teacher.data, network, ALONE)
    target = teacher.network if trial.target == DISTILLATION else None
    try:
        train(config, network, _Unevaluated(task, target))
    except Diverged as end:
        raise ValueError(f"diverged: {end.reason}") from None


def _config(config: TrainingConfig, trial: Trial) -> TrainingConfig:
    own = {"size_schedule": ()} if "size_schedule" in type(config).model_fields else {}
    changed = of_four(config).model_copy(
        update={
            **own,
            "epochs": None,
            "steps": trial.steps,
            "schedule": "cosine",
            "warmup_epochs": 0.0,
            "warmup_steps": round(WARMUP_SHARE * trial.steps),
            "base_lr": trial.rate * config.reference_images / 4,
            "momentum": 0.9,
            "clip_norm": CLIP_NORM,
            "reported_epochs": 1,
        }
    )
    return type(changed)(**changed.model_dump())


class _Unevaluated:
    """A task that is not evaluated in the loop, and whose loss may be the distance to a teacher.

    Distillation takes no labels: its loss is the divergence of the student's distribution of
    classes from the teacher's, both at `TEMPERATURE`, times its square.
    """

    def __init__(self, task: Task, teacher: nn.Module | None) -> None:
        self.task = task
        self.teacher = teacher

    @property
    def data(self) -> TrainingData:
        return self.task.data

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return ()

    @property
    def steps_per_epoch(self) -> int:
        return self.task.steps_per_epoch

    def steps(self, epoch: int) -> Sequence[Step]:
        return self.task.steps(epoch)

    def split(self, batch: Any, step: Step, progress: float) -> Sequence[Part]:
        return self.task.split(batch, step, progress)

    def losses(
        self, model: nn.Module, part: Part
    ) -> tuple[Mapping[str, Tensor], Mapping[str, int]]:
        if self.teacher is None:
            return self.task.losses(model, part)
        inputs = part.inputs[0]
        with torch.no_grad():
            target = self.teacher(inputs)
        return {"loss": _divergence(model(inputs), target)}, {}

    def training_metrics(self, totals: EpochTotals) -> Metrics:
        return {}

    def evaluate(self, model: nn.Module, *, reported: bool) -> Metrics:
        return {}


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of distributions over axis 1, the mean over all else; logits."""
    p = F.log_softmax(teacher / TEMPERATURE, 1)
    q = F.log_softmax(student / TEMPERATURE, 1)
    divergence = (p.exp() * (p - q)).sum(1)
    return divergence.mean() * TEMPERATURE**2
