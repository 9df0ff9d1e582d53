"""GroupNorm against PyTorch's own test material and in other people's networks."""

import copy
import importlib

import pytest
import torch
from torch import nn

from groupnorm import GroupNorm, GroupNormAct, group_norm, norm_layer
from tests.tolerances import LAYER, NETWORK, STEP

internal = pytest.importorskip("torch.testing._internal.common_methods_invocations")
modules = importlib.import_module("torch.testing._internal.common_modules")


def op_info(name):
    (found,) = [op for op in internal.op_db if op.name == name]
    return found


def close(ours, theirs):
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    assert torch.allclose(ours, theirs, rtol=NETWORK, atol=LAYER, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_pytorchs_samples_of_the_function(dtype, requires_grad):
    op = op_info("nn.functional.group_norm")
    samples = list(op.sample_inputs("cpu", dtype, requires_grad=requires_grad))
    samples += list(op.reference_inputs("cpu", dtype, requires_grad=requires_grad))
    assert len(samples) > 20
    for sample in samples:
        ours = group_norm(sample.input, *sample.args, **sample.kwargs)
        theirs = op(sample.input, *sample.args, **sample.kwargs)
        close(ours, theirs)
        if requires_grad and sample.input.numel():
            leaves = [sample.input, *(t for t in sample.kwargs.values() if torch.is_tensor(t))]
            dy = torch.randn_like(ours)
            for a, b in zip(
                torch.autograd.grad(ours, leaves, dy),
                torch.autograd.grad(theirs, leaves, dy),
                strict=True,
            ):
                close(a, b)


def test_pytorchs_samples_of_the_native_operator():
    op = op_info("native_group_norm")
    samples = list(op.sample_inputs("cpu", torch.float64))
    assert len(samples) > 10
    for sample in samples:
        x, (weight, bias, _, _, _, groups, eps) = sample.input, sample.args
        close(group_norm(x, groups, weight, bias, eps), op(x, *sample.args)[0])


def test_what_pytorch_refuses_we_refuse():
    """But for empty spatial axes, which work here."""
    refused = 0
    for error in op_info("nn.functional.group_norm").error_inputs("cpu"):
        sample = error.sample_input
        if "HxW" in error.error_regex:
            assert group_norm(sample.input, *sample.args).shape == sample.input.shape
            continue
        with pytest.raises(ValueError, match="got"):
            group_norm(sample.input, *sample.args, **sample.kwargs)
        refused += 1
    assert refused >= 2


@pytest.mark.parametrize("training", [True, False])
def test_pytorchs_samples_of_the_module(training):
    (info,) = [m for m in modules.module_db if m.module_cls is nn.GroupNorm]
    count = 0
    for sample in info.module_inputs_func(info, "cpu", torch.float64, True, training):
        made, called = sample.constructor_input, sample.forward_input
        theirs = nn.GroupNorm(*made.args, **made.kwargs).double().train(training)
        ours = GroupNorm(*made.args, **made.kwargs).double().train(training)
        ours.load_state_dict(theirs.state_dict())
        close(ours(*called.args, **called.kwargs), theirs(*called.args, **called.kwargs))
        count += 1
    assert count > 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    """Input is taken as it comes; PyTorch's CPU autocast leaves group norm alone, too."""
    ours, theirs = GroupNorm(2, 8), nn.GroupNorm(2, 8)
    x = torch.randn(2, 8, 5, 5).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        a, b = ours(x), theirs(x)
    assert a.dtype == b.dtype
    assert torch.allclose(a.float(), b.float(), atol=STEP)


def test_checkpointing_gives_the_same_gradients():
    from torch.utils.checkpoint import checkpoint

    layer = nn.Sequential(nn.Conv2d(3, 8, 3), GroupNormAct(4, 8, activation="silu"))
    x = torch.randn(2, 3, 9, 9, requires_grad=True)
    dy = torch.randn(2, 8, 7, 7)
    leaves = [x, *layer.parameters()]
    plain = torch.autograd.grad(layer(x), leaves, dy)
    again = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False), leaves, dy)
    for a, b in zip(plain, again, strict=True):
        assert torch.equal(a, b)


# ---- in other people's networks; those of timm are in test_timm.py ------------------------------


def same_outputs(ours, theirs, *inputs, key=lambda y: y):
    """Same weights, both layouts, evaluation and a training step."""
    ours.load_state_dict(theirs.state_dict())
    assert any(isinstance(m, GroupNorm) for m in ours.modules())
    for training in (False, True):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            ours.train(training).to(memory_format=memory_format)
            theirs.train(training).to(memory_format=memory_format)
            x, *rest = inputs
            x = x.contiguous(memory_format=memory_format)
            a, b = key(ours(x, *rest)), key(theirs(x, *rest))
            assert (a - b).abs().max() <= NETWORK * b.abs().max()


def pytorchs_norm(channels, device=None, dtype=None):
    return nn.GroupNorm(8, channels, device=device, dtype=dtype)


def test_torchvision_resnet50():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    ours = torchvision.models.resnet50(norm_layer=norm_layer("gn:groups=8"))
    theirs = torchvision.models.resnet50(norm_layer=pytorchs_norm)
    same_outputs(ours, theirs, torch.randn(2, 3, 64, 64))


def replace_group_norms(module):
    """Put ours in place of every torch.nn.GroupNorm, by assignment."""
    for name, child in module.named_children():
        if type(child) is nn.GroupNorm:
            mine = GroupNorm(child.num_groups, child.num_channels, child.eps, child.affine)
            setattr(module, name, mine)
        else:
            replace_group_norms(child)


@pytest.mark.filterwarnings("ignore")
def test_diffusers():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = diffusers.UNet2DModel(
        sample_size=16, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    ours = copy.deepcopy(theirs)
    replace_group_norms(ours)
    same_outputs(ours, theirs, torch.randn(2, 3, 16, 16), 7, key=lambda y: y.sample)
