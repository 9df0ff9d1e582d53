"""Networks in pieces: the same output, wherever they are cut; what cannot be cut is known."""

import pytest
import torch
from torch import nn

from groupnorm.conversion.calibration.batches import call_of
from groupnorm.conversion.calibration.tape import Holder, Tape, Untraceable
from tests.conversion.networks import UNet, small_network


class InPlace(nn.Module):
    """Operations in place on what is used again, constants, parameters outside of modules."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        x = self.conv(x)
        y = self.act(x)
        y.add_(self.scale)
        a, b = torch.chunk(y, 2, dim=1)
        return {"out": self.norm(torch.cat([b, a], 1)) + x, "size": x.shape[0]}


class Depends(nn.Module):
    """What it does depends on its values, so that it cannot be followed."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) if x.sum() > 0 else x


def tape_of(model, x):
    holder = Holder(model.eval())
    call = call_of(model, lambda network: network(x))
    holder.call = call
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    return Tape(holder, norms), holder, call


NETWORKS = {"residual": small_network, "in place": InPlace, "concatenation": lambda: UNet(width=4)}


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_pieces_give_the_same_wherever_they_are_cut(name):
    model = NETWORKS[name]()
    x = torch.randn(2, 3, 8, 8)
    tape, holder, call = tape_of(model, x)
    norms = [tape.at[n] for n in tape.nodes if "norm" in str(n.target) or ".bn" in str(n.target)]
    tape.check(holder, call.tensors, norms)
    for stop in range(0, len(tape.nodes), 3):
        values = tape.run(holder, tape.start([x]), 0, stop)
        assert len(values) <= 6
        values = tape.run(holder, values, stop, len(tape.nodes))
        found = tape.output(values)
        expected = model(x)
        if isinstance(expected, dict):
            found, expected = found["out"], expected["out"]
        assert torch.equal(found, expected)


@torch.no_grad()
def test_a_cut_between_an_operation_in_place_and_its_alias_is_found():
    tape, holder, call = tape_of(InPlace(), torch.randn(2, 3, 8, 8))
    (act,) = tape.calls_of("model.act")
    with pytest.raises(Untraceable, match="another output"):
        tape.check(holder, call.tensors, [tape.at[act] + 1])


@torch.no_grad()
def test_what_cannot_be_followed_is_one_operation_unless_a_norm_is_in_it():
    x = torch.rand(2, 3, 4, 4)
    model = nn.Sequential(nn.BatchNorm2d(3), Depends(nn.ReLU()))
    tape, holder, call = tape_of(model, x)
    assert [str(n.target) for n in tape.nodes if n.op == "call_module"] == ["model.0", "model.1"]
    tape.check(holder, call.tensors, [])
    with pytest.raises(Untraceable):
        tape_of(nn.Sequential(Depends(nn.BatchNorm2d(3))), x)


@torch.no_grad()
def test_a_network_that_does_not_compute_the_same_in_pieces_is_found():
    class Counts(nn.Module):
        calls = 0

        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x):
            self.calls += 1
            return self.norm(x) + self.calls

    tape, holder, call = tape_of(Counts(), torch.rand(2, 3, 4, 4))
    with pytest.raises(Untraceable, match="another output"):
        tape.check(holder, call.tensors, [])


@torch.no_grad()
def test_an_operation_can_run_later():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Identity(), nn.BatchNorm2d(4))
    x = torch.randn(2, 3, 4, 4)
    tape, holder, call = tape_of(model, x)
    (conv,), (norm,) = tape.calls_of("model.0"), tape.calls_of("model.2")
    assert tape.at[norm] - tape.at[conv] == 2
    tape.move(tape.calls_of("model.1")[0], norm)
    assert tape.at[norm] - tape.at[tape.calls_of("model.1")[0]] == 1
    tape.check(holder, call.tensors, [tape.at[norm]])
