"""Precise-BN: population statistics by definition, and everything back as it was."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from groupnorm.conversion import recompute_statistics, recomputed_statistics
from groupnorm.layers import BatchNorm, BatchRenorm, GroupNorm
from tests.tolerances import DOUBLE, LAYER, NETWORK, STEP


def batches(count=5, images=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(images, 3, 4, 4, generator=generator) * (i + 1) + i for i in range(count)]


@pytest.mark.parametrize("images", [8, 2])
def test_statistics_are_those_of_all_values_together(images):
    layer = BatchNorm(3, batch_per_worker=images)
    everything = torch.cat(batches()).double()
    with recomputed_statistics(layer, batches()):
        assert torch.allclose(layer.running_mean.double(), everything.mean((0, 2, 3)), rtol=STEP)
        var = everything.transpose(0, 1).flatten(1).var(1)
        assert torch.allclose(layer.running_var.double(), var, rtol=LAYER)


def test_a_large_offset_does_not_cancel():
    shifted = [batch + 1000 for batch in batches()]
    layer = BatchNorm(3, batch_per_worker=4)
    true = torch.cat(shifted).double().transpose(0, 1).flatten(1).var(1)
    with recomputed_statistics(layer, shifted):
        assert torch.allclose(layer.running_var.double(), true, rtol=NETWORK)


def test_deeper_layers_see_what_they_saw_in_training():
    """The second layer's input is normalized by chunk, as in training."""
    torch.manual_seed(0)
    model = nn.Sequential(
        BatchNorm(3, batch_per_worker=2), nn.ReLU(), BatchNorm(3, batch_per_worker=2)
    )
    with torch.no_grad():
        middle = torch.cat([model[1](copy.deepcopy(model[0])(b)) for b in batches()]).double()
    with recomputed_statistics(model, batches()):
        assert torch.allclose(model[2].running_mean.double(), middle.mean((0, 2, 3)), rtol=LAYER)


def test_everything_is_put_back():
    model = nn.Sequential(BatchNorm(3, batch_per_worker=2), nn.Dropout(), BatchNorm(3))
    model(batches()[0])
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    with recomputed_statistics(model, batches()):
        assert not torch.equal(model[0].running_mean, before["0.running_mean"])
        assert (model.training, model[1].training) == (True, False)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert (model[0].training, model[1].training) == (True, False)


def test_it_is_put_back_after_an_error_too():
    layer = BatchNorm(3, batch_per_worker=2)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(KeyError), recomputed_statistics(layer, batches()):
        raise KeyError
    odd = recomputed_statistics(layer, [batches()[0][:3]])
    with pytest.raises(ValueError, match="multiple of batch_per_worker"), odd:
        pass
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key])
    assert not layer._forward_hooks


def test_weights_and_generators_are_untouched():
    layer = BatchNorm(3, batch_per_worker=2)
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with recomputed_statistics(layer, batches()):
        assert layer.weight.grad is None
    assert torch.equal(torch.rand(2), expected)


def test_no_other_layers_state_moves():
    """Nor the global generator, which dropout draws from."""
    model = nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 3, 1)),
        nn.InstanceNorm2d(3, track_running_stats=True),
        nn.Dropout(),
        BatchNorm(3),
    )
    before = copy.deepcopy(model.state_dict())
    generator = torch.get_rng_state()
    with recomputed_statistics(model, batches()):
        changed = [
            k for k, value in model.state_dict().items() if not torch.equal(value, before[k])
        ]
        assert changed == ["3.running_mean", "3.running_var"]
    assert torch.equal(torch.get_rng_state(), generator)
    assert recompute_statistics(model, batches()) == ["3"]
    assert torch.equal(model[1].running_mean, before["1.running_mean"])


class Counting(nn.Module):
    """Puts another tensor in the place of its buffer, as in `self.steps = self.steps + 1`."""

    def __init__(self):
        super().__init__()
        self.norm = BatchNorm(3)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x):
        self.steps = self.steps + 1
        return self.norm(x)


def test_a_replaced_buffer_is_put_back():
    model = Counting()
    steps = model.steps
    with recomputed_statistics(model, batches()):
        pass
    assert model.steps is steps
    assert steps == 0


def test_batches_are_taken_as_data_loaders_yield_them():
    images = torch.cat(batches())
    labels = torch.zeros(len(images))
    found = []
    for data in (
        images.split(8),
        DataLoader(TensorDataset(images), batch_size=8),
        DataLoader(TensorDataset(images, labels), batch_size=8),
    ):
        layer = BatchNorm(3)
        recompute_statistics(layer, data)
        found.append(layer.running_mean)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    layer = BatchNorm(3)
    named = [{"images": x} for x in images.split(8)]
    with pytest.raises(TypeError, match=r"got dict; forward=lambda model, batch"):
        recompute_statistics(layer, named)
    recompute_statistics(layer, named, forward=lambda model, batch: model(input=batch["images"]))
    assert torch.equal(layer.running_mean, found[0])


def test_a_tensor_is_no_batches():
    with pytest.raises(TypeError, match=r"one tensor \(40, 3, 4, 4\).*split"):
        recompute_statistics(BatchNorm(3), torch.cat(batches()))
    with pytest.raises(TypeError, match="got int"):
        recompute_statistics(BatchNorm(3), 5)


def test_nothing_to_recompute_is_an_error():
    without = recomputed_statistics(GroupNorm(1, 3), batches())
    with pytest.raises(ValueError, match="no batch norm"), without:
        pass
    with pytest.raises(ValueError, match="no batches"), recomputed_statistics(BatchNorm(3), []):
        pass


def test_batches_of_different_sizes_are_weighted_by_their_values():
    layer = BatchNorm(3, batch_per_worker=2)
    unequal = [batch[: 2 * (i + 1)] for i, batch in enumerate(batches(4))]
    everything = torch.cat(unequal).double().transpose(0, 1).flatten(1)
    with recomputed_statistics(layer, unequal):
        assert torch.allclose(layer.running_mean.double(), everything.mean(1), rtol=STEP)
        assert torch.allclose(layer.running_var.double(), everything.var(1), rtol=LAYER)


def test_pytorchs_batch_norm_is_recomputed_too():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False))
    unused = nn.BatchNorm2d(3)
    model[1].unused = unused
    with recomputed_statistics(model, batches()):
        everything = torch.cat(batches()).transpose(0, 1).flatten(1)
        assert torch.allclose(model[0].running_mean, everything.mean(1), rtol=LAYER)
        assert torch.equal(unused.running_mean, torch.zeros(3))
    assert torch.equal(model[0].running_mean, torch.zeros(3))
    assert model[0].num_batches_tracked == 0


def test_batch_renormalization_does_not_see_how_the_batches_are_cut():
    """It corrects towards running statistics, which recomputing must not move."""
    torch.manual_seed(0)
    x = 3 * torch.randn(8, 2, 4, 4, dtype=torch.float64) + 1
    found = []
    for parts in (1, 4):
        layers = [BatchRenorm(2, batch_per_worker=2, dtype=torch.float64) for _ in range(2)]
        model = nn.Sequential(*layers)
        with recomputed_statistics(model, x.chunk(parts)):
            found.append(layers[1].running_var.clone())
    assert torch.allclose(found[0], found[1], rtol=DOUBLE)


def test_a_batch_without_images_changes_nothing():
    layer = BatchNorm(3)
    with recomputed_statistics(layer, batches()):
        expected = layer.running_mean.clone(), layer.running_var.clone()
    with recomputed_statistics(layer, [*batches(), torch.empty(0, 3, 4, 4)]):
        assert torch.equal(layer.running_mean, expected[0])
        assert torch.equal(layer.running_var, expected[1])


def test_recomputed_statistics_stay_where_they_are_asked_to():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3)).eval()
    model.unused = nn.BatchNorm2d(3)
    model.forward = lambda x: model[2](model[1](model[0](x)))
    with recomputed_statistics(model, batches()):
        wanted = copy.deepcopy(model.state_dict())
    assert recompute_statistics(model, batches()) == ["0", "2"]
    assert all(torch.equal(value, wanted[key]) for key, value in model.state_dict().items())
    assert not torch.equal(model[0].running_mean, torch.zeros(3))
    assert not model.training
    assert not any(m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ValueError, match="no batches"):
        recompute_statistics(model, [])
