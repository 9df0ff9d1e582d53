"""Batch norms become constants and come back as they were."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from groupnorm.conversion import freeze, unfreeze
from groupnorm.layers import BatchNorm, BatchRenorm, FrozenBatchNorm
from tests.conversion.networks import small_network, train_statistics
from tests.tolerances import LAYER


def described(model):
    """All that a network is: classes, flags, configurations, values."""
    return [
        (name, type(m), m.training, m.extra_repr(), [p.requires_grad for p in m.parameters()])
        for name, m in model.named_modules()
    ]


def equal_states(one, other):
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


def test_frozen_norms_are_constants_in_training_too():
    model, x = small_network().eval(), torch.randn(2, 3, 8, 8)
    frozen, report = freeze(model)
    frozen.train()
    torch.testing.assert_close(frozen(x), model(x), rtol=LAYER, atol=LAYER)
    state = copy.deepcopy(frozen.state_dict())
    frozen(x)
    assert equal_states(frozen.state_dict(), state)
    assert {row.target for row in report.layers} == {"FrozenBatchNorm"}
    assert "stem.1.num_batches_tracked" in report.removed_keys


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(32, momentum=0.3, eps=1e-3),
        nn.BatchNorm2d(32, affine=False),
        nn.SyncBatchNorm(32),
        BatchNorm(32, batch_per_worker=2),
        BatchRenorm(32, r_max=3),
    ],
    ids=lambda norm: f"{type(norm).__name__}-{norm.affine}",
)
def test_they_come_back_exactly(norm, inplace):
    model = train_statistics(nn.Sequential(nn.Conv2d(3, 32, 3), norm, nn.ReLU()))
    norm.eval()
    if norm.affine:
        norm.bias.requires_grad_(False)
    norm.num_batches_tracked.fill_(7)
    before, state = described(model), copy.deepcopy(model.state_dict())
    parameters = list(model.parameters())
    frozen, _ = freeze(model, inplace=inplace)
    assert type(frozen[1]) is FrozenBatchNorm
    assert not frozen[1].training
    back, _ = unfreeze(frozen, inplace=inplace)
    assert described(back) == before
    assert equal_states(back.state_dict(), state)
    if inplace:
        assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


def test_they_come_back_from_a_file_with_the_values_of_now():
    frozen = pickle.loads(pickle.dumps(freeze(small_network())[0]))
    frozen.stem[1].running_mean.fill_(2)
    frozen.double()
    back, _ = unfreeze(frozen)
    assert type(back.stem[1]) is nn.BatchNorm2d
    assert back.stem[1].running_mean.dtype == torch.float64
    assert back.stem[1].running_mean.tolist() == [2.0] * 32
    back(torch.randn(2, 3, 8, 8, dtype=torch.float64))


def test_hooks_and_their_handles_go_along():
    model = small_network()
    calls = []
    handle = model.stem[1].register_forward_hook(lambda *_: calls.append(1))
    freeze(model, inplace=True)
    model(torch.randn(2, 3, 8, 8))
    unfreeze(model, inplace=True)
    model(torch.randn(2, 3, 8, 8))
    handle.remove()
    model(torch.randn(2, 3, 8, 8))
    assert calls == [1, 1]


def test_norms_frozen_by_torchvision_become_trainable():
    model = train_statistics(nn.Sequential(FrozenBatchNorm2d(32, eps=1e-3))).eval()
    x = torch.randn(2, 32, 4, 4)
    back, report = unfreeze(model)
    torch.testing.assert_close(back(x), model(x), rtol=LAYER, atol=LAYER)
    assert type(back[0]) is BatchNorm
    assert (back[0].eps, back[0].training) == (1e-3, False)
    assert report.layers[0].trainable


def test_timms_activation_stays():
    timm = pytest.importorskip("timm")
    model = train_statistics(nn.Sequential(timm.layers.BatchNormAct2d(32))).eval()
    x = torch.randn(2, 32, 4, 4)
    frozen, _ = freeze(model)
    torch.testing.assert_close(frozen(x), model(x), rtol=LAYER, atol=LAYER)
    back, _ = unfreeze(frozen)
    assert type(back[0]) is timm.layers.BatchNormAct2d
    assert torch.equal(back(x), model(x))


def test_untrained_norms_are_not_frozen():
    """With statistics 0 and 1 they would be no norms at all."""
    with pytest.raises(ValueError, match=r"0 layers changed.*never trained"):
        freeze(nn.Sequential(nn.BatchNorm2d(4)))


def test_a_part_is_frozen():
    frozen, report = freeze(small_network(), only="blocks")
    assert type(frozen.stem[1]) is nn.BatchNorm2d
    assert [row.name for row in report.layers] == ["blocks.0.bn", "blocks.1.bn"]
    with pytest.raises(ValueError, match="is no frozen batch norm"):
        unfreeze(small_network())


def test_an_instance_norm_is_no_frozen_batch_norm():
    """It stores statistics, too, and is no batch norm."""
    norm = nn.InstanceNorm2d(32, track_running_stats=True)
    model = train_statistics(nn.Sequential(norm, FrozenBatchNorm(32)))
    back, report = unfreeze(model)
    assert type(back[0]) is nn.InstanceNorm2d
    assert [(row.name, row.reason) for row in report.skipped] == [("0", "is no frozen batch norm")]


def test_a_changed_scale_that_has_no_place_is_not_dropped():
    model = nn.Sequential(*(nn.BatchNorm2d(32, affine=False) for _ in range(3)))
    frozen, _ = freeze(train_statistics(model))
    frozen[0].weight.mul_(2)
    frozen[1].bias.add_(1)
    back, report = unfreeze(frozen)
    assert [type(m) for m in back] == [FrozenBatchNorm, FrozenBatchNorm, nn.BatchNorm2d]
    changed = "was changed, and the layer that it was frozen from has none"
    assert [row.reason for row in report.skipped] == [
        f"its weight {changed}",
        f"its bias {changed}",
    ]
    x = torch.randn(2, 32, 4, 4)
    torch.testing.assert_close(back.eval()(x), frozen(x), rtol=LAYER, atol=LAYER)
