"""The narrow network for clips."""

import pytest
import torch
from torch import nn

from groupnorm.layers import WSConv3d, norm_layer, norm_modules
from groupnorm.models import build_video_model, places_of
from groupnorm.models.video.i3d_narrow import BasicBlock, NarrowI3D
from groupnorm.spec import KINDS
from tests.tolerances import SAMPLED, SAMPLED_HUNDREDS


@pytest.mark.parametrize(("frames", "of_maps"), [(16, (16, 16, 16, 8)), (8, (8, 8, 8, 4))])
def test_maps(frames, of_maps):
    with torch.device("meta"):
        model = NarrowI3D()
        maps = [model.relu(model.bn1(model.conv1(torch.empty(2, 3, frames, 16, 16))))]
    for stage in (model.layer1, model.layer2, model.layer3):
        maps.append(stage(maps[-1]))
    sizes = ((16, 8), (16, 8), (32, 4), (64, 2))
    for found, (channels, pixels), length in zip(maps, sizes, of_maps, strict=True):
        assert found.shape == (2, channels, length, pixels, pixels)


def test_kernels_see_time_and_space():
    with torch.device("meta"):
        model = NarrowI3D(norm="gn+ws")
    kernels = {n: m.kernel_size for n, m in model.named_modules() if isinstance(m, WSConv3d)}
    assert kernels.pop("conv1") == (5, 5, 5)
    for stage in (1, 2, 3):
        assert kernels.pop(f"layer{stage}.conv1") == (3, 3, 3)
        assert kernels.pop(f"layer{stage}.conv2") == (3, 3, 3)
        assert kernels.pop(f"layer{stage}.downsample.0") == (1, 1, 1)
    assert not kernels
    assert len(norm_modules(model)) == 10


@pytest.mark.parametrize("norm", ["gn:size=8", "gn+ws", "bn+ws", "none+ws", *KINDS])
def test_shapes_and_gradients_for_every_norm(norm):
    model = NarrowI3D(norm=norm, num_classes=7)
    logits = model(torch.randn(2, 3, 4, 16, 12))
    assert logits.shape == (2, 7)
    logits.backward(torch.randn(2, 7))
    for layer in (model.conv1, model.fc):
        assert layer.weight.grad.abs().max() > 0


@pytest.mark.parametrize("zero_gamma", [True, False])
def test_blocks_start_as_their_shortcuts(zero_gamma):
    model = NarrowI3D(zero_gamma=zero_gamma)
    x = torch.randn(2, 16, 4, 6, 6)
    block = model.layer2
    assert isinstance(block, BasicBlock)
    same = torch.equal(block(x), torch.relu(block.downsample(x)))
    assert same == zero_gamma


def test_a_frozen_gamma_is_not_zeroed():
    assert torch.equal(NarrowI3D(norm="frozenbn").layer1.bn2.weight, torch.ones(16))


def test_first_weights():
    model = NarrowI3D(norm="none")
    weight = model.layer3.conv2.weight
    assert weight.std().item() == pytest.approx((2 / (27 * 64)) ** 0.5, rel=SAMPLED)
    assert model.fc.weight.std().item() == pytest.approx(0.01, rel=SAMPLED_HUNDREDS)
    biases = [m.bias for m in model.modules() if isinstance(m, nn.Conv3d | nn.Linear)]
    assert len(biases) == 11
    assert all(bias.abs().max() == 0 for bias in biases)


def test_each_place_has_its_norm():
    norms = {place: f"gn:groups={2**n}" for n, place in enumerate(places_of("i3d_narrow"))}
    model = build_video_model("i3d_narrow", norm="ln", norms=norms, num_classes=3)
    assert model.bn1.num_groups == 1
    for number in (1, 2, 3):
        block = model.get_submodule(f"layer{number}")
        for norm in (block.bn1, block.bn2, block.downsample[1]):
            assert norm.num_groups == 2**number


def test_statistics_are_of_a_workers_clips():
    """Each worker's clips are normalized as they would be alone."""
    model = NarrowI3D(norm=norm_layer("bn", batch_per_worker=2)).double()
    alone = NarrowI3D(norm="bn").double()
    alone.load_state_dict(model.state_dict())
    x = torch.randn(4, 3, 3, 12, 12, dtype=torch.float64)
    expected = torch.cat([alone(part) for part in x.split(2)])
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("norm", ["gn", "bn"])
def test_channels_last_stays(norm):
    model = NarrowI3D(norm=norm).to(memory_format=torch.channels_last_3d)
    x = torch.randn(2, 3, 4, 16, 16).contiguous(memory_format=torch.channels_last_3d)
    found = []
    for stage in (model.layer1, model.layer3):
        stage.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    model(x)
    assert all(maps.is_contiguous(memory_format=torch.channels_last_3d) for maps in found)


def test_normalizer_free_blocks_are_not_there():
    with pytest.raises(ValueError, match="needs blocks of another form than i3d_narrow has"):
        NarrowI3D(norm="none+nf")
