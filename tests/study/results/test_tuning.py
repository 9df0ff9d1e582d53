"""Tuned studies: the best value for each configuration, chosen by a rule that is told."""

import json
import re
import shutil
from dataclasses import replace

import pytest

from groupnorm.study.results.rows import load_study
from groupnorm.study.results.tuning import (
    chosen_note,
    chosen_rows,
    how_tuned,
    read_tuning,
    tuned_briefly,
    tuning_table,
)
from groupnorm.study.store import StoreError
from tests.study.fake_store import (
    ERROR,
    add_to_manifest,
    batch_study,
    groups_study,
    spoil,
    tuned_on_test,
    tuned_study,
)


def tuning_of(out):
    return read_tuning(out, load_study(out))


def chosen(out):
    return [(r.labels["norm"], r.labels["base_lr"]) for r in tuning_of(out).chosen]


def said(out):
    return "\n".join(how_tuned(tuning_of(out)))


@pytest.mark.parametrize("make", [tuned_study, tuned_on_test])
def test_each_norm_has_its_own_best_value(tmp_path, make):
    assert chosen(make(tmp_path)) == [("bn", 0.1), ("gn", 0.3)]


def test_a_study_that_was_not_tuned_tried_nothing(tmp_path):
    assert tuning_of(batch_study(tmp_path, seeds=1)) is None


def test_the_choice_is_made_on_the_runs_that_tried_and_not_on_those_of_the_tables(tmp_path):
    out = tuned_study(tmp_path)
    path = out / "runs/gn-chosen-s0/metrics.jsonl"
    rows = [{**json.loads(line), "val_error": 99.0} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert chosen(out)[1] == ("gn", 0.3)
    assert tuning_of(out).study.records.keys().isdisjoint(load_study(out).records)


def test_a_value_with_lost_seeds_is_chosen_only_when_all_lost_some(tmp_path):
    out = tuned_on_test(tmp_path)
    spoil(out / "runs/gn-lr0.3-s0", "diverged")
    assert chosen(out)[1] == ("gn", 1.0)
    spoil(out / "runs/gn-lr1.0-s1", "diverged")
    spoil(out / "runs/gn-lr0.1-s1", "diverged")
    assert chosen(out)[1] == ("gn", 0.3)
    for seed in range(2):
        for rate in (0.1, 0.3, 1.0):
            folder = out / f"runs/gn-lr{rate}-s{seed}"
            if folder.exists() and (folder / "DONE").exists():
                spoil(folder, "missing")
    assert chosen(out)[1] == ("gn", 0.1)


def test_a_diverged_value_is_chosen_only_when_every_value_diverged(tmp_path):
    out = tuned_study(tmp_path)
    spoil(out / "runs/gn-tried-lr0.3-s0", "diverged", "the loss is not finite")
    assert chosen(out)[1] == ("gn", 1.0)
    assert "Training diverged with gn, 32 images per worker, base_lr 0.3." in said(out)
    spoil(out / "runs/gn-tried-lr1.0-s0", "diverged")
    spoil(out / "runs/gn-tried-lr0.1-s0", "diverged")
    assert chosen(out)[1] == ("gn", 0.1)
    assert "No value of base_lr finished for gn, 32 images per worker: the first one" in said(out)
    _, lines = tuning_table(tuning_of(out))
    assert [line[3] for line in lines[3:]] == ["diverged"] * 3


@pytest.mark.parametrize("status", ["failed", "partial", "missing"])
def test_nothing_is_chosen_before_every_value_was_tried(tmp_path, status):
    out = tuned_study(tmp_path)
    spoil(out / "runs/gn-tried-lr1.0-s0", status)
    assert chosen(out) == [("bn", 0.1)]
    assert "No value of base_lr is chosen yet for gn, 32 images per worker, because" in said(out)
    assert "For one configuration none is chosen yet. The tables" in tuned_briefly(tuning_of(out))
    assert "; gn" not in chosen_note(tuning_of(out))


def test_no_paragraph_is_empty(tmp_path):
    out = tuned_study(tmp_path)
    for norm in ("bn", "gn"):
        spoil(out / f"runs/{norm}-tried-lr1.0-s0", "missing")
    assert tuning_of(out).chosen == []
    assert all(how_tuned(tuning_of(out)))


def test_the_table_has_every_value_and_marks_the_chosen(tmp_path):
    tuning = tuning_of(tuned_on_test(tmp_path / "test"))
    rows = tuning.rows
    header, lines = tuning_table(tuning)
    assert header[:4] == ["norm", "images per worker", "base_lr", "error: mean ± spread"]
    assert [line[:3] for line in lines] == [
        [norm, "32", value] for norm in ("bn", "gn") for value in ("0.1", "0.3", "1.0")
    ]
    assert [line[4] for line in lines] == ["chosen", "", "", "", "chosen", ""]
    assert lines[1][3] == f"{rows[1].mean:.1f} ± {rows[1].spread:.1f}"
    assert chosen_note(tuning) == (
        "Values of base_lr chosen: bn, 32 images per worker: 0.1; gn, 32 images per worker: 0.3."
    )
    header, lines = tuning_table(tuning_of(tuned_study(tmp_path / "held-out")))
    assert header[3] == "error on the validation images"
    assert "±" not in lines[1][3]


def test_the_text_says_on_what_the_choice_was_made_and_whether_it_was_fair(tmp_path):
    old = tuned_on_test(tmp_path / "old")
    assert "made on the test images themselves" in said(old)
    assert "the same 3 values for every norm (0.1, 0.3, 1.0)" in said(old)
    assert "the test images themselves" in tuned_briefly(tuning_of(old))
    new = tuned_study(tmp_path / "new")
    for words in (
        "the same 3 values for every norm (0.1, 0.3, 1.0)",
        "tried with seed 0 alone and compared on 140 validation images, held out of the training",
        "the test images, which had no part in the choice",
        "The tuning took 6 runs beside those of the tables",
        "On 140 images the error of one run is known to 3.6 points",
    ):
        assert words in said(new), words
    assert "140 validation images" in tuned_briefly(tuning_of(new))
    manifest = json.loads((new / "study.json").read_text())
    fewer = {**manifest["tuning"], "cells": manifest["tuning"]["cells"][:5]}
    add_to_manifest(new, tuning=fewer)
    assert "not the same for every norm (bn 0.1, 0.3, 1.0; gn 0.1, 0.3)" in said(new)


def test_a_value_at_the_edge_of_those_tried_is_said(tmp_path):
    out = tuned_study(tmp_path)
    assert "edge of the values tried" in said(out)
    assert "bn, 32 images per worker (0.1, the lowest): try more" in said(out)
    spoil(out / "runs/gn-tried-lr0.3-s0", "diverged")
    assert "gn, 32 images per worker (1.0, the highest): try more" in said(out)


def test_nothing_lies_beyond_zero(tmp_path):
    out = tuned_study(tmp_path)
    text = (out / "study.json").read_text().replace('"base_lr": 0.1', '"base_lr": 0')
    (out / "study.json").write_text(text)
    assert "edge of the values tried" not in said(out)


def test_whether_the_order_of_the_norms_depends_on_the_value(tmp_path):
    out = tuned_study(tmp_path)
    assert (
        "At 32 images per worker the order of the norms, by one run each, changes with base_lr: "
        "bn < gn at 0.1; gn < bn at 0.3, 1.0." in said(out)
    )
    spoil(out / "runs/bn-tried-lr0.3-s0", "diverged")
    assert "gn < bn (diverged) at 0.3; gn < bn at 1.0." in said(out)
    shutil.copy(
        out / "runs/gn-tried-lr0.3-s0/metrics.jsonl", out / "runs/gn-tried-lr0.1-s0/metrics.jsonl"
    )
    shutil.rmtree(out / "runs/bn-tried-lr0.3-s0")
    shutil.copytree(out / "runs/bn-tried-lr1.0-s0", out / "runs/bn-tried-lr0.3-s0")
    shutil.rmtree(out / "runs/bn-tried-lr0.1-s0")
    shutil.copytree(out / "runs/bn-tried-lr1.0-s0", out / "runs/bn-tried-lr0.1-s0")
    assert "is the same at every base_lr tried, the best first: gn < bn." in said(out)
    shutil.copy(
        out / "runs/gn-tried-lr1.0-s0/metrics.jsonl", out / "runs/bn-tried-lr1.0-s0/metrics.jsonl"
    )
    assert "gn < bn at 0.1, 0.3; bn = gn at 1.0" in said(out)


def test_a_study_of_groups_has_no_order_of_norms(tmp_path):
    out = groups_study(tmp_path, seeds=1)
    manifest = json.loads((out / "study.json").read_text())
    cells = [{**c, "labels": {**c["labels"], "base_lr": 0.1}} for c in manifest["cells"]]
    tuning = {"validation_images": 140, "cells": cells}
    add_to_manifest(out, cells=cells, shows="groups", tuned_over="base_lr", tuning=tuning)
    assert "order of the norms" not in said(out)


def test_own_names_are_in_the_whole_text(tmp_path):
    """Also in what is said of an edge, of values that diverged, and of unequal values."""
    out = tuned_study(tmp_path)
    spoil(out / "runs/gn-tried-lr1.0-s0", "diverged")
    spoil(out / "runs/bn-tried-lr0.3-s0", "partial")
    study = replace(load_study(out), names={"bn": "Batches", "gn": "Groups"})
    tuning = read_tuning(out, study)
    assert "Groups, 32 images per worker: 0.3" in chosen_note(tuning)
    text = "\n".join(how_tuned(tuning))
    assert "Training diverged with Groups, 32 images per worker, base_lr 1.0" in text
    assert "is chosen yet for Batches, 32 images per worker" in text
    assert "the order of the norms" in text
    edge = [row for row in tuning.rows if row.result and row.labels["base_lr"] != 0.3]
    unequal = replace(tuning, rows=tuning.rows[1:], chosen=edge)
    text += chosen_note(tuning) + "\n".join(how_tuned(unequal))
    assert "not the same for every norm (Batches" in text
    assert "lies at the edge" in text
    assert not re.search(r"\b(bn|gn)\b", text)


def test_cells_without_the_label_are_refused(tmp_path):
    rows = tuning_of(tuned_study(tmp_path)).rows
    with pytest.raises(StoreError, match="tuned over 'momentum', but a cell has no such label"):
        chosen_rows(rows, "momentum", ERROR)
    path = tmp_path / "study.json"
    path.write_text(path.read_text().replace('"base_lr": 1.0', '"lr": 1.0'))
    with pytest.raises(StoreError, match="a cell without the label 'base_lr'"):
        load_study(tmp_path)
