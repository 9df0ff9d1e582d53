"""Tables: every number from the rows, every gap visible."""

import csv
import io
import json

import pytest

from groupnorm.study.report.page import build_report
from groupnorm.study.report.tables import (
    main_table_of,
    main_title_of,
    problems,
    run_groups,
    run_header,
    settings,
    tables_csv,
)
from groupnorm.study.results.labels import estimate_text
from groupnorm.study.results.rows import load_study, summarize_study
from tests.study.fake_store import (
    batch_study,
    configured,
    fake_metrics,
    groups_study,
    spoil,
    tuned_on_test,
    write_manifest,
)


def read(out):
    study = load_study(out)
    return study, summarize_study(study)


def table(out):
    header, body = main_table_of(*read(out))
    return header, {line[0]: line[1:] for line in body}


def csv_rows(out):
    return csv_rows_of(load_study(out))


def csv_rows_of(study):
    return list(csv.DictReader(io.StringIO(tables_csv(study, summarize_study(study)))))


def test_the_main_table_has_a_row_per_norm_and_recomputed_statistics_of_its_own(tmp_path):
    header, body = table(batch_study(tmp_path, batches=(2, 32, 8)))
    assert header == ["images per worker", "32", "8", "2"]
    assert list(body) == [
        "bn", "bn (recomputed statistics)",
        "gn:groups=8 (trained once)", "gn:groups=8+ws (trained once)",
    ]  # fmt: skip
    _, rows = read(tmp_path)
    by_batch = {r.labels["batch_per_worker"]: r for r in rows if r.labels["norm"] == "bn"}
    assert body["bn"] == [f"{(r := by_batch[b]).mean:.1f} ± {r.spread:.1f}" for b in (32, 8)] + [
        estimate_text(by_batch[2].result)
    ]
    assert body["bn (recomputed statistics)"][2] == estimate_text(by_batch[2].precise)


@pytest.mark.parametrize("status", ["diverged", "failed", "partial", "missing"])
def test_what_did_not_finish_is_visible(tmp_path, status):
    out = batch_study(tmp_path)
    for seed in range(3):
        spoil(out / f"runs/bn-n2-s{seed}", status, "because")
    spoil(out / "runs/bn-n8-s1", status, "because")
    _, body = table(out)
    assert body["bn"][2] == status
    assert body["bn"][1].endswith(f"(1 of 3 {status})")
    assert body["bn (recomputed statistics)"][2] == status


def test_a_norm_trained_once_is_listed_once_and_said_to_be(tmp_path):
    out = batch_study(tmp_path, norms=("gn", "bn"), seeds=2)
    _, rows = read(out)
    _, body = table(out)
    assert body["gn (trained once)"] == [estimate_text(rows[0].result), "same", "same"]
    assert "same" not in body["bn"]
    for seed in range(2):
        spoil(out / f"runs/gn-n32-s{seed}", "failed", "killed")
    assert table(out)[1]["gn (trained once)"] == ["failed", "same", "same"]
    assert problems(*read(out)) == [
        ["gn, 32, 8, 2 images per worker (trained once)", "failed", "2 of 2 seeds failed: killed"]
    ]


def test_what_a_norm_trained_once_was_not_asked_for_stays_a_dash(tmp_path):
    out = batch_study(tmp_path, norms=("bn", "syncbn"), seeds=1)
    study = load_study(out)
    cells = [{"labels": c.labels, "seed": c.seed, "run": c.run} for c in study.cells]
    cells = [cell for cell in cells if cell["labels"] != {"norm": "syncbn", "batch_per_worker": 32}]
    cells = [{**cell, "run": cells[0]["run"]} if cell["labels"]["norm"] == "syncbn" else cell
             for cell in cells]  # fmt: skip
    write_manifest(out, "batch-size", cells, [])
    _, rows = read(out)
    _, body = table(out)
    first = [estimate_text(rows[0].result), estimate_text(rows[0].precise)]
    assert body["syncbn (trained once)"] == ["\u2013", first[0], "same"]
    assert body["syncbn (recomputed statistics)"] == ["\u2013", first[1], "same"]


def test_a_mixture_of_statuses_is_called_unfinished(tmp_path):
    out = batch_study(tmp_path)
    spoil(out / "runs/bn-n2-s0", "diverged")
    spoil(out / "runs/bn-n2-s1", "failed", "killed")
    assert table(out)[1]["bn"][2].endswith("(2 of 3 unfinished)")


def test_a_cell_nobody_asked_for_is_a_dash_and_a_skipped_one_says_so(tmp_path):
    out = batch_study(tmp_path, norms=("gn",), batches=(32,), seeds=1)
    study = load_study(out)
    cells = [{"labels": c.labels, "seed": c.seed, "run": c.run} for c in study.cells]
    labels = {"norm": "bn", "batch_per_worker": 1}
    write_manifest(out, "batch-size", cells, [{"labels": labels, "reason": "one value"}])
    header, body = table(out)
    assert header[1:] == ["32", "1"]
    assert body["bn"] == ["\u2013", "skipped"]
    assert problems(*read(out)) == [["bn, 1 image per worker", "skipped", "one value"]]


def test_the_groups_table_has_a_row_per_division(tmp_path):
    header, body = table(groups_study(tmp_path))
    assert header == ["group division", "64", "16", "8", "4", "2", "1"]
    assert list(body) == ["number of groups", "channels per group"]
    assert body["number of groups"][0] == "skipped"
    assert "±" in body["channels per group"][5]


def test_every_run_appears_once_and_names_the_cells_it_fills(tmp_path):
    study, rows = read(batch_study(tmp_path, seeds=2))
    groups = run_groups(study, rows)
    assert sum(len(group.seeds) for group in groups) == len(study.records)
    shared = next(group for group in groups if group.shared[0] == "gn:groups=8")
    assert shared.shared[1] == "32, 8, 2 (trained once)"
    for group in groups:
        assert {len(group.shared) + len(line) for line in group.seeds} == {len(run_header(study))}
    line = dict(zip(run_header(study)[4:], groups[0].seeds[1], strict=True))
    _, row = rows[0].labels, rows[0]
    assert line["error"] == f"{row.results[1]:.2f}"
    assert line["recomputed"] == f"{row.precise_results[1]:.2f}"
    assert (line["memory of a step"], line["parameters"]) == ("48 MiB", "78,042")


def test_a_run_that_did_not_finish_has_a_status_and_no_error(tmp_path):
    out = batch_study(tmp_path, seeds=1)
    spoil(out / "runs/bn-n32-s0", "diverged", "the loss is not finite", epochs=3)
    study, rows = read(out)
    groups = run_groups(study, rows)
    line = dict(zip(run_header(study)[4:], groups[0].seeds[0], strict=True))
    assert (line["status"], line["error"]) == ("diverged", "\u2013")


def test_problems_list_every_unfinished_row_with_its_reason(tmp_path):
    out = batch_study(tmp_path)
    assert problems(*read(out)) == []
    spoil(out / "runs/bn-n2-s0", "failed", "killed")
    assert problems(*read(out)) == [
        ["bn, 2 images per worker", "failed", "1 of 3 seeds failed: killed"]
    ]


def test_an_ended_run_without_its_config_or_environment_is_a_problem(tmp_path):
    out = batch_study(tmp_path, norms=("bn",), batches=(32, 2), seeds=2)
    (out / "runs/bn-n32-s0/config.json").unlink()
    spoil(out / "runs/bn-n2-s1", "partial")
    for name in ("bn-n32-s1", "bn-n2-s1"):  # what has not ended may get it yet
        (out / "runs" / name / "env.json").unlink()
    where = "bn, 32 images per worker"
    assert problems(*read(out))[1:] == [
        [where, "incomplete record", "runs/bn-n32-s0/config.json is missing or empty"],
        [where, "incomplete record", "runs/bn-n32-s1/env.json is missing or empty"],
    ]


def test_the_csv_has_every_cell_and_seed_unrounded(tmp_path):
    out = batch_study(tmp_path)
    spoil(out / "runs/bn-n2-s2", "diverged", 'a "reason", with commas')
    found = csv_rows(out)
    study, rows = read(out)
    assert len(found) == len(study.cells)
    by_key = {(r["norm"], r["batch_per_worker"], r["seed"]): r for r in found}
    row = next(r for r in rows if r.labels == {"norm": "bn", "batch_per_worker": 2})
    good, bad = by_key["bn", "2", "1"], by_key["bn", "2", "2"]
    assert float(good["val_error"]) == row.results[1]
    assert float(good["val_error_mean"]) == row.mean
    assert (good["seeds_finished"], good["seeds_asked"]) == ("2", "3")
    assert (bad["status"], bad["reason"]) == ("diverged", 'a "reason", with commas')
    assert (bad["val_error"], bad["epochs"]) == ("", "3")


def test_the_csv_has_the_interval_of_each_mean_and_says_what_the_errors_are(tmp_path):
    out = batch_study(tmp_path, norms=("gn",), batches=(32,))
    (_, rows), found = read(out), csv_rows(out)
    assert [float(found[0][f"val_error_{end}"]) for end in ("low", "high")] == list(
        rows[0].result.interval
    )
    assert found[0]["epochs_rule"] == "median of the last 5 epochs"
    assert found[0]["evaluated_on"] == "test images"
    (alone,) = csv_rows(batch_study(tmp_path / "b", norms=("gn",), batches=(32,), seeds=1))
    assert (alone["val_error_low"], alone["val_error_high"]) == ("", "")


def test_runs_that_ask_for_different_rules_are_a_problem_that_is_named(tmp_path):
    study, rows = read(batch_study(tmp_path, norms=("bn", "gn"), batches=(32,), seeds=1))
    assert problems(study, rows) == []
    study = configured(study, "gn*", reported_epochs=1)
    ((where, what, why),) = problems(study, summarize_study(study))
    assert (where, what) == ("errors", "different rules")
    assert why == (
        "The runs ask for the median of their last 1 or 5 epochs. All errors here are that of the "
        "last epoch, which every run has."
    )
    assert "last epoch of 8" in main_title_of(study, rows)


def test_the_csv_of_groups_has_their_labels(tmp_path):
    first = csv_rows(groups_study(tmp_path, seeds=1))[0]
    assert (first["division"], first["value"], first["seed"]) == ("groups", "16", "0")


def test_settings_join_what_differs():
    found = settings([{"a": 1, "b": "x", "c": None}, {"a": 2, "b": "x"}, {"a": 1}])
    assert found == [["a", "1; 2"], ["b", "x"], ["c", "\u2013"]]


def test_settings_that_are_empty_everywhere_are_left_out():
    empty = {"norms": {}, "size_schedule": "", "list": [], "off": False, "zero": 0}
    assert settings([empty, empty]) == [["off", "false"], ["zero", "0"]]
    found = settings([empty, {"norms": {"stem": "bn"}}])
    assert found == [["norms", '\u2013; {"stem": "bn"}'], ["off", "false"], ["zero", "0"]]


def set_epochs(folder, epochs):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "epochs": epochs}))
    rows = fake_metrics("gn", 32, 0, epochs)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def title(out):
    return main_title_of(*read(out))


@pytest.mark.parametrize(
    ("epochs", "reported", "the_error"),
    [
        (1, 5, "that after 1 epoch"),
        (2, 5, "the median of 2 epochs"),
        (6, 5, "the median of the last 5 epochs"),
        (6, 3, "the median of the last 3 epochs"),
        (6, 1, "that of the last epoch"),
    ],
)
def test_the_page_says_the_rule(tmp_path, monkeypatch, epochs, reported, the_error):
    out = batch_study(tmp_path, norms=("gn",), batches=(32,), seeds=1)
    for folder in out.glob("runs/*"):
        set_epochs(folder, epochs)
    study = configured(load_study(out), reported_epochs=reported)
    monkeypatch.setattr("groupnorm.study.report.page.load_study", lambda out: study)
    page = build_report(out).read_text()
    as_in_the_paper = ", as in the paper" if (epochs, reported) == (6, 5) else ""
    assert f"The error is {the_error}{as_in_the_paper}, in percent" in page
    assert f"Each error is {the_error}, in percent;" in page
    assert f"Each measured error is {the_error}." in page
    rule = the_error.removeprefix("the ").removeprefix("that ").removeprefix("of the ")
    assert [row["epochs_rule"] for row in csv_rows_of(study)] == [rule]


def test_the_title_says_unit_model_data_rule_and_seeds(tmp_path):
    assert title(batch_study(tmp_path / "a", norms=("bn",))) == (
        "Top-1 error in percent: resnet8 on digits, median of the last 5 of 8 epochs, "
        "mean ± standard deviation over 3 seeds"
    )
    out = batch_study(tmp_path / "b", norms=("bn", "gn"), batches=(32,), seeds=1)
    set_epochs(out / "runs" / "bn-n32-s0", 40)
    assert title(out).endswith("digits, median of the last 5 of 8 or 40 epochs, 1 seed")
    for folder in out.glob("runs/*"):
        set_epochs(folder, 3)
    assert title(out).endswith("digits, median of 3 epochs, 1 seed")
    study = configured(load_study(out), epochs=12, reported_epochs=1, validation_images=500)
    assert main_title_of(study, summarize_study(study)) == (
        "Top-1 error in percent on 500 validation images: resnet8 on digits, "
        "last epoch of 12, 1 seed"
    )
    assert title(tuned_on_test(tmp_path / "c", seeds=1)).endswith(
        "1 seed, at the best base_lr of those tried on test images"
    )
