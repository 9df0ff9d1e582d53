"""Metrics as values, and the record's list of them."""

import json
from dataclasses import asdict

from groupnorm.training.metric import CLASSIFICATION, VIDEO, Metric, metrics_of

BOX_AP = Metric("box_ap", "%", "higher", "box AP")


def test_a_record_without_metrics_is_of_a_classifier():
    reported, *_ = metrics_of({"threads": 2})
    assert reported == Metric("val_error", "%", "lower", "top-1 error")
    assert {metric.name for metric in CLASSIFICATION if metric.of_training} == {
        "train_error", "train_loss",
    }  # fmt: skip


def test_metrics_come_back_from_a_record_in_their_order():
    metrics = (BOX_AP, *CLASSIFICATION)
    env = json.loads(json.dumps({"metrics": [asdict(metric) for metric in metrics]}))
    assert metrics_of(env) == metrics


def test_a_video_classifiers_accuracy_is_better_when_higher():
    assert (VIDEO[0].name, VIDEO[0].better) == ("val_accuracy", "higher")
    assert [metric.better for metric in VIDEO if metric.unit == "%"] == ["higher"] * 5
    assert all((metric.better == "lower") == metric.name.endswith("loss") for metric in VIDEO)


def test_the_key_with_recomputed_statistics():
    assert CLASSIFICATION[0].precise == "precise_val_error"
    assert BOX_AP.precise == "precise_box_ap"
