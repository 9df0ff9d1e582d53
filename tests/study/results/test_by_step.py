"""Results after so many steps: of which, and of which seeds."""

import json

import pytest

from groupnorm.study.results.by_step import at_step, difference_at, results_at, shown_steps
from tests.study.fake_fine_tuning import fine_tuning_study
from tests.study.fake_store import loaded


@pytest.fixture
def study(tmp_path):
    return loaded(fine_tuning_study(tmp_path))


def test_the_nearest_evaluated_steps(study):
    assert shown_steps(study[0]) == [100, 300, 1000]


def test_other_steps_where_runs_were_evaluated_elsewhere(tmp_path):
    out = fine_tuning_study(tmp_path)
    for path in out.glob("runs/*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            if row["step"] < 1000:
                row["step"] = 10 * row["epoch"]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert shown_steps(loaded(out)[0]) == [40, 1000]


def test_a_step_that_one_run_was_not_evaluated_after_is_not_shown(tmp_path):
    out = fine_tuning_study(tmp_path)
    path = next(iter(out.glob("runs/*/metrics.jsonl")))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    del rows[1]["val_mean_iou"]  # after 100 steps
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert shown_steps(loaded(out)[0]) == [50, 300, 1000]


def test_results_are_those_of_the_seeds_after_the_step(study):
    study, rows = study
    row = rows[3]
    assert row.labels == {"arm": "BN trained", "batch_per_worker": 1}
    early, late = (results_at(study, row, step) for step in (100, 1000))
    assert list(early) == list(late) == [0, 1, 2]
    assert late == row.results
    assert all(early[seed] < late[seed] for seed in early)
    assert row.precise_results
    assert at_step(study, row, 1000).precise_results == {}


def test_differences_are_of_pairs_of_seeds(study):
    study, rows = study
    found = difference_at(study, rows[1], rows[0], 100)
    assert (found.pairs, found.told_apart) == (3, True)
    assert found.mean < 0


def test_nothing_is_shown_before_a_run_has_finished(tmp_path):
    out = fine_tuning_study(tmp_path)
    for path in out.glob("runs/*/DONE"):
        path.unlink()
    assert shown_steps(loaded(out)[0]) == []
