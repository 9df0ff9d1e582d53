"""Errors of runs that stop early, and when such a run has done what it was asked to."""

import math

import pytest

from groupnorm.study.results.search import as_asked, discarded, result_after
from groupnorm.study.store import Record
from tests.study.fake_store import BOX_AP, ERROR


def record(errors, status="partial"):
    rows = [{"epoch": number, "val_error": error} for number, error in enumerate(errors, 1)]
    return Record("x", status, None, {}, {}, rows)


@pytest.mark.parametrize(
    ("epochs", "last", "error"),
    [(4, 1, 20.0), (4, 3, 30.0), (2, 1, 40.0), (2, 2, 45.0), (5, 1, None)],
)
def test_an_error_is_the_median_of_the_last_epochs_up_to_a_rung(epochs, last, error):
    assert result_after(record([50.0, 40.0, 30.0, 20.0]), epochs, last, ERROR) == error


def test_what_diverged_or_has_no_error_is_infinitely_bad():
    assert result_after(record([50.0], "diverged"), 2, 1, ERROR) == math.inf
    assert result_after(record([50.0], "diverged"), 1, 1, ERROR) == 50.0
    assert result_after(record([50.0, None]), 2, 1, ERROR) == math.inf
    assert result_after(record([50.0], "failed"), 2, 1, ERROR) is None
    assert result_after(record([50.0], "diverged"), 2, 1, BOX_AP) == -math.inf


def test_a_run_that_came_as_far_as_it_was_asked_to_counts_as_finished():
    run = record([50.0, 40.0])
    assert as_asked(run, 2).status == "finished"
    assert as_asked(run, 3) is run
    failed = record([50.0, 40.0], "failed")
    assert as_asked(failed, 2) is failed


def test_a_group_of_a_single_value_is_discarded():
    runs = {str(n): {"norm": f"gn:groups={n}", "gain": 1.0, "noise": 0.1} for n in (1, 2, 4, 8)}
    assert discarded({"runs": runs}) == discarded(None) == {}
    runs["in"] = {"norm": "gn:size=1", "gain": 1.0, "noise": None}
    assert list(discarded({"runs": runs})) == ["gn:size=1"]
