"""What a task's setup is: from its configuration to data, model and task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from groupnorm.cost.timing import Step
from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.task import Task
from groupnorm.training.warm_start import WarmStart


class Setup(Protocol):
    """The functions of a module such as `groupnorm.run.classification`, one for each task.

    `config` is of the task's own class, and `data` what its `load` returns.
    """

    def load(self, config: Any, device: str, data_root: Path | None) -> Any:
        """The data of a configuration, ready for training on `device`.

        Raises:
            DataError: the data set is missing or damaged.
            ValueError: it has fewer images than the configuration trains on and holds out.
        """
        ...

    def build(self, config: Any, data: Any, device: str) -> nn.Module:
        """The network with its first weights, which follow from the seed, on `device`.

        Torch's default generators are left as they were.
        """
        ...

    def make_task(self, config: Any, data: Any, model: nn.Module, processes: Processes) -> Task:
        """The task of training `model` on `data`.

        Raises:
            ValueError: fewer training images than images in a step.
        """
        ...

    def notes(self, config: Any, data: Any) -> list[str]:
        """What whoever trains so should know, besides the notes of the data, in sentences."""
        ...

    def warm_start(self, config: Any, model: nn.Module, other: Mapping[str, Any]) -> WarmStart:
        """How the weights of a run whose `identity()` is `other` fit `model`, this one's network.

        `other` has the fields of that run's configuration that decide its result.
        """
        ...

    def first_step(
        self, config: Any, data: Any, model: nn.Module, processes: Processes = ALONE
    ) -> Step:
        """The pass whose cost is measured: as many of the first images as a pass of one process
        sees, and a network that makes of them alone a tensor to differentiate."""
        ...
