"""What a task's setup is: from its configuration to data, model and task."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from groupnorm.cost.timing import Step
from groupnorm.data import batches
from groupnorm.layers import NormLayer, norm_layer
from groupnorm.training.config import TrainingConfig
from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.memory_format import weights_in_memory_format
from groupnorm.training.task import Task
from groupnorm.training.tasks.labelled import LabelledData
from groupnorm.training.warm_start import WarmStart

MOST_DECODERS = 16


class SampledImages(Protocol):
    """The first test images or videos of a data set, and what trained networks predict on them.

    Attributes:
        categories: names of what is predicted.
        images: of each, plain values for the record, with the `file` that it gets there.
        pixels: of each, RGB, uint8 (H, W, 3); of a video its frames side by side.
        unreadable: files that cannot be decoded -> what is wrong with them; the next ones take
            their places.
    """

    categories: list[str]
    images: list[dict[str, Any]]
    pixels: list[NDArray[np.uint8]]
    unreadable: dict[str, str]

    def predict(
        self,
        config: Any,
        built_for: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        lowest_score: float,
    ) -> dict[str, Any]:
        """What a trained network predicts on the images, on the CPU; plain values for the record.

        Args:
            config: of its run, and `built_for` alike.
            weights: of its last checkpoint.

        Raises:
            ValueError: the weights do not fit, or these are not the run's test images.
        """
        ...


class Setup(Protocol):
    """The functions of a module such as `groupnorm.run.classification`, one for each task.

    `config` is of the task's own class, and `data` what its `load` returns.

    Attributes:
        SAMPLED: what networks find in the test examples of `samples`; None where that is not done.
    """

    SAMPLED: Literal["objects", "clips"] | None

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

    def built_for(self, config: Any, data: Any) -> dict[str, Any] | None:
        """What `build` takes of the data, as plain values, so that the trained network can be
        built without them; None where nothing builds it so."""
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

    def samples(self, config: Any, data_root: Path | None, count: int) -> SampledImages:
        """Some test examples on which trained networks of this task can be looked at; modules whose
        `SAMPLED` is None do without.

        Raises:
            DataError: the data set is missing or damaged.
        """
        ...

    def first_step(
        self, config: Any, data: Any, model: nn.Module, processes: Processes = ALONE
    ) -> Step:
        """The pass whose cost is measured: as many of the first images as a pass of one process
        sees, and a network that makes of them alone a tensor to differentiate."""
        ...


def built(
    config: TrainingConfig,
    device: str,
    make: Callable[[NormLayer, dict[str, NormLayer]], nn.Module],
) -> nn.Module:
    """The network of a configuration with its first weights, which follow from the seed.

    Torch's default generators are left as they were.

    Args:
        make: from the norm and those of places, with statistics of one worker's images, to the
            network with fresh weights.
    """
    norm, *of_places = (
        norm_layer(spec, batch_per_worker=config.batch_per_worker)
        for spec in (config.norm, *config.norms.values())
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = make(norm, dict(zip(config.norms, of_places, strict=True)))
    model.to(device)
    weights_in_memory_format(model, config.memory_format)
    return model


def decoders() -> int:
    """How many processes decode files for this one: as many as torch has threads, at most
    `MOST_DECODERS`.

    torchrun gives each of its processes one thread. There it is the process's share of the
    machine's cores, if that is more.
    """
    of_machine = os.environ.get("LOCAL_WORLD_SIZE", "1")
    share = 1
    if of_machine.isdecimal() and int(of_machine) > 1:
        share = _cores() // int(of_machine)
    return min(max(torch.get_num_threads(), share), MOST_DECODERS)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_held_out(config: TrainingConfig, train_size: int, noun: str = "image") -> None:
    """Check that a data set has the examples that a run trains on and holds out.

    Args:
        noun: what an example is.

    Raises:
        ValueError: it has fewer.
    """
    trained, held_out = config.train_images or 0, config.validation_images
    if held_out is not None and trained + held_out > train_size:
        raise ValueError(
            f"train_images={config.train_images} and validation_images={held_out}, but "
            f"{config.data} has {train_size} training {noun}s"
        )


def without_last_layer(model: nn.Module) -> WarmStart:
    """All weights but those of the last linear layer, which keeps its first ones."""
    *_, last = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return WarmStart(
        rename=lambda key: None if key.startswith(f"{last}.") else key, fresh=[f"{last}."]
    )


def labelled_step(
    config: TrainingConfig,
    data: LabelledData,
    model: nn.Module,
    processes: Processes,
    prepared: Callable[[Tensor], Tensor],
) -> Step:
    """`Setup.first_step` of a classifier: the first training examples, as a pass sees them.

    Args:
        prepared: from the examples to what the network takes.
    """
    count = config.step_images // (processes.count * config.accumulate)
    step = batches.Step(config.seed, torch.arange(min(count, data.train_size)))
    inputs, _ = next(iter(data.train([step])))
    return Step(model, prepared(inputs), config.precision)
