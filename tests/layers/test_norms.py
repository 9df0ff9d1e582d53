"""norm_modules finds every kind of norm, and nothing else."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from groupnorm.layers import norm_layer, norm_modules
from groupnorm.models import build_model
from groupnorm.spec import KINDS, NormSpec
from tests.layers.test_contract import SPECS


def test_every_kind_keeps_the_contract():
    assert {NormSpec.parse(spec).kind for spec in SPECS} == set(KINDS)


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


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"none"}))
@pytest.mark.parametrize("asked", [{}, {"act_layer": nn.PReLU}])
def test_the_documented_groups_of_weight_decay(kind, asked):
    page = (Path(__file__).parents[2] / "docs" / "normalizations.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    norm = norm_layer(kind)(32, **asked)
    names = {"model": nn.Sequential(nn.Conv2d(3, 32, 3), norm), "torch": torch}
    exec(code, names)
    decayed, others = names["optimizer"].param_groups
    assert {id(p) for p in decayed["params"]} == {id(p) for p in names["model"][0].parameters()}
    assert {id(p) for p in others["params"]} == {id(p) for p in norm.parameters()}
    assert (decayed["weight_decay"], others["weight_decay"]) == (1e-4, 0)
