"""The pass that times the configurations of a study: what it times, and when."""

import dataclasses
import json

import pytest
import torch
from rich.console import Console

from groupnorm.experiments import Options, study_plan
from groupnorm.study import cost_pass, execute
from groupnorm.study.cost_pass import measure_costs, same_step, skip_costs
from groupnorm.study.results.costs import how_timed, read_cost_pass
from groupnorm.study.runners.local import available_cores
from groupnorm.study.runners.ray.connection import Cluster
from groupnorm.training.config import RunConfig, SegmentationConfig
from tests.study.fake_store import fake_metrics, spoil, write_run


def config(norm="gn", **changes):
    fields = {"workers": 2, "batch_per_worker": 8, "epochs": 1, "width": 0.5, **changes}
    return RunConfig(model="resnet8", data="digits", norm=norm, **fields)


def study_of(out, configs):
    found = {one.run_name(): one for one in configs}
    for name, one in found.items():
        write_run(out, name, one.model_dump(), fake_metrics(str(one.norm), 8, one.seed, epochs=1))
    return found


@pytest.fixture
def turns(monkeypatch):
    """Every call's steps; nothing is timed."""
    calls = []

    def fake(steps):
        calls.append((steps, torch.get_num_threads()))
        values = {"images": 16, "forward_ms_per_image": 1.0, "backward_ms_per_image": 2.0,
                  "spread": 0.1, "norm_share": 0.2}  # fmt: skip
        return 6, {name: dict(values) for name in steps}

    monkeypatch.setattr(cost_pass, "time_in_turns", fake)
    return calls


def test_runs_of_the_same_step_are_one_configuration():
    """Seed, length and learning rate change no step; the images whose statistics belong
    together do, for norms that have any."""
    runs = {
        "gn": config(), "gn-seed": config(seed=1), "gn-lr": config(base_lr=0.3, epochs=3),
        "gn-split": config(workers=1, batch_per_worker=16), "gn-more": config(workers=4),
        "bn-8": config("bn"), "bn-2": config("bn", workers=8, batch_per_worker=2),
    }  # fmt: skip
    assert same_step(runs) == [
        ["gn", "gn-seed", "gn-lr", "gn-split"], ["gn-more"], ["bn-8"], ["bn-2"]
    ]  # fmt: skip


def test_every_configuration_is_timed_once_in_one_pass_with_a_trials_threads(tmp_path, turns):
    configs = study_of(tmp_path, [config(), config(seed=1), config("bn"), config("bn", seed=1)])
    threads, messages = torch.get_num_threads(), []
    measure_costs(tmp_path, configs, threads=threads + 1, on_message=messages.append)
    assert messages == ["timing a training step of 2 configurations in turns"]
    ((steps, used),) = turns
    gn, bn = steps.values()
    assert used == threads + 1
    assert torch.get_num_threads() == threads
    assert gn.images.shape == (16, 1, 8, 8)
    assert torch.equal(gn.images, bn.images)
    found = read_cost_pass(tmp_path)
    assert (found.rounds, found.environment["threads"]) == (6, threads + 1)
    assert found.environment["device"] == "cpu"
    assert found.times.keys() == configs.keys()
    measure_costs(tmp_path, configs, threads=1, on_message=messages.append)
    assert (len(turns), len(messages)) == (1, 1)  # what is there is not measured again


def test_only_what_is_finished_is_timed_and_with_more_runs_all_are_timed_anew(tmp_path, turns):
    configs = study_of(tmp_path, [config(), config("bn")])
    gn, bn = configs
    folder = tmp_path / "runs" / bn
    spoil(folder, "failed", "killed", epochs=1)
    measure_costs(tmp_path, configs, threads=1)
    assert list(turns[-1][0]) == [gn]
    (folder / "FAILED").unlink()
    (folder / "DONE").write_text(json.dumps({"status": "finished", "reason": None}))
    measure_costs(tmp_path, configs, threads=1)
    assert list(turns[-1][0]) == [gn, bn]
    measured = json.loads((tmp_path / "cost.json").read_text())
    for spread, calls in ((0.25, 2), (0.26, 3)):  # too wide a spread: they are timed anew
        measured["configurations"][1]["spread"] = spread
        (tmp_path / "cost.json").write_text(json.dumps(measured))
        measure_costs(tmp_path, configs, threads=1)
        assert len(turns) == calls


def converting(**changes):
    return SegmentationConfig(
        epochs=1, workers=1, batch_per_worker=2, norms={"encoder": "gn"},
        init="bn-1x32-s0-52d863f086", init_norms="convert", **changes,
    )  # fmt: skip


def test_a_converted_network_is_not_timed_and_the_report_says_so(tmp_path, turns):
    """Built without the weights that it starts from, it would be timed as batch norm."""
    others, both = [converting(), converting(seed=1)], config()
    write_run(tmp_path, both.run_name(), both.model_dump(), fake_metrics("gn", 8, 0, epochs=1))
    configs = {both.run_name(): both}
    for one in others:
        configs |= {one.run_name(): one}
        write_run(tmp_path, one.run_name(), one.model_dump(), fake_metrics("gn", 8, 0, epochs=1))
    measure_costs(tmp_path, configs, threads=1)
    assert list(turns[-1][0]) == [both.run_name()]
    told = "Of 1 configuration the step is not timed: its norms are converted with the weights"
    assert told in how_timed(read_cost_pass(tmp_path))
    measure_costs(tmp_path, configs, threads=1)
    assert len(turns) == 1


def test_where_all_networks_are_converted_nothing_is_timed(tmp_path, turns):
    one = converting()
    write_run(tmp_path, one.run_name(), one.model_dump(), fake_metrics("gn", 8, 0, epochs=1))
    measure_costs(tmp_path, {one.run_name(): one}, threads=1)
    assert turns == []
    assert "Times are not compared: its norms are conv" in how_timed(read_cost_pass(tmp_path))


@pytest.mark.parametrize(
    ("error", "words"),
    [(RuntimeError("out of memory\nand more"), "out of memory"), (MemoryError(), "MemoryError")],
)
def test_what_prevents_the_measurement_is_recorded_and_costs_no_run(
    tmp_path, monkeypatch, error, words
):
    configs = study_of(tmp_path, [config()])

    def fail(steps):
        raise error

    monkeypatch.setattr(cost_pass, "time_in_turns", fail)
    messages = []
    measure_costs(tmp_path, configs, threads=1, on_message=messages.append)
    assert read_cost_pass(tmp_path).reason == f"the measurement failed: {words}"
    assert f"no times can be compared: the measurement failed: {words}" in messages


def test_times_that_are_there_are_kept_when_nothing_can_be_timed(tmp_path, turns):
    skip_costs(tmp_path, "the trials ran on the nodes of a cluster")
    assert read_cost_pass(tmp_path).reason == "the trials ran on the nodes of a cluster"
    configs = study_of(tmp_path, [config()])
    measure_costs(tmp_path, configs, threads=1)
    skip_costs(tmp_path, "the trials ran on the nodes of a cluster")
    assert read_cost_pass(tmp_path).reason is None
    assert len(turns) == 1


def test_a_study_times_after_its_trials_but_not_on_a_cluster_nor_at_the_smoke_scale(
    tmp_path, monkeypatch
):
    calls = []
    plan = study_plan("batch-size", Options(data="digits", epochs=1, norms=("gn:groups=4",)))
    for name in ("check_ray", "check_device", "check_gpus"):
        monkeypatch.setattr(execute, name, lambda *_, **__: None)
    for name in ("run_trials", "run_trials_on_cluster", "measure_costs"):

        def called(out, configs, *_, name=name, **options):
            calls.append((name, options.get("threads")))
            return []

        monkeypatch.setattr(execute, name, called)
    monkeypatch.setattr(execute, "build_report", lambda out: out)
    console = Console(quiet=True)
    execute.run_study(plan, tmp_path / "local", jobs=1, console=console)
    cores = available_cores()
    assert calls == [("run_trials", cores), ("measure_costs", cores)]
    execute.run_study(plan, tmp_path / "cluster", console=console, cluster=Cluster("local", 1, 0))
    smoke = dataclasses.replace(plan, untimed="the smoke scale measures nothing")
    execute.run_study(smoke, tmp_path / "smoke", console=console)
    assert [name for name, _ in calls[2:]] == ["run_trials_on_cluster", "run_trials"]
    assert read_cost_pass(tmp_path / "cluster").reason == "the trials ran on the nodes of a cluster"
    assert read_cost_pass(tmp_path / "smoke").reason == "the smoke scale measures nothing"
