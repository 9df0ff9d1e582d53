"""Studies whose later runs depend on the results of earlier ones: stages, order, final cells."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from groupnorm.study import execute
from groupnorm.study.execute import run_study
from groupnorm.study.plan import Plan, PlanError, Stage, repeat, vary
from groupnorm.study.store import (
    Cell,
    read_cells,
    read_manifest,
    read_record,
    run_folder,
    run_is_done,
    to_json,
    write_metrics,
)
from groupnorm.training.config import RunConfig

BASE = RunConfig(
    model="resnet8", data="digits", width=0.25, epochs=9, workers=1, batch_per_worker=32
)
RULES = ("gn:groups=1", "gn:groups=2", "gn:groups=4")
ERRORS = {"gn:groups=1": 30.0, "gn:groups=2": 10.0, "gn:groups=4": 20.0}


class KilledError(Exception):
    pass


def labelled(norms):
    return [({"norm": n, "batch_per_worker": 32}, vary(BASE, norm=n)) for n in norms]


def halving():
    """All three rules for one epoch, the better two for three, then the best one to its end."""
    cells, configs = repeat(labelled(RULES), 1)

    def best(out, count):
        records = [read_record(out, name) for name in configs]
        ranked = sorted(records, key=lambda r: r.metrics[0]["val_error"])
        return {r.name: configs[r.name] for r in ranked[:count]}

    def next_stage(out):
        for count, stop in ((3, 1), (2, 3), (1, None)):
            wanted = configs if count == 3 else best(out, count)
            if not all(run_is_done(read_record(out, name), stop) for name in wanted):
                return Stage(wanted, stop)
        return None

    def final(out):
        (name,) = best(out, 1)
        return [c for c in cells if c.run == name]

    return Plan(
        "search", "Rules", "paper", "quick", {}, cells, configs, "norms", (),
        untimed="nothing is measured", next_stage=next_stage, final_cells=final,
    )  # fmt: skip


@pytest.fixture
def trained(monkeypatch):
    """Every stage given to the runner, as (norms, stop_epoch); its runs are made up at once."""
    stages = []

    def run_trials(out, configs, progress, *, stop_epoch=None, **_):
        stages.append(([str(c.norm) for c in configs.values()], stop_epoch))
        if len(stages) == run_trials.kill:
            raise KilledError
        for name, config in configs.items():
            folder = run_folder(out, name)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "FAILED").unlink(missing_ok=True)
            (folder / "config.json").write_text(to_json(config.model_dump()))
            if str(config.norm) == run_trials.fail:
                (folder / "FAILED").write_text(to_json({"reason": "made up"}))
                continue
            error = ERRORS[str(config.norm)]
            epochs = range(1, (stop_epoch or config.epochs) + 1)
            write_metrics(folder, [{"epoch": e, "val_error": error} for e in epochs])
            if stop_epoch is None:
                (folder / "DONE").write_text(to_json({"status": "finished", "reason": None}))
        return [read_record(out, name) for name in configs]

    run_trials.kill = run_trials.fail = None
    run_trials.stages = stages
    monkeypatch.setattr(execute, "run_trials", run_trials)
    monkeypatch.setattr(execute, "build_report", lambda out: out / "report.html")
    return run_trials


def study(plan, out):
    return watched(plan, out)[0]


def watched(plan, out):
    """The outcome, and what was said on the way."""
    console = Console(file=io.StringIO(), width=200)
    return run_study(plan, out, console=console), console.file.getvalue()


def without_stages():
    cells, configs = repeat(labelled(RULES), 1)
    return Plan(
        "search", "Rules", "paper", "quick", {}, cells, configs, "norms", (), untimed="not here"
    )


ALL = [
    (list(RULES), 1),
    (["gn:groups=2", "gn:groups=4"], 3),
    (["gn:groups=2"], None),
]  # fmt: skip


def test_each_stage_is_computed_from_those_before_it(trained, tmp_path):
    outcome = study(halving(), tmp_path)
    assert trained.stages == ALL
    assert [len(r.metrics) for r in outcome.records] == [1, 9, 3]
    assert [r.status for r in outcome.records] == ["partial", "finished", "partial"]


def test_the_final_cells_are_those_of_the_report(trained, tmp_path):
    study(halving(), tmp_path)
    (cell,) = read_cells(read_manifest(tmp_path))
    assert cell.labels["norm"] == "gn:groups=2"


def test_what_a_study_in_stages_no_longer_shows_is_said(trained, tmp_path):
    plan = halving()
    study(replace(plan, next_stage=None, final_cells=None), tmp_path)
    assert "2 runs of the command before, '': kept in" in watched(plan, tmp_path)[1]
    assert "not shown" not in watched(plan, tmp_path)[1]


def test_a_killed_study_goes_on_with_the_stage_it_was_in(trained, tmp_path):
    trained.kill = 2
    with pytest.raises(KilledError):
        study(halving(), tmp_path)
    trained.kill = None
    study(halving(), tmp_path)
    assert trained.stages == [*ALL[:2], *ALL[1:]]
    study(halving(), tmp_path)
    assert len(trained.stages) == 4, "a finished study trains nothing"
    assert len(read_manifest(tmp_path)["cells"]) == 1


def test_a_failed_run_ends_the_study_before_the_next_stage(trained, tmp_path):
    trained.fail = "gn:groups=4"
    outcome = study(halving(), tmp_path)
    assert trained.stages == ALL[:1]
    assert [r.status for r in outcome.records] == ["partial", "partial", "failed"]
    assert len(read_manifest(tmp_path)["cells"]) == 3
    trained.fail = None
    study(halving(), tmp_path)
    assert trained.stages == [ALL[0], *ALL]


def test_a_stage_that_is_given_again_is_an_error_and_no_endless_loop(trained, tmp_path):
    plan = halving()
    again = Plan(**{**vars(plan), "next_stage": lambda out: Stage(plan.configs, 1)})
    with pytest.raises(RuntimeError, match="the stage that was done is given again"):
        study(again, tmp_path)


def test_what_a_staged_study_no_longer_shows_of_the_folder_is_said(trained, tmp_path):
    study(without_stages(), tmp_path)
    said = io.StringIO()
    run_study(halving(), tmp_path, console=Console(file=said, width=300))
    assert f"2 runs of the command before, '': kept in {tmp_path}, but not shown" in said.getvalue()
    said = io.StringIO()
    run_study(halving(), tmp_path, console=Console(file=said, width=300))
    assert "not shown" not in said.getvalue()


def test_a_plan_without_stages_has_one(trained, tmp_path):
    study(without_stages(), tmp_path)
    assert trained.stages == [(list(RULES), None)]


def test_trials_go_seed_by_seed_the_longest_first_and_tables_keep_their_order(trained, tmp_path):
    many = [
        ({"norm": n, "batch_per_worker": size}, vary(BASE, norm=n, batch_per_worker=size))
        for n, size in (("gn:groups=2", 32), ("bn", 32), ("gn:groups=4", 16), ("bn", 16))
    ]
    cells, configs = repeat(many, 2)
    plan = Plan(
        "norms", "Norms", "paper", "quick", {}, cells, configs, "norms", (), untimed="not here"
    )
    ERRORS["bn"] = 15.0
    study(plan, tmp_path)
    ((norms, _),) = trained.stages
    assert norms == 2 * ["bn", "gn:groups=4", "bn", "gn:groups=2"]
    shown = json.loads((tmp_path / "study.json").read_text())["cells"]
    assert [Cell(**c) for c in shown] == cells


def test_done_up_to_an_epoch(tmp_path):
    folder = run_folder(tmp_path, "x")
    write_metrics(folder, [{"epoch": 1}, {"epoch": 2}])
    record = read_record(tmp_path, "x")
    assert [run_is_done(record, stop) for stop in (1, 2, 3, None)] == [True, True, False, False]
    (folder / "DONE").write_text(to_json({"status": "diverged", "reason": "loss"}))
    assert run_is_done(read_record(tmp_path, "x"), 3)


INIT = vary(BASE, norm="gn:groups=1", epochs=3)


def with_initial(initial, **changes):
    """Two runs that start from the last of `initial`, and one from random weights."""
    start = initial[-1].run_name()
    tuned = [(labels, vary(config, init=start)) for labels, config in labelled(RULES[1:])]
    cells, configs = repeat([*labelled(RULES[1:2]), *tuned], 1)
    return replace(
        without_stages(), cells=cells, configs=configs,
        initial={config.run_name(): config for config in initial}, **changes,
    )  # fmt: skip


def test_the_runs_that_others_start_from_are_trained_first(trained, tmp_path):
    plan = with_initial([INIT])
    said = watched(plan, tmp_path)[1]
    first, second = trained.stages
    assert first == (["gn:groups=1"], None)
    assert sorted(second[0]) == ["gn:groups=2", "gn:groups=2", "gn:groups=4"]
    assert "weights to start from: 1 run: 0 reused, 0 continued, 1 to train" in said
    assert "weights to start from: 1 run: 1 reused" in watched(plan, tmp_path)[1]
    assert INIT.run_name() not in {cell.run for cell in read_cells(read_manifest(tmp_path))}


def test_a_start_may_have_a_start(trained, tmp_path):
    later = vary(INIT, norm="gn:groups=2", init=INIT.run_name())
    study(with_initial([later, INIT, vary(INIT, init=later.run_name())]), tmp_path)
    norms = [norms for norms, _ in trained.stages]
    assert norms[:3] == [["gn:groups=1"], ["gn:groups=2"], ["gn:groups=1"]]


@pytest.mark.parametrize(("stop", "stages"), [(True, 1), (False, 2)])
def test_a_start_that_fails_costs_those_that_need_it(trained, tmp_path, stop, stages):
    trained.fail = "gn:groups=1"
    run_study(with_initial([INIT]), tmp_path, stop_at_first_failure=stop)
    assert len(trained.stages) == stages


def test_a_start_may_have_other_data_which_is_checked_too(trained, tmp_path):
    other = vary(INIT, data="photo-patches")
    study(with_initial([other]), tmp_path)
    assert read_manifest(tmp_path)["data"]["name"] == "digits"
    few = vary(other, train_images=10**6)
    with pytest.raises(PlanError, match=r"from 1000000 needs more than the \d+ .* photo-patches"):
        study(with_initial([few]), tmp_path / "few")


@pytest.mark.slow
def test_a_start_is_trained_once_for_all_that_need_it(tmp_path, monkeypatch):
    """Trained really, and shared with a study that is larger."""
    monkeypatch.setattr(execute, "build_report", lambda out: out / "report.html")
    first = vary(BASE, norm="bn", epochs=1)
    tuned = [
        (labels, vary(config, epochs=1, init=first.run_name()))
        for labels, config in labelled(("frozenbn", "bn"))
    ]
    checkpoint = run_folder(tmp_path, first.run_name()) / "checkpoint.pt"
    written = set()
    for count in (1, 2):
        cells, configs = repeat(tuned[:count], 1)
        plan = replace(
            without_stages(), cells=cells, configs=configs, initial={first.run_name(): first}
        )
        records = study(plan, tmp_path).records
        assert [record.status for record in records] == ["finished"] * (count + 1)
        written.add(checkpoint.stat().st_ino)
    assert len(written) == 1
    assert {record.env["init"]["run"] for record in records[1:]} == {first.run_name()}
