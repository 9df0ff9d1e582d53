"""The stages of a search: every rule for a few epochs, the best ones on, one of them to the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from groupnorm.study.metrics import primary_metric
from groupnorm.study.plan import Plan, Stage, vary
from groupnorm.study.results.halving import first_epochs, reported_epochs, rung_epochs
from groupnorm.study.results.search import RULES, Search, discarded, find
from groupnorm.study.store import Cell, read_initial, read_manifest, read_record, run_is_done
from groupnorm.study.validation import validation_count, with_validation
from groupnorm.training.config import RunConfig

Alternatives = Callable[[RunConfig, str], Sequence[RunConfig]]


@dataclass(frozen=True)
class Rules:
    """What a search chooses from.

    Attributes:
        configs: one configuration for each rule, which differ in their norms alone; those that a
            tie favours come first.
        same: rules that give the same layers as another: by their name that of the other.
        parts: of the network, in the order that a refinement goes through them.
        alternatives: from a configuration and a part to those that differ in the norm of this part.
    """

    configs: tuple[RunConfig, ...]
    same: dict[str, str]
    parts: tuple[str, ...]
    alternatives: Alternatives


def search_plan(
    plan: Plan, rules: Rules, seeds: Sequence[int], validation_images: int | None, *, refine: bool
) -> Plan:
    """`plan` as a search in stages, on validation images.

    Args:
        plan: its title, protocol and options stay.
        seeds: of what is chosen; the first one is that of the rungs.
        validation_images: how many; None for the usual share of the training images
            (`validation_count`).
        refine: try other norms for parts of the network, where the rules differ by enough.
    """
    stages = _Stages(rules, tuple(seeds), validation_images, refine)
    return replace(
        plan,
        cells=[],
        configs={config.run_name(): config for config in rules.configs},
        shows="search",
        search=stages.described,
        prepare=stages.prepare,
        next_stage=stages.next_stage,
        final_cells=stages.cells,
        untimed="a search trains no configuration to its end",
    )


@dataclass(frozen=True)
class _Stages:
    rules: Rules
    seeds: tuple[int, ...]
    validation_images: int | None
    refine: bool

    def described(self, data: dict[str, Any]) -> dict[str, Any]:
        """What `study.json` says of the search; `data` is what it says of the data.

        Raises:
            PlanError: as many images are held out as there are, or more.
        """
        base = self.rules.configs[0]
        assert base.epochs is not None
        rungs = rung_epochs(first_epochs(base.epochs))
        return {
            "full_epochs": base.epochs,
            "rungs": list(rungs),
            "reported_epochs": reported_epochs(rungs[0]),
            "seeds": list(self.seeds),
            "refine": self.refine,
            "parts": list(self.rules.parts),
            "validation_images": validation_count(data, [base], self.validation_images),
            "same": self.rules.same,
        }

    def prepare(self, out: Path, data_root: Path | None) -> str:
        """Look at the untrained networks."""
        from groupnorm.study.initial_pass import look_at_initial  # which needs torch

        held = _Held(read_manifest(out))
        configs = [held.config(config, self.seeds[0]) for config in self.rules.configs]
        done = look_at_initial(out, {config.run_name(): config for config in configs}, data_root)
        gone = discarded(read_initial(out))
        why = "".join(f"; discarded {norm}: {reason}" for norm, reason in gone.items())
        return f"{done}{why or '; none discarded'}"

    def next_stage(self, out: Path) -> Stage | None:
        """The first rung or step that is not done yet."""
        held, search, known = self._read(out)
        end = search.settings["rungs"][-1]
        stages: list[tuple[str, int, list[tuple[str, int]]]] = [
            (
                f"rung {number}",
                rung.epochs,
                [(norm, seed) for norm in rung.asked for seed in self._seeds(search, norm, number)],
            )
            for number, rung in enumerate(search.rungs, 1)
        ]
        for step in search.steps:
            trials = [(norm, self.seeds[0]) for norm in step.asked]
            stages.append((f"other norms of {step.part}", end, trials))
        if search.refined is not None:
            refined = [(search.refined, seed) for seed in self.seeds]
            stages.append(("other seeds of the refined norms", end, refined))
        for about, epochs, trials in stages:
            configs = [held.config(known[norm], seed) for norm, seed in trials]
            runs = {config.run_name(): config for config in configs}
            if not all(run_is_done(read_record(out, name), epochs) for name in runs):
                return Stage(runs, epochs, self.cells(out), about)
        return None

    def _seeds(self, search: Search, norm: str, number: int) -> tuple[int, ...]:
        """All seeds of the one rule of the last rung, the first seed of any other."""
        last = number == len(search.settings["rungs"])
        return self.seeds if last else self.seeds[:1]

    def cells(self, out: Path) -> list[Cell]:
        """A cell for every run that was asked for so far."""
        held, search, known = self._read(out)
        found = [(norm, RULES, self.seeds[0]) for norm in search.rungs[0].asked]
        last = search.rungs[-1]
        if len(search.rungs) == len(search.settings["rungs"]):
            found += [(norm, RULES, seed) for norm in last.asked for seed in self.seeds[1:]]
        part_of = {norm: step.part for step in search.steps for norm in step.asked}
        found += [(norm, part, self.seeds[0]) for norm, part in part_of.items()]
        if (norm := search.refined) is not None:
            found += [(norm, part_of[norm], seed) for seed in self.seeds[1:]]
        cells = []
        for norm, step, seed in found:
            config = held.config(known[norm], seed)
            labels = {"norm": norm, "batch_per_worker": config.batch_per_worker, "step": step}
            cells.append(Cell(labels, seed, config.run_name()))
        return cells

    def _read(self, out: Path) -> tuple[_Held, Search, dict[str, RunConfig]]:
        """The search so far, and the configuration of every norm that it knows."""
        manifest = read_manifest(out)
        held, gone = _Held(manifest), discarded(read_initial(out))
        known = {config.norm_text: config for config in self.rules.configs}
        rules = [norm for norm in known if norm not in gone]

        def alternatives(part: str, norm: str) -> list[str]:
            configs = {c.norm_text: c for c in self.rules.alternatives(known[norm], part)}
            known.update(configs)
            return list(configs)

        search = find(
            manifest["search"],
            rules,
            lambda norm: read_record(out, held.config(known[norm], self.seeds[0]).run_name()),
            alternatives,
            primary_metric(manifest),
        )
        return held, search, known


@dataclass(frozen=True)
class _Held:
    """How a run of the search differs from the configuration of its rule."""

    manifest: dict[str, Any]

    def config(self, config: RunConfig, seed: int) -> RunConfig:
        """The run of a rule: with images held out, all of its images as large as they are."""
        search = self.manifest["search"]
        fields = with_validation(config, self.manifest["data"], search["validation_images"])
        return vary(
            config,
            seed=seed,
            **fields,
            reported_epochs=search["reported_epochs"],
            evaluate_every=1,
            size_schedule=(),
        )
