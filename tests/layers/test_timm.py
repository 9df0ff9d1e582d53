"""timm's networks with any norm: as many activations as with batch norm, and the same numbers."""

import functools
import sys
from collections import Counter

import pytest
import timm
import timm.layers
import torch
from timm.layers import create_norm_act
from torch import nn

from groupnorm.layers import (
    EvoNormS0,
    FilterResponseNorm,
    GroupNorm,
    norm_layer,
    norm_modules,
)
from groupnorm.layers.factory import build_norm
from groupnorm.spec import KINDS, NormSpec
from tests.tolerances import DEEP, LAYER, NETWORK

# One model of each of timm's families (its modules) whose models take `norm_layer`.
FAMILIES = (
    "beit_base_patch16_384", "botnet26t_256", "test_byobnet", "cait_xxs24_224",
    "coat_lite_mini", "convit_small", "convnext_atto", "cpubone_nano", "crossvit_tiny_240",
    "darknet17", "cspnext_tiny", "davit_tiny", "deit_small_patch16_224", "densenet121", "dpn48b",
    "efficientformer_l1", "efficientformerv2_s0", "efficientnet_b0", "efficientvit_b0",
    "eva02_tiny_patch14_224", "fasternet_t0", "focalnet_tiny_srf",
    "gcvit_xxtiny", "hiera_base_224", "sam2_hiera_small", "inception_next_atto",
    "inception_resnet_v2", "inception_v3", "inception_v4", "lcnetv2_small", "lowformer_b0",
    "test_mambaout", "mixer_s32_224", "mnasnet_050", "mobilenetv2_050", "mobilenetv5_300m",
    "mobilevit_xs", "naflexvit_base_patch16_siglip", "nest_tiny_jx", "nextvit_small",
    "pvt_v2_b0", "rdnet_tiny", "regnety_002", "res2net50_26w_4s", "resnest26d", "resnet18",
    "resnetv2_50", "sequencer2d_s", "shvit_s1", "skresnet18", "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window16_256", "swinv2_cr_tiny_ns_224", "tnt_b_patch16_224",
    "twins_pcpvt_small", "vgg11", "visformer_small", "test_vit", "vit_tiny_r_s16_p8_384",
    "vit_srelpos_small_patch16_224", "samvit_base_patch16_224", "vitamin_small_224",
    "volo_d1_384", "ese_vovnet19b_slim", "xception41", "xcit_nano_12_p16_384",
)  # fmt: skip

# Those of a norm with its activation: by ConvNormAct, by EfficientNet's blocks, by calls that do
# not differ from those of a norm alone, and with ReLU6, hardswish and sigmoid.
WITH_ACTIVATION = ("test_byobnet", "test_efficientnet", "resnetv2_18", "mobilenetv2_035",
                   "regnety_002", "ese_vovnet19b_slim", "dpn48b")  # fmt: skip

MODULES = {
    module
    for module in vars(nn.modules.activation).values()
    if isinstance(module, type) and issubclass(module, nn.Module) and module is not nn.Module
} | {timm.layers.GELU, timm.layers.GELUTanh, timm.layers.PReLU, timm.layers.Sigmoid}
# What kernels of ours apply, by the name of its module.
FUSED = {
    "relu": "ReLU", "silu": "SiLU", "gelu": "GELU", "gelu_tanh": "GELU", "mish": "Mish",
    "hardswish": "Hardswish", "leaky_relu": "LeakyReLU",
}  # fmt: skip


def build(name, norm, **options):
    with torch.device("meta"):
        return timm.create_model(name, norm_layer=norm, **options)


def activations(model):
    found = Counter()
    for _, module in model.named_modules(remove_duplicate=False):
        if type(module) in MODULES:
            found[type(module).__name__.replace("GELUTanh", "GELU")] += 1
        elif isinstance(module, GroupNorm) and module.activation is not None:
            found[FUSED[module.activation]] += 1
    return found


def own_activations(model):
    """Of norms that bring one."""
    return sum(
        isinstance(module, FilterResponseNorm | EvoNormS0) and module.apply_act
        for module in model.modules()
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if number % 4 == 0 else [pytest.mark.slow])
        for number, name in enumerate(FAMILIES)
    ],
)
def test_the_activations_are_those_of_batch_norm(name):
    ours = build(name, norm_layer("gn:groups=8"))
    expected = activations(build(name, nn.BatchNorm2d))
    assert activations(ours) == expected
    assert sum(expected.values()) > 0
    assert sum(isinstance(module, GroupNorm) for module in ours.modules()) > 0


@functools.cache
def with_batch_norm(name):
    """The activations of a network, those that follow no norm within it, and the norms."""
    model = build(name, nn.BatchNorm2d)
    plain = build(name, functools.partial(build_norm, spec=NormSpec("gn"), act_layer=None))
    return activations(model), activations(plain), len(norm_modules(model))


@pytest.mark.parametrize("name", WITH_ACTIVATION[:4])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_norm_has_its_activations(kind, name):
    norm = norm_layer(kind)
    model = build(name, norm)
    expected, elsewhere, norms = with_batch_norm(name)
    assert kind == "none" or len(norm_modules(model)) == norms
    if norm.brings_activation:
        assert activations(model) == elsewhere
        assert own_activations(model) == (expected - elsewhere).total() > 0
    else:
        assert activations(model) == expected


@pytest.mark.parametrize("name", [*WITH_ACTIVATION, "densenet121", "resnet18"])
def test_the_numbers_are_those_of_timms_group_norm(name):
    """And the keys; in both layouts, evaluated and in training."""
    if name == "resnet18":
        spec, norm = "gn:groups=8", functools.partial(timm.layers.GroupNorm, num_groups=8)
    else:
        spec, norm = "gn:size=2", functools.partial(timm.layers.GroupNormAct, group_size=2)
    theirs = timm.create_model(name, norm_layer=norm)
    ours = timm.create_model(name, norm_layer=norm_layer(spec))
    ours.load_state_dict(theirs.state_dict())
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 3, 64, 64).contiguous(memory_format=layout)
        for training in (False, True):
            a, b = (m.to(memory_format=layout).train(training)(x) for m in (ours, theirs))
            torch.testing.assert_close(a, b, rtol=DEEP, atol=NETWORK)
            assert b.std() > 1e-3


@pytest.mark.parametrize("kind", ["bn", "syncbn", "frozenbn"])
def test_state_dicts_of_timms_batch_norm_load(kind):
    theirs = timm.create_model("test_efficientnet").eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    ours = timm.create_model("test_efficientnet", norm_layer=norm_layer(kind)).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=NETWORK, atol=LAYER)


@pytest.mark.parametrize("kind", KINDS)
def test_training(kind):
    model = timm.create_model("test_byobnet", norm_layer=norm_layer(kind, batch_per_worker=2))
    model(torch.randn(4, 3, 64, 64)).square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert sum(p.grad is not None for p in model.parameters()) > 10


def test_dpns_eps_is_taken_unless_the_spec_has_its_own():
    for spec, eps in (("gn:groups=8", 1e-3), ("bn", 1e-3), ("gn:groups=8,eps=1e-4", 1e-4)):
        norm = norm_layer(spec)
        modules = build("dpn48b", norm).modules()
        built = [module.eps for module in modules if isinstance(module, type(norm(8)))]
        assert set(built) == {eps}


def test_timm_may_be_imported_after_the_factory_was_made(monkeypatch):
    create_norm_act._NORM_ACT_REQUIRES_ARG.discard(build_norm)
    with monkeypatch.context() as before_timm:
        before_timm.delitem(sys.modules, "timm.layers.create_norm_act")
        norm = norm_layer("gn:groups=8")
    assert build_norm not in create_norm_act._NORM_ACT_REQUIRES_ARG
    assert activations(build("resnetv2_18", norm)) == Counter(ReLU=17)


def test_arguments_of_the_factory_may_be_bound_again():
    norm = functools.partial(norm_layer("gn:groups=8"), eps=1e-3)
    model = build("resnetv2_18", norm)
    assert activations(model) == Counter(ReLU=17)
    assert {norm.eps for _, norm in norm_modules(model)} == {1e-3}


def test_a_timm_that_does_not_tell_the_activation_is_reported(monkeypatch):
    monkeypatch.delattr(create_norm_act, "_NORM_ACT_REQUIRES_ARG")
    with pytest.warns(UserWarning, match="does not tell which activation follows a norm"):
        norm_layer("gn")


@pytest.mark.parametrize("spec", ["none", "gn:affine=false"])
def test_a_network_that_zeroes_scales_takes_norms_without(spec):
    model = build("regnety_002", norm_layer(spec), zero_init_last=False)
    assert not [name for name, _ in model.named_parameters() if "bn.weight" in name]
