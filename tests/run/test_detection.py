"""How a detector is set up: data, network, cost, and where its weights come from."""

import pytest
import torch

from groupnorm.cost.measure import count_cost
from groupnorm.data import DataError
from groupnorm.data.batches import epoch_steps
from groupnorm.models import build_model
from groupnorm.run import check, config_class, run
from groupnorm.run.detection import build, first_step, load, notes, warm_start
from groupnorm.training.config import DetectionConfig, RunConfig
from groupnorm.training.warm_start import WarmStartError, load_weights
from tests.data.detection.tiny_garments import FIELDS, SIDE, tiny_garments

pytestmark = pytest.mark.usefixtures("scenes_on_disk")
CLASSIFIER = {"model": "resnet14_narrow", "data": "garments-crops", "epochs": 1}


def config(**changes):
    fields = {**FIELDS, **changes}
    if fields.get("model") == "retinanet_narrow":
        fields["norms"] = {}
    return config_class(fields)(**fields)


def loaded(made):
    return load(made, "cpu", tiny_garments())


def without_timing(metrics):
    return [{**row, "timing": None} for row in metrics]


def test_the_same_configuration_gives_the_same_bits():
    made = config(steps=2)
    first, second = (run(made, data_root=tiny_garments(), with_cost=False) for _ in range(2))
    assert without_timing(first.metrics) == without_timing(second.metrics)
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mask_rcnn_narrow", "retinanet_narrow"])
@pytest.mark.parametrize(
    "changes",
    [
        *({"norm": norm} for norm in ("bn", "frozenbn", "gn:groups=8+ws", "syncbn", "brn", "none")),
        {"precision": "bfloat16"},
        {"memory_format": "channels_last"},
        {"batch_per_worker": 1, "freeze_at": 2, "norm": "bn"},
    ],
    ids=str,
)
def test_every_norm_and_precision_trains(model, changes):
    env = {}
    made = config(model=model, **changes)
    result = run(made, data_root=tiny_garments(), on_start=env.update)
    assert result.status == "finished"
    assert result.metrics[-1]["train_loss"] < 5
    assert result.metrics[-1]["box_ap"] is not None
    trained_bn = changes.get("norm") in ("bn", "syncbn", "brn")
    assert (result.metrics[-1]["precise_box_ap"] is not None) == trained_bn
    assert env["cost"]["images"] == made.step_images
    assert env["metrics"][0]["name"] == "box_ap"


def test_the_canvas_follows_the_resized_images():
    for side in (SIDE, 32):
        made = config(short_side=side)
        data = loaded(made)
        anchors = build(made, data, "cpu").rpn.anchor_generator.sizes
        assert anchors[0][0] == pytest.approx(16 * side / 96)
        assert data.test_batch == 8
        assert next(data.test()).images[0].shape == (3, side, side)


def test_masks_are_decoded_for_models_that_have_some():
    for model, side in (("mask_rcnn_narrow", SIDE), ("retinanet_narrow", 0)):
        data = loaded(config(model=model))
        step = epoch_steps(data.order(0, 1, 2), 8, 0, 1)[0]
        for batch in (next(data.train([step])), next(data.test())):
            for target in batch.targets:
                assert target["masks"].shape == (len(target["boxes"]), side, side)


def test_the_model_normalizes_with_the_datas_mean():
    made = config()
    data = loaded(made)
    assert build(made, data, "cpu").transform.image_mean == list(data.data.image_mean)


def test_held_out_scenes_take_the_place_of_the_test_scenes():
    data = loaded(config(validation_images=4, train_images=10))
    assert (data.train_size, data.test_size) == (10, 4)
    with pytest.raises(ValueError, match="train_images=14, but coco has 12"):
        loaded(config(validation_images=4, train_images=14))


def test_the_cost_is_of_the_losses():
    made = config(workers=4, accumulate=2)
    data = loaded(made)
    model = build(made, data, "cpu")
    step = first_step(made, data, model)
    assert step.images.shape == (4, 3, SIDE, SIDE)
    assert step.model(step.images).dim() == 0
    cost = count_cost(step.model, step.images)
    assert cost["training_flops_per_image"] > 2 * cost["flops_per_image"] > 1e7


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"model": "resnet20"}, "unknown detector 'resnet20'; known: "),
        ({"data": "digits"}, "unknown detection data set 'digits'; known: garments"),
        ({"norms": {"stage1": "ln"}}, "no place 'stage1'; its places: backbone, fpn, box_head"),
        ({"model": "mask_rcnn_c4_resnet50", "norms": {}, "box_head": "4conv1fc"}, "box_head=4conv"),
        ({"norms": {"box_head": "gn"}}, "2fc has no convolution for gn to follow; use box_head="),
    ],
)
def test_what_is_refused_before_anything_is_loaded(fields, told):
    with pytest.raises((ValueError, DataError), match=told):
        check(DetectionConfig(**{**FIELDS, **fields}))


def test_frozen_random_weights_are_noted():
    made = config(freeze_at=2)
    assert "keep their random first weights" in notes(made, None)[0]
    assert notes(config(), None) == []


def taken(made, norm, **other):
    """What becomes of a classifier's weights; also the classifier and the detector."""
    classifier = RunConfig(**{**CLASSIFIER, "norm": norm, **other})
    weights = build_model(classifier.model, norm=norm, num_classes=10)
    for name, buffer in weights.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 2.0)
    model = build(made, loaded(made), "cpu")
    how = warm_start(made, model, classifier.identity())
    return load_weights(model, weights.state_dict(), how), weights, model


@pytest.mark.parametrize("model", ["mask_rcnn_narrow", "retinanet_narrow"])
def test_the_backbone_comes_from_a_classifier(model):
    made = config(model=model, norm="gn:groups=8+ws")
    found, classifier, detector = taken(made, "gn:groups=8+ws")
    body = detector.backbone.body
    assert found["left_out"] == ["fc.weight", "fc.bias"]
    assert found["loaded"] == len(body.state_dict())
    assert torch.equal(body.layer3[1].conv2.weight, classifier.layer3[1].conv2.weight)
    assert found["fresh"]
    assert not any(key.startswith("backbone.body.") for key in found["fresh"])


def test_frozen_batch_norm_takes_the_statistics():
    found, classifier, detector = taken(config(norm="frozenbn"), "bn")
    frozen, learned = detector.backbone.body.layer2[0].bn1, classifier.layer2[0].bn1
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(getattr(frozen, name), getattr(learned, name)), name
    assert not any(key.startswith("backbone.body.") for key in found["fresh"])


@pytest.mark.parametrize(
    ("norm", "of_classifier", "other", "told"),
    [
        ("frozenbn", "gn:groups=8", {}, "trained with gn:groups=8; with frozenbn the same"),
        ("bn", "gn:groups=8", {}, "trained with gn:groups=8; with bn the same"),
        ("gn:groups=8", "bn", {}, "trained with bn; with gn:groups=8 the same"),
        ("gn:groups=4", "gn:groups=8", {}, "compute something else"),
        ("gn:groups=8+ws", "gn:groups=8", {}, "compute something else"),
        ("gn:groups=8", "gn:groups=8+ws", {}, "compute something else"),
        ("frozenbn", "bn+ws", {}, "compute something else"),
        ("gn:groups=8", "gn:groups=8", {"model": "resnet20"}, "they are of resnet20, its backbone"),
    ],
)
def test_weights_that_do_not_fit(norm, of_classifier, other, told):
    with pytest.raises(WarmStartError, match=told):
        taken(config(norm=norm), of_classifier, **other)


def test_the_fourth_stage_of_c4_is_in_the_head():
    made = config(model="mask_rcnn_c4_resnet50", norms={}, norm="frozenbn")
    model = build(made, loaded(made), "cpu")
    how = warm_start(made, model, RunConfig(model="resnet50", norm="bn", epochs=1).identity())
    assert how.rename("layer4.0.conv1.weight") == "roi_heads.box_head.layer4.0.conv1.weight"
    assert how.rename("layer3.0.conv1.weight") == "backbone.body.layer3.0.conv1.weight"
    assert not any("layer4" in key for key in how.fresh)


def test_a_detector_of_other_data_keeps_its_own_predictors():
    made = config()
    model = build(made, loaded(made), "cpu")
    same = warm_start(made, model, made.identity())
    assert same.rename("roi_heads.box_predictor.cls_score.weight") is not None
    other = warm_start(made, model, {**made.identity(), "data": "garments"})
    assert other.rename("roi_heads.box_predictor.cls_score.weight") is None
    assert other.rename("rpn.head.cls_logits.weight") == "rpn.head.cls_logits.weight"
