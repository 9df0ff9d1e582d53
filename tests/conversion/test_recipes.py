"""The recipes in docs/conversion-recipes.md run, on tiny networks, and do what they say."""

import functools
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

import groupnorm
import groupnorm.data
from groupnorm.conversion.calibration.fit import FitLimits
from tests.conversion.networks import train_statistics
from tests.data.files.image_trees import class_folders

PAGE = (Path(__file__).parents[2] / "docs" / "conversion-recipes.md").read_text()
RECIPES = {
    section.splitlines()[0]: re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    for section in PAGE.split("\n## ")[1:]
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Conversions that search for nothing."""
    quick = functools.partial(groupnorm.convert, limits=FitLimits(steps=0, signs=False))
    monkeypatch.setattr(groupnorm, "convert", quick)


def run(name, **given):
    """The names that the code of a recipe leaves."""
    (code,) = RECIPES[name]
    exec(code, given)
    return given


def trunk(norm=nn.BatchNorm2d):
    layers = []
    for fan_in, fan_out in ((3, 8), (8, 16)):
        layers += [nn.Conv2d(fan_in, fan_out, 3, 2, 1, bias=False), norm(fan_out)]
        layers += [nn.ReLU(inplace=True)]
    return train_statistics(nn.Sequential(*layers))


def classifier():
    return nn.Sequential(trunk(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))


def images(count=16):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def values(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def test_every_recipe_is_tried_here():
    assert len(RECIPES) == 5
    text = Path(__file__).read_text()
    assert [name for name in RECIPES if f'run(\n        "{name}"' not in text] == []


def test_detection(tmp_path, monkeypatch, capsys):
    class_folders(tmp_path / "photos", images=8)
    monkeypatch.chdir(tmp_path)
    smaller = functools.partial(groupnorm.data.folder_images, batch=8)
    monkeypatch.setattr(
        groupnorm.data, "folder_images", lambda folder, count, size: smaller(folder, 16, 32)
    )
    backbone = trunk(FrozenBatchNorm2d)
    backbone.out_channels = 16
    detector = FasterRCNN(
        backbone, 2, min_size=32, max_size=32, box_detections_per_img=2,
        rpn_anchor_generator=AnchorGenerator(((8,),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 2, 2),
    )  # fmt: skip
    target = {"boxes": torch.tensor([[2.0, 2, 20, 20]]), "labels": torch.tensor([1])}
    found = run(
        "Detection with few images per GPU",
        detector=detector,
        loader=[([torch.rand(3, 32, 32)], [target])] * 2,
    )
    assert "BatchNorm2d" in capsys.readouterr().out
    assert not any(layer.trainable for layer in found["report"].layers)
    assert all(norm.weight.requires_grad for norm in (detector.backbone[1], detector.backbone[4]))
    assert detector.backbone[4].weight.grad.abs().max() > 0
    assert found["report"].skipped == []


def test_policies():
    policy = nn.Sequential()
    policy.encoder, policy.pool = trunk(), nn.AdaptiveAvgPool2d(1)
    policy.flat, policy.head = nn.Flatten(), nn.Linear(16, 2)
    found = run(
        "Robot policies with a moving average of the weights",
        policy=policy,
        observations=images(),
        loader=[(images(2), torch.zeros(2, 2))] * 3,
    )
    assert not list(found["average"].module.buffers())
    assert not torch.equal(found["average"].module.encoder[1].weight, policy.encoder[1].weight)
    assert set(found["report"].new_keys) >= {"0.bias", "3.bias"}


def test_differential_privacy():
    given = {"images": images(4), "labels": torch.tensor([0, 1, 2, 0])}
    found = run(
        "Differential privacy",
        model=classifier(),
        public_images=images(),
        **given,
    )
    private = found["private"]
    for number in range(4):
        private.zero_grad()
        logits = private(given["images"][number : number + 1])
        nn.functional.cross_entropy(logits, given["labels"][number : number + 1]).backward()
        for name, parameter in private.named_parameters():
            torch.testing.assert_close(parameter.grad, found["gradients"][name][number])
    assert float((found["lengths"] * found["share"]).max()) <= 1.0001


def test_federated_learning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def train(client, batches):
        with torch.no_grad():
            for parameter in client.parameters():
                parameter.add_(batches)

    found = run(
        "Federated learning",
        model=classifier(),
        make_model=classifier,
        public_images=images(),
        client_data=[1.0, 3.0],
        train=train,
    )
    first, second = map(values, found["clients"])
    for key, value in found["server"].state_dict().items():
        torch.testing.assert_close(value, (first[key] + second[key]) / 2)
        torch.testing.assert_close(second[key] - first[key], torch.full_like(value, 2.0))
    assert [tuple(p.shape) for p in found["server"].parameters()] == [
        tuple(value.shape) for value in first.values()
    ]


class Segmenter(nn.Module):
    """Features beside their global mean, which a norm of its own follows."""

    def __init__(self):
        super().__init__()
        self.trunk = trunk()
        self.pooled = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16)
        )
        self.head = nn.Conv2d(16, 2, 1)
        train_statistics(self)

    def forward(self, x):
        features = self.trunk(x)
        return nn.functional.interpolate(self.head(features + self.pooled(features)), x.shape[2:])


def test_segmentation(capsys):
    model = Segmenter()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        model.train()(images(1))
    found = run(
        "Segmentation with large images",
        model=model,
        crops=images(),
        loader=[(images(1), torch.zeros(1, 16, 16, dtype=torch.int64))] * 2,
    )
    assert "one value per channel and sample" in capsys.readouterr().out
    segmenter = found["segmenter"].eval()
    torch.testing.assert_close(segmenter(images(3))[:1], segmenter(images(3)[:1]))
