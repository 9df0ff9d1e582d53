"""Whole networks, prepared: the same outputs, another form, the model as it was."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import groupnorm
from groupnorm.conversion import convert
from groupnorm.export.errors import ExportError
from groupnorm.export.forms import FORMS, GroupNormForm, PooledGroupNorm
from groupnorm.export.preparation import prepare
from groupnorm.export.preparation.report import (
    BAKED,
    CONDITIONED,
    DTYPE,
    FOLDED,
    FORM,
    KEPT,
    MODE,
    NOT_CONDITIONED,
    SCALE,
)
from groupnorm.layers import norm_layer
from groupnorm.models.registry import build_model, build_segmentation_model
from tests.conversion.networks import UNet, small_network
from tests.export.preparation.networks import (
    actions,
    assert_prepared,
    offset_network,
    random_affine,
)
from tests.tolerances import NETWORK


def forms_of(network):
    return [type(m) for m in network.modules() if isinstance(m, GroupNormForm)]


def test_resnet20_with_standardized_weights():
    torch.manual_seed(0)
    model = build_model("resnet20", norm="gn:groups=8+ws", num_classes=10, width=0.5)
    model = random_affine(model)
    network, report = assert_prepared(
        model, torch.randn(2, 3, 16, 16), calibration=torch.randn(8, 3, 16, 16)
    )
    norms = [name for name, m in model.named_modules() if isinstance(m, nn.GroupNorm)]
    assert set(report.of(FORM)) == set(report.of(CONDITIONED)) == set(norms)
    assert len(norms) == len(forms_of(network)) == 19
    assert len(report.of(BAKED)) == 19
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert {type(m) for m in convolutions} == {nn.Conv2d}
    assert [one.layer for one in report.ranges] == norms


def test_a_pre_activation_network():
    model = build_model("preact_resnet8", norm="gn:groups=4", num_classes=10)
    _, report = assert_prepared(
        random_affine(model), torch.randn(2, 3, 16, 16), calibration=torch.randn(8, 3, 16, 16)
    )
    # the first norm of a block gets the sum of the one before
    reasons = set(report.of(NOT_CONDITIONED).values())
    assert reasons
    assert any("makes its input" in reason or "something else" in reason for reason in reasons)
    assert report.of(CONDITIONED)


@pytest.mark.slow
def test_torchvisions_resnet18():
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.resnet18(norm_layer=norm_layer("gn"), num_classes=10)
    _, report = assert_prepared(
        random_affine(model), torch.randn(1, 3, 48, 48), calibration=torch.randn(4, 3, 48, 48)
    )
    assert len(report.of(CONDITIONED)) == len(report.of(FORM)) == 20


def test_a_unet_that_was_converted():
    model, _ = convert(
        random_affine(UNet()), "gn:groups=4", data=torch.randn(16, 3, 8, 8), only=None
    )
    assert_prepared(model.eval(), torch.randn(2, 3, 8, 8), calibration=torch.randn(8, 3, 8, 8))


def test_our_unet():
    model = build_segmentation_model("unet_narrow", norm="gn:groups=4+ws", num_classes=3)
    _, report = assert_prepared(random_affine(model), torch.randn(1, 3, 32, 32))
    assert report.ranges is None
    assert len(report.of(BAKED)) >= len(report.of(FORM)) > 5


def test_batch_norms_are_folded_on_the_way():
    _, report = assert_prepared(random_affine(small_network()), torch.randn(2, 3, 8, 8))
    assert len(report.of(FOLDED)) == 3
    assert not report.of(FORM)


def test_everything_at_once():
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3, bias=False))
    model = nn.Sequential(
        conv, nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3, padding=1),
        nn.InstanceNorm2d(8), nn.GELU(), norm_layer("ln2d")(8),
        norm_layer("gn:groups=4")(8, act_layer=nn.SiLU),
    )  # fmt: skip
    network, report = assert_prepared(
        random_affine(model), torch.randn(2, 3, 9, 9), calibration=torch.randn(8, 3, 9, 9)
    )
    assert actions(report, "0") == [BAKED]
    assert actions(report, "1") == [FOLDED]
    assert actions(report, "2") == [SCALE, CONDITIONED, FORM]
    assert actions(report, "4") == ["plain layer", CONDITIONED, FORM]
    assert actions(report, "6") == [KEPT]
    assert actions(report, "7") == [NOT_CONDITIONED, FORM]
    assert network[7].activation == "silu"


@pytest.mark.parametrize("form", FORMS)
def test_every_form(form):
    network, report = assert_prepared(offset_network(1.0), torch.randn(2, 3, 9, 9), form=form)
    assert set(forms_of(network)) == {FORMS[form]}
    assert report.form == form


def test_a_norm_in_several_places_stays_one():
    norm = groupnorm.GroupNormAct(2, 4)
    convs = [nn.Conv2d(4, 4, 3, padding=1) for _ in range(2)]
    model = nn.Sequential(convs[0], norm, convs[1], norm)
    network, report = assert_prepared(
        random_affine(model), torch.randn(2, 4, 6, 6), calibration=torch.randn(4, 4, 6, 6)
    )
    assert network[1] is network[3]
    assert "2 layers make its inputs" in report.of(NOT_CONDITIONED)["1"]


def test_a_block_that_runs_twice():
    block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4))
    model = nn.Sequential(block, nn.ReLU(), block)
    _, report = assert_prepared(
        random_affine(model), torch.randn(2, 4, 6, 6), calibration=torch.randn(4, 4, 6, 6)
    )
    assert actions(report, "0.1") == [CONDITIONED, FORM]


def test_norms_that_share_their_weights_stay_and_are_named():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.ReLU(), nn.GroupNorm(4, 4))
    model[3].weight = model[1].weight
    _, report = assert_prepared(random_affine(model), torch.randn(2, 3, 6, 6))
    assert set(report.of(KEPT)) == {"1", "3"}
    assert "another module has the same parameters" in report.of(KEPT)["1"]


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)

    def forward(self, x):
        return F.group_norm(self.norm(self.conv(x)), 1)


class Own(nn.GroupNorm):
    def forward(self, x):
        return super().forward(x) * 2


def test_what_cannot_be_replaced_is_named():
    _, report = assert_prepared(random_affine(Functional()), torch.randn(2, 3, 6, 6))
    assert "calls group norm as a function" in report.of(KEPT)[""]
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Own(2, 4))
    network, report = assert_prepared(random_affine(model), torch.randn(2, 3, 6, 6))
    assert type(network[1]) is Own
    assert "a forward of its own" in report.of(KEPT)["1"]
    _, report = assert_prepared(nn.GroupNorm(2, 4), torch.randn(2, 4, 2, 2, 2, 2))
    assert "no form takes" in report.of(KEPT)[""]


def test_hooks_go_on():
    model = offset_network(0.0)
    seen = []
    model[1].register_forward_hook(lambda module, args, output: seen.append(type(module)))
    network, _ = assert_prepared(model, torch.randn(2, 3, 6, 6))
    seen.clear()
    network(torch.randn(2, 3, 6, 6).double())
    assert seen == [PooledGroupNorm]


def test_a_norm_with_a_shift_alone():
    norm = nn.GroupNorm(2, 4)
    norm.register_parameter("weight", None)
    network, _ = assert_prepared(random_affine(norm), torch.randn(2, 4, 5))
    assert bool((network.weight == 1).all())


def test_a_norm_alone():
    network, report = assert_prepared(nn.GroupNorm(2, 4), torch.randn(2, 4, 5))
    assert type(network) is PooledGroupNorm
    assert "(the network)" in str(report)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_dtype_is_the_models(dtype):
    model, x = offset_network(0.0).to(dtype), torch.randn(2, 3, 8, 8, dtype=dtype)
    network, _ = prepare(model, x, "onnxruntime", form="pooled", calibration=x)
    assert {p.dtype for p in network.parameters()} == {dtype}
    assert network(x).dtype == dtype


def test_the_model_may_be_channels_last_and_have_gradients():
    model, x = offset_network(0.0), torch.randn(2, 3, 8, 8)
    model(x).sum().backward()
    model = model.to(memory_format=torch.channels_last)
    network, _ = prepare(model, x, "onnxruntime", form="pooled")
    torch.testing.assert_close(network(x), model(x), rtol=NETWORK, atol=NETWORK)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_on_cuda_is_prepared_on_the_cpu():
    model, x = offset_network(0.0).cuda(), torch.randn(2, 3, 8, 8).cuda()
    network, _ = prepare(model, x, "onnxruntime", form="pooled", calibration=x)
    assert {p.device.type for p in network.parameters()} == {"cpu"}
    assert {p.device.type for p in model.parameters()} == {"cuda"}
    torch.testing.assert_close(network(x.cpu()), model(x).cpu(), rtol=NETWORK, atol=NETWORK)


def test_examples_with_several_arguments():
    class Timed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)

        def forward(self, x, t):
            return {"sample": self.norm(self.conv(x) + 100 * t.view(-1, 1, 1, 1))}

    model = Timed().eval()
    x, t = torch.randn(2, 3, 6, 6), torch.ones(2)
    for example in ((x, t), lambda m: m(x, t=t)):
        network, report = prepare(
            model, example, "onnxruntime", form="pooled", calibration=[example]
        )
        want, got = model(x, t)["sample"], network(x, t)["sample"]
        torch.testing.assert_close(got, want, rtol=NETWORK, atol=NETWORK)
        assert report.ranges[0].offset_before > 10


class Single(nn.Module):
    """Computes in float32, whatever it is in."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)

    def forward(self, x):
        return self.norm(self.conv(x.float()))


def test_a_network_that_does_not_run_in_float64_says_so():
    model, x = Single().eval(), torch.randn(2, 3, 6, 6)
    network, report = prepare(model, x, "onnxruntime", form="pooled", calibration=x)
    assert "does not run in float64" in report.of(DTYPE)[""]
    torch.testing.assert_close(network(x), model(x), rtol=NETWORK, atol=NETWORK)


class Asks(nn.Module):
    """Computes something else once its norm has another class."""

    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, x):
        return self.norm(x) * (1 + isinstance(self.norm, PooledGroupNorm))


class Reads(Asks):
    def forward(self, x):
        return self.norm(x) * self.norm.running_mean if hasattr(self.norm, "gather") else x


def test_a_network_that_would_compute_something_else_is_refused():
    model = Asks().eval()
    with pytest.raises(ExportError, match="does not compute the same: its output differs by"):
        prepare(model, torch.randn(1, 4, 3), "onnxruntime", form="pooled")
    assert type(model.norm) is nn.GroupNorm
    model = nn.Sequential(nn.Conv1d(3, 4, 1), Reads()).eval()
    with pytest.raises(ExportError, match="does not run"):
        prepare(model, torch.randn(1, 3, 3), "onnxruntime", form="pooled")


class Counts(nn.Module):
    """Another output each time that it runs."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.norm(self.conv(x)) * self.calls


def test_a_network_that_changes_as_it_runs_is_as_it_was():
    model, x = random_affine(Counts()), torch.randn(2, 3, 6, 6)
    network, _ = prepare(model, x, "onnxruntime", form="pooled")
    assert float(model.calls) == float(network.calls) == 0
    torch.testing.assert_close(network(x), model(x), rtol=NETWORK, atol=NETWORK)


def test_refused():
    model, x = offset_network(0.0), torch.randn(1, 3, 6, 6)
    with pytest.raises(ExportError, match="unknown form of group norm 'flat'; known: plain"):
        prepare(model, x, "onnxruntime", form="flat")
    with pytest.raises(ValueError, match="does not run on the example"):
        prepare(model, torch.randn(1, 4, 6, 6), "onnxruntime", form="pooled")
    with pytest.raises(ValueError, match="does not run on batch 0 of the calibration"):
        prepare(model, x, "onnxruntime", form="pooled", calibration=torch.randn(2, 5, 6, 6))
    with pytest.raises(TypeError, match="an example is"):
        prepare(model, 3, "onnxruntime", form="pooled")
    model[1].train()
    with pytest.raises(ExportError, match="is in training mode"):
        prepare(model, x, "onnxruntime", form="pooled")


def test_other_layers_in_training_mode_are_put_out_of_it_and_named():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.Dropout(0.5))
    random_affine(model)
    model[2].train()
    network, report = prepare(model, torch.randn(1, 3, 6, 6), "onnxruntime", form="pooled")
    assert "1 module in training mode, now in evaluation mode: 2" in report.of(MODE)[""]
    assert not any(module.training for module in network.modules())
    assert model[2].training


def test_a_bias_is_filled_in_where_asked_for():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), groupnorm.GroupNorm(2, 4, bias=False)).eval()
    x = torch.randn(1, 3, 6, 6)
    assert prepare(model, x, "ncnn", form="plain")[0][1].bias is None
    network, _ = prepare(model, x, "ncnn", form="plain", fill_bias=True)
    assert bool((network[1].bias == 0).all())


def test_the_form_comes_from_the_runtime():
    targets = pytest.importorskip("groupnorm.export.targets")
    network, report = prepare(offset_network(0.0), torch.randn(1, 3, 6, 6), "onnxruntime")
    form = targets.form_for("onnxruntime", "float32")
    assert report.form == form
    assert set(forms_of(network)) == {FORMS[form]}


def test_a_copy_of_what_was_prepared_can_be_exported():
    network, _ = prepare(offset_network(0.0), torch.randn(1, 3, 6, 6), "x", form="pooled")
    copy.deepcopy(network)
    exported = torch.export.export(network, (torch.randn(1, 3, 6, 6),))
    names = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert all(name.startswith("aten.") for name in names)
    assert not any("group_norm" in name for name in names)
