"""Published findings: which appear, which do not, and which nobody can tell."""

import pytest

from groupnorm.study.report.text import describe
from groupnorm.study.report.unrounded import study_numbers
from groupnorm.study.results.estimates import paired_difference
from groupnorm.study.results.findings import (
    DIFFERENT,
    OPPOSITE,
    YES,
    Finding,
    appearances,
    appears,
    equal_within,
    findings_header,
    findings_lines,
    findings_sentence,
)
from groupnorm.study.store import StoreError, read_manifest
from groupnorm.training.metric import CLASSIFICATION, MASK_DETECTION
from tests.study.fake_detectors import detector_study
from tests.study.fake_store import add_to_manifest, loaded

BOX_AP, ERROR = MASK_DETECTION[0], CLASSIFICATION[0]
FINDINGS = (
    Finding("Trained BN is below frozen BN", "Table 4", {"arm": "frozen BN"},
            {"arm": "BN trained at 2"}),
    Finding("GN is above frozen BN", "Table 4: 38.8 and 37.7", {"arm": "GN"},
            {"arm": "frozen BN"}),
    Finding("GN+WS is above BN from scratch", "Table 7", {"arm": "GN+WS, from scratch"},
            {"arm": "BN at 2, from scratch"}),
    Finding("LN is below GN", "section 4.2", {"arm": "GN"}, {"arm": "LN"}),
)  # fmt: skip

DIFFER = "these networks differ"


def pairs(mean, spread, count=3):
    values = {seed: mean + spread * (seed - (count - 1) / 2) for seed in range(count)}
    return paired_difference(values, dict.fromkeys(values, 0.0))


@pytest.mark.parametrize(
    ("over_seeds", "on_parts", "expected"),
    [
        (pairs(2.0, 0.1), None, YES),
        (pairs(-2.0, 0.1), None, OPPOSITE),
        (pairs(-2.0, 0.1), pairs(2.0, 0.1), OPPOSITE),
        (pairs(1.0, 5.0), None, "not told by these seeds"),
        (pairs(1.0, 5.0), pairs(1.0, 5.0), "not told by these seeds"),
        (
            pairs(1.0, 5.0),
            pairs(1.0, 0.1),
            "not told by these seeds; these networks differ the same way",
        ),
        (
            pairs(1.0, 0.0, 1),
            pairs(-1.0, 0.1),
            "not told by one seed; these networks differ the other way",
        ),
        (pairs(1.0, 0.0, 1), None, "not told by one seed"),
        (None, None, "no result to compare"),
    ],
)
def test_a_finding_appears_where_the_seeds_tell_it(over_seeds, on_parts, expected):
    assert appears(BOX_AP, over_seeds, on_parts) == expected


@pytest.mark.parametrize(
    ("over_seeds", "expected"),
    [
        (pairs(0.0, 0.1), YES),
        (pairs(0.4, 0.1), YES),  # the interval leaves out 0, and is within the margin
        (pairs(-0.4, 0.1), YES),
        (pairs(0.0, 0.4), "not told by these seeds"),
        (pairs(0.7, 0.1), "not told by these seeds"),
        (pairs(1.2, 0.1), DIFFERENT),
        (pairs(-1.2, 0.1), DIFFERENT),
        (pairs(0.0, 0.0, 1), "not told by one seed"),
        (pairs(0.0, 0.0), "not told by these seeds"),
        (None, "no result to compare"),
    ],
)
def test_an_equality_appears_where_the_whole_interval_is_within_its_margin(over_seeds, expected):
    """With three seeds the half width of an interval is 2.5 spreads."""
    assert equal_within(0.75, over_seeds) == expected


def test_an_equality_is_told_by_its_margin_and_refuted_beyond_it(tmp_path):
    better, worse = {"arm": "frozen BN"}, {"arm": "BN trained at 2"}  # 2.7 points apart
    statements = [
        Finding(f"equal within {margin}", "s", better, worse, within=margin)
        for margin in (100.0, 0.01)
    ]
    out = detector_study(tmp_path, findings=[one.as_json() for one in statements])
    study, rows = loaded(out)
    found = appearances(study, rows)
    assert [one.answer for one in found] == [YES, DIFFERENT]
    assert findings_sentence(found) == (
        "Of 2 published findings about these arms 1 appears here, 1 does not; each stands below "
        "with its difference."
    )
    assert study_numbers(study, rows)["findings"][1]["within"] == 0.01
    assert "within" not in FINDINGS[0].as_json()


def test_less_error_is_better():
    assert appears(ERROR, pairs(-2.0, 0.1), None) == YES


def test_each_finding_stands_beside_what_was_measured(tmp_path):
    out = detector_study(tmp_path, findings=[finding.as_json() for finding in FINDINGS])
    study, rows = loaded(out)
    found = appearances(study, rows)
    assert [one.answer for one in found] == [
        YES, OPPOSITE, "not told by one seed; these networks differ the same way",
        "no result to compare",
    ]  # fmt: skip
    lines = findings_lines(study, found)
    assert {len(line) for line in lines} == {len(findings_header(study))}
    assert lines[0][:3] == ["Trained BN is below frozen BN", YES, "2.7"]
    assert lines[0][-1] == "Table 4"
    assert lines[3][2:5] == ["\u2013"] * 3
    sentence = (
        "Of 4 published findings about these arms 1 appears here, of 1 the opposite appears, 1 "
        "cannot be told by these seeds, 1 has no result to compare here; each stands below with "
        "its difference."
    )
    assert findings_sentence(found) == sentence
    assert sentence in describe(study, rows)
    assert findings_sentence(found[1:2]) == (
        "Of 1 published finding about these arms none appears here, of 1 the opposite appears; "
        "each stands below with its difference."
    )
    assert study_numbers(study, rows)["findings"][1]["appears"] == OPPOSITE


def test_a_finding_about_two_gains_compares_them_seed_by_seed(tmp_path):
    frozen, trained = {"arm": "frozen BN"}, {"arm": "BN trained at 2"}
    gn, scratch = {"arm": "GN"}, {"arm": "GN+WS, from scratch"}
    statements = [
        Finding("frozen BN gains more", "s", frozen, trained, {"better": gn, "worse": trained}),
        Finding("GN gains more", "s", gn, trained, {"better": frozen, "worse": trained}),
        Finding("one seed", "s", frozen, trained, {"better": gn, "worse": scratch}),
        Finding("no LN", "s", frozen, trained, {"better": {"arm": "LN"}, "worse": trained}),
    ]
    study, rows = loaded(detector_study(tmp_path, findings=[f.as_json() for f in statements]))
    more, less, one, none = appearances(study, rows)
    by = {row.labels["arm"]: row.results for row in rows}
    assert more.over_seeds.mean == pytest.approx(
        sum(by["frozen BN"][seed] - by["GN"][seed] for seed in (0, 1)) / 2
    )
    assert less.over_seeds.mean == pytest.approx(-more.over_seeds.mean)
    assert (more.over_seeds.pairs, one.over_seeds.pairs) == (2, 1)
    assert (more.answer, less.answer) == (YES, OPPOSITE)
    assert one.answer == "not told by one seed"
    assert (none.over_seeds, none.answer) == (None, "no result to compare")
    assert more.on_parts is None
    lines = findings_lines(study, [more])
    assert lines[0][1] == YES


def test_a_study_without_findings_says_nothing_of_them(tmp_path):
    study, rows = loaded(detector_study(tmp_path))
    assert appearances(study, rows) == []
    assert "findings" not in study_numbers(study, rows)


def test_a_damaged_finding_names_the_file(tmp_path):
    out = detector_study(tmp_path)
    add_to_manifest(out, findings=[{"statement": "GN is above BN"}])
    with pytest.raises(StoreError, match=r"study\.json"):
        read_manifest(out)
