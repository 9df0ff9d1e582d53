"""norm_modules finds every kind of norm, and nothing else."""

import pytest
from torch import nn

from groupnorm.layers import norm_layer, norm_modules
from groupnorm.models import build_model
from groupnorm.spec import KINDS


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"none"}))
def test_every_kind_is_found(kind):
    layer = norm_layer(kind)(32)
    assert norm_modules(nn.Sequential(nn.Conv2d(3, 32, 3), layer, nn.ReLU())) == [("1", layer)]


def test_names_in_the_models_order():
    names = [name for name, _ in norm_modules(build_model("resnet8", norm="gn+ws", num_classes=3))]
    assert len(names) == 7
    assert norm_modules(build_model("resnet8", norm="none", num_classes=3)) == []
    model = build_model("resnet8", norm="gn", num_classes=3)
    in_order = [name for name, module in model.named_modules() if isinstance(module, nn.GroupNorm)]
    assert names == in_order


def test_pytorchs_norms_and_the_outer_of_two():
    class Outer(nn.LayerNorm):
        def __init__(self):
            super().__init__(4)
            self.inner = nn.BatchNorm1d(4)

    outer = Outer()
    plain = [nn.BatchNorm2d(4), nn.InstanceNorm1d(4), nn.GroupNorm(2, 4), nn.RMSNorm(4)]
    found = [module for _, module in norm_modules(nn.Sequential(*plain, outer, outer))]
    assert found == [*plain, outer]
