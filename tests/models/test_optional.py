"""The networks built on torchvision say how to get it."""

import sys

import pytest
import torchvision

from groupnorm.models import build_detector, build_model
from groupnorm.models.optional import torchvision_models


def test_the_module():
    assert torchvision_models() is torchvision.models


@pytest.mark.parametrize("name", ["resnet18", "vgg16"])
def test_without_torchvision(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "torchvision.models", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'groupnorm\[study\]'"):
        build_model(name, norm="gn", num_classes=3)
    with pytest.raises(ImportError, match="and the detectors are built on torchvision"):
        build_detector("mask_rcnn_narrow", num_classes=3, canvas=96)
    build_model("resnet8", norm="gn", num_classes=3)
