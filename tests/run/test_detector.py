"""A trained detector without its data set."""

import math
from dataclasses import asdict

import pytest
import torch

from groupnorm.data.detection import rle
from groupnorm.run import config_class, setup_of
from groupnorm.run.detection import read
from groupnorm.run.detector import BuiltFor, TrainedDetector, build
from tests.data.detection.tiny_garments import FIELDS, SIDE, tiny_garments
from tests.data.files.image_trees import photo

pytestmark = pytest.mark.usefixtures("scenes_on_disk")
BUILT_FOR = BuiltFor(["a", "b"], 64, 64, 96, [0.5, 0.4, 0.3], [0.2, 0.2, 0.2])


def config(**changes):
    fields = {**FIELDS, "norms": {}, **changes}
    return config_class(fields)(**fields)


def weights_of(made, **changes):
    """First weights, some of them with other values in all places."""
    weights = build(made, BUILT_FOR, "cpu").state_dict()
    return weights | {name: torch.full_like(weights[name], v) for name, v in changes.items()}


@pytest.mark.parametrize("model", ["mask_rcnn_narrow", "retinanet_narrow"])
@pytest.mark.parametrize("norm", ["bn", "gn:groups=8+ws"])
def test_the_network_is_the_one_that_the_data_gives(model, norm):
    made = config(model=model, norm=norm)
    setup = setup_of(made)
    data = setup.load(made, "cpu", tiny_garments())
    kept = BuiltFor(**setup.built_for(made, data))
    assert (kept.canvas, kept.short_side, len(kept.categories)) == (SIDE, SIDE, 5)
    first, again = setup.build(made, data, "cpu"), build(made, kept, "cpu")
    assert str(first) == str(again)
    for one, other in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_images_that_the_data_leaves_as_they_are_have_the_canvas_as_their_short_side(monkeypatch):
    """A photograph is not searched for objects of a few pixels."""
    made = config()
    data = setup_of(made).load(made, "cpu", tiny_garments())
    monkeypatch.setattr(data, "data", read(config(short_side=None), tiny_garments()))
    object.__setattr__(data.data, "short_side", None)
    assert setup_of(made).built_for(made, data)["short_side"] == SIDE


def test_a_retinanets_objects_have_no_masks_and_lie_in_the_image():
    made = config(model="retinanet_narrow")
    weights = weights_of(made, **{"head.classification_head.cls_logits.bias": 1.0})
    detector = TrainedDetector(made, BUILT_FOR, weights)
    found = detector.find(photo(size=(200, 100)), 0.5)
    assert found.not_finite == 0
    assert {one["mask"] for one in found.objects} == {None}
    assert max(one["box"][2] for one in found.objects) > 150
    for one in found.objects:
        assert 0 <= one["box"][0] <= one["box"][2] <= 200
        assert 0 <= one["box"][1] <= one["box"][3] <= 100
    assert detector.find(photo(size=(200, 100)), 0.999).objects == []


def test_images_are_resized_as_in_training():
    made = config()
    detector = TrainedDetector(made, BUILT_FOR, weights_of(made))
    seen = []
    detector.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0].shape))
    for size in ((64, 64), (100, 90), (200, 100), (32, 33)):
        detector.find(photo(size=size), 0.5)
    assert seen == [(3, 64, 64), (3, 64, 71), (3, 48, 96), (3, 66, 64)]


def test_masks_have_the_size_of_the_image():
    made = config()
    found = TrainedDetector(made, BUILT_FOR, weights_of(made)).find(photo(size=(90, 50)), 0.05)
    assert found.objects
    for one in found.objects:
        assert one["mask"]["size"] == [50, 90]
        rle.parse(one["mask"], 50, 90)


def test_what_is_no_number_is_counted():
    made = config(model="retinanet_narrow")
    changes = {"head.classification_head.cls_logits.bias": 1.0,
               "head.regression_head.bbox_reg.bias": math.nan}  # fmt: skip
    found = TrainedDetector(made, BUILT_FOR, weights_of(made, **changes)).find(photo(), 0.5)
    assert found.objects == []
    assert found.not_finite > 0


def test_half_precision_is_that_of_the_run():
    made = config(precision="bfloat16")
    detector = TrainedDetector(made, BUILT_FOR, weights_of(made))
    seen = []
    convolution = next(m for m in detector.model.modules() if isinstance(m, torch.nn.Conv2d))
    convolution.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    detector.find(photo(), 0.05)
    assert seen == [torch.bfloat16]


def test_weights_that_do_not_fit():
    made = config()
    other = BuiltFor(**{**asdict(BUILT_FOR), "categories": ["a", "b", "c"]})
    with pytest.raises(ValueError, match="do not fit mask_rcnn_narrow with 3 categories: size mi"):
        TrainedDetector(made, other, weights_of(made))
