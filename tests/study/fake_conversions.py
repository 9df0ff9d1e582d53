"""A study of conversions made up by a formula. No number in it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groupnorm.experiments.conversion import Grid, trials_of
from groupnorm.study.conversions.records import write_failure, write_result
from groupnorm.study.conversions.trial import FITTED, NetworkTrials, Trial
from tests.study.fake_store import add_to_manifest, fake_metrics, write_manifest, write_run

NETWORKS = {"ResNet-20, made up": 80.0, "MobileNet, made up": 70.0}
_GROUPS = ("gn:groups=1", "gn:groups=8", "gn:size=1")
GRID = Grid(_GROUPS, _GROUPS, 16, (4,), (10, 100), (1e-3, 1e-2))
AIMS = {FITTED: 99.0, "gn:groups=8": 97.0}
_KEPT = {
    "teacher": 1.0, "reset": 0.12, "copy": 0.36, "data-free": 0.88, "least squares": 0.9,
    "fit": 0.98, "frozen BN": 1.0, "BN": 1.0, "scratch": 0.1,
}  # fmt: skip
_LOST = {"gn:size=1": 0.08, FITTED: -0.01}
FIT = Trial("fit", "gn:groups=8", 1, 16)


def fake_accuracy(trial: Trial, teacher: float, seed: int) -> float:
    """Percent right, the teacher's at most."""
    method = trial.method.split(",")[0]
    kept = _KEPT[method] - _LOST.get(trial.to, 0.0) * (method not in ("teacher", "scratch"))
    kept -= 0.02 * ("," in trial.method) + 0.004 * (trial.images == 4)
    kept += (1 - kept) * min(0.9, trial.steps / 120) * (1.0 if trial.rate == 1e-3 else 0.5)
    return teacher * min(1.0, kept) + 0.5 * seed


def fake_result(trial: Trial, teacher: float, seed: int) -> dict[str, Any]:
    """What a trial gave, as its record has it."""
    accuracy = fake_accuracy(trial, teacher, seed)
    layers = [
        {
            "name": f"layer{number}", "channels": 16, "groups": 4 if number else 8,
            "error": 0.01 * (number + 1) if trial.images else None,
            "offset_share": 0.25 if trial.images else None,
        }
        for number in range(3)
    ]  # fmt: skip
    return {
        "value": 100.0 - accuracy,
        "held_out": 100.0 - accuracy if trial.steps else None,
        "agreement": accuracy,
        "layers": layers if trial.to and trial.method != "scratch" else [],
        "skipped": [],
        "seconds": 1.5,
    }


def conversion_study(
    out: Path, seeds: int = 2, networks: Mapping[str, float] = NETWORKS, grid: Grid = GRID
) -> Path:
    """A finished study; the first network has every kind of trial."""
    cells, asked = [], {}
    for number, (network, accuracy) in enumerate(networks.items()):
        trials = tuple(dict.fromkeys(trials_of(grid, number == 0)))
        asked[network] = NetworkTrials(trials, AIMS).as_json()
        for seed in range(seeds):
            name = f"network{number}-s{seed}"
            cells.append({"labels": {"network": network}, "seed": seed, "run": name})
            config = {"seed": seed, "norm": "bn", "validation_images": 64}
            folder = write_run(
                out, name, config, fake_metrics("bn", 32, seed, final=100 - accuracy)
            )
            for trial in trials:
                write_result(folder, trial, fake_result(trial, accuracy, seed))
    write_manifest(out, "convert", cells, [])
    return add_to_manifest(out, shows="conversions", published=[], conversions=asked)


def spoil_trial(out: Path, trial: Trial = FIT, reason: str = "ValueError: made up") -> None:
    """Make a trial of the first network's first seed one that failed."""
    write_failure(out / "runs" / "network0-s0", trial, reason)


def skip_layer(out: Path, trial: Trial = FIT) -> None:
    """Make a trial of the first network's first seed one that left a layer as it was."""
    result = fake_result(trial, next(iter(NETWORKS.values())), 0)
    skipped = [{"name": "head.norm", "source": "BatchNorm1d", "reason": "one value per channel"}]
    write_result(out / "runs" / "network0-s0", trial, {**result, "skipped": skipped})
