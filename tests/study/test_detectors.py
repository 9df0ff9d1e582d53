"""A study of detectors whose backbones come from one classifier, trained once."""

import pytest

from groupnorm.run import config_class
from groupnorm.study import Plan, run_study
from groupnorm.study.plan import repeat
from groupnorm.training.config import RunConfig
from groupnorm.training.metric import BOX_DETECTION
from tests.data.detection.tiny_garments import FIELDS, tiny_garments

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("scenes_on_disk")]


def test_two_detectors_start_from_one_classifier(tmp_path):
    first = RunConfig(
        data="photo-patches", model="resnet14_narrow", image_size=32, norm="gn:groups=8", steps=1,
        workers=1, batch_per_worker=4, train_images=8,
    )  # fmt: skip
    start = first.run_name()
    fields = {**FIELDS, "steps": 2, "norms": {}, "init": start}
    labelled = [
        (
            {"norm": "gn:groups=8", "batch_per_worker": 2},
            config_class(fields)(**fields, model=model),
        )
        for model in ("mask_rcnn_narrow", "retinanet_narrow")
    ]
    cells, configs = repeat(labelled, 1)
    plan = Plan(
        "norms", "Two detectors", "fixed-step", "quick", {}, cells, configs, "norms", (),
        initial={start: first}, untimed="a test", metric=BOX_DETECTION[0],
    )  # fmt: skip
    outcome = run_study(plan, tmp_path, jobs=1, data_root=tiny_garments())
    records = {record.name: record for record in outcome.records}
    assert records.keys() == {start, *configs}
    assert {record.status for record in records.values()} == {"finished"}
    for name in configs:
        assert records[name].env["init"]["run"] == start
        assert records[name].env["init"]["loaded"] == 48
        assert records[name].metrics[-1]["box_ap"] == 0.0
