"""What trials of conversions gave, over seeds."""

import json
from dataclasses import asdict

import pytest

from groupnorm.study.conversions.trial import FITTED, Trial
from groupnorm.study.results.conversions import (
    against,
    group_columns,
    groups_name,
    mean_share,
    score,
    score_name,
    trial_files,
)
from groupnorm.study.results.rows import load_study, summarize_study
from groupnorm.study.store import StoreError, read_manifest
from groupnorm.training.metric import CLASSIFICATION, SEGMENTATION, Metric
from tests.study.fake_conversions import FIT, conversion_study, spoil_trial
from tests.study.fake_store import add_to_manifest

EIGHT = "gn:groups=8"


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return load_study(conversion_study(tmp_path_factory.mktemp("conversions"))).conversions


def test_what_is_kept_is_a_share_of_the_teacher_of_the_same_seed(networks):
    first, _ = networks
    fit = first.found("fit", EIGHT)
    assert fit.scores == pytest.approx({0: 78.4, 1: 78.9})
    assert fit.kept == pytest.approx({0: 98.0, 1: 100 * 78.9 / 80.5})
    assert first.teacher.kept == {0: 100.0, 1: 100.0}
    assert against(fit, first.teacher).mean == pytest.approx(-1.6)


def test_the_grid_has_fixed_groups_first_and_no_parts_images_or_steps(networks):
    first, _ = networks
    columns = group_columns(networks)
    assert columns == ["gn:groups=1", EIGHT, "gn:size=1", "gn:groups=32", FITTED]
    assert [groups_name(to) for to in columns] == ["1", "8", "one-channel", "up to 32", "fitted"]
    assert {one.trial.method for one in first.grid} == {
        "reset", "copy", "data-free", "least squares", "fit"
    }  # fmt: skip
    assert len(first.grid) == 2 * 4 + 3 * 5
    assert [one.trial.images for one in first.by_images(EIGHT)] == [4, 16]
    assert len(first.without_parts(EIGHT)) == 6


def test_the_rate_of_a_start_is_the_better_one_on_the_images_held_out(networks):
    first, second = networks
    found = first.fine_tuned()
    assert len(found) == 7
    assert {start.rate for start in found} == {1e-3}
    for mine in found.values():
        assert [one.trial.steps for one in mine] == [10, 100]
    assert [(s.method, s.target) for s in second.fine_tuned()] == [("fit", "distillation")]


def test_the_test_images_have_no_part_in_the_choice_of_the_rate(tmp_path):
    out = conversion_study(tmp_path)
    for path in out.glob("runs/*/trials/*.json"):
        record = json.loads(path.read_text())
        if record["trial"]["rate"] == 1e-2:
            record["result"]["held_out"] = 1.0
        elif record["trial"]["rate"]:
            record["result"]["value"] = 0.0
        path.write_text(json.dumps(record))
    first, _ = load_study(out).conversions
    assert {start.rate for start in first.fine_tuned()} == {1e-2}


def test_the_mean_over_networks_is_taken_seed_by_seed(networks):
    found = mean_share(networks, "fit", EIGHT)
    kept = [network.found("fit", EIGHT).kept for network in networks]
    assert found.seeds == 2
    assert found.mean == pytest.approx(sum(sum(one.values()) for one in kept) / 4)
    assert mean_share(networks, "fit", "gn:groups=3") is None


def test_a_failed_seed_enters_no_number(tmp_path):
    out = conversion_study(tmp_path)
    spoil_trial(out)
    first, _ = load_study(out).conversions
    one = first.outcomes[FIT]
    assert (one.asked, list(one.scores), one.failures) == (2, [1], {0: "ValueError: made up"})
    assert one.share.seeds == 1


def test_a_share_needs_the_teacher_of_the_seed(tmp_path):
    out = conversion_study(tmp_path)
    spoil_trial(out, Trial("teacher"))
    first, _ = load_study(out).conversions
    assert list(first.outcomes[FIT].kept) == [1]
    assert list(first.outcomes[FIT].scores) == [0, 1]


def test_more_is_better_of_every_score():
    assert score(CLASSIFICATION[0], 20.0) == 80.0
    assert score_name(CLASSIFICATION[0]) == "accuracy"
    iou = Metric("mean_iou", "%", "higher", "mean IoU")
    assert (score(iou, 60.0), score_name(iou)) == (60.0, "mean IoU")


def test_a_network_of_another_task_has_its_own_metric(tmp_path):
    """Its result stands in a column of its own, and its score is that metric."""
    out = conversion_study(tmp_path, seeds=1)
    folder = out / "runs" / "network1-s0"
    env = json.loads((folder / "env.json").read_text())
    env["metrics"] = [asdict(metric) for metric in SEGMENTATION]
    (folder / "env.json").write_text(json.dumps(env))
    rows = [{"epoch": epoch, "val_mean_iou": 61.0} for epoch in range(1, 9)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    add_to_manifest(out, also=[asdict(SEGMENTATION[0])])
    study = load_study(out)
    first, second = summarize_study(study)
    assert (first.status, second.status) == ("finished", "finished")
    assert (second.results, second.further["val_mean_iou"]) == ({}, {0: 61.0})
    assert first.results
    assert (study.conversions[0].score_name, study.conversions[1].score_name) == (
        "accuracy", "mean IoU"
    )  # fmt: skip
    value = study.conversions[1].teacher.results[0]["value"]
    assert study.conversions[1].teacher.scores == {0: value}


def test_the_files_are_those_that_the_study_shows(tmp_path):
    out = conversion_study(tmp_path)
    manifest = read_manifest(out)
    every = set(out.glob("runs/*/trials/*.json"))
    assert set(trial_files(out, manifest)) == every
    manifest["conversions"]["ResNet-20, made up"]["trials"] = []
    assert set(trial_files(out, manifest)) == {p for p in every if "network1" in str(p)}


def test_a_manifest_with_what_is_no_trial_is_refused(tmp_path):
    out = conversion_study(tmp_path)
    manifest = json.loads((out / "study.json").read_text())
    manifest["conversions"]["MobileNet, made up"]["trials"][0]["method"] = "magic"
    (out / "study.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=r"study\.json has a trial that is none: unknown"):
        load_study(out)
