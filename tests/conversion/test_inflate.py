"""A 2-D ResNet's weights in I3D: still clips, what the ends of a clip do, keys that do not fit."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from groupnorm.conversion import inflate, load_inflated
from groupnorm.models import imagenet_resnet
from groupnorm.models.video.i3d import I3D
from groupnorm.models.video.i3d_narrow import NarrowI3D
from tests.tolerances import DEEP, WHOLE_NETWORK_64

SIZE = 33


def pair(norm):
    """A 2-D network of random weights in evaluation, and I3D inflated from it, both in float64."""
    flat = imagenet_resnet(50, norm=norm, num_classes=5).double().eval()
    for name, value in [*flat.named_parameters(), *flat.named_buffers()]:
        if value.dim() == 1 and "fc" not in name:
            positive = name.endswith(("weight", "running_var"))
            nn.init.uniform_(value, *((0.5, 1.5) if positive else (-0.5, 0.5)))
    with torch.device("meta"):
        deep = I3D(norm=norm, num_classes=5)
    deep = deep.double().to_empty(device="cpu").eval()
    assert load_inflated(deep, flat.state_dict()) == ["fc.weight", "fc.bias"]
    deep.fc.load_state_dict(flat.fc.state_dict())
    return flat, deep


def still(frame, frames):
    return frame[:, :, None].expand(-1, -1, frames, -1, -1)


def repeat_the_ends(model):
    """Let kernels see the first and the last frame again where they see zeros."""

    def pad(conv, inputs):
        frames = conv.kernel_size[0] // 2
        return F.pad(inputs[0], (0, 0, 0, 0, frames, frames), mode="replicate")

    for module in model.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] > 1:
            module.register_forward_pre_hook(pad)
            module.padding = (0, *module.padding[1:])


@pytest.mark.parametrize("norm", ["gn", "bn"])
@torch.no_grad()
def test_a_still_clip_gives_the_2d_networks_logits_where_its_ends_are_repeated(norm):
    flat, deep = pair(norm)
    frame = torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64)
    expected = flat(frame)
    with_zeros = deep(still(frame, 8))
    assert (with_zeros - expected).abs().max() > DEEP * expected.abs().max()
    repeat_the_ends(deep)
    torch.testing.assert_close(deep(still(frame, 8)), expected, **WHOLE_NETWORK_64)


@pytest.mark.slow
@torch.no_grad()
def test_with_zeros_at_the_ends_the_middle_of_a_long_clip_is_equal():
    """With running statistics, from 136 frames on; of shorter clips no frame of the last maps."""
    flat, deep = pair("bn")
    maps = {}
    for name, model in (("flat", flat), ("deep", deep)):
        model.layer4.register_forward_hook(
            lambda _module, _inputs, output, name=name: maps.update({name: output})
        )
    frame = torch.randn(1, 3, SIZE, SIZE, dtype=torch.float64)
    flat(frame)
    for frames, equal in ((136, [8]), (128, []), (32, [])):
        deep(still(frame, frames))
        errors = (maps["deep"] - maps["flat"][:, :, None]).abs().amax((0, 1, 3, 4))
        near = errors < WHOLE_NETWORK_64["rtol"] * maps["flat"].abs().max()
        assert near.nonzero().flatten().tolist() == equal, frames


@torch.no_grad()
def test_filters_are_repeated_and_divided():
    model = nn.ModuleDict({"a": nn.Conv3d(2, 4, (3, 1, 1)), "b": nn.Conv3d(2, 4, (1, 3, 3))})
    weights = {
        "a.weight": torch.randn(4, 2, 1, 1),
        "a.bias": torch.randn(4),
        "b.weight": torch.randn(4, 2, 3, 3),
        "b.bias": torch.randn(4),
    }
    inflated = inflate(weights, model)
    model.load_state_dict(inflated)
    assert torch.equal(model["a"].weight, (weights["a.weight"] / 3)[:, :, None].tile(1, 1, 3, 1, 1))
    assert torch.equal(model["b"].weight[:, :, 0], weights["b.weight"])
    assert torch.equal(model["a"].bias, weights["a.bias"])
    assert inflated["a.weight"].is_contiguous()
    assert weights["a.weight"].shape == (4, 2, 1, 1)


def on_meta(build, **options):
    with torch.device("meta"):
        return build(**options)


def test_checkpoints_of_torchvision_and_of_the_author(tmp_path):
    """Names with DataParallel's prefix, and `gn1` for `bn1`."""
    state = torchvision.models.resnet50().state_dict()
    torch.save(state, tmp_path / "torchvision.pth")
    model = I3D(norm="bn")
    first = model.fc.weight.clone()
    load_inflated(model, tmp_path / "torchvision.pth")
    assert torch.equal(model.conv1.weight[:, :, 4], state["conv1.weight"] / 5)
    assert torch.equal(model.layer4[2].bn3.running_var, state["layer4.2.bn3.running_var"])
    assert torch.equal(model.fc.weight, first)

    norms = [key for key in state if key.endswith(("running_mean", "running_var", "tracked"))]
    ours = {key: value for key, value in state.items() if key not in norms}
    authors = {"module." + key.replace("bn", "gn"): value for key, value in ours.items()}
    model = I3D(norm="gn")
    load_inflated(model, authors)
    assert torch.equal(model.layer1[0].conv1.weight[:, :, 1], state["layer1.0.conv1.weight"] / 3)


def test_keys_that_do_not_fit_are_named():
    state = on_meta(imagenet_resnet, depth=50, norm="gn").state_dict()
    model = on_meta(I3D, norm="gn")
    missing = {key: value for key, value in state.items() if key != "layer2.0.conv1.weight"}
    with pytest.raises(ValueError, match=r"the state dict .* missing: layer2\.0\.conv1\.weight$"):
        load_inflated(model, missing)
    with pytest.raises(ValueError, match=r"unexpected: layer9\.weight$"):
        load_inflated(model, {**state, "layer9.weight": torch.ones(1)})
    other = {**state, "conv1.weight": torch.ones(64, 1, 7, 7)}
    with pytest.raises(
        ValueError, match=r"of another shape: conv1\.weight \(64, 1, 7, 7\) instead"
    ):
        load_inflated(model, other)
    with pytest.raises(ValueError, match=r"bn1\.running_mean"):
        load_inflated(on_meta(I3D, norm="bn"), state)
    with pytest.raises(ValueError, match=r"missing: .*unexpected: layer1.* and \d+ more"):
        load_inflated(on_meta(NarrowI3D), state)


def test_files_that_hold_no_weights(tmp_path):
    model = on_meta(I3D)
    with pytest.raises(FileNotFoundError):
        load_inflated(model, tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_inflated(model, tmp_path / "text.pth")


def test_standardized_filters_are_not_inflated():
    state = on_meta(imagenet_resnet, depth=50, norm="gn+ws").state_dict()
    with pytest.raises(
        ValueError, match=r"conv1\.weight: weight standardization gives a filter of 5"
    ):
        load_inflated(on_meta(I3D, norm="gn+ws"), state)
