"""`convert` with data: what it leaves alone, what it keeps, reports, state dicts, kinds of data."""

import copy

import pytest
import torch
from torch import nn

import groupnorm
from groupnorm.conversion import ConversionReport, rebuild, recompute_statistics
from groupnorm.conversion.calibration import network
from groupnorm.conversion.calibration import norm as norm_fit
from groupnorm.conversion.calibration.fit import FitLimits, fit_layer
from groupnorm.conversion.calibration.refit import RidgeRefit
from groupnorm.conversion.calibration.states import States
from groupnorm.conversion.finite import NotFiniteError
from groupnorm.layers import CalibratedGroupNorm
from tests.conversion.networks import UNet, batch_norms, small_network, train_statistics
from tests.tolerances import NETWORK, OTHER_IMAGES

QUICK = FitLimits(steps=5)


def images(samples=40, size=8, seed=0):
    """Images whose brightness and contrast vary, as those of photographs do."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 3, size, size, generator=g)
    contrast = torch.rand(samples, 1, 1, 1, generator=g) + 0.3
    return contrast * (x + torch.randn(samples, 3, 1, 1, generator=g))


def convert(model, to="gn:groups=4", **arguments):
    arguments.setdefault("data", images())
    return groupnorm.convert(model, to, **{"limits": QUICK, **arguments})


class PreActivation(nn.Module):
    """A norm on a sum, and one with no convolution in front."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(16) for _ in range(2)])
        self.convs = nn.ModuleList([nn.Conv2d(16, 16, 3, padding=1) for _ in range(2)])

    def forward(self, x):
        x = self.conv(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = x + conv(torch.relu(norm(x)))
        return x.mean((2, 3))


class Depthwise(nn.Sequential):
    """Pointwise, depthwise and pointwise convolutions, as in MobileNet."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 16, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(inplace=True),
            nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(inplace=True),
            nn.Conv2d(16, 8, 1, bias=False),
            nn.BatchNorm2d(8),
        )


NETWORKS = {
    "post-activation": small_network,
    "pre-activation": lambda: train_statistics(PreActivation()),
    "depthwise": lambda: train_statistics(Depthwise()),
    "concatenation": lambda: train_statistics(UNet(width=8)),
}


def output_error(converted, model, x):
    with torch.no_grad():
        found, expected = converted(x), model(x)
    spread = expected - expected.mean(0)
    return float((found - expected).square().sum() / spread.square().sum())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fitted_network_is_nearer_than_one_without_data(name):
    model = NETWORKS[name]().eval()
    fitted, report = convert(model)
    with pytest.warns(UserWarning, match="without data"):
        without, _ = groupnorm.convert(model, "gn:groups=4")
    fresh = images(seed=1)
    assert batch_norms(fitted) == []
    assert output_error(fitted, model, fresh) < 0.7 * output_error(without, model, fresh)
    assert all(row.error is not None and row.offset_share is not None for row in report.layers)
    assert 0.5 < report.output_error / output_error(fitted, model, fresh) < 2
    assert not any("from its beginning" in note for note in report.notes)


def test_what_is_lost_is_noted():
    """A norm of one channel, whose mean over an image is all that the image has."""
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8))
    brightness = torch.linspace(-2, 2, 40).view(-1, 1, 1, 1)
    data = brightness + 0.1 * torch.randn(40, 1, 8, 8)
    recompute_statistics(model, [data])
    _, report = groupnorm.convert(model.eval(), data=data)
    assert report.layers[0].error > 0.5
    assert report.output_error > 0.2
    layers, output = report.notes
    assert "gave back little of what the old one gave" in layers
    assert f"the worst is 0, {report.layers[0].error:.2f}" in layers
    assert f"The outputs differ by {report.output_error:.2f} of their variance" in output


@pytest.mark.parametrize("model", [None, "resnet18", 3])
def test_what_is_no_network_is_refused_before_the_data_are_read(model):
    with pytest.raises(TypeError, match=f"must be a torch.nn.Module, got {type(model).__name__}"):
        groupnorm.convert(model, data=images())


def test_a_number_in_place_of_a_function_of_groups_is_refused():
    with pytest.raises(TypeError, match=r"must be a function .* got 4; for a number write"):
        groupnorm.convert(small_network(), groups=4)


def test_nothing_else_is_touched():
    model = small_network()  # in training mode
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    loader = torch.utils.data.DataLoader(images(), batch_size=10, shuffle=True)
    converted, _ = convert(model, data=loader)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert converted.training
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad for p in converted.parameters())


def test_a_conversion_in_place_keeps_the_parameters():
    model = small_network()
    parameters = dict(model.named_parameters())
    other, report = convert(copy.deepcopy(model))
    converted, _ = convert(model, inplace=True)
    assert converted is model
    for name, parameter in converted.named_parameters():
        assert parameter is parameters.get(name, parameter)
        assert torch.equal(parameter, dict(other.named_parameters())[name])
    assert report.new_keys == ["stem.0.bias"]
    assert {(row.affine, row.statistics) for row in report.layers} == {("fitted", "left out")}


@pytest.mark.parametrize("image", [0, 30])
def test_a_failure_leaves_the_model_as_it_was(image):
    model = small_network()
    before = copy.deepcopy(model.state_dict())
    bad = images()
    bad[image] = float("nan")
    words = f"the input of the network has values .* NaN, first for sample {image} of the data"
    with pytest.raises(NotFiniteError, match=words) as raised:
        convert(model, data=bad, inplace=True)
    assert raised.value.sample == image
    assert batch_norms(model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


class Contrast(nn.Module):
    """Divides by the contrast of the images, which black ones have none of."""

    def forward(self, x, images):
        return x / images.std((1, 2, 3)).view(-1, *[1] * (x.dim() - 1))


class WithContrast(nn.Module):
    def __init__(self, at):
        super().__init__()
        self.inner, self.contrast, self.at = small_network(), Contrast(), at

    def forward(self, x):
        if self.at == "before":
            return self.inner(self.contrast(x, x))
        if self.at == "after":
            return self.contrast(self.inner(x), x)
        return self.inner(x / x.std((1, 2, 3), keepdim=True))


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("before", r"the output of contrast \(Contrast\) in the network"),
        ("after", r"the output of contrast \(Contrast\) in the network"),
        ("between", r"the input of inner \(Residual\) in the network"),
    ],
)
def test_the_first_layer_whose_values_are_not_finite_is_named(at, words):
    data = [(batch, torch.zeros(len(batch))) for batch in images().split(10)]
    data[3][0][3] = 0
    with pytest.raises(NotFiniteError, match=f"{words} .* first for sample 33 of the data"):
        convert(WithContrast(at), data=data)
    batches = [{"x": x} for x, _ in data]
    batches[2]["x"][0] = 0  # held out
    with pytest.raises(NotFiniteError, match=f"{words} .* first for batch 2 of the data") as raised:
        convert(WithContrast(at), data=batches, forward=lambda model, batch: model(batch["x"]))
    assert raised.value.sample is None


def test_values_that_are_too_large_to_square_name_the_norm_and_what_to_check():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), train_statistics(nn.BatchNorm2d(16))).double()
    with pytest.raises(NotFiniteError, match=r"^1: the input .* too large to square: check"):
        convert(model, data=images().double() * 1e200)


def test_a_weight_that_cannot_be_changed_leaves_the_model_as_it_was():
    with torch.inference_mode():
        conv = nn.Conv2d(3, 16, 3)
    model = nn.Sequential(
        nn.Conv2d(3, 3, 1), train_statistics(nn.BatchNorm2d(3)), conv,
        train_statistics(nn.BatchNorm2d(16)),
    )  # fmt: skip
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"2\.weight was made in inference mode"):
        convert(model, inplace=True)
    assert batch_norms(model) == ["1", "3"]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_the_same_seed_gives_the_same_network():
    model = small_network()
    one, two, other = (convert(model, "gn", seed=seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_the_same_seed_gives_a_data_loader_the_same_order():
    model = small_network()
    loader = torch.utils.data.DataLoader(images(), batch_size=10, shuffle=True)
    states = []
    for caller in (1, 2):
        torch.manual_seed(caller)
        states.append(convert(model, data=loader)[0].state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize(
    "data",
    [
        lambda: images().split(7),
        lambda: iter([(part, torch.zeros(len(part))) for part in images().split(10)]),
        lambda: [[part] for part in images().split(40)],
    ],
    ids=["tensors", "pairs, once", "a single list"],
)
def test_kinds_of_data(data):
    model = small_network().eval()
    converted, report = convert(model, data=data())
    assert not any("from its beginning" in note for note in report.notes)
    assert output_error(converted, model, images(seed=1)) < 0.5


def test_data_that_cannot_be_read():
    model = small_network()
    with pytest.raises(TypeError, match=r"begins with one, got dict.*forward="):
        convert(model, data=[{"x": images()}])
    with pytest.raises(TypeError, match="folder_images"):
        convert(model, data="photographs")
    with pytest.raises(TypeError, match="iterable of batches, got int"):
        convert(model, data=3)
    for nothing in ([], images()[:0]):
        with pytest.raises(ValueError, match="no samples"):
            convert(model, data=nothing)
    with pytest.raises(ValueError, match="one sample alone"):
        convert(model, data=images()[:1])
    message = r"^the network does not run on a batch of shape \(1, 4, 8, 8\), whose first "
    with pytest.raises(ValueError, match=message + "dimension counts the samples: (?!the network)"):
        convert(model, data=torch.zeros(10, 4, 8, 8))
    for single in (images()[0], list(images())):  # no dimension of samples
        with pytest.raises(ValueError, match=r"of shape \([12], 8, 8\), whose first dimension"):
            convert(model, data=single)
    with pytest.raises(ValueError, match=r"^the network does not run on a batch: (?!the network)"):
        convert(model, data=[images()] * 2, forward=lambda network, batch: network(batch[:, :2]))
    with pytest.raises(ValueError, match="8 samples or more"):
        convert(model, "gn", data=images()[:8])


class Two(nn.Module):
    """A network of two inputs, one of which has a default."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x, *, scale, power=1):
        return torch.relu(self.norm(self.a(x))).mean((2, 3)) * scale**power


def test_a_network_of_several_inputs():
    model = train_statistics(Two())
    data = [{"x": part, "scale": torch.ones(len(part), 1)} for part in images().split(8)]
    converted, report = convert(
        model, "ln", data=data, forward=lambda network, batch: network(**batch, power=2)
    )
    assert not any("from its beginning" in note for note in report.notes)
    assert report.layers[0].error < 0.5
    assert converted(images(), scale=2.0).shape == (40, 8)


def test_a_network_that_is_called_twice_for_a_batch_is_fitted_to_both_inputs():
    model = small_network().eval()
    pairs = list(zip(images().split(8), (4 * images(seed=5) + 3).split(8), strict=True))
    converted, report = convert(
        model, data=pairs, forward=lambda network, batch: network(batch[0]) - network(batch[1])
    )
    assert "forward does more with a batch than call the network once" in report.notes[0]
    joined, _ = convert(model, data=torch.cat([torch.cat(pair) for pair in pairs]))
    for x in (images(seed=7), 4 * images(seed=8) + 3):
        assert output_error(converted, model, x) < 2 * output_error(joined, model, x)


def test_the_error_is_that_of_what_forward_gives():
    model = small_network().eval()
    data = images().split(8)
    errors = []
    for factor in (1.0, 50.0):
        _, report = convert(
            model, data=data, forward=lambda network, x, f=factor: (f * network(x)).softmax(1)
        )
        assert not any("from its beginning" in note for note in report.notes)
        errors.append(report.output_error)
    assert errors[0] != errors[1]


def test_a_network_that_runs_under_autocast_is_fitted_under_it():
    def forward(network, x):
        with torch.autocast("cpu", torch.bfloat16):
            return network(x)

    _, report = convert(small_network().eval(), data=images().split(8), forward=forward)
    assert "forward runs it under autocast" in report.notes[0]


def test_a_norm_without_a_layer_in_front_has_its_own_affine():
    model = train_statistics(PreActivation()).eval()
    converted, report = convert(model)
    assert type(converted.norms[1]) is CalibratedGroupNorm
    assert [row.in_front for row in report.layers] == ["itself", "itself"]
    assert "norms.1.input_weight" in report.new_keys
    plain, report = convert(model, plain=True)
    assert type(plain.norms[1]) is groupnorm.GroupNorm
    assert [row.in_front for row in report.layers] == ["", ""]
    assert [row.offset_share for row in report.layers] == [None, None]
    assert "offsets" not in str(report).splitlines()[2]
    x = images(seed=1)
    assert output_error(converted, model, x) < output_error(plain, model, x)


def test_the_report_says_why_nothing_in_front_of_a_norm_takes_its_offsets():
    model = train_statistics(PreActivation())
    shared = "something else, or a hook, takes the output of the layer in front"
    none = "no convolution or linear layer makes its input"
    notes = [row.note for row in convert(model)[1].layers]
    assert notes == [f"own scale and offset before it: {why}" for why in (shared, none)]
    notes = [row.note for row in convert(model, plain=True)[1].layers]
    assert notes == [f"no scale and offset before it: {why}" for why in (shared, none)]
    model = small_network()
    nn.utils.parametrizations.weight_norm(model.blocks[0]["conv"])
    first, second, third = convert(model, "gn")[1].layers
    assert second.note.endswith(
        ", own scale and offset before it: the weights of blocks.0.conv are computed; remove the "
        "parametrization first"
    )
    assert "before it" not in first.note + third.note


def test_half_of_the_groups_statistics():
    model = small_network().eval()
    half, report = convert(model, hybrid=0.5)
    whole, _ = convert(model)
    assert {row.target for row in report.layers} == {"CalibratedGroupNorm"}
    assert {row.hybrid for row in report.layers} == {0.5}
    assert {row.statistics for row in report.layers} == {"the data's, in part"}
    x = images(seed=1)
    assert output_error(half, model, x) < output_error(whole, model, x)
    with pytest.raises(ValueError, match="hybrid below 1 is no plain"):
        convert(model, hybrid=0.5, plain=True)


@pytest.mark.parametrize("arguments", [{}, {"hybrid": 0.5}, {"plain": True}])
def test_a_new_network_loads_the_state_of_a_converted_one(arguments, tmp_path):
    model = train_statistics(nn.Sequential(small_network().stem, nn.ReLU(), nn.BatchNorm2d(32)))
    converted, report = convert(model, **arguments)
    report.save(tmp_path / "report.json")
    again = ConversionReport.load(tmp_path / "report.json")
    assert again == report
    fresh = rebuild(
        nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)),
            nn.ReLU(),
            nn.BatchNorm2d(32),
        ),
        again,
    )
    fresh.load_state_dict(converted.state_dict())
    x = images()
    assert torch.allclose(fresh(x), converted(x), atol=NETWORK)
    assert set(report.new_keys) == set(converted.state_dict()) - set(model.state_dict())
    assert set(report.removed_keys) == set(model.state_dict()) - set(converted.state_dict())


def test_layers_with_an_activation():
    timm = pytest.importorskip("timm.layers")
    model = train_statistics(
        nn.Sequential(
            nn.Conv2d(3, 16, 3, bias=False),
            timm.BatchNormAct2d(16, act_layer=nn.SiLU),
            nn.Conv2d(16, 16, 3),
            timm.BatchNormAct2d(16, apply_act=False),
        )
    ).eval()
    for arguments in ({}, {"hybrid": 0.8}):
        converted, report = convert(model, **arguments)
        assert not any("from its beginning" in note for note in report.notes)
        assert output_error(converted, model, images(seed=1)) < 0.3


def test_a_norm_that_runs_twice_is_fitted_to_both_uses():
    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small_network()

        def forward(self, x):
            return self.body(x) + 0.3 * self.body(2 * x - 1)

    model = Siamese().eval()
    converted, report = convert(model)
    assert "does not run once" in report.notes[0]
    assert "is slow" in report.notes[0]
    with pytest.warns(UserWarning, match="without data"):
        without, _ = groupnorm.convert(model, "gn:groups=4")
    x = images(seed=1)
    assert output_error(converted, model, x) < 0.7 * output_error(without, model, x)


class Centered(nn.Module):
    """A network that changes its input in place."""

    def __init__(self, branching):
        super().__init__()
        self.body, self.branching = small_network(), branching

    def forward(self, x):
        if self.branching and x.sum() > 1e9:
            return x
        x -= 0.5
        return self.body(x)


@pytest.mark.parametrize("branching", [False, True])
def test_a_network_that_changes_its_input_does_not_change_the_data(branching):
    data, model = images(), Centered(branching).eval()
    converted, report = convert(model, data=data, finetune_steps=1)
    assert torch.equal(data, images())
    fresh = images(seed=1)
    with torch.no_grad():
        expected, found = model(fresh.clone()), converted(fresh.clone())
    spread = expected - expected.mean(0)
    error = float((found - expected).square().sum() / spread.square().sum())
    assert report.output_error == pytest.approx(error, rel=OTHER_IMAGES)


class Tied(nn.Module):
    """An autoencoder whose decoder takes the weights of its encoder."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)

    def forward(self, x):
        code = torch.relu(self.norm(self.conv(x)))
        return nn.functional.conv_transpose2d(code, self.conv.weight, padding=1)


def test_weights_that_something_else_takes_are_left_alone():
    model = train_statistics(Tied()).eval()
    converted, report = convert(model)
    assert torch.equal(converted.conv.weight, model.conv.weight)
    assert [row.in_front for row in report.layers] == ["itself"]
    with pytest.warns(UserWarning, match="without data"):
        without, _ = groupnorm.convert(model, "gn:groups=4")
    fresh = images(seed=1)
    assert output_error(converted, model, fresh) < output_error(without, model, fresh)


def test_what_goes_with_data_is_refused_without():
    with pytest.raises(ValueError, match="hybrid goes with data"):
        groupnorm.convert(small_network(), hybrid=0.5)
    with pytest.raises(ValueError, match="finetune_steps goes with data"):
        groupnorm.convert(small_network(), finetune_steps=10)
    with pytest.raises(ValueError, match="data goes with group norms, not with bn"):
        convert(small_network(), "bn")


@pytest.mark.parametrize(("to", "size", "rows"), [("ln", 8, 60), ("ln", 5, 12), ("gn", 8, 12)])
def test_large_groups_of_few_images_are_fitted_to_parts_of_maps_too(monkeypatch, to, size, rows):
    """With more scales and offsets than images, a fit to these is one to how they happen to be."""
    seen = []

    def noted(moments, groups, **arguments):
        seen.append(moments.samples)
        return fit_layer(moments, groups, **arguments)

    monkeypatch.setattr(norm_fit, "fit_layer", noted)
    model = train_statistics(nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)))
    convert(model, "ln" if to == "ln" else "gn:groups=4", data=images(16, size))
    assert seen == [rows]


def test_a_refit_that_is_worse_on_held_out_images_is_not_taken(monkeypatch):
    model = small_network().eval()
    expected, without = convert(model, refit=False)
    assert any(row.refitted for row in convert(model)[1].layers)
    solve = RidgeRefit.solve
    monkeypatch.setattr(RidgeRefit, "solve", lambda self: tuple(9 * v for v in solve(self)))
    converted, report = convert(model)
    assert report == without
    states = expected.state_dict(), converted.state_dict()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize(
    "arguments",
    [
        {"limits": QUICK},
        {"refit": False},
        {"reorder": True},
        {"budget": 0.1},
        {"plain": True},
        {"seed": 1},
        {"progress": True},
        {"forward": lambda network, batch: network(batch)},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_no_option_of_a_fit_is_dropped_without_data(arguments):
    with pytest.raises(ValueError, match=f"^{next(iter(arguments))} goes with data"):
        groupnorm.convert(small_network(), **arguments)


def test_a_budget_goes_with_groups_that_are_chosen():
    with pytest.raises(ValueError, match=r'budget goes with to="gn".* gn:groups=4 has them fixed'):
        convert(small_network(), budget=0.1)
    with pytest.raises(ValueError, match="budget goes with"):
        convert(small_network(), "gn", budget=0.1, groups=lambda name, channels: 4)


class Counting:
    """Data that notes whether anyone has looked at it."""

    seen = False

    def __iter__(self):
        self.seen = True
        return iter(images().split(10))


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"hybrid": 2}, ValueError, "hybrid must be a number from 0 to 1, got 2"),
        ({"hybrid": float("nan")}, ValueError, "hybrid must be"),
        ({"budget": 2}, ValueError, "budget must be a number between 0 and 1, got 2"),
        ({"finetune_steps": -5}, ValueError, "finetune_steps must be a whole number, 0 or more"),
        ({"finetune_steps": 1.5}, ValueError, "finetune_steps must be a whole number"),
        ({"seed": 2**70}, ValueError, "seed must be a whole number from 0"),
        ({"limits": None}, TypeError, "limits must be FitLimits, got None"),
    ],
)
def test_options_are_checked_before_the_data_are_read(arguments, kind, message):
    data = Counting()
    with pytest.raises(kind, match=message):
        convert(small_network(), "gn", data=data, **arguments)
    assert not data.seen


def test_a_distillation_holds_no_values_between_the_layers(monkeypatch):
    made = []

    def states():
        made.append(States(0))
        return made[-1]

    def distill(*args, **options):
        assert made[0].on_disk > 0
        assert made[0]._slots == {}
        return "Distilled."

    monkeypatch.setattr(network, "States", states)
    monkeypatch.setattr(network, "distill", distill)
    assert convert(small_network(), finetune_steps=5)[1].notes[0] == "Distilled."


class Finds(nn.Module):
    """A network that gives as many boxes as it finds."""

    def __init__(self):
        super().__init__()
        self.body = small_network()

    def forward(self, x):
        scores = self.body(x).flatten()
        return scores[scores > 0.5 * scores.std()]


def test_a_distillation_that_cannot_be_is_refused_before_anything_is_fitted(monkeypatch):
    def fitted(*args):
        raise AssertionError("a norm was fitted")

    monkeypatch.setattr(network.NormFit, "replace", fitted)
    frozen = small_network().requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter of the network requires a gradient"):
        convert(frozen, finetune_steps=5)
    with pytest.raises(ValueError, match="have not the same shapes"):
        convert(Finds(), finetune_steps=5)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_part_in_torchscript_is_left_and_the_rest_is_fitted():
    model = small_network().eval()
    part = torch.jit.script(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval())
    converted, report = convert(nn.Sequential(part, model).eval())
    assert {row.name for row in report.layers} == {
        f"1.{row.name}" for row in convert(model)[1].layers
    }
    assert [row.name for row in report.skipped] == ["0.1"]
    assert converted(images()).isfinite().all()
    assert all(
        parameter.is_leaf and parameter.requires_grad for parameter in converted.parameters()
    )
