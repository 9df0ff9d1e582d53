"""What the arms start from: its result beside theirs, and what is said where it is not known."""

import json
from dataclasses import replace

import pytest

from groupnorm.study.report.tables import main_table_of
from groupnorm.study.report.text import describe
from groupnorm.study.report.unrounded import study_numbers
from groupnorm.study.results.pretraining import (
    pretraining_header,
    pretraining_metrics,
    pretraining_result,
    started_from,
)
from groupnorm.training.metric import CLASSIFICATION
from tests.study.fake_detectors import detector_study, start_of
from tests.study.fake_store import loaded, spoil
from tests.tolerances import HALF_A_TENTH

ERROR = CLASSIFICATION[0]
SHARED = (
    "All seeds of an arm start from the same run, so no interval here holds what another "
    "pretraining would change."
)


def test_the_error_of_what_an_arm_starts_from_stands_beside_its_ap(tmp_path):
    study, rows = loaded(detector_study(tmp_path))
    assert pretraining_metrics(study) == [ERROR]
    frozen, *_, scratch = rows
    (record,) = started_from(study, frozen)
    assert record.name == start_of("bn").run_name()
    assert pretraining_result([record], ERROR).mean == record.metrics[-1]["val_error"]
    header, body = main_table_of(study, rows)
    assert header[-1] == pretraining_header(study)[0] == "pretraining: top-1 error (%)"
    assert [line[-1] for line in body] == [
        "39.2 (5 epochs)", "39.2 (5 epochs)", "44.0 (5 epochs)", "37.2 (5 epochs)", "\u2013",
        "\u2013",
    ]  # fmt: skip
    assert started_from(study, scratch) == []
    found = study_numbers(study, rows)["rows"]
    assert found[0]["pretraining"] == {
        "runs": [record.name], "error": pytest.approx(39.2, abs=HALF_A_TENTH),
    }  # fmt: skip
    assert found[-1]["pretraining"] == {"runs": []}


def test_the_text_warns_where_the_starts_differ_and_only_there(tmp_path):
    warning = (
        "The arms start from runs with a top-1 error of 37.2 % (GN+WS) to 44.0 % (GN). What "
        "separates two arms may in part be what separates their pretraining."
    )
    study, rows = loaded(detector_study(tmp_path))
    assert f"{warning} {SHARED}" in describe(study, rows)
    assert SHARED in describe(study, rows[:2])


def test_only_seeds_that_share_a_start_are_said_to(tmp_path):
    """An arm of one seed shares nothing, and seeds may have a start each."""
    study, rows = loaded(detector_study(tmp_path))
    assert "another pretraining" not in " ".join(describe(study, rows[4:]))
    one_seed = [replace(row, runs=row.runs[:1]) for row in rows]
    assert "another pretraining" not in " ".join(describe(study, one_seed))
    study.records["arm0-s1"].config["init"] = start_of("gn:groups=8").run_name()
    assert "another pretraining" not in " ".join(describe(study, rows[:2]))


@pytest.mark.parametrize("status", ["failed", "missing"])
def test_a_start_without_a_result_is_named(tmp_path, status):
    out = detector_study(tmp_path)
    spoil(out / "runs" / start_of("bn").run_name(), status, "killed")
    study, rows = loaded(out)
    assert main_table_of(study, rows)[1][0][-1] == status
    assert main_table_of(study, rows)[1][2][-1] == "44.0 (5 epochs)"


def test_a_start_is_reported_by_its_own_rule_of_last_epochs(tmp_path):
    out = detector_study(tmp_path)
    config = start_of("bn").model_copy(update={"reported_epochs": 5})
    folder = out / "runs" / start_of("bn").run_name()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    study, _ = loaded(out)
    record = study.initial[folder.name]
    by_rule = {**record.config, "reported_epochs": config.reported_epochs}
    errors = sorted(row["val_error"] for row in rows)
    changed = type(record)(record.name, "finished", None, by_rule, record.env, record.metrics)
    assert pretraining_result([changed], ERROR).mean == errors[2]


def test_the_mean_of_several_starts_needs_them_all(tmp_path):
    out = detector_study(tmp_path)
    spoil(out / "runs" / start_of("bn").run_name(), "diverged", "loss nan")
    study, _ = loaded(out)
    assert pretraining_result(list(study.initial.values()), ERROR) is None
