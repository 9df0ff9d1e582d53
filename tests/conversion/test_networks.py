"""Networks of other libraries are converted, with random weights and small inputs."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from groupnorm.conversion import convert, preview, recompute_statistics
from groupnorm.conversion.calibration.fit import FitLimits
from groupnorm.conversion.output_error import OutputError
from groupnorm.layers import GroupNorm
from groupnorm.layers.with_activation import GroupNormWithActivation
from tests.conversion.networks import UNet, batch_norms, train_statistics
from tests.tolerances import NETWORK

timm = pytest.importorskip("timm")
QUICK = {"limits": FitLimits(steps=5), "refit": False}
pytestmark = pytest.mark.filterwarnings("ignore:.*converted without data:UserWarning")


def counted(model, kind, run):
    """How often modules of a class run."""
    calls = []
    handles = [
        m.register_forward_hook(lambda *_: calls.append(1))
        for m in model.modules()
        if isinstance(m, kind)
    ]
    run(model)
    for handle in handles:
        handle.remove()
    return len(calls)


@pytest.mark.parametrize(
    "name",
    [
        "test_efficientnet",
        pytest.param("tf_efficientnet_b0", marks=pytest.mark.slow),
    ],
)
def test_timms_norms_with_activation_keep_it(name):
    model = train_statistics(timm.create_model(name, drop_rate=0.1)).eval()
    x = torch.randn(1, 3, 64, 64)
    converted, report = convert(model)
    kinds = (nn.SiLU, nn.ReLU)
    before = counted(model, kinds, lambda m: m(x))
    assert before > 0
    assert counted(converted, kinds, lambda m: m(x)) == before
    assert batch_norms(converted) == []
    assert len(list(converted.modules())) == len(list(model.modules()))
    assert {row.target for row in report.layers} == {"GroupNormWithActivation"}
    assert converted(x).shape == model(x).shape


def test_drop_and_activation_of_timms_layers_are_the_same_modules():
    norm = timm.layers.BatchNormAct2d(32, act_layer=nn.SiLU, drop_layer=nn.Dropout)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), train_statistics(norm)).eval()
    convert(model, inplace=True)
    assert type(model[1]) is GroupNormWithActivation
    assert (model[1].drop, model[1].act) == (norm.drop, norm.act)
    bare = nn.Sequential(train_statistics(timm.layers.BatchNormAct2d(32, apply_act=False)))
    assert type(convert(bare)[0][0].act) is nn.Identity


@pytest.mark.parametrize("kind", ["SyncBatchNormAct", "FrozenBatchNormAct2d"])
def test_timms_other_batch_norms_are_converted(kind):
    norm = train_statistics(timm.layers.BatchNormAct2d(32))
    if kind == "SyncBatchNormAct":
        model = timm.layers.convert_sync_batchnorm(nn.Sequential(norm))
    else:
        model = timm.layers.freeze_batch_norm_2d(nn.Sequential(norm))
    assert type(model[0]).__name__ == kind
    converted, _ = convert(model)
    assert type(converted[0]) is GroupNormWithActivation
    assert type(converted[0].act) is nn.ReLU


def test_timms_group_norm_gets_other_groups():
    model = nn.Sequential(timm.layers.GroupNormAct(64, 32))
    converted, _ = convert(model, "gn:groups=8", only="0")
    assert (type(converted[0]).__name__, converted[0].num_groups) == ("GroupNormAct", 8)


def test_a_norm_that_splits_the_batch_is_left():
    """timm's split batch norm has a forward and norms of its own."""
    split = timm.layers.SplitBatchNorm2d(32, num_splits=2)
    model = train_statistics(nn.Sequential(nn.BatchNorm2d(32), split))
    _, report = convert(model)
    assert [(row.name, row.source) for row in report.skipped] == [("1", "SplitBatchNorm2d")]


@pytest.mark.slow
def test_the_trunk_of_a_policy_keeps_its_features_and_has_no_buffers():
    """A moving average of its parameters is then all of it. Its weights here are random."""
    torch.manual_seed(0)
    trunk = torchvision.models.resnet18()
    trunk.fc = nn.Identity()
    x = torch.rand(16, 3, 84, 84)
    recompute_statistics(trunk, [x])
    converted, report = convert(trunk.eval(), "gn:size=16")
    assert {(row.channels, row.groups) for row in report.layers} == {
        (64, 4), (128, 8), (256, 16), (512, 32)
    }  # fmt: skip
    assert list(converted.buffers()) == []
    with torch.no_grad():
        want, got = trunk(x), converted(x)
    assert got.shape == (16, 512)
    assert nn.functional.cosine_similarity(want, got).min() > 0.95
    apart = nn.functional.cosine_similarity(want - want.mean(0), got - want.mean(0))
    assert apart.min() > 0.5, "what tells images apart is kept, too"


@pytest.mark.slow
def test_a_vgg_has_parameters_alone():
    model = train_statistics(torchvision.models.vgg11_bn(num_classes=3).features).eval()
    converted, _ = convert(model)
    state = converted.state_dict()
    assert [p.shape for p in converted.parameters()] == [v.shape for v in state.values()]
    assert all(value.is_floating_point() for value in state.values())
    assert converted(torch.randn(1, 3, 32, 32)).isfinite().all()


def test_a_segmentation_network_is_converted():
    """Its branch behind the global pooling has no norm."""
    model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights_backbone=None, num_classes=3
    )
    train_statistics(model).eval()
    x = torch.randn(1, 3, 64, 64)
    converted, report = convert(model, example=x)
    assert report.skipped == []
    assert {row.source_eps for row in report.layers} == {1e-3, 1e-5}
    assert converted(x)["out"].shape == model(x)["out"].shape


@pytest.mark.slow
def test_the_pooled_branch_of_deeplab_is_left():
    model = torchvision.models.segmentation.deeplabv3_resnet50(weights_backbone=None, num_classes=3)
    train_statistics(model).eval()
    x = torch.randn(1, 3, 32, 32)
    converted, report = convert(model, example=x)
    assert [row.name for row in report.skipped] == ["classifier.0.convs.4.2"]
    converted(x)


def detector():
    """A detector with torchvision's frozen batch norm in its backbone and a batch norm in FPN."""
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    model = FasterRCNN(backbone, num_classes=3, min_size=64, max_size=64)
    model.extra = nn.BatchNorm2d(32)
    return train_statistics(model).eval()


@pytest.mark.slow
def test_the_backbone_of_a_detector_is_converted():
    model = detector()
    images = [torch.rand(3, 48, 64), torch.rand(3, 64, 40)]
    converted, report = convert(model, only="backbone", example=lambda m: m(images))
    assert {row.source for row in report.layers} == {"FrozenBatchNorm2d"}
    assert [row.name for row in report.skipped] == ["extra"]
    assert {row.trainable for row in report.layers} == {False}
    assert type(converted.backbone.body.bn1) is GroupNorm
    assert type(converted.extra) is nn.BatchNorm2d
    assert set(converted(images)[0]) == {"boxes", "labels", "scores"}


def test_frozen_norms_that_nothing_was_loaded_into_are_left():
    model = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    report = preview(model)
    assert report.layers == []
    assert {row.reason for row in report.skipped} == {"its statistics are 0 and 1: never trained"}


def test_a_frozen_norm_of_another_library_is_known_by_its_buffers():
    """detectron2's class has the name and the buffers, maskrcnn-benchmark's has no eps."""

    class FrozenBatchNorm2d(nn.Module):
        def __init__(self, n):
            super().__init__()
            for key in ("weight", "bias", "running_mean", "running_var"):
                self.register_buffer(key, torch.ones(n))

        def forward(self, x):
            scale = self.weight * self.running_var.rsqrt()
            return x * scale.view(-1, 1, 1) + (self.bias - self.running_mean * scale).view(-1, 1, 1)

    converted, report = convert(train_statistics(nn.Sequential(FrozenBatchNorm2d(32))))
    assert type(converted[0]) is GroupNorm
    assert (report.layers[0].source_eps, report.layers[0].eps) == (0.0, 1e-5)


@pytest.mark.slow
def test_a_network_for_video_is_converted():
    model = train_statistics(torchvision.models.video.r3d_18(num_classes=3)).eval()
    converted, report = convert(model)
    assert {row.source for row in report.layers} == {"BatchNorm3d"}
    assert batch_norms(converted) == []
    assert converted(torch.randn(1, 3, 8, 32, 32)).shape == (1, 3)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("mobilenet_v2", "hooks"),
        ("resnet18", "ew"),  # its sums are in place, which hooks do not go with
    ],
)
def test_opacus_has_gradients_of_each_sample_of_a_converted_network(name, mode):
    opacus = pytest.importorskip("opacus")
    from opacus.validators import ModuleValidator

    torch.manual_seed(0)
    model = train_statistics(getattr(torchvision.models, name)(num_classes=3))
    converted, _ = convert(model)
    assert ModuleValidator.validate(model, strict=False) != []
    assert ModuleValidator.validate(converted, strict=False) == []
    for module in converted.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    alone = copy.deepcopy(converted)
    x = torch.randn(2, 3, 32, 32)
    private = opacus.grad_sample.wrap_model(converted, grad_sample_mode=mode, loss_reduction="sum")
    private(x).square().sum().backward()
    for number in range(2):
        alone.zero_grad()
        alone(x[number : number + 1]).square().sum().backward()
        for one, both in zip(alone.parameters(), converted.parameters(), strict=True):
            scale = float(one.grad.abs().max())
            torch.testing.assert_close(
                both.grad_sample[number], one.grad, rtol=NETWORK, atol=NETWORK * scale
            )


def images(count, *shape, seed=0):
    """Inputs whose brightness and contrast vary."""
    g = torch.Generator().manual_seed(seed)
    one = (1,) * (len(shape) - 1)
    contrast = torch.rand(count, 1, *one, generator=g) + 0.3
    return contrast * (
        torch.randn(count, *shape, generator=g) + torch.randn(count, shape[0], *one, generator=g)
    )


def efficientnet():
    return timm.create_model("test_efficientnet"), (3, 64, 64)


def resnet():
    blocks = torchvision.models.resnet.BasicBlock
    return torchvision.models.resnet.ResNet(blocks, [1, 1, 1, 1], num_classes=5), (3, 64, 64)


def segmentation_network():
    fcn = torchvision.models.segmentation.fcn
    backbone = IntermediateLayerGetter(resnet()[0], {"layer4": "out"})
    return fcn.FCN(backbone, fcn.FCNHead(512, 3)), (3, 64, 64)


def video_network():
    video = torchvision.models.video.resnet
    model = video.VideoResNet(
        video.BasicBlock, [video.Conv3DSimple] * 4, [1, 1, 1, 1], video.BasicStem, num_classes=5
    )
    return model, (3, 16, 16, 16)


def unet_of_segmentation_models():
    smp = pytest.importorskip("segmentation_models_pytorch")
    return smp.Unet("resnet18", encoder_weights=None, decoder_channels=[32, 16, 8, 8, 8]), (
        3,
        64,
        64,
    )


@pytest.mark.parametrize(
    "make",
    [
        efficientnet,
        resnet,
        segmentation_network,
        video_network,
        unet_of_segmentation_models,
        lambda: (UNet(inputs=4, classes=4, dims=1), (4, 16)),  # as a diffusion policy has
    ],
)
def test_networks_of_other_libraries_are_fitted_to_data(make):
    torch.manual_seed(0)
    model, shape = make()
    data, fresh = images(24, *shape), images(24, *shape, seed=1)
    recompute_statistics(model, [data])
    fitted, report = convert(model.eval(), "gn:groups=4", data=data, **QUICK)
    without, _ = convert(model, "gn:groups=4", example=data)
    assert batch_norms(fitted) == []
    assert report.skipped == []
    assert error_of(fitted, model, fresh) < 0.9 * error_of(without, model, fresh)


@torch.no_grad()
def measure_statistics(model, batch):
    """Give frozen norms the statistics of a batch."""

    def measure(norm, inputs):
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        norm.running_var.copy_(inputs[0].var((0, 2, 3)))

    frozen = [m for m in model.modules() if isinstance(m, FrozenBatchNorm2d)]
    handles = [m.register_forward_pre_hook(measure) for m in frozen]
    model(batch)
    for handle in handles:
        handle.remove()


@pytest.mark.slow
def test_a_detector_is_fitted_to_lists_of_images():
    torch.manual_seed(0)
    model = detector()
    del model.extra
    batches = [[torch.rand(3, 48, 64), torch.rand(3, 64, 40)] for _ in range(4)]
    x = images(16, 3, 64, 64)
    measure_statistics(model, [image for batch in batches for image in batch])
    converted, report = convert(
        model, "gn:groups=4", data=batches, forward=lambda m, batch: m(batch),
        only="backbone", **QUICK,
    )  # fmt: skip
    without, _ = convert(model, "gn:groups=4", only="backbone")
    assert not any(isinstance(m, FrozenBatchNorm2d) for m in converted.modules())
    assert all(row.error is not None for row in report.layers)
    assert error_of(converted.backbone, model.backbone, x) < 0.9 * error_of(
        without.backbone, model.backbone, x
    )


def test_a_network_of_diffusers_is_fitted_to_other_groups():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    ).eval()  # fmt: skip
    fitted, report = convert(
        model, "gn:groups=4", only=nn.GroupNorm, data=images(24, 3, 8, 8).split(6),
        forward=denoise, **QUICK,
    )  # fmt: skip
    without, _ = convert(model, "gn:groups=4", only=nn.GroupNorm)
    assert {row.groups for row in report.layers} == {4}
    fresh = images(24, 3, 8, 8, seed=1)
    assert error_of(fitted, model, fresh, denoise) < 0.9 * error_of(without, model, fresh, denoise)


def denoise(model, x):
    return model(x, 10).sample


@torch.no_grad()
def error_of(converted, model, x, run=lambda model, x: model(x)):
    error = OutputError()
    error.add(run(model, x), run(converted, x))
    return error.value


def test_gradients_of_each_sample_by_vmap():
    """What private training takes, with torch.func in place of a library."""
    model = nn.Sequential(nn.Conv2d(3, 32, 3), train_statistics(nn.BatchNorm2d(32)), nn.ReLU())
    converted, _ = convert(model)
    x = torch.randn(3, 3, 6, 6)
    parameters = dict(converted.named_parameters())

    def loss(values, sample):
        return torch.func.functional_call(converted, values, sample[None]).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    together = torch.func.grad(loss)(parameters, x[0])
    for key, value in each.items():
        torch.testing.assert_close(value[0], together[key], rtol=NETWORK, atol=NETWORK)


def test_copies_of_a_converted_detector_are_equal():
    model = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d)
    converted, _ = convert(train_statistics(model).eval())
    assert not any(isinstance(m, FrozenBatchNorm2d) for m in converted.modules())
    x = torch.randn(1, 3, 32, 32)
    for a, b in zip(converted(x).values(), copy.deepcopy(converted)(x).values(), strict=True):
        assert torch.equal(a, b)
