"""The tasks by name."""

import pytest

from groupnorm.run import (
    classification,
    config_class,
    detection,
    segmentation,
    setup_of,
    video,
)
from groupnorm.run.tasks import check, describe_fields, reported_metric
from groupnorm.training.config import DetectionConfig, RunConfig, SegmentationConfig, VideoConfig
from groupnorm.training.metric import (
    BOX_DETECTION,
    CLASSIFICATION,
    MASK_DETECTION,
    SEGMENTATION,
    VIDEO,
)


def test_a_configuration_without_a_task_is_of_a_classifier():
    assert config_class({}) is config_class({"task": "classification"}) is RunConfig
    assert setup_of(RunConfig(epochs=1)) is classification


@pytest.mark.parametrize("name", ["detect", 3, None, []])
def test_an_unknown_task_is_answered_with_the_known_ones(name):
    with pytest.raises(
        ValueError, match=r"unknown task .*; known: classification, detection, segmentation, video"
    ):
        config_class({"task": name})


def test_other_configurations_name_their_task():
    assert config_class({"task": "detection"}) is DetectionConfig
    assert setup_of(DetectionConfig(steps=1)) is detection
    assert config_class({"task": "segmentation"}) is SegmentationConfig
    assert setup_of(SegmentationConfig(steps=1)) is segmentation
    assert config_class({"task": "video"}) is VideoConfig
    assert setup_of(VideoConfig(steps=1)) is video


@pytest.mark.parametrize("model", ["resnet8", "preact_resnet8"])
def test_a_width_without_channels_is_found_before_any_data(model):
    check(RunConfig(epochs=1, model=model, width=1 / 16))
    with pytest.raises(ValueError, match="width 1e-09 leaves no channels"):
        check(RunConfig(epochs=1, model=model, width=1e-9))


def test_the_reported_metric_is_the_first_one():
    assert reported_metric(RunConfig(epochs=1)) == CLASSIFICATION[0]
    assert reported_metric(DetectionConfig(steps=1)) == BOX_DETECTION[0] == MASK_DETECTION[0]
    assert reported_metric(SegmentationConfig(steps=1)) == SEGMENTATION[0]
    assert reported_metric(VideoConfig(steps=1)) == VIDEO[0]


def test_a_field_is_described_once_or_for_each_task():
    described = describe_fields()
    assert described["momentum"] == "Of SGD."
    assert described["model"].startswith("Classification: resnet8, ")
    assert " Detection: mask_rcnn_narrow, " in described["model"]
    assert described["width"].startswith("Classification: Factor on")
    assert " Segmentation: unet_narrow, " in described["model"]
    assert " Video: i3d_narrow " in described["model"]
    assert described["stride"].startswith("Video: Frames of the video")
    assert described["box_head"].startswith("Detection: Of Mask R-CNN")
