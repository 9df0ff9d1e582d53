"""Data in pieces: what is cut, what is held out, what is drawn, how a network is called."""

import pytest
import torch
from torch import nn

from groupnorm.conversion.calibration.batches import Batches, call_of, fewest_samples

CPU = torch.device("cpu")


def batches(data, forward=None):
    return Batches(data, forward, CPU)


@pytest.mark.parametrize(("samples", "pieces"), [(2, 2), (8, 8), (64, 8), (256, 16), (20, 10)])
def test_a_tensor_is_cut_and_a_quarter_held_out(samples, pieces):
    found = batches(torch.arange(samples).view(-1, 1))
    assert len(found) == pieces
    assert torch.equal(torch.cat(found.pieces).flatten(), torch.arange(samples))
    held = sum(found.held_out(i) for i in range(pieces))
    assert held == max(pieces // 4, 1)
    assert found.fitted == pieces - held
    if pieces >= 8:
        assert not found.held_out(0)
        assert not found.held_out(pieces - 1)


@pytest.mark.parametrize("fitted", [1, 2, 5, 8])
def test_the_fewest_samples_that_leave_so_many_to_fit_on(fitted):
    fewest = fewest_samples(fitted)
    assert batches(torch.ones(fewest, 1)).fitted == fitted
    if fewest > 2:
        assert batches(torch.ones(fewest - 1, 1)).fitted < fitted


def test_batches_that_cannot_be_cut_stay_whole():
    data = [{"x": torch.ones(3)}, {"x": torch.ones(5)}]
    assert batches(data, lambda model, batch: model(batch["x"])).pieces == data
    with pytest.raises(ValueError, match="one batch alone"):
        batches(data[:1], lambda model, batch: model(batch["x"]))


def test_all_that_is_fitted_to_is_drawn_and_nothing_else():
    found = batches(torch.arange(32).view(-1, 1))
    held = {int(x) for i in range(len(found)) if found.held_out(i) for x in found.pieces[i]}
    drawn = found.draws(4, torch.Generator().manual_seed(0))
    first, second = (torch.cat([next(drawn) for _ in range(6)]).flatten().tolist() for _ in "12")
    assert sorted(first) == sorted(second) == sorted(set(range(32)) - held)
    assert first != second
    sizes = batches([torch.ones(2, 3), torch.ones(2, 4), torch.ones(2, 5)])
    assert {len(next(sizes.draws(4, torch.Generator()))) for _ in range(5)} == {1}


class Net(nn.Module):
    def forward(self, x, y=None, scale=1.0):
        return x * scale


def test_the_call_of_a_network():
    call = call_of(Net(), lambda model: model(torch.ones(2), scale=3.0))
    assert [t.tolist() for t in call.tensors] == [[1, 1]]
    args, kwargs = call.arguments([torch.zeros(5)])
    assert (len(args), kwargs) == (1, {"scale": 3.0})
    assert torch.equal(args[0], torch.zeros(5))
    assert call.like(call_of(Net(), lambda model: model(torch.ones(4), scale=3.0)))
    assert not call.like(call_of(Net(), lambda model: model(torch.ones(2), scale=4.0)))
    assert not call.like(call_of(Net(), lambda model: model(torch.ones(2), torch.ones(1))))
    assert call_of(Net(), lambda model: model.forward(torch.ones(1))) is None
