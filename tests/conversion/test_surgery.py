"""Norms of every kind and library in every place, and what must not be converted."""

import copy
import functools
import gc
import pickle
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from groupnorm import conversion
from groupnorm.conversion import convert, preview
from groupnorm.layers import (
    BatchNorm,
    BatchRenorm,
    FrozenBatchNorm,
    GroupNorm,
    GroupNormAct,
    SyncBatchNorm,
    norm_layer,
)
from groupnorm.models import build_model
from groupnorm.spec import NormSpec
from tests.conversion.networks import (
    UNet,
    batch_norms,
    small_network,
    train_statistics,
)
from tests.tolerances import LAYER, NETWORK

pytestmark = pytest.mark.filterwarnings("ignore:.*converted without data:UserWarning")


def conv_and(norm, channels=32):
    return train_statistics(nn.Sequential(nn.Conv2d(3, channels, 3), norm))


def reasons(report):
    return {layer.name: layer.reason for layer in report.skipped}


# ---- kinds of norms ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(32),
        nn.SyncBatchNorm(32),
        BatchNorm(32, batch_per_worker=2),
        SyncBatchNorm(32),
        BatchRenorm(32),
        FrozenBatchNorm(32),
        nn.BatchNorm2d(32, affine=False),
        nn.InstanceNorm2d(32, track_running_stats=True),
    ],
    ids=lambda norm: f"{type(norm).__module__.split('.')[0]}-{type(norm).__name__}-{norm.eps}",
)
def test_norms_with_stored_statistics_are_converted(norm):
    model = conv_and(norm)
    converted, report = convert(model, only=lambda name, module: True)
    assert type(converted[1]) is GroupNorm
    assert [(row.source, row.groups) for row in report.layers] == [(type(norm).__name__, 2)]
    assert batch_norms(converted) == []
    assert batch_norms(model) == ["1"]
    assert converted(torch.randn(2, 3, 8, 8)).shape == (2, 32, 6, 6)


@pytest.mark.parametrize(
    ("norm", "shape"),
    [(nn.BatchNorm1d, (2, 3, 9)), (nn.BatchNorm3d, (2, 3, 4, 5, 6))],
)
def test_norms_of_other_dimensions_are_converted(norm, shape):
    conv = nn.Conv1d if len(shape) == 3 else nn.Conv3d
    model = train_statistics(nn.Sequential(conv(3, 32, 3), norm(32)))
    converted, _ = convert(model, example=torch.randn(shape))
    assert type(converted[1]) is GroupNorm
    converted(torch.randn(shape))


def test_scale_and_shift_give_the_stored_statistics_the_same_output():
    """An input whose group statistics are the stored ones: the layer's output is as before."""
    model = conv_and(nn.BatchNorm2d(32)).double().eval()
    converted, _ = convert(model, "gn:groups=4")
    values = torch.randn(1, 32, 5, 5, dtype=torch.float64)
    values = (values - values.mean((2, 3), keepdim=True)) / values.std(
        (2, 3), correction=0, keepdim=True
    )
    values = values * model[1].running_var.sqrt().view(-1, 1, 1)
    values = values + model[1].running_mean.view(-1, 1, 1)
    torch.testing.assert_close(converted[1](values), model[1](values), rtol=LAYER, atol=LAYER)


def test_the_conversion_keeps_more_than_a_copied_affine():
    torch.manual_seed(0)
    model = small_network()
    x = torch.randn(64, 3, 16, 16)
    model.train()
    for _ in range(30):
        model(x)
    model.eval()
    converted, _ = convert(model)
    copied = copy.deepcopy(converted)
    for name, old in model.named_modules():
        if isinstance(old, nn.BatchNorm2d):
            copied.get_submodule(name).load_state_dict({"weight": old.weight, "bias": old.bias})
    with torch.no_grad():
        want = model(x)
        errors = [float(((m(x) - want) ** 2).mean() / want.var()) for m in (converted, copied)]
    assert errors[0] < errors[1] / 4


def test_instance_and_group_norms_are_converted_where_they_are_named():
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.InstanceNorm2d(32, affine=True), nn.GroupNorm(8, 32)
    )
    with pytest.raises(ValueError, match=r"0 layers converted.*own statistics already"):
        convert(model)
    converted, report = convert(model, "gn:groups=4", only=["1", nn.GroupNorm])
    assert [m.num_groups for m in (converted[1], converted[2])] == [4, 4]
    assert type(converted[2]) is nn.GroupNorm
    assert [row.affine for row in report.layers] == ["copied", "copied"]
    assert model[2].num_groups == 8


def test_a_norm_without_values_is_replaced_where_the_network_lies():
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.InstanceNorm2d(32)).to(torch.bfloat16)
    converted, _ = convert(model, "gn:groups=4", only="1")
    assert converted[1].weight.dtype == torch.bfloat16


def test_a_group_norm_keeps_its_activation_and_a_second_conversion_finds_nothing_to_do():
    model = nn.Sequential(nn.Conv2d(3, 32, 3), GroupNormAct(8, 32, activation="silu"))
    converted, _ = convert(model, "gn:groups=4", only="1")
    assert (converted[1].num_groups, converted[1].activation) == (4, "silu")
    with pytest.raises(ValueError, match="has 4 groups already"):
        convert(converted, "gn:groups=4", only="1")


@pytest.mark.parametrize("to", ["bn", "syncbn", "brn"])
def test_other_batch_norms_compute_the_same_in_evaluation(to):
    model = small_network().eval()
    converted, report = convert(model, to)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(converted(x), model(x), rtol=NETWORK, atol=NETWORK)
    assert type(converted.stem[1]).__module__.startswith("groupnorm")
    assert {row.statistics for row in report.layers} == {"kept"}
    assert report.new_keys == report.removed_keys == []


@pytest.mark.parametrize("to", ["bn", "syncbn", "brn"])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d(32, momentum=0.01), BatchNorm(32, momentum=0.01)])
def test_other_batch_norms_keep_the_momentum(to, norm):
    converted, report = convert(conv_and(norm), to)
    assert converted[1].momentum == 0.01
    assert report.layers[0].note == ""


def test_other_batch_norms_keep_the_images_of_a_worker():
    for to in ("bn", "brn"):
        converted, _ = convert(conv_and(BatchNorm(32, batch_per_worker=2)), to)
        assert converted[1].batch_per_worker == 2


def test_what_another_batch_norm_cannot_keep_is_said():
    norm = nn.SyncBatchNorm(32, momentum=None, eps=1e-3)
    norm.process_group = object()
    converted, report = convert(conv_and(norm), "bn:eps=1e-5", inplace=True)
    assert converted[1].momentum == 0.1
    assert report.layers[0].note == (
        "eps was 0.001, momentum was None, the average of all batches, and is 0.1, "
        "its process group is not kept"
    )


def test_a_network_of_this_package_is_converted():
    """Its batch norm is no subclass of nn.BatchNorm2d."""
    model = train_statistics(build_model("resnet20", norm="bn", num_classes=10))
    converted, report = convert(model)
    assert len(report.layers) == 19
    assert batch_norms(converted) == []


@pytest.mark.parametrize("channels", [16, 24, 26, 40, 72, 97, 112, 1000])
@pytest.mark.parametrize(
    "to", ["gn", "gn:groups=32", "gn:groups=8", "gn:size=16", "gn:groups=auto"]
)
def test_any_number_of_channels_is_divided(channels, to):
    norm = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
    converted, report = convert(conv_and(norm, channels), to)
    (row,) = report.layers
    assert channels % row.groups == 0
    assert channels // row.groups >= 4
    assert (row.eps, converted[1].eps) == (1e-3, 1e-3)
    assert bool(row.note) or channels != 97
    assert converted(torch.randn(1, 3, 5, 5)).isfinite().all()


# ---- places ------------------------------------------------------------------------------------


def test_the_root_itself_is_converted():
    norm = train_statistics(nn.BatchNorm2d(32))
    converted, report = convert(norm)
    assert type(converted) is GroupNorm
    assert report.layers[0].name == ""
    assert "(the network)" in str(report)
    with pytest.raises(ValueError, match="cannot take its own place"):
        convert(norm, inplace=True)
    again, report = convert(converted, "gn:groups=4", only="")
    assert (again.num_groups, report.skipped) == (4, [])
    with pytest.raises(RuntimeError, match=r"before groupnorm\.convert"):
        again.load_state_dict(norm.state_dict())


class Dotted(nn.Module):
    """Lists of dicts, a name with a digit, a name that begins like another one's."""

    def __init__(self):
        super().__init__()
        self._blocks = nn.ModuleList(
            nn.ModuleDict({"_bn1": nn.BatchNorm2d(16), "_bn10": nn.BatchNorm2d(16)})
            for _ in range(2)
        )
        self._bn = nn.BatchNorm2d(16)
        self.none = None

    def forward(self, x):
        for block in self._blocks:
            x = block["_bn10"](block["_bn1"](x))
        return self._bn(x)


def test_dotted_names_are_places_and_no_attributes():
    model = train_statistics(Dotted())
    converted, report = convert(model)
    assert batch_norms(converted) == []
    assert len(list(converted.modules())) == len(list(model.modules()))
    assert "_blocks.0._bn1.weight" in converted.state_dict()
    assert [row.name for row in report.layers][:2] == ["_blocks.0._bn1", "_blocks.0._bn10"]
    converted(torch.randn(2, 16, 4, 4))


class Shared(nn.Module):
    """One encoder by two names and in a plain dict, and a norm that runs twice."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16))
        self.key_model_map = nn.ModuleDict({"rgb": self.encoder})
        self.by_key = {"rgb": self.encoder}
        self.twice = nn.BatchNorm2d(16)
        self.again = nn.Sequential(self.twice)

    def forward(self, x):
        return self.again(self.twice(self.by_key["rgb"](x)))


@pytest.mark.parametrize("inplace", [False, True])
def test_shared_modules_are_converted_once_and_stay_tied(inplace):
    model = train_statistics(Shared())
    before = sum(p.numel() for p in model.parameters())
    converted, report = convert(model, inplace=inplace, example=torch.randn(1, 3, 8, 8))
    assert converted.key_model_map["rgb"] is converted.by_key["rgb"] is converted.encoder
    assert converted.twice is converted.again[0]
    assert batch_norms(converted) == []
    assert sum(p.numel() for p in converted.parameters()) == before
    by_name = {row.name: row for row in report.layers}
    assert by_name["encoder.1"].aliases == ["key_model_map.rgb.1"]
    assert by_name["twice"].note == "ran 2 times"
    assert "again.0.running_mean" in report.removed_keys
    assert (converted is model) is inplace


class HeldElsewhere(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(16)
        self.other = nn.BatchNorm2d(16)
        self.norms = [self.norm]

    def forward(self, x):
        return self.other(self.norms[0](x))


def test_a_norm_in_a_plain_list_is_left_with_the_reason():
    model = train_statistics(HeldElsewhere())
    converted, report = convert(model)
    assert reasons(report) == {"norm": "norms holds it too, which is no registered module"}
    assert converted.norms[0] is converted.norm


@pytest.mark.parametrize(
    "hold",
    [
        lambda norm: [(norm, 1)],
        lambda norm: {"one": [norm]},
        lambda norm: functools.partial(norm),
        lambda norm: functools.partial(map, norm),
        lambda norm: norm.forward,
    ],
    ids=["nested", "in a dict", "partial", "argument", "method"],
)
@pytest.mark.parametrize("key", ["kept", "_kept"])
def test_a_norm_that_anything_else_leads_to_is_left(hold, key):
    model = conv_and(nn.BatchNorm2d(32)).append(nn.BatchNorm2d(32))
    train_statistics(model)
    setattr(model, key, hold(model[1]))
    _, report = convert(model)
    assert reasons(report) == {"1": f"{key} holds it too, which is no registered module"}
    assert [row.name for row in report.layers] == ["2"]


def test_a_container_that_holds_itself_has_an_end():
    model = conv_and(nn.BatchNorm2d(32))
    model.kept = [model[1]]
    model.kept.append(model.kept)
    with pytest.raises(ValueError, match="kept holds it too"):
        convert(model)


def test_a_forward_replaced_on_the_object_is_not_lost():
    model = conv_and(nn.BatchNorm2d(32)).append(train_statistics(nn.BatchNorm2d(32)))
    model[1].forward = lambda x: x + 1
    _, report = convert(model)
    assert list(reasons(report)) == ["1"]
    assert "forward was replaced on the object" in reasons(report)["1"]


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.BatchNorm1d(8), nn.BatchNorm1d(8)

    def forward(self, x):
        return self.used(input=x)


def test_the_example_counts_for_a_norm_that_ran_and_however_it_was_called():
    model = train_statistics(Unused())
    _, report = convert(model, "gn:groups=2", example=torch.randn(2, 8, 5))
    assert [row.name for row in report.layers] == ["used"]
    assert "its input may be (N, C)" in reasons(report)["unused"]
    with pytest.raises(ValueError, match="one value per channel and sample, input"):
        convert(model, "gn:groups=2", example=torch.randn(2, 8), only="used")


def test_norms_with_the_same_parameters_are_left():
    model = train_statistics(
        nn.Sequential(nn.BatchNorm2d(16), nn.BatchNorm2d(16), nn.BatchNorm2d(16))
    )
    model[1].weight = model[0].weight
    _, report = convert(model)
    assert reasons(report) == dict.fromkeys("01", "another module has the same parameters")


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ("blocks", ["blocks.0.bn", "blocks.1.bn"]),
        ("blocks.0.bn", ["blocks.0.bn"]),
        (nn.BatchNorm2d, ["stem.1", "blocks.0.bn", "blocks.1.bn"]),
        (lambda name, module: module.eps == 1e-5, ["stem.1"]),
        (["stem", "blocks.1"], ["stem.1", "blocks.1.bn"]),
    ],
)
def test_filters_by_name_class_and_callable(only, names):
    _, report = convert(small_network(), only=only)
    assert [row.name for row in report.layers] == names
    assert set(reasons(report).values()) <= {"`only` leaves it out"}
    assert len(report.layers) + len(report.skipped) == 3


def test_filters_that_choose_nothing_are_errors():
    model = small_network()
    with pytest.raises(ValueError, match=r"'stam', which the network does not have.*stem"):
        convert(model, only="stam")
    with pytest.raises(ValueError, match=r"chooses none of the network's 3 norms"):
        convert(model, only=nn.InstanceNorm2d)
    with pytest.raises(TypeError, match="got 3"):
        convert(model, only=3)


# ---- what a layer keeps ------------------------------------------------------------------------


def test_device_dtype_flags_and_hooks_are_kept():
    model = small_network().to(torch.bfloat16)
    model.train()
    model.stem[1].eval()
    model.stem[1].weight.requires_grad_(False)
    calls = []
    handle = model.stem[1].register_forward_hook(lambda *_: calls.append(1))
    convert(model, inplace=True)
    new = model.stem[1]
    assert (model.training, new.training, model.blocks[0]["bn"].training) == (True, False, True)
    assert new.weight.dtype == torch.bfloat16
    assert (new.weight.requires_grad, new.bias.requires_grad) == (False, True)
    model(torch.randn(1, 3, 4, 4, dtype=torch.bfloat16))
    handle.remove()
    model(torch.randn(1, 3, 4, 4, dtype=torch.bfloat16))
    assert calls == [1]


def test_eps_is_kept_unless_the_spec_has_one():
    _, report = convert(small_network())
    assert [row.eps for row in report.layers] == [1e-5, 1e-3, 1e-3]
    converted, report = convert(small_network(), "gn:eps=1e-6")
    assert converted.blocks[0]["bn"].eps == 1e-6
    assert report.layers[1].note == "eps was 0.001"


def test_an_eps_of_zero_is_replaced_and_said():
    model = conv_and(FrozenBatchNorm(32, eps=0.0))
    converted, report = convert(model)
    assert converted[1].eps == 1e-5
    assert report.layers[0].note == "eps was 0"


def test_constants_do_not_become_trainable():
    model = conv_and(nn.BatchNorm2d(32, affine=False))
    converted, report = convert(model)
    assert not converted[1].weight.requires_grad
    assert report.layers[0].affine == "from statistics, not trained"
    assert report.new_keys == ["1.weight", "1.bias"]


def test_an_optimizer_goes_on_after_a_conversion_in_place():
    model = small_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    convert(model, inplace=True)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in model.parameters()} == held
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    before = model.stem[1].weight.detach().clone()
    optimizer.step()
    assert not torch.equal(model.stem[1].weight, before)


def test_a_converted_network_is_copied_and_pickled():
    converted, _ = convert(small_network())
    x = torch.randn(1, 3, 8, 8)
    for other in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        assert torch.equal(other(x), converted(x))


# ---- nothing happens, or all of it -------------------------------------------------------------


def snapshot(model):
    return [
        (name, type(m), id(m), m.training, tuple(m._buffers)) for name, m in model.named_modules()
    ]


def test_preview_says_what_convert_does_and_touches_nothing():
    model, x = small_network(), torch.randn(1, 3, 8, 8)
    before, state = snapshot(model), copy.deepcopy(model.state_dict())
    generator = torch.get_rng_state()
    report = preview(model, "gn:groups=8", example=x)
    assert snapshot(model) == before
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert report == convert(model, "gn:groups=8", example=x)[1]


@pytest.mark.parametrize("inplace", [False, True])
def test_a_failure_leaves_the_model_as_it_was(inplace):
    model = small_network()
    before, state = snapshot(model), copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"a divisor of the channels, got 5 for blocks.1.bn"):
        convert(model, groups=lambda name, c: 5 if name == "blocks.1.bn" else 4, inplace=inplace)
    with pytest.raises(ValueError, match="does not run on the example"):
        convert(model, example=torch.randn(1, 4, 8, 8), inplace=inplace)
    assert snapshot(model) == before
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_zero_layers_is_an_error():
    with pytest.raises(ValueError, match=r"0 layers converted. The network has no norm layers"):
        convert(nn.Sequential(nn.Conv2d(3, 8, 3)))


def test_a_conversion_without_data_warns():
    with pytest.warns(UserWarning, match="3 layers converted without data"):
        convert(small_network())
    with pytest.warns(UserWarning, match="1 layer converted without data"):
        convert(small_network(), only="stem")


def test_a_warning_that_is_an_error_leaves_the_model_as_it_was():
    model = small_network()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="without data"):
            convert(model, inplace=True)
    assert len(batch_norms(model)) == 3


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("gn+ws", "standardize_weights"),
        ("gn:affine=false", "carry what the batch norms knew"),
        ("frn", "keeps nothing of a batch norm"),
        ("frozenbn", "freeze makes frozen batch norms"),
        ("in", "one channel in each group"),
    ],
)
def test_norms_that_keep_nothing_are_refused(to, message):
    with pytest.raises(ValueError, match=message):
        convert(small_network(), to)


def test_a_wrapped_network_is_refused():
    model = nn.DataParallel(small_network())
    with pytest.raises(ValueError, match="convert the network itself"):
        convert(model)


CHANGES = {
    "convert": convert,
    "convert in place": lambda model: convert(model, inplace=True),
    "convert with data": lambda model: convert(model, data=torch.randn(8, 3, 8, 8)),
    "preview": preview,
    "freeze": conversion.freeze,
    "unfreeze": conversion.unfreeze,
    "fold": lambda model: conversion.fold(model, torch.randn(2, 3, 8, 8)),
    "freeze_groups": lambda model: conversion.freeze_groups(model, [torch.randn(2, 3, 8, 8)]),
    "recompute_statistics": lambda model: conversion.recompute_statistics(
        model, [torch.randn(2, 3, 8, 8)]
    ),
    "rebuild": lambda model: conversion.rebuild(model, preview(small_network())),
    "standardize_weights": conversion.standardize_weights,
    "standardize_convolutions": conversion.standardize_convolutions,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_compiled_network_is_refused_as_a_whole_and_in_part(change):
    network = small_network()
    compiled = torch.compile(network, backend="eager")
    part = nn.Sequential(nn.Identity(), compiled)
    before = copy.deepcopy(network.state_dict())
    for model, words in (
        (compiled, r"the network itself \(model\._orig_mod\), and compile it afterwards"),
        (part, r"1 is compiled by torch\.compile: put 1\._orig_mod in its place, and compile"),
    ):
        with pytest.raises(ValueError, match=words):
            change(model)
    assert list(network.state_dict()) == list(before)
    assert batch_norms(network)


@pytest.mark.slow
def test_a_network_that_compiles_itself_is_converted():
    network = small_network().eval()
    network.compile(backend="eager")
    x = torch.randn(4, 3, 8, 8)
    before = network(x)
    changed, _ = convert(network, "ln", inplace=True)
    assert changed is network
    assert not torch.equal(network(x), before)


# ---- layers that are left, with the reason -----------------------------------------------------


class OwnForward(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) + 1


class SameForward(nn.BatchNorm2d):
    pass


def hooked():
    norm = nn.BatchNorm2d(32)
    norm._register_state_dict_hook(lambda *_: None)
    return norm


def parametrized():
    norm = nn.BatchNorm2d(32)
    parametrize.register_parametrization(norm, "weight", nn.Identity())
    return norm


@pytest.mark.parametrize(
    ("norm", "reason"),
    [
        (OwnForward(32), "OwnForward has a forward of its own"),
        (nn.BatchNorm2d(32, track_running_stats=False), "stores no statistics"),
        (hooked(), "hooks change its state dict"),
        (parametrized(), "parametrized"),
        (nn.BatchNorm2d(32, device="meta"), "meta device"),
        (nn.LayerNorm(32), "no norm that can be converted"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_converted_is_left(norm, reason):
    model = nn.Sequential(train_statistics(nn.BatchNorm2d(32)), norm)
    converted, report = convert(model)
    assert reason in reasons(report)["1"]
    assert type(converted[1]) is type(norm)
    assert [row.name for row in report.layers] == ["0"]


def test_a_lazy_norm_is_left():
    model = nn.Sequential(train_statistics(nn.BatchNorm2d(32)), nn.LazyBatchNorm2d())
    with pytest.raises(ValueError, match="cannot be copied"):
        convert(model)
    _, report = convert(model, inplace=True)
    assert reasons(report) == {"1": "LazyBatchNorm2d has no shape yet; run the network once"}


def test_a_subclass_with_the_same_forward_is_converted():
    assert type(convert(conv_and(SameForward(32)))[0][1]) is GroupNorm


def test_untrained_statistics_are_left():
    model = nn.Sequential(
        train_statistics(nn.BatchNorm2d(32)), nn.BatchNorm2d(32), FrozenBatchNorm(32)
    )
    _, report = convert(model)
    assert reasons(report) == dict.fromkeys("12", "its statistics are 0 and 1: never trained")


def test_statistics_that_are_not_finite_are_left():
    model = nn.Sequential(*(train_statistics(nn.BatchNorm2d(32)) for _ in range(3)))
    model[1].running_mean[3] = float("nan")
    model[2].running_var[3] = -1
    _, report = convert(model)
    assert set(reasons(report)) == {"1", "2"}


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_norm_in_a_scripted_module_is_left():
    scripted = torch.jit.script(train_statistics(nn.Sequential(nn.BatchNorm2d(32))))
    model = nn.Sequential(train_statistics(nn.BatchNorm2d(32)), scripted)
    _, report = convert(model)
    assert reasons(report) == {
        "1.0": "inside a scripted module; convert the network before torch.jit.script"
    }


# ---- one value per channel and sample ----------------------------------------------------------


def features(channels=4):
    return train_statistics(
        nn.Sequential(
            nn.Linear(8, channels), nn.BatchNorm1d(channels), nn.ReLU(), nn.Linear(channels, 1)
        )
    ).eval()


@pytest.mark.parametrize("to", ["gn", "gn:groups=4"])
def test_batch_norm_over_features_is_refused(to):
    model, x = features(), torch.randn(16, 8)
    with pytest.raises(ValueError, match=r"0 layers converted.*may be \(N, C\)"):
        convert(model, to)
    with pytest.raises(ValueError, match=r"one value per channel and sample, input \(16, 4\)"):
        convert(model, to, example=x)


@pytest.mark.parametrize("to", ["gn:groups=1", "ln"])
def test_one_group_over_features_is_converted_where_it_is_asked_for(to):
    x = torch.randn(16, 8)
    for example in (None, x):
        converted, report = convert(features(64), to, example=example)
        assert report.layers[0].groups == 1
        assert converted(x).std() > 0.01


def test_a_map_of_one_position_is_refused():
    """As behind the pooling of an ASPP."""
    model = train_statistics(
        nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(32)
        )
    )
    _, report = convert(model, example=torch.randn(2, 3, 8, 8))
    assert reasons(report) == {"3": "one value per channel and sample, input (2, 32, 1, 1)"}


@pytest.mark.parametrize(
    "norm",
    [nn.SyncBatchNorm, SyncBatchNorm, BatchNorm, BatchRenorm, FrozenBatchNorm],
    ids=lambda norm: f"{norm.__module__.split('.')[0]}-{norm.__name__}",
)
@pytest.mark.parametrize("between", [[], [nn.Identity()]])
def test_any_norm_that_takes_features_is_refused_behind_a_linear_layer(norm, between):
    model = train_statistics(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(8, 64), *between, norm(64))
    ).eval()
    name = str(3 + len(between))
    with pytest.raises(ValueError, match=r"input of the linear layer in front may be \(N, C\)"):
        convert(model, "gn:groups=64", min_channels=1)
    with pytest.raises(ValueError, match=r"input \(16, 64\)"):
        convert(model, example=torch.randn(16, 3, 2, 1))
    _, report = convert(model, "ln")
    assert [row.name for row in report.layers] == [name]


class AnyDimensions(nn.BatchNorm2d):
    def _check_input_dim(self, input):
        pass


@pytest.mark.parametrize("norm", [nn.GroupNorm(4, 64), AnyDimensions(64)])
def test_so_is_any_other(norm):
    model = train_statistics(nn.Sequential(nn.Linear(8, 64), norm))
    with pytest.raises(ValueError, match="of the linear layer in front"):
        convert(model, "gn:groups=8", only="1")


def test_a_linear_layer_of_other_outputs_does_not_stand_in_front():
    """As in squeeze and excitation."""
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Linear(32, 8), SyncBatchNorm(32))
    _, report = convert(train_statistics(model))
    assert [(row.name, row.note) for row in report.layers] == [("2", "")]


def test_a_norm_without_a_layer_in_front_is_converted_with_a_note():
    model = train_statistics(nn.Sequential(SyncBatchNorm(32), nn.BatchNorm2d(32)))
    _, report = convert(model)
    assert [row.note for row in report.layers] == ["its input may be (N, C)", ""]


def test_a_function_may_ask_for_one_group_over_features():
    _, report = convert(features(64), groups=lambda name, c: 1)
    assert report.layers[0].groups == 1
    with pytest.raises(ValueError, match="leave out min_channels"):
        convert(features(64), groups=lambda name, c: 1, min_channels=8)


# ---- the trial on a copy -----------------------------------------------------------------------


class Reader(nn.Module):
    """Reads what its norm has in place of calling it."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(16)

    def forward(self, x):
        bn = self.bn
        return nn.functional.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_network_that_does_not_run_converted_is_left_as_it_was(inplace):
    model = train_statistics(nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), Reader()))
    before, state = snapshot(model), copy.deepcopy(model.state_dict())
    for function in (functools.partial(convert, inplace=inplace), preview):
        with pytest.raises(ValueError, match=r"does not run, though .*in 2 \(Reader\).*`only`"):
            function(model, example=torch.randn(2, 3, 8, 8))
    assert snapshot(model) == before
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [row.name for row in convert(model, only="1", inplace=inplace)[1].layers] == ["1"]


class Hidden(nn.Module):
    """A function's closure leads to the norm too."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

        class Caller:
            def __init__(self, norm):
                self.norm = norm

        self.caller = Caller(norm)

    def forward(self, x):
        return self.caller.norm(x)


def test_an_old_norm_that_still_runs_is_found_by_the_example():
    model = train_statistics(nn.Sequential(nn.Conv2d(3, 16, 3), Hidden(nn.BatchNorm2d(16))))
    model[1].norm.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"still runs the old 1.norm"):
        convert(model, example=torch.randn(2, 3, 8, 8))
    assert batch_norms(model) == ["1.norm"]


def test_a_network_that_cannot_be_copied_takes_no_example():
    model = small_network()
    model.cached = model.head.weight * 2
    x = torch.randn(1, 3, 8, 8)
    for function in (functools.partial(convert, inplace=True), preview):
        with pytest.raises(ValueError, match=r"cannot be copied.*without an example it need not"):
            function(model, example=x)
    assert len(convert(model, inplace=True)[1].layers) == 3


def test_what_is_no_example_and_no_network_is_said():
    with pytest.raises(TypeError, match=r"a tuple of arguments.*got dict"):
        convert(small_network(), example={"x": torch.randn(1, 3, 8, 8)})
    for function in (convert, functools.partial(convert, inplace=True), preview):
        with pytest.raises(TypeError, match=r"must be a torch.nn.Module, got int"):
            function(5)


# ---- averages of weights -----------------------------------------------------------------------


def test_no_buffers_are_left_for_federated_averaging():
    model = train_statistics(
        nn.Sequential(
            nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1)
        )
    )
    converted, _ = convert(model)
    state = converted.state_dict()
    assert [p.shape for p in converted.parameters()] == [v.shape for v in state.values()]
    clients = [copy.deepcopy(converted) for _ in range(3)]
    for i, client in enumerate(clients):
        with torch.no_grad():
            client[1].bias.add_(i)
    states = [client.state_dict() for client in clients]
    converted.load_state_dict({key: sum(s[key] for s in states) / 3 for key in state})
    assert converted(torch.randn(1, 3, 8, 8)).isfinite().all()


def test_an_average_of_weights_is_all_of_a_converted_network():
    """Batch norm's buffers are what a moving average of parameters leaves behind."""
    converted, _ = convert(small_network())
    average = torch.optim.swa_utils.AveragedModel(converted)
    average.update_parameters(converted)
    before = copy.deepcopy(converted.state_dict())
    with torch.no_grad():
        for parameter in converted.parameters():
            parameter.add_(1)
    average.update_parameters(converted)
    state = average.module.state_dict()
    assert state.keys() == before.keys() == converted.state_dict().keys()
    for key, value in converted.state_dict().items():
        torch.testing.assert_close(state[key], (value + before[key]) / 2, rtol=LAYER, atol=LAYER)


# ---- networks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_u_nets_are_converted(dims):
    model = train_statistics(UNet(dims=dims)).eval()
    x = torch.randn(2, 3, *[8] * dims)
    converted, report = convert(model, example=x)
    assert len(report.layers) == 4
    assert converted(x).shape == model(x).shape


@pytest.mark.parametrize("inplace", [False, True])
def test_the_original_is_freed(inplace):
    """A converted network does not hold the norms before, nor a copy the rest of the original."""
    model = small_network()
    x = torch.randn(1, 3, 8, 8)
    norms = [weakref.ref(m) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    rest = [weakref.ref(m) for m in model.modules() if not isinstance(m, nn.BatchNorm2d)]
    converted, _ = convert(model, inplace=inplace, example=x)
    del model
    gc.collect()
    assert [norm() for norm in norms] == [None] * 3
    assert all(one() is None for one in rest) is not inplace
    converted(x)


def test_norm_layer_specs_are_taken_as_values():
    converted, _ = convert(small_network(), norm_layer("gn:groups=8").spec)
    assert converted.stem[1].num_groups == 8


@pytest.mark.parametrize(
    ("text", "groups"), [("gn", 2), ("gn:groups=32", 8), ("gn:size=16", 2), ("gn:eps=1e-5", 2)]
)
def test_a_spec_means_what_its_string_does(text, groups):
    for spec in (text, NormSpec.parse(text), norm_layer(text).spec):
        _, report = convert(small_network(), spec)
        assert {row.groups for row in report.layers} == {groups}
        assert {row.eps for row in report.layers} == ({1e-5} if "eps" in text else {1e-5, 1e-3})
        assert report.to == text.replace("1e-5", "1e-05")
    assert convert(small_network(), NormSpec("gn"))[1] == convert(small_network(), "gn")[1]
