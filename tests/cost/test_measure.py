"""measure_cost: what it returns, and that it leaves everything as it was."""

import itertools
import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from groupnorm.cost import bytes_saved, count_flops, measure_cost
from groupnorm.cost import measure as profile
from groupnorm.cost.measure import plain_module
from groupnorm.models import build_model


def test_the_numbers_are_those_of_the_parts():
    torch.manual_seed(0)
    model, images = build_model("resnet8", norm="gn", num_classes=10), torch.randn(8, 3, 32, 32)
    cost = measure_cost(model, images, seconds=0.0)
    flops = count_flops(model, images)
    assert cost["flops_per_image"] == flops.forward / 8
    assert cost["training_flops_per_image"] == flops.training / 8
    # The mean of the outputs saves nothing beyond what the model does.
    assert cost["saved_bytes_per_image"] == bytes_saved(model, images) / 8
    assert 0 < cost["norm_share_forward"] < 0.9
    assert 0 < cost["norm_share_backward"] < 0.9
    assert (cost["images"], cost["image_shape"], cost["timed_steps"]) == (8, [3, 32, 32], 1)
    assert json.loads(json.dumps(cost)) == cost


def test_nothing_of_the_run_changes():
    model = nn.Sequential(build_model("resnet8", norm="bn", num_classes=10), nn.Dropout(0.5))
    model.eval()
    images = torch.randn(4, 3, 32, 32)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    measure_cost(model, images, seconds=0.0)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert not any(module.training or module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(("tick", "steps"), [(1.0, 3), (10.0, 1), (0.0, 20)])
def test_steps_are_timed_for_as_long_as_asked(tick, steps, monkeypatch):
    """One step that counts, and timed ones: on a clock that moves at every look."""
    clock = itertools.count()
    monkeypatch.setattr(profile, "time", SimpleNamespace(perf_counter=lambda: tick * next(clock)))
    calls = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    model.register_forward_hook(lambda *_: calls.append(1))
    model.__deepcopy__ = lambda memo: model  # the copy's calls are this one's
    assert measure_cost(model, torch.randn(2, 3, 2, 2), seconds=2.5)["timed_steps"] == steps
    assert len(calls) == 1 + steps


def test_mixed_precision_and_unknown_precision():
    model, images = build_model("resnet8", norm="gn", num_classes=10), torch.randn(8, 3, 32, 32)
    whole = measure_cost(model, images, seconds=0.0)["saved_bytes_per_image"]
    half = measure_cost(model, images, precision="bfloat16", seconds=0.0)["saved_bytes_per_image"]
    assert half < 0.7 * whole
    with pytest.raises(ValueError, match="precision is float32 or bfloat16, got 'half'"):
        measure_cost(model, images, precision="half")


def test_wrappers_are_taken_off(tmp_path):
    model = build_model("resnet8", norm="gn", num_classes=10)
    compiled = torch.compile(model)
    assert plain_module(compiled) is model
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(compiled)
        assert plain_module(wrapped) is model
        cost = measure_cost(wrapped, torch.randn(2, 3, 32, 32), seconds=0.0)
    finally:
        torch.distributed.destroy_process_group()
    assert cost["norm_share"] > 0
    assert all(parameter.grad is None for parameter in model.parameters())
