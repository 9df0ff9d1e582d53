"""Values on parts of the test images: of which epochs, and what pairs of parts tell."""

import pytest

from groupnorm.study.results.differences import (
    difference_header,
    difference_lines,
    differences_of,
    how_compared,
    part_difference,
)
from groupnorm.study.results.estimates import paired_difference
from groupnorm.study.results.parts import curves_of, mean_by_part, part_results
from groupnorm.study.store import Record
from groupnorm.training.metric import MASK_DETECTION
from tests.study.fake_detectors import Arm, detector_study
from tests.study.fake_store import arms_study, loaded

BOX_AP, MASK_AP = MASK_DETECTION[0], next(m for m in MASK_DETECTION if m.name == "mask_ap")


def epoch(number, value, *parts):
    return {"epoch": number, "box_ap": value, "ap_folds": {"box_ap": list(parts)}}


def test_a_part_has_the_median_of_the_reported_epochs_and_an_empty_one_nothing():
    rows = [
        epoch(1, 1.0, 9.0, 9.0, 9.0),
        epoch(2, 2.0, 1.0, 5.0, None),
        epoch(3, 3.0, 3.0, 6.0, None),
    ]
    rows += [{"epoch": 4, "box_ap": None}, epoch(5, 4.0, 4.0, None, None)]
    assert part_results(rows, BOX_AP, "box_ap", last=3) == {0: 3.0, 1: 5.5}
    assert part_results(rows, BOX_AP, "box_ap", last=1) == {0: 4.0}
    assert part_results(rows, BOX_AP, "mask_ap", last=3) == {}
    assert part_results([{"epoch": 1, "box_ap": 1.0}], BOX_AP, "box_ap", last=1) == {}


def test_a_part_that_a_seed_lacks_has_no_mean():
    by_seed = {0: {0: 1.0, 1: 2.0}, 1: {0: 3.0, 1: 4.0, 2: 9.0}, 2: {1: 0.0}}
    assert mean_by_part(by_seed, [0, 1]) == mean_by_part(by_seed, [1, 0]) == {0: 2.0, 1: 3.0}
    assert mean_by_part(by_seed, []) == {}


def test_parts_are_paired_with_each_other_averaged_over_the_common_seeds(tmp_path):
    arms = {"a": Arm(30.0, "bn"), "b": Arm(31.0, "gn:groups=8"), "c": Arm(20.0, "bn", seeds=1)}
    study, rows = loaded(detector_study(tmp_path, arms))
    a, b, c = rows
    for metric in (BOX_AP, MASK_AP):
        found = part_difference(b, a, metric)
        ours, theirs = b.parts[metric.name], a.parts[metric.name]
        means = [
            {part: (seeds[0][part] + seeds[1][part]) / 2 for part in range(10)}
            for seeds in (ours, theirs)
        ]
        expected = paired_difference(*means)
        assert found.mean == pytest.approx(expected.mean)
        assert found.interval == pytest.approx(expected.interval)
    found = part_difference(c, a, BOX_AP)
    assert found.mean == pytest.approx(
        sum(c.parts["box_ap"][0][part] - a.parts["box_ap"][0][part] for part in range(10)) / 10
    ), "the second seed of the other arm has no pair"
    lines = [dict(zip(difference_header(study), line, strict=True))
             for line in difference_lines(study, differences_of(study, rows))]  # fmt: skip
    assert list(lines[0]) == [
        "arm", "against", "difference", "95 % interval over seeds", "pairs of seeds",
        "verdict over seeds", "difference over parts", "95 % interval over parts",
        "verdict over parts",
    ]  # fmt: skip
    assert [line["verdict over parts"] for line in lines] == ["higher box AP", "lower box AP"]
    assert lines[1]["verdict over seeds"] == "one seed, nothing can be told"
    said = how_compared(study, differences_of(study, rows))
    assert "The test images make 10 parts" in said
    assert "says nothing of another training" in said


def test_a_further_metric_is_compared_like_the_first(tmp_path):
    study, rows = loaded(detector_study(tmp_path))
    found = differences_of(study, rows, MASK_AP)
    assert [one.metric for one in found] == [MASK_AP] * 5
    gn_ws = next(one for one in found if one.name == "GN+WS")
    assert gn_ws.difference == paired_difference(
        rows[3].further["mask_ap"], rows[0].further["mask_ap"]
    )
    assert gn_ws.on_parts == part_difference(rows[3], rows[0], MASK_AP)
    assert gn_ws.verdict in ("higher mask AP", "cannot be told apart")


def test_without_parts_nothing_of_them_is_said(tmp_path):
    study, rows = loaded(arms_study(tmp_path))
    found = differences_of(study, rows)
    assert {one.on_parts for one in found} == {None}
    assert "parts" not in " ".join(difference_header(study)) + how_compared(study, found)


def test_the_curves_are_those_of_the_last_epoch_that_has_any():
    rows = [
        {"epoch": 1, "precision_at_recall": {"box_ap50": [1.0, 0.0]}},
        {"epoch": 2, "precision_at_recall": {"box_ap50": [2.0, 0.5], "mask_ap50": [None, None]}},
        {"epoch": 3},
    ]
    assert curves_of(Record("a", "finished", None, {}, {}, rows)) == {"box_ap50": [2.0, 0.5]}
    assert curves_of(Record("a", "finished", None, {}, {}, rows[2:])) == {}
