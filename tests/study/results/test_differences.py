"""Each norm against the reference at its batch size: which pairs count, and what they tell."""

import json

import pytest

from groupnorm.study.results.differences import (
    difference_header,
    difference_lines,
    differences_of,
    how_compared,
    row_difference,
)
from groupnorm.study.results.estimates import paired_difference, seeds_needed
from groupnorm.study.results.rows import Study, load_study, summarize, summarize_study
from tests.study.fake_store import batch_study, configured, groups_study, spoil, tuned_on_test

NAMES = {"gn:groups=8": "GN (ours)"}


STUDY = Study({"shows": "norms"}, [], {}, names=NAMES)


def lines(rows):
    found = difference_lines(STUDY, differences_of(STUDY, rows))
    return [dict(zip(difference_header(STUDY), line, strict=True)) for line in found]


def row_of(rows, norm, batch):
    return next(r for r in rows if r.labels == {"norm": norm, "batch_per_worker": batch})


def test_every_norm_stands_against_batch_norm_at_its_batch_size(tmp_path):
    rows = summarize(batch_study(tmp_path, norms=("gn", "bn", "gn+ws"), batches=(2, 32)))
    found = differences_of(STUDY, rows)
    assert [(c.name, c.recomputed, c.reference, c.rows[0].labels["batch_per_worker"])
            for c in found] == [
        ("gn", False, "bn", 32), ("bn", True, "bn", 32), ("gn+ws", False, "bn", 32),
        ("gn", False, "bn", 2), ("bn", True, "bn", 2), ("gn+ws", False, "bn", 2),
    ]  # fmt: skip
    gn, bn = row_of(rows, "gn", 2), row_of(rows, "bn", 2)
    assert found[3].difference == paired_difference(gn.results, bn.results)
    assert found[4].difference == paired_difference(bn.precise_results, bn.results)
    assert found[3].verdict == "less error"
    assert found[3].seeds_needed == seeds_needed(found[3].difference.spread)


def test_without_batch_norm_the_lowest_error_is_the_reference(tmp_path):
    rows = summarize(batch_study(tmp_path, norms=("ln", "gn", "in"), batches=(32,)))
    found = differences_of(STUDY, rows)
    assert [(c.name, c.reference, c.verdict) for c in found] == [
        ("ln", "gn", "more error"), ("in", "gn", "more error")
    ]  # fmt: skip
    rows = summarize(groups_study(tmp_path / "g"))
    best = min(rows, key=lambda row: row.mean).labels["norm"]
    assert {c.reference for c in differences_of(STUDY, rows)} == {best}
    assert len(differences_of(STUDY, rows)) == len(rows) - 1


def test_what_the_same_runs_give_at_several_sizes_is_there_once(tmp_path):
    rows = summarize(batch_study(tmp_path, norms=("gn", "ln"), batches=(32, 8, 2)))
    (line,) = lines(rows)
    assert line["images per worker"] == "32, 8, 2 (trained once)"


def test_own_names_and_what_the_reference_is(tmp_path):
    rows = summarize(batch_study(tmp_path / "a", norms=("bn", "gn:groups=8"), batches=(32,)))
    assert [line["norm"] for line in lines(rows)] == ["bn (recomputed statistics)", "GN (ours)"]
    assert "which chance favours" not in how_compared(STUDY, differences_of(STUDY, rows))
    rows = summarize(batch_study(tmp_path / "b", norms=("ln", "gn:groups=8"), batches=(32,)))
    assert [line["against"] for line in lines(rows)] == ["GN (ours)"]
    assert "the lowest mean error, which chance favours" in how_compared(
        STUDY, differences_of(STUDY, rows)
    )


def test_a_line_has_difference_interval_pairs_and_verdict(tmp_path):
    out = batch_study(tmp_path, norms=("bn", "gn"), batches=(2,), seeds=4)
    spoil(out / "runs/gn-n2-s3", "diverged", "because")
    rows = summarize(out)
    difference = row_difference(row_of(rows, "gn", 2), row_of(rows, "bn", 2))
    low, high = difference.interval
    line = next(line for line in lines(rows) if line["norm"] == "gn")
    assert line == {
        "norm": "gn", "against": "bn", "images per worker": "2",
        "difference": f"{difference.mean:.1f}", "95 % interval": f"{low:.1f} to {high:.1f}",
        "pairs of seeds": "3 (1 left out)", "verdict": "less error",
    }  # fmt: skip
    assert lines(rows)[0]["norm"] == "bn (recomputed statistics)"


def test_one_seed_tells_nothing(tmp_path):
    rows = summarize(batch_study(tmp_path, norms=("bn", "gn"), batches=(2,), seeds=1))
    line = lines(rows)[1]
    assert (line["95 % interval"], line["pairs of seeds"]) == ("\u2013", "1")
    assert line["verdict"] == "one seed, nothing can be told"
    assert differences_of(STUDY, rows)[1].seeds_needed is None


@pytest.mark.parametrize(
    ("spoiled", "verdict"),
    [
        (("bn-n2-s0", "bn-n2-s1"), "no result: bn diverged"),
        (("gn-n2-s0", "gn-n2-s1"), "no result: gn diverged"),
        (("bn-n2-s0", "gn-n2-s1"), "no seed that both have"),
    ],
)
def test_what_cannot_be_compared_says_why(tmp_path, spoiled, verdict):
    out = batch_study(tmp_path, norms=("bn", "gn"), batches=(2,), seeds=2)
    for name in spoiled:
        spoil(out / "runs" / name, "diverged", "because")
    line = next(line for line in lines(summarize(out)) if line["norm"] == "gn")
    assert (line["difference"], line["pairs of seeds"]) == ("\u2013", "0")
    assert line["verdict"] == verdict


def test_runs_evaluated_on_different_images_are_not_compared(tmp_path):
    out = batch_study(tmp_path, norms=("bn", "gn"), batches=(2,), seeds=2)
    rows = summarize_study(configured(load_study(out), "gn*", validation_images=500))
    line = next(line for line in lines(rows) if line["norm"] == "gn")
    assert line["verdict"] == "evaluated on different images"


def test_equal_differences_are_called_equal(tmp_path):
    out = batch_study(tmp_path, norms=("gn", "ln"), batches=(32,), seeds=2)
    for norm, error in (("gn", 20.0), ("ln", 22.0)):
        for path in out.glob(f"runs/{norm}-*/metrics.jsonl"):
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            path.write_text("".join(json.dumps({**r, "val_error": error}) + "\n" for r in rows))
    assert lines(summarize(out))[0]["verdict"] == "the same difference in 2 seeds, no interval"


def test_a_tuned_study_compares_what_was_chosen(tmp_path):
    rows = [row for row in summarize(tuned_on_test(tmp_path)) if row.labels["base_lr"] == 0.1]
    assert [line["norm"] for line in lines(rows)] == ["bn (recomputed statistics)", "gn"]
