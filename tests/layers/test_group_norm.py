"""GroupNorm as a drop-in for torch.nn.GroupNorm."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from groupnorm import GroupNorm, GroupNormAct
from tests.processes import in_processes
from tests.tolerances import DEEP, STEP


def test_same_numbers_parameters_and_keys_as_pytorch():
    torch.manual_seed(0)
    ours, theirs = GroupNorm(4, 8), nn.GroupNorm(4, 8)
    assert isinstance(ours, nn.GroupNorm)
    for name, parameter in theirs.named_parameters():
        assert torch.equal(parameter, dict(ours.named_parameters())[name])
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 8, 5, 3)
    assert torch.allclose(ours(x), theirs(x), atol=STEP)


@pytest.mark.parametrize(
    ("options", "names"),
    [({}, ["weight", "bias"]), ({"bias": False}, ["weight"]), ({"affine": False}, [])],
)
def test_parameters(options, names):
    layer = GroupNorm(2, 4, **options)
    assert [name for name, _ in layer.named_parameters()] == names
    assert list(layer.buffers()) == []
    layer(torch.randn(2, 4, 3))


def test_repr_shows_torchs_fields_and_ours():
    text = repr(GroupNorm(4, 12, eps=1e-6, activation="silu", backend="reference"))
    for part in ("GroupNorm(4, 12, eps=1e-06, affine=True", "channels_per_group=3",
                 "activation='silu'", "backend='reference'"):  # fmt: skip
        assert part in text


def test_group_norm_act_has_the_same_keys_and_applies_its_activation():
    plain, fused = GroupNorm(2, 4), GroupNormAct(2, 4, activation="silu")
    fused.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4, 3, 3)
    assert torch.allclose(fused(x), F.silu(plain(x)), atol=STEP)
    assert (GroupNormAct(2, 4)(x) >= 0).all()


@pytest.mark.parametrize("kind", [GroupNorm, GroupNormAct])
def test_in_place_writes_over_the_input(kind):
    layer, plain = kind(2, 4, inplace=True), kind(2, 4)
    x = torch.randn(2, 4, 3, 3)
    expected = plain(x)
    for inference in (torch.no_grad, torch.inference_mode):
        given = x.clone()
        with inference():
            assert layer(given) is given
        assert torch.equal(given, expected)
    with pytest.raises(RuntimeError, match=r"for inference.*inplace=False"):
        layer(x)
    assert "inplace=True" in repr(layer)
    assert "inplace" not in repr(plain)


def test_in_place_survives_copies_and_old_objects_have_none():
    layer = GroupNorm(2, 4, inplace=True)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert again.inplace
    del layer.__dict__["inplace"]
    assert not pickle.loads(pickle.dumps(layer)).inplace


@pytest.mark.parametrize("how", ["compile", "export", "trace"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_recorded_program_leaves_the_input_of_an_in_place_layer(how):
    layer, x = GroupNormAct(2, 4, inplace=True).eval(), torch.randn(2, 4, 3, 3)
    given = x.clone()
    torch.compiler.reset()
    with torch.no_grad():
        expected = layer(x.clone())
        recorded = {
            "compile": lambda: torch.compile(layer, fullgraph=True, backend="aot_eager"),
            "export": lambda: torch.export.export(layer, (x,)).module(),
            "trace": lambda: torch.jit.trace(layer, (x,)),
        }[how]()
        y = recorded(given)
    assert torch.allclose(y, expected, atol=STEP)
    assert torch.equal(given, x)


def test_identities():
    x = torch.randn(3, 6, 4, 5, dtype=torch.float64)
    one = GroupNorm(1, 6, dtype=torch.float64)(x)
    assert torch.allclose(one, F.layer_norm(x, (6, 4, 5)))
    each = GroupNorm(6, 6, dtype=torch.float64)(x)
    assert torch.allclose(each, F.instance_norm(x))
    assert torch.allclose(GroupNorm(2, 6, eps=1e-12, dtype=torch.float64)(7 * x + 3),
                          GroupNorm(2, 6, eps=1e-12, dtype=torch.float64)(x))  # fmt: skip


def test_one_value_per_group_warns_in_training():
    layer = GroupNorm(4, 4)
    nn.init.normal_(layer.bias)
    with pytest.warns(UserWarning, match="every group .* holds one value"):
        y = layer(torch.randn(3, 4))
    assert torch.allclose(y, layer.bias.expand(3, 4), atol=DEEP)  # rstd is 316 here
    layer.eval()
    layer(torch.randn(3, 4))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_warning_does_not_break_the_graph():
    torch.compiler.reset()
    layer = GroupNorm(4, 4)
    nn.init.normal_(layer.bias)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y = compiled(torch.randn(3, 4))
    assert torch.allclose(y, layer.bias.expand(3, 4), atol=DEEP)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((3, 8), {}, "got 8 channels and 3 groups"),
        ((0, 8), {}, "got 8 channels and 0 groups"),
        ((2, 8), {"activation": "swish"}, "unknown activation 'swish'"),
        ((2, 8), {"backend": "cudnn"}, "unknown backend 'cudnn'"),
    ],
)
def test_bad_arguments(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        GroupNorm(*arguments, **options)


def test_other_channels_are_named():
    with pytest.raises(ValueError, match=r"expected input \(N, 8, \*\), got \(2, 6, 3\)"):
        GroupNorm(2, 8)(torch.randn(2, 6, 3))


def train_in_a_process(rank, count):
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(
        nn.Sequential(nn.Conv2d(3, 8, 3), GroupNormAct(4, 8))
    )
    x = torch.randn(4, 3, 8, 8).chunk(count)[rank]
    model(x).square().mean().backward()
    return [p.grad for p in model.parameters()]


@pytest.mark.usefixtures("_fork_server")
@pytest.mark.xdist_group("processes")
def test_two_processes_with_ddp():
    found, _ = in_processes(2, train_in_a_process)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), GroupNormAct(4, 8))
    x = torch.randn(4, 3, 8, 8)
    model(x).square().mean().backward()
    for ours, parameter in zip(found, model.parameters(), strict=True):
        assert torch.allclose(torch.from_numpy(ours), parameter.grad, atol=STEP)
