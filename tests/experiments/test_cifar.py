"""The comparisons on CIFAR-10: their plans, their two figures beside the published ones, and the
whole path from the official archive, of which a miniature stands in, to the report."""

import json
import subprocess
from functools import cache
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from groupnorm.cost.flops import count_flops
from groupnorm.experiments import EXPERIMENTS, Options, build, study_plan
from groupnorm.models import build_model
from groupnorm.spec import NormSpec
from groupnorm.study.report.figures import build_figures
from groupnorm.study.report.tables import main_table_of, main_title_of
from groupnorm.study.results import published
from groupnorm.study.results.compare import compare_published, find
from groupnorm.study.results.rows import load_study, summarize_study
from groupnorm.study.store import run_folder, to_json, write_metrics
from tests.cli.commands import command, typed
from tests.data.sets.cifar_miniature import accepting, write_archive

ROOT = Path(__file__).parents[2]
BY_BATCH = "cifar10-resnet56-batch-size-one-worker"
BY_GROUPS = "cifar10-resnet56-groups-one-worker"
OF_CIFAR = [name for name in EXPERIMENTS if name.startswith("cifar10-")]


@cache
def training_flops(model):
    """Of a step on one image; on tensors without memory nothing is computed."""
    with torch.device("meta"):
        network = build_model(model, norm="gn:groups=8", num_classes=10, in_channels=3)
        return count_flops(network, torch.empty(1, 3, 32, 32)).training


def made_up(out, name):
    """A finished study of CIFAR-10 whose last epoch is no epoch to report alone."""
    plan = study_plan(name, Options(seeds=1, epochs=7))
    for run, config in plan.configs.items():
        folder = run_folder(out, run)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(to_json(config.model_dump()))
        errors = [90, 50, 12, 10, 11, 9, 30]
        write_metrics(folder, [{"epoch": e, "val_error": x} for e, x in enumerate(errors, 1)])
        (folder / "DONE").write_text(to_json({"status": "finished", "reason": None}))
    manifest = {
        "format": 1, "study": name, "title": plan.title, "command": "", "protocol": plan.protocol,
        "scale": plan.scale, "data": {"name": "cifar10", "train": 50_000, "test": 10_000},
        "options": plan.options, "cells": [vars(cell) for cell in plan.cells], "skipped": [],
        "versions": {}, "shows": plan.shows, "published": list(plan.published),
    }  # fmt: skip
    (out / "study.json").write_text(to_json(manifest))
    study = load_study(out)
    return study, summarize_study(study)


def drawn(figure):
    found = []
    for panel in figure.panels:
        ax = Figure().add_subplot()
        panel.draw(ax)
        found.append(ax)
    return found


def texts(ax):
    return [text.get_text() for text in ax.texts]


@pytest.mark.parametrize("name", OF_CIFAR)
def test_the_plan_is_the_papers_network_schedule_and_rule(name):
    configs = study_plan(name).configs.values()
    assert {c.model for c in configs} == {"resnet56" if "56" in name else "resnet110"}
    assert {(c.epochs, c.schedule, c.reported_epochs) for c in configs} == {(100, "step", 5)}
    assert {(c.zero_gamma, c.size_schedule, c.evaluate_every) for c in configs} == {(True, (), 1)}
    assert {(c.momentum, c.weight_decay, c.train_images) for c in configs} == {(0.9, 1e-4, None)}


def test_one_worker_is_the_recipe_of_the_published_project():
    configs = study_plan(BY_BATCH).configs.values()
    assert {(c.workers, c.shortcut, c.nesterov) for c in configs} == {(1, "B", False)}
    assert {c.batch_per_worker for c in configs} == {256, 128, 64, 32, 16, 8}
    assert {str(c.norm) for c in configs} == {
        "bn", "gn:groups=16", "ln", "in", "in:affine=false"
    }  # fmt: skip
    paper = study_plan("cifar10-resnet56-batch-size").configs.values()
    assert {(c.workers, c.shortcut, c.nesterov) for c in paper} == {(8, "A", True)}


def test_figure_1_has_the_published_curves_under_their_right_names(tmp_path):
    study, rows = made_up(tmp_path, BY_BATCH)
    figure = build_figures(study, rows)[0]
    assert figure.name == "error-by-batch"
    ours, theirs = drawn(figure)
    named = [line.get_label() for line in ours.get_lines() if line.get_label()[0] != "_"]
    assert named == ["bn", "gn:groups=16", "ln", "in", "in:affine=false"]
    assert sorted(texts(theirs)) == ["BN", "GN", "IN", "in:affine=false"], "no LN: it had none"
    lines = {tuple(line.get_ydata()) for line in theirs.get_lines()}
    assert (7.4, 7.3, 7.3, 7.5, 6.6, 7.2) in lines
    assert "labels are put right" in published.load("cifar10-resnet56-batch-size").note


def test_figure_2_calls_one_group_layer_norm(tmp_path):
    study, rows = made_up(tmp_path, BY_GROUPS)
    figure = build_figures(study, rows)[0]
    _, by_size, theirs = drawn(figure)
    ticks = [text.get_text() for text in theirs.get_xticklabels()]
    assert ticks == ["16", "8", "4", "2", "1\n(LN)"]
    assert [text.get_text() for text in by_size.get_xticklabels()][-1] == "1\n(IN)"
    (line,) = theirs.get_lines()
    assert list(line.get_ydata()) == [9.5, 9.9, 10.3, 11.2, 12.3]
    assert "the report calls it instance norm" in published.load("cifar10-resnet56-groups").note


def test_the_error_is_the_median_of_the_last_five_epochs(tmp_path):
    study, rows = made_up(tmp_path, BY_GROUPS)
    assert {row.mean for row in rows} == {11.0}
    assert main_table_of(study, rows)[1][0][-1] == "11.0"
    assert "median of the last 5 of 7 epochs" in main_title_of(study, rows)


def test_beside_the_published_numbers_each_norm_has_its_own(tmp_path):
    study, rows = made_up(tmp_path, BY_BATCH)
    project, he = compare_published(study, rows)
    at_32 = {line[0]: line[2] for line in project.lines if ", 32 images" in line[0]}
    assert at_32 == {
        "bn, 32 images per worker": "7.5",
        "gn:groups=16, 32 images per worker": "9.5",
        "in, 32 images per worker": "9.2",
        "in:affine=false, 32 images per worker": "10.2",
    }
    assert "Model and data are those of this study" in project.words
    assert {line[2] for line in he.lines} == {"6.97"}


def test_the_published_order_at_32_images():
    """BN < IN < GN with 16 groups < IN without scale and shift < LN: not ImageNet's order."""
    table, groups = (
        published.load(f"cifar10-resnet56-{name}") for name in ("batch-size", "groups")
    )
    norms = ("bn", "in", "gn:groups=16", "in:affine=false")
    errors = [find(table, norm=norm, batch_per_worker=32).result for norm in norms]
    errors.append(find(groups, norm="gn:groups=1", division="groups", value=1).result)
    assert errors == [7.5, 9.2, 9.5, 10.2, 12.3]
    sixteen = find(groups, norm="gn:groups=16", division="groups", value=16)
    assert sixteen.result == errors[2], "both tables hold this run"


def test_instance_norm_without_scale_has_no_gamma_to_begin_at_zero():
    assert not NormSpec.parse("in:affine=false").affine
    assert build("cifar10-resnet56-batch-size").variants[0].config.zero_gamma


@pytest.mark.parametrize("name", OF_CIFAR)
def test_the_expected_time_says_what_it_rests_on(name):
    time = build(name).time
    assert "on two cores" in time
    assert "not measured" in time
    assert "GPU" in time


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_CIFAR)
def test_the_expected_time_follows_from_the_record_of_resnet8(name):
    time = build(name).time
    (record,) = ROOT.glob("results/bench-training-*/bench_training.json")
    (speed,) = (
        1000 * row["images"] / row["milliseconds"]
        for row in json.loads(record.read_text())["rows"]
        if (row["network"], row["way"], row["layout"], row["memory"])
        == ("ResNet-8", "native", "channels_last", "kept")
    )
    depth = "resnet56" if "56" in name else "resnet110"
    seconds = 1000 / speed * training_flops(depth) / training_flops("resnet8")
    assert f" {seconds:.1f} s for 1,000 training images" in time
    runs = len(study_plan(name).configs)
    days = runs * 100 * (50 + 10 / 3) * round(seconds, 1) / 3600 / 2 / 24
    assert f"about {days:.0f} days" in time
    assert f"{days:.0f} |" in (ROOT / "docs" / "recipes.md").read_text()


def test_an_archive_with_other_images_is_refused_in_words(tmp_path):
    write_archive(tmp_path / "data")
    done = typed(
        "study", BY_GROUPS, "scale=smoke", "data=cifar10", "--data-root", tmp_path / "data",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert "data_batch_1 in" in done.stderr
    assert "md5 c99cafc1" in done.stderr
    assert "Get it with" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "runs", "figure"),
    [(BY_BATCH, 10, "error-by-batch"), (BY_GROUPS, 4, "error-by-groups")],
)
def test_from_the_archive_to_the_report(tmp_path, name, runs, figure):
    write_archive(tmp_path / "data")
    done = subprocess.run(
        [command(), "study", name, "scale=smoke", "data=cifar10", "--data-root", "data",
         "--out", "out"],
        cwd=tmp_path, env=accepting(tmp_path / "python"), capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    out = tmp_path / "out"
    manifest = json.loads((out / "study.json").read_text())
    assert manifest["data"] == {
        "name": "cifar10", "version": "1", "train": 200, "test": 40, "classes": 10
    }  # fmt: skip
    study = load_study(out)
    assert len(study.records) == runs
    assert {r.status for r in study.records.values()} == {"finished"}
    assert {r.config["model"] for r in study.records.values()} == {"resnet56"}
    assert (out / "figures" / f"{figure}.svg").stat().st_size > 10_000
    text = (out / "report.html").read_text()
    assert "CharlesJWC/GroupNorm-pytorch" in text
    assert "smoke scale: nothing is learned" in text
