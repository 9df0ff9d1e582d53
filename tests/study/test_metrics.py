"""Which metrics a study is about, and runs that do not measure them."""

import json
import re
from dataclasses import asdict

import pytest

from groupnorm.study.metrics import further_metrics, primary_metric, training_metric
from groupnorm.study.results.rows import load_study, summarize
from groupnorm.study.store import StoreError
from groupnorm.training.metric import CLASSIFICATION
from tests.study.fake_store import (
    BOX_AP,
    ERROR,
    MASK_AP,
    add_to_manifest,
    arms_study,
    batch_study,
)


def set_env(out, run, **keys):
    path = out / "runs" / run / "env.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def test_a_record_without_metrics_is_of_classifiers(tmp_path):
    study = load_study(batch_study(tmp_path, norms=("bn",), batches=(32,), seeds=1))
    assert (study.metric, study.further) == (ERROR, ())
    assert study.training == CLASSIFICATION[1]
    assert primary_metric({}) == ERROR
    assert further_metrics({}) == ()


def test_a_study_is_about_what_its_record_says(tmp_path):
    study = load_study(arms_study(tmp_path))
    assert (study.metric, study.further) == (BOX_AP, (MASK_AP,))
    assert study.training is None, "its runs do not measure it on training images"
    row = summarize(tmp_path)[1]
    assert row.results == pytest.approx({0: 33.07, 1: 33.33})
    assert row.further["mask_ap"] == pytest.approx({0: 0.85 * 33.07, 1: 0.85 * 33.33})
    assert (row.precise_results, row.train_result) == ({}, None)


@pytest.mark.parametrize(
    "other",
    [
        {"metrics": [asdict(MASK_AP)]},
        {"metrics": [{**asdict(BOX_AP), "better": "lower"}, asdict(MASK_AP)]},
        {"metrics": [{**asdict(BOX_AP), "unit": "%"}, asdict(MASK_AP)]},
        {"metrics": None},
    ],
)
def test_runs_that_measure_something_else_are_refused(tmp_path, other):
    arms_study(tmp_path)
    set_env(tmp_path, "arm1-s0", **other)
    with pytest.raises(StoreError) as caught:
        load_study(tmp_path)
    assert re.search(
        r"arm1-s0.env.json is of a run that measures .*; study.json is about box AP \(box_ap, "
        r"higher is better\). The runs of a study must agree",
        str(caught.value),
    )


def test_what_is_shown_beside_may_be_missing_but_not_be_another(tmp_path):
    arms_study(tmp_path)
    path = tmp_path / "runs" / "arm1-s0" / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    without = [{k: v for k, v in row.items() if k != MASK_AP.name} for row in rows]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in without))
    set_env(tmp_path, "arm1-s0", metrics=[asdict(BOX_AP)])
    row = summarize(tmp_path)[1]
    assert (set(row.results), set(row.further["mask_ap"])) == ({0, 1}, {1})
    set_env(tmp_path, "arm1-s0", metrics=[asdict(BOX_AP), {**asdict(MASK_AP), "unit": "%"}])
    with pytest.raises(StoreError, match=r"study\.json is about mask AP"):
        load_study(tmp_path)


def test_what_no_run_measures_is_refused_once_all_have_begun(tmp_path):
    arms_study(tmp_path)
    other = {**asdict(MASK_AP), "name": "mask_ap_typo"}
    add_to_manifest(tmp_path, also=[asdict(MASK_AP), other])
    with pytest.raises(
        StoreError, match=r"study\.json shows mask AP \(mask_ap_typo, .*no run meas"
    ):
        load_study(tmp_path)
    (tmp_path / "runs" / "arm1-s0" / "env.json").write_text("{}")
    load_study(tmp_path)  # that one may measure it yet


def test_a_classifiers_study_refuses_a_detectors_run(tmp_path):
    batch_study(tmp_path, norms=("bn",), batches=(32,), seeds=1)
    set_env(tmp_path, "bn-n32-s0", metrics=[asdict(BOX_AP)])
    with pytest.raises(StoreError, match=r"about top-1 error \(val_error in %, lower is better\)"):
        load_study(tmp_path)


def test_the_training_metric_has_the_same_name(tmp_path):
    arms_study(tmp_path)
    trained = {"name": "train_box_ap", "unit": "", "better": "higher", "title": "training box AP"}
    set_env(tmp_path, "arm0-s0", metrics=[asdict(BOX_AP), asdict(MASK_AP), trained])
    study = load_study(tmp_path)
    assert training_metric(BOX_AP, study.records).title == "training box AP"
    assert training_metric(MASK_AP, study.records) is None


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ({"name": "box_ap", "unit": "", "better": "larger", "title": "box AP"}, "metric.better"),
        ({"name": "box_ap", "unit": "", "better": "higher"}, "lacks 'metric.title'"),
        ({**asdict(BOX_AP), "title": " "}, "metric.title"),
        ({**asdict(BOX_AP), "digits": 2}, "the key 'metric.digits'"),
    ],
)
def test_a_metric_that_is_none_is_refused(tmp_path, metric, message):
    add_to_manifest(arms_study(tmp_path), metric=metric)
    with pytest.raises(StoreError, match=message):
        load_study(tmp_path)


def test_arms_need_no_norm_and_norms_need_one(tmp_path):
    arms_study(tmp_path)
    assert summarize(tmp_path)[0].labels == {"arm": "frozenbn, fine-tuned"}
    add_to_manifest(tmp_path, shows="norms")
    with pytest.raises(StoreError, match="a cell without the label 'norm'"):
        load_study(tmp_path)
