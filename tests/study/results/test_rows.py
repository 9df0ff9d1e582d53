"""Rows of a study: the paper's median, mean and spread over seeds, and what became of each seed."""

import math

import pytest

from groupnorm.study.results.estimates import estimate
from groupnorm.study.results.rows import final_result, load_study, summarize, summarize_study
from groupnorm.study.store import StoreError, write_metrics
from tests.study.fake_store import (
    EPOCHS,
    ERROR,
    batch_study,
    configured,
    fake_metrics,
    groups_study,
    spoil,
)


def metrics(*errors):
    return [{"val_error": error} for error in errors]


def row_of(rows, norm, batch):
    return next(r for r in rows if r.labels == {"norm": norm, "batch_per_worker": batch})


def test_final_error_is_the_median_of_the_last_epochs():
    rows = metrics(90.0, 1.0, 30.0, 10.0, 50.0, 20.0, 40.0)
    assert final_result(rows, ERROR, last=5) == 30.0
    assert final_result(rows, ERROR, last=1) == 40.0


def test_final_error_of_a_short_run_uses_every_epoch():
    assert final_result(metrics(30.0, 10.0), ERROR, last=5) == 20.0


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_final_error_leaves_out_what_is_no_number(missing):
    assert final_result(metrics(10.0, missing, 30.0), ERROR, last=5) == 20.0
    assert final_result(metrics(missing), ERROR, last=5) is None


def test_epochs_that_were_not_evaluated_are_none_of_the_last():
    rows = [*metrics(90.0, 30.0), {"train_error": 1.0}, *metrics(10.0), {"val_error": None}]
    assert final_result(rows, ERROR, last=2) == 20.0
    assert final_result(rows, ERROR, last=1) == 10.0


def test_every_measure_is_of_the_same_epochs():
    rows = [{"val_error": 0.0, "train_error": float(i)} for i in range(10)]
    rows.append({"train_error": 99.0})
    assert final_result(rows, ERROR, "train_error", last=3) == 8.0


def test_final_error_of_nothing_and_of_an_absent_key_is_none():
    assert final_result([], ERROR, last=5) is None
    assert final_result(metrics(1.0), ERROR, "precise_val_error", last=5) is None


def test_the_configurations_say_over_how_many_epochs_the_median_is(tmp_path):
    study = load_study(batch_study(tmp_path, norms=("bn", "gn"), batches=(32,), seeds=2))
    assert study.reported_epochs == 5  # records from before it could be chosen
    study = configured(study, reported_epochs=1)
    assert (study.rules, study.reported_epochs) == ([1], 1)
    last = study.records["bn-n32-s1"].metrics[-1]
    row = row_of(summarize_study(study), "bn", 32)
    assert row.results[1] == last["val_error"]
    assert row.precise_results[1] == last["precise_val_error"]
    assert row.train_result == pytest.approx(0.8 * row.mean)


def test_runs_of_different_rules_are_all_shown_by_the_one_with_the_fewest_epochs(tmp_path):
    out = batch_study(tmp_path, norms=("bn", "gn"), batches=(32, 2), seeds=1)
    spoil(out / "runs/bn-n2-s0", "missing")  # asks for nothing yet
    study = configured(load_study(out), "gn*", reported_epochs=2)
    assert (study.rules, study.reported_epochs) == ([2, 5], 2)
    expected = final_result(study.records["bn-n32-s0"].metrics, ERROR, last=2)
    assert row_of(summarize_study(study), "bn", 32).results[0] == expected


def test_a_row_says_which_images_its_errors_are_of(tmp_path):
    study = load_study(batch_study(tmp_path, norms=("bn", "gn"), batches=(32,), seeds=2))
    assert {row.evaluated_on for row in summarize_study(study)} == {"test images"}
    study = configured(study, "gn*", validation_images=1200)
    bn, gn = summarize_study(configured(study, "bn-n32-s1", validation_images=500))
    assert gn.evaluated_on == "1,200 validation images"
    assert bn.evaluated_on == "500 validation images and test images"


def test_summarize_makes_one_row_per_labels_in_the_manifests_order(tmp_path):
    rows = summarize(batch_study(tmp_path, norms=("gn", "bn"), batches=(32, 2), seeds=2))
    assert [(r.labels["norm"], r.labels["batch_per_worker"]) for r in rows] == [
        ("gn", 32), ("gn", 2), ("bn", 32), ("bn", 2),
    ]  # fmt: skip


def test_a_row_holds_the_numbers_of_its_runs(tmp_path):
    row = row_of(summarize(batch_study(tmp_path, seeds=3)), "bn", 2)
    expected = {seed: final_result(fake_metrics("bn", 2, seed), ERROR, last=5) for seed in range(3)}
    assert row.results == pytest.approx(expected)
    assert row.mean == pytest.approx(sum(expected.values()) / 3)
    assert row.spread == estimate(expected.values()).spread
    precise = final_result(fake_metrics("bn", 2, 1), ERROR, "precise_val_error", last=5)
    assert row.precise_results[1] == pytest.approx(precise)
    assert row.precise_mean < row.mean
    assert row.train_result == pytest.approx(0.8 * row.mean)
    assert row.step_memory_bytes == 50_000_008
    assert row.parameters == 78_042
    assert (row.finished, row.asked, row.status, row.reason) == (3, 3, "finished", None)


def test_a_norm_without_running_statistics_has_no_precise_error(tmp_path):
    row = row_of(summarize(batch_study(tmp_path)), "gn:groups=8", 2)
    assert row.precise_results == {}
    assert (row.precise_mean, row.precise_spread) == (None, None)


def test_rows_that_share_runs_share_their_numbers(tmp_path):
    rows = summarize(batch_study(tmp_path, batches=(32, 2)))
    large, small = row_of(rows, "gn:groups=8", 32), row_of(rows, "gn:groups=8", 2)
    assert large.runs == small.runs
    assert large.results == small.results


def test_one_seed_has_no_spread(tmp_path):
    rows = summarize(batch_study(tmp_path, seeds=1))
    assert {row.spread for row in rows} == {None}
    assert all(row.mean is not None for row in rows)


def test_only_finished_seeds_count_and_the_worst_status_shows(tmp_path):
    out = batch_study(tmp_path)
    full = row_of(summarize(out), "bn", 2)
    spoil(out / "runs/bn-n2-s0", "diverged", "the loss is not finite at step 12")
    spoil(out / "runs/bn-n2-s2", "failed", "killed")
    row = row_of(summarize(out), "bn", 2)
    assert (row.finished, row.asked, row.status) == (1, 3, "failed")
    assert row.reason == (
        "1 of 3 seeds failed: killed; 1 of 3 seeds diverged: the loss is not finite at step 12"
    )
    assert row.results == {1: full.results[1]}
    assert row.spread is None


@pytest.mark.parametrize("status", ["diverged", "failed", "partial", "missing"])
def test_a_row_without_a_finished_seed_has_a_status_and_no_number(tmp_path, status):
    out = batch_study(tmp_path, seeds=1)
    spoil(out / "runs/bn-n2-s0", status, "because")
    row = row_of(summarize(out), "bn", 2)
    assert (row.status, row.finished, row.mean) == (status, 0, None)
    assert row.reason.startswith(status)


def test_a_partial_run_says_how_far_it_is(tmp_path):
    out = batch_study(tmp_path, seeds=1)
    spoil(out / "runs/bn-n2-s0", "partial", epochs=3)
    assert row_of(summarize(out), "bn", 2).reason == "partial: 3 of 8 epochs done"


def test_equal_reasons_are_said_once(tmp_path):
    out = batch_study(tmp_path)
    for seed in range(3):
        spoil(out / f"runs/bn-n2-s{seed}", "diverged", "the loss is not finite")
    assert row_of(summarize(out), "bn", 2).reason == "3 of 3 seeds diverged: the loss is not finite"


def test_a_run_that_finished_without_an_error_counts_as_failed(tmp_path):
    out = batch_study(tmp_path, seeds=1)
    rows = [{"epoch": epoch} for epoch in range(1, EPOCHS + 1)]
    write_metrics(out / "runs/bn-n2-s0", rows)
    row = row_of(summarize(out), "bn", 2)
    assert row.status == "failed"
    assert "without a validation error" in row.reason


def test_labels_of_the_groups_study_are_kept(tmp_path):
    rows = summarize(groups_study(tmp_path, seeds=1))
    assert rows[0].labels == {
        "norm": "gn:groups=16", "division": "groups", "value": 16, "batch_per_worker": 32,
    }  # fmt: skip


def test_a_study_reads_every_run_once(tmp_path):
    study = load_study(batch_study(tmp_path, norms=("gn",), batches=(32, 2), seeds=2))
    assert len(study.cells) == 4
    assert sorted(study.records) == ["gn-n32-s0", "gn-n32-s1"]


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(StoreError, match="holds no study"):
        summarize(tmp_path)
