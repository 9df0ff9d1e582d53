"""Published weights of detectors: files made in their formats."""

import pickle
import re

import numpy as np
import pytest
import torch
import torchvision.models.detection as theirs
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from groupnorm.conversion import load_backbone, load_detector
from groupnorm.layers import norm_modules
from groupnorm.models import build_detector, build_model
from groupnorm.models.classification.resnet_narrow import NarrowResNet
from tests.tolerances import LAYER, NETWORK

CLASSES = 3


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def detector(name="mask_rcnn_narrow", **options):
    return build_detector(name, num_classes=CLASSES, canvas=64, **options)


def frozen_backbone(*stages):
    """As torchvision's, with statistics and eps 0 as in the published files."""
    body = NarrowResNet(norm="frozenbn")
    for _, module in norm_modules(body):
        module.eps = 0.0
        module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
        module.weight.uniform_(0.5, 1.5), module.bias.normal_(std=0.1)
    names = {f"layer{stage}": str(number) for number, stage in enumerate(stages)}
    return BackboneWithFPN(body, names, [16 << stage for stage in stages], 48)


def torchvisions_mask_rcnn():
    return theirs.MaskRCNN(
        frozen_backbone(1, 2, 3),
        rpn_anchor_generator=AnchorGenerator(((16,),) * 4, ((0.5, 1.0, 2.0),) * 4),
        box_head=TwoMLPHead(48 * 49, 128),
        box_predictor=FastRCNNPredictor(128, CLASSES + 1),
        mask_head=MaskRCNNHeads(48, [48, 48], 1),
        mask_predictor=MaskRCNNPredictor(48, 48, CLASSES + 1),
    )


def torchvisions_retinanet():
    model = theirs.RetinaNet(frozen_backbone(2, 3), CLASSES + 1)
    for head in (model.head.classification_head, model.head.regression_head):
        head.conv = head.conv[:2]
    return model


def old_keys(state):
    """As releases before 0.13 named them."""
    rules = [
        (r"^(rpn\.head\.conv)\.0\.0", r"\1"),
        (r"^(backbone\.fpn\.\w+_blocks\.\d)\.0", r"\1"),
        (r"^(roi_heads\.mask_head)\.(\d)\.0", lambda m: f"{m[1]}.mask_fcn{int(m[2]) + 1}"),
        (r"^(head\.\w+\.conv)\.(\d)\.0", lambda m: f"{m[1]}.{2 * int(m[2])}"),
    ]
    renamed = {}
    for key, value in state.items():
        for pattern, new in rules:
            key = re.sub(pattern, new, key)
        renamed[key] = value
    assert renamed.keys() != state.keys()
    return renamed


KEYS = pytest.mark.parametrize("keys", [dict, old_keys], ids=["keys of today", "old keys"])


def assert_same_maps(ours, other):
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found, expected = ours.backbone(x), other.backbone(x)
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=NETWORK, atol=NETWORK)


@KEYS
def test_torchvisions_mask_rcnn(tmp_path, keys):
    other = torchvisions_mask_rcnn()
    torch.save(keys(other.state_dict()), tmp_path / "model.pth")
    ours = detector(norms={"backbone": "frozenbn"})
    assert load_detector(ours, tmp_path / "model.pth") == "torchvision"
    assert_same_maps(ours, other)
    regions, maps = torch.randn(2, 48, 7, 7), [torch.randn(1, 48, 9, 9)]
    with torch.no_grad():
        for name in ("box", "mask"):
            outputs = []
            for heads in (ours.roi_heads, other.roi_heads):
                of_regions = getattr(heads, f"{name}_head")(regions)
                outputs.append(getattr(heads, f"{name}_predictor")(of_regions))
            torch.testing.assert_close(*outputs)
        torch.testing.assert_close(ours.rpn.head(maps), other.rpn.head(maps))


@KEYS
def test_torchvisions_retinanet_whose_label_0_nothing_trains(tmp_path, keys):
    other = torchvisions_retinanet()
    torch.save(keys(other.state_dict()), tmp_path / "model.pth")
    ours = detector("retinanet_narrow", norms={"backbone": "frozenbn"})
    assert load_detector(ours, tmp_path / "model.pth") == "torchvision"
    assert_same_maps(ours, other)
    maps = [torch.randn(1, 48, 9, 9)]
    with torch.no_grad():
        found, expected = ours.head(maps), other.head(maps)
    torch.testing.assert_close(found["cls_logits"], expected["cls_logits"][..., 1:])
    torch.testing.assert_close(found["bbox_regression"], expected["bbox_regression"])


SECOND = {"norm": "bn", "box_head": "4conv1fc", "rpn_convolutions": 2}
PUBLISHED = [
    ("maskrcnn_resnet50_fpn", "mask_rcnn_resnet50", {"norms": {"backbone": "bn"}}),
    ("maskrcnn_resnet50_fpn_v2", "mask_rcnn_resnet50", SECOND),
    ("retinanet_resnet50_fpn", "retinanet_resnet50", {"norms": {"backbone": "bn"}, "p6_on": "p5"}),
    (
        "retinanet_resnet50_fpn_v2",
        "retinanet_resnet50",
        {"norms": {"backbone": "bn", "head": "gn"}},
    ),
]


@pytest.mark.parametrize(("theirs_name", "name", "options"), PUBLISHED)
def test_published_networks_have_our_keys(theirs_name, name, options):
    """Without weights torchvision builds the first versions with batch norm in place of frozen."""
    with torch.device("meta"):
        other = getattr(theirs, theirs_name)(weights=None, weights_backbone=None, num_classes=91)
        ours = build_detector(name, num_classes=90, canvas=800, **options)
    found, expected = ({k: v.shape for k, v in m.state_dict().items()} for m in (ours, other))
    for last in ("weight", "bias"):
        key = f"head.classification_head.cls_logits.{last}"
        if key in found:
            assert expected.pop(key)[0] - found.pop(key)[0] == 9
    assert found == expected


def test_batch_norm_of_the_second_versions_may_be_frozen(tmp_path):
    trained, ours = (
        detector("retinanet_narrow", norms={"backbone": n}) for n in ("bn", "frozenbn")
    )
    trained.backbone.body.bn1.running_mean.fill_(3)
    torch.save(trained.state_dict(), tmp_path / "model.pth")
    load_detector(ours, tmp_path / "model.pth")
    assert ours.backbone.body.bn1.running_mean.mean() == 3


def test_eps_of_frozen_norms_is_what_the_caller_says(tmp_path):
    state = torchvisions_retinanet().state_dict()
    state["backbone.body.bn1.running_var"].fill_(0.25)
    torch.save(state, tmp_path / "model.pth")
    ours = detector("retinanet_narrow", norms={"backbone": "frozenbn"})
    found = {}
    for eps in (0.0, 0.75):
        load_detector(ours, tmp_path / "model.pth", frozen_eps=eps)
        found[eps] = ours.backbone.body.bn1.weight.clone()
    weight = state["backbone.body.bn1.weight"]
    assert torch.allclose(found[0.0], weight * 2)
    assert torch.allclose(found[0.75], weight)


def detectron2(classes=CLASSES):
    """The arrays of a detectron2 Mask R-CNN with group norm in every place, of our narrow size."""
    shapes = {}

    def add(name, *shape, norm=True):
        shapes[f"{name}.weight"] = shape
        for kind in ("weight", "bias") if norm else ():
            shapes[f"{name}.norm.{kind}"] = (shape[0],)
        if not norm:
            shapes[f"{name}.bias"] = (shape[0],)

    add("backbone.bottom_up.stem.conv1", 32, 3, 3, 3)
    before = 32
    for stage, channels in zip((2, 3, 4), (32, 64, 128), strict=True):
        for block in (0, 1):
            prefix = f"backbone.bottom_up.res{stage}.{block}"
            if block == 0:
                add(f"{prefix}.shortcut", channels, before, 1, 1)
            add(f"{prefix}.conv1", channels, before, 3, 3)
            add(f"{prefix}.conv2", channels, channels, 3, 3)
            before = channels
        add(f"backbone.fpn_lateral{stage}", 48, channels, 1, 1)
        add(f"backbone.fpn_output{stage}", 48, 48, 3, 3)
    rpn = "proposal_generator.rpn_head"
    add(f"{rpn}.conv", 48, 48, 3, 3, norm=False)
    add(f"{rpn}.objectness_logits", 3, 48, 1, 1, norm=False)
    add(f"{rpn}.anchor_deltas", 12, 48, 1, 1, norm=False)
    for number in (1, 2, 3, 4):
        add(f"roi_heads.box_head.conv{number}", 48, 48, 3, 3)
    for number in (1, 2):
        add(f"roi_heads.mask_head.mask_fcn{number}", 48, 48, 3, 3)
    add("roi_heads.box_head.fc1", 128, 48 * 49, norm=False)
    add("roi_heads.box_predictor.cls_score", classes + 1, 128, norm=False)
    add("roi_heads.box_predictor.bbox_pred", 4 * classes, 128, norm=False)
    add("roi_heads.mask_head.deconv", 48, 48, 2, 2, norm=False)
    add("roi_heads.mask_head.predictor", classes, 48, 1, 1, norm=False)
    random = np.random.default_rng(0)
    return {name: random.random(shape, dtype=np.float32) for name, shape in shapes.items()}


def write(path, arrays, **others):
    path.write_bytes(pickle.dumps({"model": arrays, **others}, 2))
    return path


def gn_detector(**options):
    options = {"norm": "gn", "box_head": "4conv1fc", **options}
    return detector(**options)


def test_detectron2s_mask_rcnn(tmp_path):
    arrays = detectron2()
    extra = {"proposal_generator.anchor_generator.cell_anchors.0": np.zeros((3, 4), np.float32)}
    path = write(tmp_path / "model.pkl", arrays | extra, __author__="Detectron2 Model Zoo")
    ours = gn_detector()
    assert load_detector(ours, path) == "detectron2"
    state = ours.state_dict()

    def same(key, name, rows=slice(None)):
        assert np.array_equal(state[key][rows].numpy(), arrays[name]), name

    body = "backbone.bottom_up"
    same("backbone.body.bn1.bias", f"{body}.stem.conv1.norm.bias")
    same("backbone.body.layer1.1.conv2.weight", f"{body}.res2.1.conv2.weight")
    same("backbone.body.layer3.0.bn1.weight", f"{body}.res4.0.conv1.norm.weight")
    same("backbone.body.layer2.0.downsample.0.weight", f"{body}.res3.0.shortcut.weight")
    same("backbone.body.layer2.0.downsample.1.bias", f"{body}.res3.0.shortcut.norm.bias")
    same("backbone.fpn.inner_blocks.0.0.weight", "backbone.fpn_lateral2.weight")
    same("backbone.fpn.layer_blocks.2.1.weight", "backbone.fpn_output4.norm.weight")
    same("rpn.head.conv.0.0.bias", "proposal_generator.rpn_head.conv.bias")
    same("rpn.head.cls_logits.weight", "proposal_generator.rpn_head.objectness_logits.weight")
    same("rpn.head.bbox_pred.weight", "proposal_generator.rpn_head.anchor_deltas.weight")
    same("roi_heads.box_head.3.1.bias", "roi_heads.box_head.conv4.norm.bias")
    same("roi_heads.box_head.5.weight", "roi_heads.box_head.fc1.weight")
    same("roi_heads.mask_head.0.0.weight", "roi_heads.mask_head.mask_fcn1.weight")
    same("roi_heads.mask_predictor.conv5_mask.weight", "roi_heads.mask_head.deconv.weight")
    # The background comes first, and has neither box nor mask of its own.
    logits, boxes = "roi_heads.mask_predictor.mask_fcn_logits", "roi_heads.box_predictor.bbox_pred"
    same(f"{logits}.weight", "roi_heads.mask_head.predictor.weight", slice(1, None))
    same(f"{boxes}.bias", "roi_heads.box_predictor.bbox_pred.bias", slice(4, None))
    assert state[f"{logits}.weight"][0].abs().max() == state[f"{boxes}.weight"][:4].abs().max() == 0
    scores = arrays["roi_heads.box_predictor.cls_score.weight"]
    found = state["roi_heads.box_predictor.cls_score.weight"].numpy()
    assert np.array_equal(found[0], scores[-1])
    assert np.array_equal(found[1:], scores[:-1])


def test_the_first_convolution_takes_our_images(tmp_path):
    """Theirs are blue, green and red, in 0 to 255, less the mean."""
    arrays = detectron2()
    for scale in (1.0, 57.375):
        others = {"pixel_std": np.full((3, 1, 1), scale, np.float32)} if scale != 1 else {}
        ours = gn_detector()
        load_detector(ours, write(tmp_path / "model.pkl", arrays | others))
        image = torch.rand(3, 64, 64)
        mean = torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)
        their_input = (255 * image.flip(0) - mean) / scale
        their_weight = torch.from_numpy(arrays["backbone.bottom_up.stem.conv1.weight"])
        expected = nn.functional.conv2d(their_input[None], their_weight, stride=2, padding=1)
        with torch.no_grad():
            found = ours.backbone.body.conv1(ours.transform([image])[0].tensors)
        largest = float(expected.abs().max())
        torch.testing.assert_close(found, expected, rtol=0, atol=LAYER * largest)


def test_detectron2s_files_that_do_not_fit(tmp_path):
    arrays, ours = detectron2(), gn_detector()
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    del arrays["backbone.fpn_output4.norm.weight"]
    arrays["roi_heads.mask_head.mask_fcn3.weight"] = np.zeros((48, 48, 3, 3), np.float32)
    arrays["roi_heads.box_head.fc1.bias"] = np.zeros(9, np.float32)
    with pytest.raises(ValueError, match="does not fit the model") as error:
        load_detector(ours, write(tmp_path / "model.pkl", arrays))
    assert "missing: backbone.fpn.layer_blocks.2.1.weight" in str(error.value)
    assert "unexpected: roi_heads.mask_head.2.0.weight" in str(error.value)
    assert "of another shape: roi_heads.box_head.5.bias (9,) instead of (128,)" in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in ours.state_dict().items())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"norm": "gn:groups=16"}, "the detector has gn:groups=16 in backbone, "),
        ({"norms": {"mask_head": "gn+ws"}}, r"the detector has gn\+ws in mask_head$"),
        ({"image_mean": (0.5, 0.5, 0.5)}, "belongs to images with mean .123.675, 116.28, 103.53. "),
    ],
)
def test_detectors_that_detectron2s_weights_do_not_belong_to(tmp_path, options, told):
    few = {"roi_heads.box_head.fc1.bias": np.zeros(128, np.float32)}
    with pytest.raises(ValueError, match=told):
        load_detector(gn_detector(**options), write(tmp_path / "model.pkl", few))


class Runs:
    def __reduce__(self):
        return print, ("this runs",)


def test_no_pickle_runs_anything(tmp_path, capsys):
    path = write(tmp_path / "model.pkl", {"a": Runs()})
    for load in (load_detector, load_backbone):
        with pytest.raises(ValueError, match=r"cannot be read as a pickle of arrays: it asks for"):
            load(detector(norm="gn"), path)
    torch.save({"a": Runs()}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_detector(detector(), tmp_path / "model.pth")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps([1, 2]), pickle.dumps({"a": 1})])
def test_damaged_pickles(tmp_path, content):
    (tmp_path / "model.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=r"model.pkl (cannot be read as|holds no arrays by name)"):
        load_detector(detector(norm="gn"), tmp_path / "model.pkl")


def test_other_networks_and_no_file(tmp_path):
    model = build_model("resnet14_narrow", norm="gn", num_classes=2)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    with pytest.raises(ValueError, match="go into what build_detector makes, got NarrowResNet"):
        load_detector(model, tmp_path / "model.pth")
    for name in ("none.pth", "none.pkl"):
        with pytest.raises(FileNotFoundError):
            load_detector(detector(norm="gn"), tmp_path / name)


@pytest.mark.parametrize(("norm", "body"), [("bn", "frozenbn"), ("bn", "bn"), ("gn+ws", "gn+ws")])
@pytest.mark.parametrize("name", ["mask_rcnn_narrow", "retinanet_narrow"])
def test_a_backbone_takes_the_weights_and_statistics_of_its_pretraining(tmp_path, name, norm, body):
    classifier = build_model("resnet14_narrow", norm=norm, num_classes=7, zero_gamma=False).train()
    x = torch.randn(4, 3, 64, 64)
    for _ in range(2):
        classifier(x)
    classifier.eval()
    torch.save(classifier.state_dict(), tmp_path / "model.pth")
    for source in (classifier.state_dict(), tmp_path / "model.pth"):
        ours = detector(name, norms={"backbone": body}, freeze_at=1)
        load_backbone(ours, source)
        last = [*ours.eval().backbone.body(x).values()][-1]
        with torch.no_grad():
            expected = classifier(x)
            found = classifier.fc(last.mean((2, 3)))
        torch.testing.assert_close(found, expected, rtol=LAYER, atol=LAYER)


def test_backbones_that_do_not_fit():
    classifier = build_model("resnet14_narrow", norm="gn", num_classes=7)
    state = dict(classifier.state_dict())
    state["layer9.weight"] = state.pop("layer1.0.conv1.weight")
    with pytest.raises(ValueError, match="the state dict does not fit the model") as error:
        load_backbone(detector(norms={"backbone": "gn"}), state)
    assert "missing: layer1.0.conv1.weight; unexpected: layer9.weight" in str(error.value)


@pytest.mark.slow
def test_the_last_stage_of_c4_is_in_its_head():
    classifier = build_model("resnet50", norm="gn", num_classes=7)
    ours = detector("mask_rcnn_c4_resnet50", norm="gn")
    load_backbone(ours, classifier.state_dict())
    for key, value in classifier.layer4.state_dict().items():
        assert torch.equal(ours.roi_heads.box_head.layer4.state_dict()[key], value)
    assert torch.equal(ours.backbone.body.conv1.weight, classifier.conv1.weight)


def test_caffe2s_pretrained_resnet(tmp_path):
    """Names as in R-50-GN.pkl, here of the narrow ResNet; bytes, as Python 2 wrote them."""
    arrays = detectron2()
    kinds = {"weight": "w", "bias": "b"}
    blobs = {b"pred_w": np.zeros((5, 128), np.float32), b"pred_b": np.zeros(5, np.float32)}
    for name, value in arrays.items():
        if not name.startswith("backbone.bottom_up."):
            continue
        *parts, kind = name.removeprefix("backbone.bottom_up.").split(".")
        norm = parts[-1] == "norm"
        parts = [part for part in parts if part not in ("norm", "stem")]
        branch = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b"}
        parts[1:] = [branch.get(part, part) for part in parts[1:]]
        last = f"gn_{'s' if kind == 'weight' else 'b'}" if norm else kinds[kind]
        blobs["_".join([*parts, last]).encode()] = value
    assert {b"conv1_w", b"conv1_gn_s", b"res2_0_branch2a_w", b"res3_0_branch1_gn_b"} <= blobs.keys()
    blobs[b"conv1_w_momentum"] = np.zeros(1, np.float32)
    (tmp_path / "R-14-GN.pkl").write_bytes(pickle.dumps({b"blobs": blobs}, 2))
    ours = detector("retinanet_narrow", norms={"backbone": "gn"})
    load_backbone(ours, tmp_path / "R-14-GN.pkl")
    state = ours.backbone.body.state_dict()
    for key, name in (
        ("bn1.weight", "stem.conv1.norm.weight"),
        ("layer3.1.conv2.weight", "res4.1.conv2.weight"),
        ("layer2.0.downsample.1.bias", "res3.0.shortcut.norm.bias"),
        ("layer3.1.bn2.bias", "res4.1.conv2.norm.bias"),
    ):
        assert np.array_equal(state[key].numpy(), arrays[f"backbone.bottom_up.{name}"])
    stem = arrays["backbone.bottom_up.stem.conv1.weight"][:, ::-1]
    factors = 255 * np.array([0.229, 0.224, 0.225])[:, None, None]
    assert np.allclose(state["conv1.weight"].numpy(), stem * factors, rtol=LAYER)
    frozen = detector("retinanet_narrow", norms={"backbone": "frozenbn"})
    with pytest.raises(ValueError, match="the detector has frozenbn in backbone"):
        load_backbone(frozen, tmp_path / "R-14-GN.pkl")
