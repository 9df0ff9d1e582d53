"""A trained network from the folder of its run; a detector from that alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from groupnorm.study.record import CHECKPOINT
from groupnorm.study.store import Record, StoreError, read_config, read_run
from groupnorm.training.checkpoint import CheckpointError, read_checkpoint, read_weights
from groupnorm.training.config import DetectionConfig, TrainingConfig


class Network(NamedTuple):
    """The weights of a run of any task, with its configuration and its record.

    Attributes:
        built_for: as of `Trained`; empty where the network is used with its data set.
    """

    config: TrainingConfig
    built_for: dict[str, Any]
    weights: dict[str, Tensor]
    record: Record


class Trained(NamedTuple):
    """What a run leaves of a detector.

    Attributes:
        config: of the run.
        built_for: what its network took of the data set, as `env.json` has it.
        weights: of the last checkpoint, by the names of the network.
        record: of the run, which may not have ended.
    """

    config: DetectionConfig
    built_for: dict[str, Any]
    weights: dict[str, Tensor]
    record: Record


def find_run(path: Path) -> Path:
    """The folder of the run that a user means.

    Args:
        path: the folder, or the checkpoint in it.

    Raises:
        ValueError: it is neither.
        StoreError: the configuration is damaged.
    """
    if not path.exists():
        raise ValueError(f"there is no {path}; {_EXPECTED}")
    folder = path if path.is_dir() else path.parent
    if not path.is_dir() and path.name != CHECKPOINT:
        raise ValueError(f"{path} is a file; {_EXPECTED}")
    config = read_config(folder)
    if config is None and (folder / "study.json").exists():
        runs = folder / "runs"
        raise ValueError(f"{folder} holds a study; name the folder of one of its runs, in {runs}")
    if config is None:
        raise ValueError(
            f"{folder} is no run's folder: it has no config.json; {_EXPECTED}. A checkpoint is "
            "used with the files beside it, so copy the whole folder"
        )
    return folder


def read_network(folder: Path) -> Network:
    """What the folder of a run of any task holds of its network.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or belongs to another run.
        StoreError: another file is damaged, or an earlier version wrote `env.json`.
    """
    record, config = read_run(folder), read_config(folder)
    if config is None:
        raise StoreError(f"{folder} is no run's folder: it has no config.json")
    content = read_checkpoint(folder / CHECKPOINT)
    if content is None and record.status == "diverged":
        raise CheckpointError(
            f"{folder} has no {CHECKPOINT}, which holds the weights: the run diverged "
            f"({record.reason}), and the command that trained it does not train it again. Train "
            "one with other settings, such as a lower base_lr"
        )
    if content is None:
        raise CheckpointError(
            f"{folder} has no {CHECKPOINT}, which holds the weights: the run has not reached its "
            "first one, or its record was kept without. The command that trained it makes it"
        )
    weights, _ = read_weights(content, folder / CHECKPOINT, config.run_name())
    built_for = _built_for(folder, record) if isinstance(config, DetectionConfig) else {}
    return Network(config, built_for, weights, record)


def read_trained(folder: Path) -> Trained:
    """What the folder of a run holds of its detector; the data set is not asked for.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or belongs to another run.
        StoreError: another file is damaged, or an earlier version wrote `env.json`.
        ValueError: the run is of a task that is used with its data set.
    """
    config = read_config(folder)
    if config is not None and not isinstance(config, DetectionConfig):
        raise ValueError(
            f"{folder} holds a run of {config.task} ({config.model} on {config.data}), which is "
            "used with its data set; expected one of groupnorm train task=detection"
        )
    config, built_for, weights, record = read_network(folder)
    assert isinstance(config, DetectionConfig)
    return Trained(config, built_for, weights, record)


def _built_for(folder: Path, record: Record) -> dict[str, Any]:
    """What `env.json` says that a detector was built for."""
    later: dict[str, Any] = record.env.get("continued_with") or {}
    built_for: dict[str, Any] | None = record.env.get("built_for") or later.get("built_for")
    if built_for is None:
        raise StoreError(
            f"{folder / 'env.json'} does not say what the network was built for (categories, sizes "
            "of images): an earlier version wrote it, or it was not copied with the checkpoint. "
            "Where it was trained, delete it and DONE beside it and repeat the command of the run, "
            "or of its study: it writes both from the checkpoint and trains nothing anew"
        )
    return built_for


_EXPECTED = f"expected the folder of a run, or the {CHECKPOINT} in it"
