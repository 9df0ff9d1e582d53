"""Tuned studies: what is tried and then trained, computed from the folder alone."""

import io
import json

import pytest
from rich.console import Console

from groupnorm.study import execute
from groupnorm.study.execute import run_study
from groupnorm.study.plan import Plan, PlanError, repeat, vary
from groupnorm.study.results.rows import load_study
from groupnorm.study.results.tuning import how_tuned, read_tuning, tuned_briefly
from groupnorm.study.store import read_manifest, read_record, run_folder, to_json, write_metrics
from groupnorm.study.tuning import TUNABLE, Tune, tuned_plan
from groupnorm.training.config import RunConfig

BASE = RunConfig(
    model="resnet8", data="digits", width=0.25, epochs=6, workers=1, batch_per_worker=32
)
BEST = {"bn": 0.1, "gn:groups=4": 0.4}
RATES = Tune("base_lr", (0.1, 0.2, 0.4))
VALIDATION = 143  # one in ten of the 1,437 training images of digits


def plan_of(norms=tuple(BEST), seeds=2, tune=RATES, validation_images=None, base=BASE):
    labelled = tuple(({"norm": n, "batch_per_worker": 32}, vary(base, norm=n)) for n in norms)
    cells, configs = repeat(labelled, seeds)
    plan = Plan(
        "norms", "Norms", "paper", "quick", {}, cells, configs, "norms", (), untimed="not here"
    )
    return tuned_plan(plan, labelled, range(seeds), tune, validation_images)


class Trials:
    """In place of the runner: what it was given, and runs that are made up at once."""

    def __init__(self):
        self.stages = []
        self.fail = self.diverge = lambda config: False

    def __call__(self, out, configs, progress, **_):
        self.stages.append(list(configs.values()))
        for name, config in configs.items():
            folder = run_folder(out, name)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "FAILED").unlink(missing_ok=True)
            (folder / "config.json").write_text(to_json(config.model_dump()))
            if self.fail(config):
                (folder / "FAILED").write_text(to_json({"reason": "made up"}))
                continue
            error = 10.0 + 20 * abs(config.base_lr - BEST[str(config.norm)])
            write_metrics(folder, [{"epoch": e, "val_error": error} for e in range(1, 7)])
            status = "diverged" if self.diverge(config) else "finished"
            (folder / "DONE").write_text(to_json({"status": status, "reason": None}))
        return [read_record(out, name) for name in configs]


@pytest.fixture
def trials(monkeypatch):
    found = Trials()
    monkeypatch.setattr(execute, "run_trials", found)
    monkeypatch.setattr(execute, "build_report", lambda out: out / "report.html")
    return found


def study(plan, out):
    console = Console(file=io.StringIO(), width=200)
    run_study(plan, out, console=console)
    return console.file.getvalue()


def told(configs):
    """Norm, learning rate, seed and validation images of runs."""
    return sorted((str(c.norm), c.base_lr, c.seed, c.validation_images) for c in configs)


TRIED = sorted((norm, rate, 0, VALIDATION) for norm in BEST for rate in RATES.values)
CHOSEN = sorted((norm, rate, seed, None) for norm, rate in BEST.items() for seed in (0, 1))


def test_every_value_is_tried_with_the_first_seed_and_the_best_trained_with_all(trials, tmp_path):
    said = study(plan_of(), tmp_path)
    assert list(map(told, trials.stages)) == [TRIED, CHOSEN]
    assert "trying values of base_lr: 6 runs: 0 reused, 0 continued, 6 to train" in said
    assert "with the base_lr chosen: 4 runs: 0 reused" in said
    manifest = read_manifest(tmp_path)
    assert manifest["tuned_over"] == "base_lr"
    assert manifest["tuning"]["validation_images"] == VALIDATION
    assert len(manifest["tuning"]["cells"]) == 6
    assert [(c["labels"], c["seed"]) for c in manifest["cells"]] == [
        ({"norm": norm, "batch_per_worker": 32, "base_lr": rate}, seed)
        for norm, rate in BEST.items()
        for seed in (0, 1)
    ]


def test_runs_of_the_tables_have_all_images_and_the_names_of_runs_that_were_never_tuned(tmp_path):
    plan = plan_of(seeds=1)
    stages = plan.next_stage.__self__
    (bn, *_), _ = stages.tried({"name": "digits", "train": 1437, "classes": 10})
    assert bn.labels["base_lr"] == BASE.base_lr
    assert bn.run not in plan.configs
    assert vary(BASE, norm="bn").run_name() in plan.configs


def test_a_finished_study_trains_nothing_and_keeps_its_tables(trials, tmp_path):
    study(plan_of(), tmp_path)
    before = (tmp_path / "study.json").read_text()
    study(plan_of(), tmp_path)
    assert len(trials.stages) == 2
    assert (tmp_path / "study.json").read_text() == before


def test_more_seeds_and_norms_tune_nothing_again(trials, tmp_path):
    study(plan_of(norms=("bn",), seeds=1), tmp_path)
    study(plan_of(norms=("bn",), seeds=3), tmp_path)
    assert [len(stage) for stage in trials.stages] == [3, 1, 3], "two of the three are new"
    said = study(plan_of(), tmp_path)
    assert "6 runs: 3 reused, 0 continued, 3 to train" in said
    assert told(trials.stages[3]) == TRIED


def test_another_value_is_tried_beside_those_that_were(trials, tmp_path):
    study(plan_of(norms=("bn",), tune=Tune("base_lr", (0.2, 0.4))), tmp_path)
    assert read_manifest(tmp_path)["cells"][0]["labels"]["base_lr"] == 0.2
    said = study(plan_of(norms=("bn",)), tmp_path)
    assert "3 runs: 2 reused, 0 continued, 1 to train" in said
    assert read_manifest(tmp_path)["cells"][0]["labels"]["base_lr"] == 0.1


def test_while_another_value_is_tried_the_tables_stay_those_of_the_values_before(trials, tmp_path):
    study(plan_of(tune=Tune("base_lr", (0.2, 0.4))), tmp_path)
    before = read_manifest(tmp_path)["cells"]
    trials.fail = lambda config: config.base_lr == 0.1
    study(plan_of(), tmp_path)
    assert read_manifest(tmp_path)["cells"] == before
    assert len(read_manifest(tmp_path)["tuning"]["cells"]) == 6
    read = load_study(tmp_path)
    tuning = read_tuning(tmp_path, read)
    assert tuned_briefly(tuning).endswith(
        "For 2 configurations none is chosen yet. The tables show the base_lr that was "
        "chosen before, among other values, for bn, 32 images per worker (0.2); gn:groups=4, 32 "
        "images per worker (0.4). The same command goes on with the choice."
    )
    assert how_tuned(tuning)[-2].startswith("The tables show the base_lr that was chosen")
    study(plan_of(norms=("bn",)), tmp_path)
    assert {cell["labels"]["norm"] for cell in read_manifest(tmp_path)["cells"]} == {"bn"}
    trials.fail = lambda config: False
    study(plan_of(), tmp_path)
    assert {c["labels"]["base_lr"] for c in read_manifest(tmp_path)["cells"]} == {0.1, 0.4}
    assert read_tuning(tmp_path, load_study(tmp_path)).earlier == []


def test_a_study_that_was_not_tuned_leaves_nothing_in_the_tables_of_a_tuned_one(trials, tmp_path):
    study(plan_of(), tmp_path)
    trials.fail = lambda config: config.momentum == 0.5
    study(plan_of(tune=Tune("momentum", (0.5, 0.9))), tmp_path)
    assert read_manifest(tmp_path)["cells"] == []


def test_a_run_that_fails_while_values_are_tried_ends_the_study(trials, tmp_path):
    trials.fail = lambda config: config.base_lr == 0.2
    study(plan_of(), tmp_path)
    assert list(map(told, trials.stages)) == [TRIED]
    assert read_manifest(tmp_path)["cells"] == []
    trials.fail = lambda config: False
    study(plan_of(), tmp_path)
    assert list(map(told, trials.stages)) == [TRIED, TRIED, CHOSEN]


def test_a_run_of_the_tables_that_fails_leaves_the_others_in_them(trials, tmp_path):
    trials.fail = lambda config: config.validation_images is None and str(config.norm) == "bn"
    study(plan_of(), tmp_path)
    assert len(read_manifest(tmp_path)["cells"]) == 4


def test_a_value_that_diverged_is_not_trained(trials, tmp_path):
    trials.diverge = lambda config: config.base_lr == 0.4 and config.validation_images is not None
    study(plan_of(), tmp_path)
    assert {(norm, rate) for norm, rate, *_ in told(trials.stages[1])} == {
        ("bn", 0.1), ("gn:groups=4", 0.2)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("base", "validation_images", "images", "trained"),
    [
        ({}, None, 143, None),
        ({}, 300, 300, None),
        ({"train_images": 500}, None, 50, 500),
        ({"train_images": 1437}, None, 143, 1294),
        ({"train_images": 64}, None, 10, 64),
    ],
)
def test_how_many_images_are_held_out(base, validation_images, images, trained):
    plan = plan_of(validation_images=validation_images, base=vary(BASE, **base))
    data = {"name": "digits", "train": 1437, "classes": 10}
    assert plan.tuning(data)["validation_images"] == images
    _, configs = plan.next_stage.__self__.tried(data)
    assert {c.train_images for c in configs.values()} == {trained}


def test_holding_out_everything_is_refused(tmp_path):
    with pytest.raises(PlanError, match=r"=1437 leaves nothing to train on of the 1,437 training"):
        study(plan_of(validation_images=1437), tmp_path)
    with pytest.raises(PlanError, match="a step of 1 x 32 images needs more than the 17 training"):
        study(plan_of(validation_images=1420), tmp_path)


@pytest.mark.parametrize("field", TUNABLE)
def test_every_field_that_can_be_tuned_is_one_of_a_run(field, trials, tmp_path):
    tune = Tune(field, (0.25, 0.5))
    study(plan_of(norms=("bn",), seeds=1, tune=tune), tmp_path)
    assert {getattr(config, field) for config in trials.stages[0]} == {0.25, 0.5}
    assert read_manifest(tmp_path)["tuned_over"] == field


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("norm", (1.0, 2.0), "base_lr or weight_decay or .* can be tuned, 'norm' cannot; a norm"),
        ("base_lr", (0.1,), "give two values of base_lr at least, as base_lr=0.1,0.2"),
        ("base_lr", (0.1, 0.2, 0.1), "^0.1 given twice"),
    ],
)
def test_what_cannot_be_tuned(field, values, message):
    with pytest.raises(ValueError, match=message):
        Tune(field, values)


def test_a_value_that_the_field_cannot_have_is_refused_before_anything_is_trained():
    with pytest.raises(PlanError, match="base_lr must be greater than 0, got 0"):
        plan_of(tune=Tune("base_lr", (0.0, 0.1)))


def test_the_manifest_is_what_the_report_reads(trials, tmp_path):
    study(plan_of(), tmp_path)
    manifest = json.loads((tmp_path / "study.json").read_text())
    names = {cell["run"] for cell in manifest["tuning"]["cells"]}
    assert names | {cell["run"] for cell in manifest["cells"]} == {
        path.name for path in (tmp_path / "runs").iterdir()
    }
