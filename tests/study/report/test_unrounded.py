"""Numbers for programs: numbers are numbers, and every row has the same keys."""

import csv
import io
import json

import pytest

from groupnorm.study.report.unrounded import (
    difference_columns,
    differences_csv,
    search_numbers,
    study_numbers,
    tuning_numbers,
)
from groupnorm.study.results.differences import differences_of
from groupnorm.study.results.rows import load_study, summarize_study
from groupnorm.study.results.tuning import read_tuning
from tests.study.fake_search import FINAL, KilledError, Trials, search
from tests.study.fake_store import batch_study, configured, groups_study, spoil, tuned_study


def read(out):
    study = load_study(out)
    return study, summarize_study(study)


def keys_of(rows):
    (keys,) = {tuple(row) for row in rows}
    return list(keys)


@pytest.fixture(scope="module")
def troubled(tmp_path_factory):
    """A study in which one norm lacks a seed and another has no result."""
    out = batch_study(tmp_path_factory.mktemp("s"), norms=("gn", "bn", "ln"), batches=(32, 2))
    spoil(out / "runs/bn-n32-s1", "diverged", "because")
    for seed in range(3):
        spoil(out / f"runs/ln-n32-s{seed}", "failed", "because")
    return read(out)


def test_every_row_has_the_same_keys_and_numbers_are_numbers(troubled):
    study, rows = troubled
    found = json.loads(json.dumps(study_numbers(study, rows), allow_nan=False))
    assert keys_of(found["rows"]) == [
        "norm", "batch_per_worker", "status", "reason", "seeds_asked", "seeds_finished",
        "evaluated_on", "error", "error_spread", "error_low", "error_high", "recomputed_error",
        "recomputed_error_spread", "recomputed_error_low", "recomputed_error_high", "train_error",
        "seeds",
    ]  # fmt: skip
    by_labels = {(row["norm"], row["batch_per_worker"]): row for row in found["rows"]}
    bn, row = by_labels["bn", 32], next(r for r in rows if r.labels["norm"] == "bn")
    assert (bn["error"], bn["error_spread"]) == (row.mean, row.spread)
    assert (bn["error_low"], bn["error_high"]) == row.result.interval
    assert (bn["seeds_asked"], bn["seeds_finished"]) == (3, 2)
    assert bn["seeds"] == [
        {"seed": s, "error": row.results[s], "recomputed_error": row.precise_results[s]}
        for s in (0, 2)
    ]
    assert by_labels["gn", 32]["error"] == by_labels["gn", 2]["error"]
    assert by_labels["gn", 2]["recomputed_error"] is None
    ln = by_labels["ln", 2]
    assert (ln["status"], ln["error"], ln["error_low"], ln["seeds"]) == ("failed", None, None, [])


def test_differences_have_the_same_keys_at_every_batch_size(troubled):
    study, rows = troubled
    found = study_numbers(study, rows)["differences"]
    assert keys_of(found) == difference_columns(study)
    assert [(d["norm"], d["recomputed"], d["batch_per_worker"]) for d in found] == [
        ("gn", False, 32), ("bn", True, 32), ("ln", False, 32),
        ("gn", False, 2), ("bn", True, 2), ("ln", False, 2),
    ]  # fmt: skip
    gn = next(one for one in differences_of(study, rows) if one.name == "gn")
    assert found[0]["difference"] == gn.difference.mean
    assert (found[0]["low"], found[0]["high"]) == gn.difference.interval
    assert (found[0]["pairs"], found[0]["left_out"]) == (2, 1)
    assert found[3]["told_apart"] is True
    assert (found[2]["difference"], found[2]["pairs"]) == (None, 0)
    assert found[2]["verdict"] == "no result: ln failed"


def test_what_the_errors_are_is_said_once(tmp_path):
    study, rows = read(batch_study(tmp_path, norms=("bn",), batches=(32,), seeds=1))
    found = study_numbers(study, rows)
    assert (found["study"], found["unit"]) == ("batch-size", "percent, top-1 error")
    assert (found["epochs_rule"], found["reported_epochs"]) == ("median of the last 5 epochs", 5)
    assert found["evaluated_on"] == "test images"
    study = configured(study, reported_epochs=1, validation_images=500)
    found = study_numbers(study, rows)
    assert (found["epochs_rule"], found["reported_epochs"]) == ("last epoch", 1)
    assert found["evaluated_on"] == "500 validation images"


@pytest.mark.parametrize(
    ("make", "labels"),
    [
        (groups_study, ["norm", "division", "value", "batch_per_worker"]),
        (tuned_study, ["norm", "batch_per_worker", "base_lr"]),
    ],
)
def test_rows_have_every_label_of_the_study(tmp_path, make, labels):
    study, rows = read(make(tmp_path))
    found = study_numbers(study, rows)["rows"]
    assert keys_of(found)[: len(labels)] == labels
    assert [row[label] for row in found[:1] for label in labels] == [
        rows[0].labels[label] for label in labels
    ]


def test_the_file_of_differences_has_the_same_numbers(troubled):
    study, rows = troubled
    lines = list(csv.DictReader(io.StringIO(differences_csv(study, rows))))
    found = study_numbers(study, rows)["differences"]
    assert list(lines[0]) == difference_columns(study)
    assert [float(line["difference"] or "nan") for line in lines[:2]] == [
        row["difference"] for row in found[:2]
    ]
    assert (lines[1]["recomputed"], lines[3]["told_apart"]) == ("yes", "yes")
    assert (lines[2]["difference"], lines[2]["told_apart"], lines[2]["pairs"]) == ("", "", "0")


def test_what_was_tried_is_there_with_the_choice(tmp_path):
    out = tuned_study(tmp_path)
    found = json.loads(json.dumps(tuning_numbers(read_tuning(out, load_study(out)))))
    assert (found["field"], found["validation_images"]) == ("base_lr", 140)
    assert keys_of(found["rows"])[-1] == "chosen"
    chosen = [(r["norm"], r["base_lr"], r["seeds_asked"]) for r in found["rows"] if r["chosen"]]
    assert chosen == [("bn", 0.1, 1), ("gn", 0.3, 1)]
    assert found["rows"][0]["evaluated_on"] == "140 validation images"


def test_a_search_has_no_differences_because_its_runs_are_of_different_lengths(tmp_path):
    search(tmp_path)
    study, rows = read(tmp_path)
    assert study_numbers(study, rows)["differences"] == []
    assert differences_csv(study, rows).splitlines() == [",".join(difference_columns(study))]


def test_the_numbers_of_a_search_tell_what_became_of_every_rule(tmp_path):
    trials = Trials()
    trials.diverge = ("gn:groups=1",)
    better = "gn:groups=8 stage1=gn:groups=16"
    trials.final[better] = 25.0
    search(tmp_path, trials, refine=True)
    study, rows = read(tmp_path)
    found = json.loads(json.dumps(search_numbers(study), allow_nan=False))
    assert (found["done"], found["chosen"], found["refined"]) == (True, better, better)
    assert found["rule"] == "gn:groups=8"
    assert found["as_settings"] == "norm=gn:groups=8 norms.stage1=gn:groups=16"
    first, second, third = found["rungs"]
    assert (first["epochs"], second["epochs"], third["epochs"]) == (2, 6, 18)
    assert first["errors"]["gn:groups=8"] == FINAL["gn:groups=8"] + 20
    assert first["errors"]["gn:groups=1"] is None, "it diverged"
    assert first["kept"] == ["gn:groups=8", "gn:size=8", "gn:size=4"]
    assert set(second["dropped"]) == {"gn:size=8", "gn:size=4"}
    assert [(step["part"], step["best"]) for step in found["steps"]] == [
        ("stage1", better), ("stage2", better), ("stage3", better)
    ]  # fmt: skip
    assert found["outcomes"][better] == "chosen"
    assert found["outcomes"]["gn:groups=1"] == "diverged"
    assert len(found["outcomes"]) == 9 + 6
    assert found["full_runs"] == found["epochs_trained"] / 42
    assert (found["discarded"], found["settings"]["full_epochs"]) == ({}, 42)
    epochs = {row["norm"]: row["epochs"] for row in study_numbers(study, rows)["rows"]}
    assert (epochs["gn:groups=2"], epochs["gn:size=8"], epochs[better]) == (2, 6, 18)


def test_the_numbers_of_a_search_that_was_killed_say_that_it_is_not_done(tmp_path):
    trials = Trials()
    trials.kill = (1, 3)
    with pytest.raises(KilledError):
        search(tmp_path, trials)
    found = search_numbers(read(tmp_path)[0])
    assert (found["done"], found["chosen"], found["as_settings"]) == (False, None, None)
    assert len(found["rungs"][0]["errors"]) == 3
