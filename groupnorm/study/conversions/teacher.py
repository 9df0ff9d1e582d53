"""Teachers: trained networks with their data, and how other networks compare with them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from groupnorm.run.setup import Setup
from groupnorm.run.tasks import reported_metric, setup_of
from groupnorm.study.trained import read_network
from groupnorm.training.config import TrainingConfig
from groupnorm.training.distributed import ALONE
from groupnorm.training.task import Task


class Score(NamedTuple):
    """What a network makes of the test examples.

    Attributes:
        value: of the metric that the teacher's run reports.
        held_out: the same on the training examples that are held out; None where not asked for.
        agreement: percent of the test examples (of their pixels, where each has a class) that get
            the teacher's class.
    """

    value: float
    held_out: float | None
    agreement: float


class Teacher(Protocol):
    """What trials ask of a teacher.

    Attributes:
        network: in evaluation mode; nothing changes it.
        seed: of all that is drawn.
    """

    network: nn.Module
    seed: int

    def calibration_images(self, count: int) -> Tensor:
        """The first `count` images to calibrate with, in a fixed order, as the network takes them.

        Raises:
            ValueError: there are fewer.
        """
        ...

    def score(self, network: nn.Module, *, held_out: bool = False) -> Score:
        """A network's results on the test examples, and on those held out."""
        ...


class RunTeacher:
    """A finished run's network, its data and its predictions.

    The run holds out a part of the training examples (`validation_images`). Conversions are
    calibrated with these, without their labels, and rates of fine-tuning are chosen on them.

    Args:
        folder: of the run.
        device: where networks are evaluated and trained.
        data_root: folder to look for the data set in, before the usual places.

    Raises:
        CheckpointError, StoreError: the run has no weights, or a file of it is damaged.
        DataError: the data set is missing or damaged.
        ValueError: the run holds nothing out.
    """

    def __init__(self, folder: Path, device: str, data_root: Path | None) -> None:
        found = read_network(folder)
        if not found.config.validation_images:
            raise ValueError(f"{folder} holds a run without validation_images, and no teacher")
        self.config: TrainingConfig = found.config
        self.seed = found.config.seed
        self.device = device
        self.setup: Setup = setup_of(self.config)
        self.data = self.setup.load(self.config, device, data_root)
        self.weights = found.weights
        tested = self.config.model_copy(update={"validation_images": None})
        self.network = self.build(self.config).eval()
        self._held_out = self._task(self.config, self.data)
        self._test = self._task(tested, self.setup.load(tested, device, data_root))
        self._images: Tensor | None = None
        self._predictions = Predictions()
        self._value(self.network, self._test, self._predictions)

    def build(self, config: TrainingConfig) -> nn.Module:
        """A network with the teacher's weights.

        Args:
            config: the run's, or one with another size of workers.
        """
        network = self.setup.build(config, self.data, self.device)
        network.load_state_dict(self.weights)
        return network

    def calibration_images(self, count: int) -> Tensor:
        """Images of those held out, in an order by the run's seed.

        They are as the test images are, without augmentation.
        """
        if self._images is None:
            batches = [inputs for inputs, *_ in self.data.test()]
            images = torch.cat(batches)
            generator = torch.Generator().manual_seed(self.seed)
            self._images = images[torch.randperm(len(images), generator=generator)]
        if count > len(self._images):
            raise ValueError(
                f"{count} images to calibrate with, but {len(self._images)} are held out"
            )
        return self._images[:count]

    def score(self, network: nn.Module, *, held_out: bool = False) -> Score:
        """A network's results on the test examples, and on those held out."""
        predictions = Predictions()
        value = self._value(network, self._test, predictions)
        return Score(
            value,
            self._value(network, self._held_out, Predictions()) if held_out else None,
            predictions.agreement(self._predictions),
        )

    def _value(
        self, network: nn.Module, task: Callable[[nn.Module], Task], predictions: Predictions
    ) -> float:
        with predictions.of(network):
            found = task(network).evaluate(network, reported=False)
        network.eval()
        return float(found[reported_metric(self.config).name])

    def _task(self, config: TrainingConfig, data: Any) -> Callable[[nn.Module], Task]:
        return lambda network: self.setup.make_task(config, data, network, ALONE)


class Predictions:
    """The classes that a network gives to the examples of an evaluation, in their order."""

    def __init__(self) -> None:
        self._batches: list[Tensor] = []

    def of(self, network: nn.Module) -> torch.utils.hooks.RemovableHandle:
        """Record them within this context."""

        def record(_: nn.Module, __: Any, logits: Tensor) -> None:
            self._batches.append(logits.detach().argmax(1).to(torch.int16).cpu())

        return network.register_forward_hook(record)

    def agreement(self, other: Predictions) -> float:
        """Percent of the predictions that are the other network's."""
        pairs = list(itertools.zip_longest(self._batches, other._batches))
        same = sum(int((ours == theirs).sum()) for ours, theirs in pairs)
        return 100.0 * same / sum(ours.numel() for ours, _ in pairs)
