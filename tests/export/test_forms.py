"""The forms of group norm against the specification, and what converters see of them."""

import copy
import pickle
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.export import Dim

from groupnorm.export.errors import ExportError
from groupnorm.export.forms import FORMS, PooledGroupNorm, as_form
from groupnorm.layers import CalibratedGroupNorm, GroupNorm, GroupNormAct, norm_layer
from groupnorm.ops.group_norm import reference
from groupnorm.ops.group_norm.activations import ACTIVATIONS
from tests.tolerances import DOUBLE, bound

SHAPES = [(3, 12), (3, 12, 7), (2, 12, 5, 3), (2, 12, 3, 2, 5)]
OFFSETS = [0.0, 10.0, 100.0, 1e3, 1e4]
AFFINE = {"both": {}, "scale alone": {"bias": False}, "none": {"affine": False}}
EXACT = ("instance", "pooled")  # those whose error does not grow with |mean| / spread

forms = pytest.mark.parametrize("form", FORMS)
exact = pytest.mark.parametrize("form", EXACT)


def filled(layer):
    """The layer with random parameters: scales from 0.5 to 1.5."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.uniform_(0.5, 1.5) if name == "weight" else parameter.normal_()
    return layer


def made(form, groups=4, channels=12, dtype=None, group_eps=None, **options):
    options = {"group_eps": group_eps} if group_eps is not None else {} | options
    return filled(FORMS[form](groups, channels, dtype=dtype, **options))


def expected(layer, x, residual=None):
    """The specification in float64 of the same input: y, mean and rstd."""
    double = [None if t is None else t.detach().double() for t in (layer.weight, layer.bias)]
    residual = None if residual is None else residual.double()
    return reference.forward(
        x.double(), layer.num_groups, *double, layer.eps, layer.activation, residual
    )


def error_and_bound(layer, x, y, *, m=None, residual=None):
    """The largest error of y and the largest allowed: u (1 + m) times the scale, and rounding.

    Args:
        m: None takes |mean| / spread of the input; 0 is for what does not grow with it.
    """
    true, mean, rstd = expected(layer, x, residual)
    largest = float(true.abs().max())
    offset = float((mean * rstd).abs().max()) if m is None else m
    scale = 1.0 if layer.weight is None else float(layer.weight.detach().abs().max())
    return float((y.detach().double() - true).abs().max()), bound(x.dtype, offset, scale, largest)


# ---- The numbers ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    shape=st.sampled_from(SHAPES),
    groups=st.sampled_from([1, 2, 3, 4, 6, 12]),
    affine=st.sampled_from(list(AFFINE)),
    activation=st.sampled_from([None, *ACTIVATIONS]),
    with_residual=st.booleans(),
    eps=st.sampled_from([1e-5, 1e-3, 0.1]),
    seed=st.integers(0, 1000),
)
@forms
def test_the_specification(form, shape, groups, affine, activation, with_residual, eps, seed):
    torch.manual_seed(seed)
    layer = made(
        form, groups, dtype=torch.float64, eps=eps, activation=activation, **AFFINE[affine]
    )
    x = torch.randn(shape, dtype=torch.float64) * 2 + 3
    residual = torch.randn_like(x) if with_residual else None
    y = layer(x, residual)
    assert y.shape == x.shape
    assert (y - expected(layer, x, residual)[0]).abs().max() < DOUBLE


@pytest.mark.parametrize("groups", [1, 8, 20, 60])
@pytest.mark.parametrize("offset", OFFSETS)
@forms
def test_offsets(form, offset, groups):
    """Groups of 60, 7.5 (8 does not divide 60: 6 groups of 10), 3 and 1 channels."""
    layer = made(form, {8: 6}.get(groups, groups), 60)
    x = torch.randn(2, 60, 28, 28) + offset
    error, allowed = error_and_bound(layer, x, layer(x), m=0 if form in EXACT else None)
    assert error <= allowed


@pytest.mark.parametrize("shape", [(2, 60), (2, 60, 50), (2, 60, 4, 7, 9)], ids=str)
@exact
def test_offsets_of_other_ranks(form, shape):
    layer = made(form, 6, 60)
    x = torch.randn(shape) + 1e4
    error, allowed = error_and_bound(layer, x, layer(x), m=0)
    assert error <= allowed


@pytest.mark.parametrize(
    "spatial", [(112, 112), (127, 113), (48, 211), (53, 1), (2304, 1)], ids=str
)
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_blocks_of_large_maps(spatial, offset):
    """Whether a block divides the map, along one axis alone, or not at all."""
    layer = made("blocked", 3, 6)
    x = torch.randn(2, 6, *spatial) + offset
    error, allowed = error_and_bound(layer, x, layer(x), m=0)
    assert error <= allowed
    layer, x = made("blocked", 3, 6, dtype=torch.float64), x.double()
    error, allowed = error_and_bound(layer, x, layer(x))
    assert error <= allowed


def convolutions(program):
    return [n for n in program.graph.nodes if n.op == "call_function" and "conv" in str(n.target)]


def test_maps_whose_size_may_change_are_summed_in_blocks():
    """Two depthwise convolutions for each of three means; those of the groups are 1x1."""
    layer = made("blocked", 4, 12, dtype=torch.float64)
    program = exported(layer, torch.randn(2, 12, 8, 9).double(), (0, 2, 3))
    assert len([n for n in convolutions(program) if n.args[3] == [5, 5]]) == 6
    static = exported(layer, torch.randn(1, 12, 8, 9).double())
    assert not [n for n in convolutions(static) if n.args[3] == [5, 5]]
    for shape in ((2, 12, 8, 9), (3, 12, 64, 51), (1, 12, 1, 1), (1, 12, 26, 127)):
        x = torch.randn(shape, dtype=torch.float64) + 100
        error, allowed = error_and_bound(layer, x, program.module()(x))
        assert error <= allowed


def test_the_plain_form_is_not_as_near():
    """So that the bound of the two others says something."""
    layer = made("plain", 6, 60)
    x = torch.randn(2, 60, 28, 28) + 1e3
    error, allowed = error_and_bound(layer, x, layer(x), m=0)
    assert error > allowed


@exact
def test_channels_last(form):
    layer = made(form, 6, 60)
    x = (torch.randn(2, 60, 28, 28) + 1e3).contiguous(memory_format=torch.channels_last)
    error, allowed = error_and_bound(layer, x, layer(x), m=0)
    assert error <= allowed


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e4 + 1 / 3, 1e7 + 1 / 3])
@pytest.mark.parametrize("groups", [1, 4, 12])
@exact
def test_a_constant_map_gives_the_bias(form, groups, value):
    layer = made(form, groups)
    y = layer(torch.full((2, 12, 28, 28), value))
    error = float((y - layer.bias.view(1, -1, 1, 1)).detach().abs().max())
    # what remains of the mean, a few u of the value, is divided by sqrt(eps) and subtracted again
    left = 316 * value * 2**-20
    assert error <= bound(torch.float32, left, 1.5, float(layer.bias.detach().abs().max()))


@pytest.mark.parametrize("groups", [1, 4, 12])
@exact
def test_a_spread_far_below_the_mean(form, groups):
    layer = made(form, groups)
    x = torch.randn(2, 12, 28, 28) * 1e-2 + 1e3
    error, allowed = error_and_bound(layer, x, layer(x), m=0)
    assert error <= allowed


@pytest.mark.parametrize("outlier", [1e4, -1e6])
@exact
def test_an_outlier(form, outlier):
    """Its normalized value is the largest that a group can have; errors are relative to it."""
    layer = made(form)
    x = torch.randn(2, 12, 28, 28)
    x[0, 0, 0, 0] = outlier
    true = expected(layer, x)[0]
    largest = float(true.abs().max())
    assert largest > 40
    error = float((layer(x).detach().double() - true).abs().max())
    assert error <= bound(torch.float32, 0, largest, largest)


@exact
def test_large_and_small_values(form):
    layer = made(form, affine=False)
    for std in (1e-6, 1e15):
        x = torch.randn(2, 12, 9, 9) * std
        error, allowed = error_and_bound(layer, x, layer(x), m=0)
        assert error <= allowed


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("params", ["half", "single"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@forms
def test_half_input_is_rounded_once(form, dtype, params, offset, activation, residual):
    """5 channels per group: 1 / 5 is no half number, and is not rounded to one either."""
    layer = made(form, 3, 15, activation=activation)
    if params == "half":
        layer = layer.to(dtype)
    x = (torch.randn(2, 15, 9, 9) + offset).to(dtype)
    r = torch.randn(2, 15, 9, 9).to(dtype) if residual else None
    y = layer(x, r)
    assert y.dtype == dtype
    m = 0 if form in EXACT else None
    # SiLU grows by 1.1 at most, which is more than the parts that the bound leaves out
    error, allowed = error_and_bound(layer, x, y, m=m, residual=r)
    assert error <= allowed


@exact
def test_squares_that_half_numbers_cannot_hold(form):
    layer = made(form).half()
    x = (torch.randn(2, 12, 9, 9) * 2000).half()
    error, allowed = error_and_bound(layer, x, layer(x), m=0)
    assert error <= allowed


def test_constants_survive_a_move_to_half_and_back():
    layer = made("pooled", 4, 12, group_eps=torch.tensor([1e-5, 2e-9, 1e-5, 4e-5]))
    layer = layer.half()
    assert layer.weight.dtype == torch.float16
    assert layer.gather.dtype == layer.spread.dtype == layer.group_eps.dtype == torch.float32
    assert layer.group_eps[1] > 0
    layer = layer.double()
    assert (layer.gather == torch.tensor(1 / 3, dtype=torch.float64)).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_eps_for_each_group(shape):
    eps = torch.tensor([1e-5, 0.25, 4.0, 1e-3], dtype=torch.float64)
    layer = made("pooled", dtype=torch.float64, group_eps=eps)
    x = torch.randn(shape, dtype=torch.float64)
    y = layer(x)
    for group, value in enumerate(eps.tolist()):
        own = slice(3 * group, 3 * group + 3)
        true = reference.forward(x[:, own], 1, layer.weight[own], layer.bias[own], value)[0]
        assert (y[:, own] - true).abs().max() < DOUBLE
    assert "4.0" in repr(layer)


# ---- A module like GroupNorm ---------------------------------------------------------------------


@pytest.mark.parametrize("affine", AFFINE)
@forms
def test_states_load_both_ways(form, affine):
    layer, norm = made(form, **AFFINE[affine]), filled(GroupNorm(4, 12, **AFFINE[affine]))
    state = norm.state_dict()
    assert list(layer.state_dict()) == list(state)
    layer.load_state_dict(state)
    x = torch.randn(2, 12, 5, 5)
    error, allowed = error_and_bound(norm, x, layer(x))
    assert error <= allowed
    filled(layer)
    norm.load_state_dict(layer.state_dict())
    assert all(torch.equal(value, norm.state_dict()[k]) for k, value in layer.state_dict().items())


@forms
def test_copies_pickles_and_other_devices(form):
    layer = made(form, activation="silu")
    x = torch.randn(2, 12, 5, 5)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))
    empty = FORMS[form](4, 12, device="meta", activation="silu").to_empty(device="cpu")
    empty.load_state_dict(layer.state_dict())
    assert torch.equal(empty(x), layer(x))
    assert "activation='silu'" in repr(layer)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(2, 12, 5, dtype=torch.int64), r"floating-point input \(N, 12, .*torch.int64"),
        (torch.ones(2, 12, 5, dtype=torch.complex64), "complex64"),
        (torch.ones(12), r"of shape \(12,\)"),
        (torch.ones(1, 12, 1, 1, 1, 1), "at most three axes"),
        (torch.ones(2, 10, 5), "10"),
        (torch.ones(2, 12, 5, dtype=torch.float64), "torch.float64"),
    ],
    ids=["integers", "complex", "one axis", "six axes", "channels", "mixed dtypes"],
)
@forms
def test_other_input_is_refused(form, x, message):
    with pytest.raises(ValueError, match=message):
        made(form)(x)


@forms
def test_other_arguments_are_refused(form):
    x = torch.ones(2, 12, 5)
    with pytest.raises(ValueError, match=r"residual must be torch\.float32 of shape"):
        made(form)(x, torch.ones(2, 12, 1))
    with pytest.raises(ValueError, match="12 channels and 5 groups"):
        FORMS[form](5, 12)
    with pytest.raises(ValueError, match="unknown activation 'elu'"):
        FORMS[form](4, 12, activation="elu")


@pytest.mark.parametrize("eps", [[1e-5], [1e-5, 1e-5, 0.0, 1e-5], [1e-5, 1e-5, 1e-5, float("nan")]])
def test_other_eps_of_groups_are_refused(eps):
    with pytest.raises(ValueError, match="4 positive numbers, one for each group"):
        PooledGroupNorm(4, 12, group_eps=torch.tensor(eps))


# ---- What a converter sees -----------------------------------------------------------------------


def exported(layer, x, dynamic=()):
    shapes = (dict.fromkeys(dynamic, Dim.DYNAMIC),) if dynamic else None
    return torch.export.export(layer.eval(), (x,), dynamic_shapes=shapes)


def calls(program):
    return [node for node in program.graph.nodes if node.op == "call_function"]


def names(program):
    return [node.target.name().partition("::")[2].partition(".")[0] for node in calls(program)]


ELEMENTWISE = {"mean", "conv2d", "sub", "mul", "add", "relu", "rsqrt"}
# Values of a channel, or parameters, in another shape: no memory of the size of the map moves.
SMALL = {"view", "squeeze", "unsqueeze"}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("groups", [1, 4, 12])
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_the_pooled_form_never_views_the_map(shape, groups, dynamic):
    layer = made("pooled", groups, group_eps=torch.full((groups,), 1e-4))
    axes = (0, *range(2, len(shape))) if dynamic else ()
    program = exported(layer, torch.randn(shape), axes)
    assert set(names(program)) <= ELEMENTWISE | SMALL
    assert names(program).count("conv2d") == {1: 3, 4: 6, 12: 0}[groups]
    viewed = [
        node.args[0].meta["val"].shape
        for node, name in zip(calls(program), names(program), strict=True)
        if name in SMALL
    ]
    assert all(size == (12,) or size[2:].numel() == 1 or size == (groups,) for size in viewed)
    if len(shape) == 4:
        assert len(viewed) == 3  # scale, bias, eps
    x = torch.randn(3, 12, *(size + 4 for size in shape[2:])) if dynamic else torch.randn(shape)
    assert torch.equal(program.module()(x), layer(x))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@forms
def test_exported_with_other_batches_and_positions(form, shape):
    layer = made(form, activation="relu", dtype=torch.float64)
    program = exported(layer, torch.randn(shape, dtype=torch.float64), (0, *range(2, len(shape))))
    x = torch.randn(5, 12, *(size + 3 for size in shape[2:]), dtype=torch.float64)
    assert (program.module()(x) - expected(layer, x)[0]).abs().max() < DOUBLE


@forms
def test_exported_with_a_residual(form):
    layer = made(form, activation="silu", dtype=torch.float64).eval()
    x, residual = torch.randn(2, 2, 12, 5, 5, dtype=torch.float64)
    batch = ({0: Dim.DYNAMIC}, {0: Dim.DYNAMIC})
    program = torch.export.export(layer, (x, residual), dynamic_shapes=batch)
    x, residual = torch.randn(2, 3, 12, 5, 5, dtype=torch.float64)
    true = expected(layer, x, residual)[0]
    assert (program.module()(x, residual) - true).abs().max() < DOUBLE


@pytest.mark.parametrize(
    ("form", "norm"), [("plain", "group_norm"), ("instance", "instance_norm"), ("pooled", None)]
)
def test_the_norm_that_a_converter_sees(form, norm):
    """One, and with its eps even where that is the operator's default."""
    program = exported(made(form, eps=1e-5), torch.randn(2, 12, 5, 5))
    found = [node for node in calls(program) if "norm" in node.target.name()]
    assert [node.target.name() for node in found] == ([f"aten::{norm}"] if norm else [])
    assert all(1e-5 in node.args for node in found)
    if norm is None:
        assert "norm" not in program.graph_module.code


@forms
def test_float32_is_converted_to_nothing(form):
    names_of_32 = names(exported(made(form), torch.randn(2, 12, 5, 5)))
    assert "to" not in names_of_32
    names_of_16 = names(exported(made(form).half(), torch.randn(2, 12, 5, 5).half()))
    assert names_of_16.count("to") == 4  # input, scale, bias, output


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@forms
def test_traced_without_a_warning(form, shape):
    layer = made(form, activation="gelu", dtype=torch.float64).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(layer, torch.randn(shape, dtype=torch.float64))
    x = torch.randn(5, 12, *(size + 3 for size in shape[2:]), dtype=torch.float64)
    assert (traced(x) - expected(layer, x)[0]).abs().max() < DOUBLE


# ---- From other layers ---------------------------------------------------------------------------

SOURCES = {
    "torch's": lambda: nn.GroupNorm(4, 12, eps=1e-3),
    "torch's without affine": lambda: nn.GroupNorm(4, 12, affine=False),
    "ours": lambda: GroupNorm(4, 12, activation="mish"),
    "scale alone": lambda: GroupNorm(4, 12, bias=False),
    "with activation": lambda: GroupNormAct(4, 12),
    "with a module": lambda: norm_layer("gn:groups=4")(12, act_layer=nn.Hardswish),
}


@pytest.mark.parametrize("source", SOURCES)
@forms
def test_a_layer_in_another_form(form, source):
    norm = filled(SOURCES[source]()).double().eval()
    before = copy.deepcopy(norm.state_dict())
    x = torch.randn(2, 12, 5, 5, dtype=torch.float64) + 3
    layer = as_form(norm, form, near=x)
    assert type(layer) is FORMS[form]
    assert layer.state_dict().keys() == before.keys()
    assert (layer(x) - norm(x)).abs().max() < DOUBLE
    filled(layer)
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())


@forms
def test_the_state_of_the_layer_is_kept(form):
    norm = GroupNorm(4, 12, dtype=torch.bfloat16).eval()
    norm.weight.requires_grad_(False)
    layer = as_form(norm, form)
    assert not layer.training
    assert layer.weight.dtype == torch.bfloat16
    assert (layer.weight.requires_grad, layer.bias.requires_grad) == (False, True)


def test_double_input_of_a_single_layer_without_parameters_is_refused():
    layer = made("pooled", affine=False)
    with pytest.raises(ValueError, match=r"got torch\.float64 .* in torch\.float32"):
        layer(torch.ones(2, 12, 5, dtype=torch.float64))
    assert layer.double()(torch.ones(2, 12, 5, dtype=torch.float64)).dtype == torch.float64


@forms
def test_a_bias_of_zeros_is_filled_in(form):
    layer = as_form(GroupNorm(4, 12, bias=False), form, fill_bias=True)
    assert torch.equal(layer.bias, torch.zeros(12))
    without = as_form(GroupNorm(4, 12, affine=False), form, fill_bias=True)
    assert without.weight is without.bias is None


def test_an_eps_for_each_group_replaces_that_of_the_layer():
    norm = filled(GroupNorm(4, 12, dtype=torch.float64))
    x = torch.randn(2, 12, 5, dtype=torch.float64)
    layer = as_form(norm, "pooled", group_eps=torch.full((4,), 1e-2, dtype=torch.float64))
    norm.eps = 1e-2
    assert (layer(x) - norm(x)).abs().max() < DOUBLE
    for form in ("plain", "instance"):
        with pytest.raises(ExportError, match="'pooled' and 'blocked' take group_eps"):
            as_form(norm, form, group_eps=torch.full((4,), 1e-2))


def hooked():
    norm = GroupNorm(4, 12)
    norm.register_forward_hook(lambda *_: None)
    return norm


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.BatchNorm2d(12), "expected a group norm, got BatchNorm2d"),
        (lambda: CalibratedGroupNorm(4, 12), "scales its input"),
        (lambda: CalibratedGroupNorm(4, 12, input_affine=False, hybrid=0.5), "mixes stored"),
        (lambda: norm_layer("gn:groups=4")(12, act_layer=nn.ELU), "applies ELU"),
        (lambda: norm_layer("gn:groups=4")(12, drop_layer=nn.Dropout), "call eval"),
        (lambda: GroupNorm(4, 12, device="meta"), "meta device"),
        (hooked, "has hooks"),
    ],
    ids=["batch norm", "input affine", "mixed", "elu", "dropout", "meta", "hooks"],
)
def test_other_layers_are_refused(build, message):
    with pytest.raises(ExportError, match=message):
        as_form(build(), "pooled")


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="unknown form 'pool'; known: plain, instance, pooled"):
        as_form(GroupNorm(4, 12), "pool")
