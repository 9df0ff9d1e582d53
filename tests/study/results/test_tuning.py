"""Tuned studies: the best value for each configuration, chosen by a rule that is told."""

import pytest

from groupnorm.study.results.rows import load_study, summarize_study
from groupnorm.study.results.tuning import chosen_note, chosen_rows, how_tuned, tuning_table
from groupnorm.study.store import StoreError
from tests.study.fake_store import batch_study, spoil, tuned_study


def rows_of(out):
    return summarize_study(load_study(out))


def chosen(out):
    return [(r.labels["norm"], r.labels["base_lr"]) for r in chosen_rows(rows_of(out), "base_lr")]


def test_each_norm_has_its_own_best_value(tmp_path):
    assert chosen(tuned_study(tmp_path)) == [("bn", 0.1), ("gn", 0.3)]


def test_a_value_with_lost_seeds_is_chosen_only_when_all_lost_some(tmp_path):
    out = tuned_study(tmp_path)
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


def test_the_table_has_every_value_and_marks_the_chosen(tmp_path):
    rows = rows_of(tuned_study(tmp_path))
    best = chosen_rows(rows, "base_lr")
    header, lines = tuning_table(rows, best, "base_lr")
    assert header[:4] == ["norm", "images per worker", "base_lr", "error: mean ± spread"]
    assert [line[:3] for line in lines] == [
        [norm, "32", value] for norm in ("bn", "gn") for value in ("0.1", "0.3", "1.0")
    ]
    assert [line[4] for line in lines] == ["chosen", "", "", "", "chosen", ""]
    assert lines[1][3] == f"{rows[1].mean:.1f} ± {rows[1].spread:.1f}"
    assert chosen_note(best, "base_lr") == (
        "Values of base_lr chosen: bn, 32 images per worker: 0.1; gn, 32 images per worker: 0.3."
    )


def test_the_text_says_on_what_the_choice_was_made_and_whether_it_was_fair(tmp_path):
    rows = rows_of(tuned_study(tmp_path))
    text = how_tuned(rows, "base_lr")
    assert "made on the evaluation images themselves" in text
    assert "the same number of values for every norm, 3" in text
    assert "not the same number of values for every norm (bn 3, gn 2)" in how_tuned(
        rows[:5], "base_lr"
    )


def test_cells_without_the_label_are_refused(tmp_path):
    with pytest.raises(StoreError, match="tuned over 'base_lr', but a cell has no such label"):
        chosen_rows(rows_of(batch_study(tmp_path, seeds=1)), "base_lr")
