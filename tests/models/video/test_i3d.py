"""I3D ResNet-50 against the published table: shapes, kernels, strides, parameters, norms."""

from collections import Counter

import pytest
import torch
from torch import nn

from groupnorm.layers import WSConv3d, norm_layer, norm_modules
from groupnorm.models import build_video_model, count_parameters, places_of
from groupnorm.models.video.i3d import I3D, Bottleneck
from groupnorm.spec import KINDS

TABLE = {  # after each part: channels, frames of 32, pixels of 224 (Wang et al. 2018, Table 1)
    "conv1": (64, 16, 112),
    "maxpool": (64, 8, 56),
    "layer1": (256, 8, 56),
    "maxpool2": (256, 4, 56),
    "layer2": (512, 4, 28),
    "layer3": (1024, 4, 14),
    "layer4": (2048, 4, 7),
    "avgpool": (2048, 1, 1),
}
TEMPORAL = {
    "layer1": (0, 1, 2),
    "layer2": (0, 2),
    "layer3": (0, 2, 4),
    "layer4": (1,),
}
RESNET50 = 25_557_032  # with 1,000 classes


def on_meta(**options):
    with torch.device("meta"):
        return I3D(**options)


def blocks(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, Bottleneck)}


@pytest.mark.parametrize("frames", [32, 64])
def test_maps_are_those_of_the_table(frames):
    model, found = on_meta(), {}
    for name in TABLE:
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: found.update({name: output.shape})
        )
    assert model(torch.empty(2, 3, frames, 224, 224, device="meta")).shape == (2, 400)
    for name, (channels, of_32, pixels) in TABLE.items():
        length = of_32 if name == "avgpool" else of_32 * frames // 32
        assert found[name] == (2, channels, length, pixels, pixels), name


def test_a_temporal_kernel_stands_first_in_the_published_blocks_only():
    model = on_meta()
    kernels = {n: m.kernel_size for n, m in model.named_modules() if isinstance(m, nn.Conv3d)}
    assert kernels.pop("conv1") == (5, 7, 7)
    expected = {f"{stage}.{n}.conv1" for stage, numbers in TEMPORAL.items() for n in numbers}
    assert {name for name, kernel in kernels.items() if kernel[0] > 1} == expected
    assert {kernels[name] for name in expected} == {(3, 1, 1)}
    assert all(kernel == (1, 3, 3) for name, kernel in kernels.items() if name.endswith("conv2"))
    assert Counter(kernels.values()) == {(3, 1, 1): 9, (1, 3, 3): 16, (1, 1, 1): 27}


def test_strides_are_the_published_ones():
    model = on_meta()
    strided = {
        name: module.stride
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv3d) and module.stride != (1, 1, 1)
    }
    transitions = {f"layer{i}.0.{conv}" for i in (2, 3, 4) for conv in ("conv2", "downsample.0")}
    assert strided == {"conv1": (2, 2, 2), **dict.fromkeys(transitions, (1, 2, 2))}
    assert (model.maxpool.kernel_size, model.maxpool.stride) == ((2, 3, 3), 2)
    assert (model.maxpool2.kernel_size, model.maxpool2.stride) == ((2, 1, 1), (2, 1, 1))


def test_parameters_are_those_of_resnet50_and_of_the_longer_kernels():
    """Two further weights in time for each of the nine 1x1, four for the stem."""
    planes = {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}
    longer = 4 * 64 * 3 * 7 * 7
    for stage, numbers in TEMPORAL.items():
        width = planes[stage]
        inputs = {"layer1": 64}.get(stage, 2 * width)
        longer += sum(2 * width * (inputs if number == 0 else 4 * width) for number in numbers)
    model = on_meta(num_classes=1000)
    assert count_parameters(model) == RESNET50 + longer
    assert count_parameters(on_meta()) == RESNET50 + longer - 600 * 2049 == 28_043_472


@pytest.mark.parametrize("norm", ["gn:size=16", "gn+ws", "none+ws", *KINDS])
def test_every_norm_takes_clips(norm):
    model = on_meta(norm=norm, num_classes=7, in_channels=1)
    logits = model(torch.empty(2, 1, 9, 65, 40, device="meta"))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert model.conv1.weight.grad is not None


def test_every_convolution_has_its_norm():
    for norm, count, standardized, bias in (
        ("gn+ws", 53, True, False),
        ("bn", 53, False, False),
        ("none", 0, False, True),
    ):
        model = on_meta(norm=norm)
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv3d)]
        assert len(convolutions) == 53
        assert len(norm_modules(model)) == count
        assert all(isinstance(conv, WSConv3d) is standardized for conv in convolutions)
        assert all((conv.bias is not None) is bias for conv in convolutions)


def test_each_place_has_its_norm():
    norms = {place: f"gn:groups={2**n}" for n, place in enumerate(places_of("i3d_resnet50"))}
    with torch.device("meta"):
        model = build_video_model("i3d_resnet50", norm="ln", norms=norms, num_classes=3)
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.GroupNorm):
            part = name.split(".")[0]
            place = "stem" if part == "bn1" else part.replace("layer", "stage")
            found.setdefault(place, set()).add(f"gn:groups={module.num_groups}")
    assert found == {place: {norm} for place, norm in norms.items()}


@pytest.mark.parametrize("zero_gamma", [True, False])
def test_gamma_is_zero_on_the_last_norm_of_each_block(zero_gamma):
    block = Bottleneck(8, 8, 2, True, norm_layer("gn:groups=4"))
    assert block(torch.randn(2, 8, 3, 6, 5)).shape == (2, 32, 3, 3, 3)
    model = I3D(zero_gamma=zero_gamma)
    last = {id(block.bn3) for block in blocks(model).values()}
    assert len(last) == 16
    for _, norm in norm_modules(model):
        gamma = 0 if zero_gamma and id(norm) in last else 1
        assert torch.equal(norm.weight, torch.full_like(norm.weight, gamma))


def test_dropout_comes_before_the_linear_layer_in_training_only():
    model = on_meta()
    assert model.dropout.p == 0.5
    seen = []
    model.fc.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].shape))
    model.dropout.register_forward_hook(lambda *_: seen.append("dropout"))
    model(torch.empty(1, 3, 8, 40, 40, device="meta"))
    assert seen == ["dropout", (1, 2048)]


def test_a_factory_carries_the_batch_per_worker_into_the_model():
    model = on_meta(norm=norm_layer("bn", batch_per_worker=4))
    with pytest.raises(ValueError, match="6 images and batch_per_worker=4"):
        model(torch.empty(6, 3, 8, 40, 40, device="meta"))


def test_normalizer_free_blocks_are_not_there():
    with pytest.raises(ValueError, match="needs blocks of another form than i3d_resnet50 has"):
        I3D(norm="none+nf")
