"""Choose the recipe of the quick scale, by a rule that was written before its runs.

    python scripts/choose_recipe.py train FOLDER [--recipe NAME ...] [--jobs N]
    python scripts/choose_recipe.py choose FOLDER

The reference is 40 epochs of the paper's initialization, with three seeds. Its pairs of
configurations whose 95 % interval of the paired difference leaves out 0 have an order. A candidate
is kept when its means put all these pairs in that order. Of those kept, the one is chosen whose
standard deviation over seeds is smallest, as the root of the mean variance of its configurations.
Every error is that of the last epoch: the cosine schedule ends at a learning rate of 0.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from groupnorm.study.plan import Plan, repeat, vary
from groupnorm.study.results.estimates import paired_difference
from groupnorm.study.store import read_cells, read_manifest, read_record
from groupnorm.training.config import RunConfig

Errors = Mapping[str, Mapping[int, float]]
"""By configuration, as "bn at 2": errors in percent by seed."""

REFERENCE = "reference"
LAST_EPOCH: dict[str, Any] = {"reported_epochs": 1, "evaluate_every": 2}
RECIPES: dict[str, tuple[int, dict[str, Any]]] = {  # name -> images of a step, fields
    REFERENCE: (64, {"epochs": 40}),
    "gamma-0": (64, {"epochs": 10, **LAST_EPOCH}),
    "gamma-1": (32, {"epochs": 10, "zero_gamma": False, **LAST_EPOCH}),
    "gamma-1-growing-images": (
        32,
        {"epochs": 12, "zero_gamma": False, "size_schedule": "16:0.3,24:0.7", **LAST_EPOCH},
    ),
}
NORMS = ("bn", "gn:groups=8", "gn:groups=8+ws")
BATCH_SIZES = (32, 8, 2)
SEEDS = 3


def plan_of(recipe: str) -> Plan:
    """The runs of a recipe as a study under the fixed-step protocol."""
    step_images, fields = RECIPES[recipe]
    base = RunConfig(
        model="resnet8", train_images=6000, schedule="cosine", base_lr=0.8,
        memory_format="channels_last", **fields,
    )  # fmt: skip
    labelled = [
        (
            {"norm": norm, "batch_per_worker": size},
            vary(base, norm=norm, workers=step_images // size, batch_per_worker=size),
        )
        for norm in NORMS
        for size in BATCH_SIZES
    ]
    cells, configs = repeat(labelled, SEEDS)
    return Plan(
        "batch-size", f"Recipe {recipe}", "fixed-step", recipe, {}, cells, configs,
        shows="batch-size", published=("imagenet-batch-size",),
    )  # fmt: skip


def train(folder: Path, recipes: Sequence[str], jobs: int | None) -> None:
    """Train what is missing of the recipes, one after the other."""
    from groupnorm.cli.terminal import console
    from groupnorm.study import run_study

    for recipe in recipes:
        out = folder / recipe
        command = f"python scripts/choose_recipe.py train --recipe {recipe}"
        run_study(plan_of(recipe), out, jobs=jobs, command=command, console=console)


def last_errors(out: Path) -> dict[str, dict[int, float]]:
    """The errors of a study's runs after their last epoch.

    Raises:
        SystemExit: a run is not finished.
    """
    found: dict[str, dict[int, float]] = {}
    for cell in read_cells(read_manifest(out)):
        record = read_record(out, cell.run)
        if record.status != "finished":
            raise SystemExit(f"{out}: {cell.run} is {record.status}; train it first")
        norm, size = cell.labels["norm"], cell.labels["batch_per_worker"]
        name = f"bn at {size}" if norm == "bn" else norm
        found.setdefault(name, {})[cell.seed] = record.metrics[-1]["val_error"]
    return found


def ordered_pairs(reference: Errors) -> list[tuple[str, str]]:
    """Pairs (lower, higher) of configurations that the reference tells apart."""
    pairs = []
    for a, b in itertools.combinations(reference, 2):
        difference = paired_difference(reference[a], reference[b])
        if difference is not None and difference.told_apart:
            pairs.append((a, b) if difference.mean < 0 else (b, a))
    return pairs


def misplaced(candidate: Errors, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs that a candidate's means put in the other order, or tie."""
    mean = {name: fmean(by_seed.values()) for name, by_seed in candidate.items()}
    return [(low, high) for low, high in pairs if mean[low] >= mean[high]]


def spread(candidate: Errors) -> float:
    """Standard deviation over seeds, pooled over the configurations."""
    return math.sqrt(fmean(stdev(by_seed.values()) ** 2 for by_seed in candidate.values()))


def choose(reference: Errors, candidates: Mapping[str, Errors]) -> str | None:
    """The recipe that the rule chooses; None when none keeps the reference's order."""
    pairs = ordered_pairs(reference)
    kept = [name for name, errors in candidates.items() if not misplaced(errors, pairs)]
    return min(kept, key=lambda name: spread(candidates[name]), default=None)


def read_errors(folder: Path) -> dict[str, Errors]:
    """By recipe, the errors of those that the folder holds.

    Raises:
        SystemExit: the reference or every candidate is missing.
    """
    errors: dict[str, Errors] = {
        name: last_errors(folder / name) for name in RECIPES if (folder / name).exists()
    }
    if REFERENCE not in errors or len(errors) < 2:
        raise SystemExit(f"{folder} needs {REFERENCE} and at least one candidate")
    return errors


def table(errors: Mapping[str, Errors]) -> str:
    """What was found, as Markdown."""
    reference = errors[REFERENCE]
    candidates = {name: found for name, found in errors.items() if name != REFERENCE}
    pairs = ordered_pairs(reference)
    chosen = choose(reference, candidates)
    rows = [
        "| recipe | " + " | ".join(reference) + " | spread | pairs out of order |",
        "|---|" + "---:|" * len(reference) + "---:|---|",
    ]
    for name, found in errors.items():
        cells = [f"{fmean(v.values()):.1f} ± {stdev(v.values()):.1f}" for v in found.values()]
        wrong = ", ".join(f"{low} < {high}" for low, high in misplaced(found, pairs)) or "none"
        bold = f"**{name}**" if name == chosen else name
        rows.append(f"| {bold} | {' | '.join(cells)} | {spread(found):.2f} | {wrong} |")
    told = ", ".join(f"{low} < {high}" for low, high in pairs) or "none"
    return "\n".join(
        [*rows, "", f"Pairs that the reference tells apart: {told}. Chosen: {chosen or 'none'}."]
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("train", "choose"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipe", choices=list(RECIPES), action="append")
    parser.add_argument("--jobs", type=int)
    arguments = parser.parse_args()
    if arguments.what == "train":
        train(arguments.folder, arguments.recipe or list(RECIPES), arguments.jobs)
    else:
        print(table(read_errors(arguments.folder)))


if __name__ == "__main__":
    main()
