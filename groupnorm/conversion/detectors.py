"""Published weights into detectors: torchvision's, detectron2's, and pretrained backbones."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from groupnorm.array_pickle import load_arrays
from groupnorm.conversion.checkpoints import as_state_dict, check_fit, load_tensors
from groupnorm.spec import NormSpec

State = dict[str, Tensor]
PathLike = str | os.PathLike[str]

_GN = NormSpec.parse("gn")
_DETECTRON_MEAN = (103.53, 116.28, 123.675)
"""Of blue, green and red, in 0 to 255; Detectron's weights of ResNets from Caffe2 divide by 1."""
_DETECTRON_STD = (1.0, 1.0, 1.0)


def load_detector(detector: nn.Module, path: PathLike, *, frozen_eps: float = 0.0) -> str:
    """Load a detector's published weights into one that `build_detector` made of the same parts.

    - "torchvision", a file of torch.save: state dicts of torchvision's retinanet_resnet50_fpn and
      maskrcnn_resnet50_fpn and of their second versions, with the keys of old releases too. Their
      90 classes are COCO's category ids (`num_classes=90`); RetinaNet's column for label 0, which
      nothing trains, is left out. The first versions go with `p6_on="p5"` and `frozenbn` in the
      backbone, the second ones with `bn` or `frozenbn`: Mask R-CNN's with `bn` in every place,
      `box_head="4conv1fc"` and `rpn_convolutions=2`, RetinaNet's with `gn` in the head alone. The
      frozen batch norms of the first versions count with `frozen_eps`: scale and shift are loaded.
      torchvision truncates the sides of RetinaNet's anchors to whole pixels (40, 50, 80, 101,
      ...); ours are as published (40.317, 50.797, 80.635, 101.594, ...), so that corners of some
      anchors differ by a pixel and boxes slightly from torchvision's.
    - "detectron2", a pickle (.pkl): Mask R-CNN with a feature pyramid and group norm in every place
      (the models of its `Misc` list whose names end in gn), `num_classes=80` for COCO. Classes
      count from 0 there, with the background last; its images are blue, green and red, in 0 to 255.
      Both are turned into ours, the second in the first convolution's weights. Regions are pooled
      and anchors rounded as torchvision does it, not detectron2, which costs a little accuracy.

    A pickle may hold arrays, numbers and text alone; it cannot execute anything.

    Args:
        detector: changed only if every key fits.
        frozen_eps: eps of torchvision's FrozenBatchNorm2d, whose files do not say it: 0 for the
            published ones, 1e-5 for those made without them.

    Returns:
        "torchvision" or "detectron2".

    Raises:
        ValueError: the file cannot be read; keys do not fit, in which case the message names the
            missing, the unexpected and those of another shape; the detector has other norms, or
            another image_mean, than the file.
        FileNotFoundError: no such file.
    """
    own = detector.state_dict()
    if Path(path).suffix == ".pkl":
        layout, state = "detectron2", _from_detectron2(detector, _read_pickle(path), path)
    else:
        layout = "torchvision"
        state = _from_torchvision(detector, as_state_dict(load_tensors(path), path), frozen_eps)
    check_fit(own, state, path)
    detector.load_state_dict(state)
    return layout


def load_backbone(detector: nn.Module, source: PathLike | Mapping[str, Tensor]) -> None:
    """Load a classifier's weights into the body of a detector; its last layer is left out.

    Args:
        detector: of `build_detector`; changed only if every key fits.
        source: a state dict of the classification network of the same name, a file of torch.save
            that holds one (ours and torchvision's have the same keys), or Caffe2's pickle of a
            ResNet with group norm (R-50-GN.pkl of Detectron), for images as in `load_detector`. A
            `frozenbn` body takes the statistics of a batch norm.

    Raises:
        ValueError: as `load_detector`; the message names the keys of the classifier.
        FileNotFoundError: no such file.
    """
    own = {
        key.removeprefix(prefix): key
        for key in detector.state_dict()
        for prefix in ("backbone.body.", "roi_heads.box_head.")
        if key.startswith(prefix) and (prefix[0] == "b" or "box_head.layer4." in key)
    }
    if isinstance(source, Mapping):
        name, state = "the state dict", as_state_dict(dict(source), "the source")
    elif Path(source).suffix == ".pkl":
        _check_norms(detector, ("backbone",), source)
        name, state = str(source), _from_caffe2(_read_pickle(source), source)
        _turn_images(detector, state, "conv1.weight", source, _DETECTRON_MEAN, _DETECTRON_STD)
    else:
        name, state = str(source), as_state_dict(load_tensors(source), source)
    full = detector.state_dict()
    values = {key: full[name] for key, name in own.items()}
    state = {
        key: value
        for key, value in state.items()
        if not key.startswith("fc.") and not _idle_counter(key, values)
    }
    check_fit(values, state, name)
    detector.load_state_dict({**full, **{own[key]: value for key, value in state.items()}})


def _idle_counter(key: str, own: Mapping[str, Tensor]) -> bool:
    """A batch norm's count of steps, where the model's is frozen and has none."""
    norm, _, last = key.rpartition(".")
    return last == "num_batches_tracked" and key not in own and f"{norm}.running_mean" in own


Rules = Sequence[tuple[str, Callable[..., str]]]

_TORCHVISION_OLD: Rules = (
    (r"rpn\.head\.conv\.(weight|bias)", "rpn.head.conv.0.0.{}".format),
    (r"(backbone\.fpn\.\w+_blocks\.\d+)\.(weight|bias)", "{}.0.{}".format),
    (
        r"roi_heads\.mask_head\.mask_fcn(\d)\.(\w+)",
        lambda number, last: f"roi_heads.mask_head.{int(number) - 1}.0.{last}",
    ),
    (
        r"(head\.\w+\.conv)\.(\d)\.(weight|bias)",
        lambda tower, number, last: f"{tower}.{int(number) // 2}.0.{last}",
    ),
)
"""Keys of early releases: the whole key -> what it is now."""


def _renamed(key: str, rules: Rules) -> str:
    """The key by the first rule that fits all of it; the key itself where none does."""
    for pattern, new in rules:
        if found := re.fullmatch(pattern, key):
            return new(*found.groups())
    return key


def _from_torchvision(detector: nn.Module, file: State, frozen_eps: float) -> State:
    own = detector.state_dict()
    state = {_renamed(key, _TORCHVISION_OLD): value for key, value in file.items()}
    _fold_frozen(state, frozen_eps, _specs(detector)["backbone"])
    for last in ("weight", "bias"):
        name = f"head.classification_head.cls_logits.{last}"
        if name in state and name in own:
            state[name] = _without_first_class(state[name], own[name])
    return {key: value for key, value in state.items() if not _idle_counter(key, own)}


def _specs(detector: nn.Module) -> Mapping[str, NormSpec]:
    specs = getattr(detector, "norm_specs", None)
    if not isinstance(specs, Mapping):
        raise ValueError(
            f"weights of detectors go into what build_detector makes, got {type(detector).__name__}"
        )
    return specs


def _fold_frozen(state: State, eps: float, spec: NormSpec) -> None:
    """Scale and shift of norms that were frozen in torchvision, for `frozenbn` with its own eps."""
    assert spec.eps is not None
    for key in [key for key in state if key.endswith(".running_mean")]:
        norm = key.removesuffix(".running_mean")
        if f"{norm}.num_batches_tracked" in state:
            continue
        names = [f"{norm}.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
        weight, bias, mean, var = (state[name].double() for name in names)
        scale = weight * torch.rsqrt(var + eps)
        folded = scale, bias - mean * scale, torch.zeros_like(mean), torch.ones_like(var) - spec.eps
        state |= {name: value.float() for name, value in zip(names, folded, strict=True)}


def _without_first_class(values: Tensor, own: Tensor) -> Tensor:
    """RetinaNet's scores (anchors * (K + 1), ...) without the first of each anchor's classes."""
    extra = len(values) - len(own)
    if extra < 1 or len(values) % extra or len(values) // extra < 2:
        return values
    return values.view(extra, -1, *values.shape[1:])[:, 1:].flatten(0, 1)


def _read_pickle(path: PathLike) -> dict[str, Any]:
    data = Path(path).read_bytes()
    try:
        content = load_arrays(data)
        return {_text(key): value for key, value in content.items()}
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise ValueError(f"{path} cannot be read as a pickle of arrays: {error}") from error


def _text(key: Any) -> str:
    return key.decode() if isinstance(key, bytes) else str(key)


def _tensors(arrays: Mapping[Any, Any], path: PathLike) -> State:
    try:
        return {_text(key): torch.from_numpy(value.copy()) for key, value in arrays.items()}
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{path} holds no arrays by name") from error


def _stage(number: str) -> str:
    return f"layer{int(number) - 1}"  # the papers count the stem as the first


_DETECTRON2: Rules = (
    (r"backbone\.bottom_up\.stem\.conv1\.norm\.(\w+)", "backbone.body.bn1.{}".format),
    (r"backbone\.bottom_up\.stem\.conv1\.(\w+)", "backbone.body.conv1.{}".format),
    (
        r"backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\.(norm\.)?(\w+)",
        lambda stage, block, norm, last: (
            f"backbone.body.{_stage(stage)}.{block}.downsample.{int(bool(norm))}.{last}"
        ),
    ),
    (
        r"backbone\.bottom_up\.res(\d)\.(\d+)\.conv(\d)\.(norm\.)?(\w+)",
        lambda stage, block, number, norm, last: (
            f"backbone.body.{_stage(stage)}.{block}.{'bn' if norm else 'conv'}{number}.{last}"
        ),
    ),
    (
        r"backbone\.fpn_(lateral|output)(\d)\.(norm\.)?(\w+)",
        lambda kind, level, norm, last: (
            f"backbone.fpn.{'inner' if kind == 'lateral' else 'layer'}_blocks."
            f"{int(level) - 2}.{int(bool(norm))}.{last}"
        ),
    ),
    (r"proposal_generator\.rpn_head\.conv\.(\w+)", "rpn.head.conv.0.0.{}".format),
    (r"proposal_generator\.rpn_head\.objectness_logits\.(\w+)", "rpn.head.cls_logits.{}".format),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.(\w+)", "rpn.head.bbox_pred.{}".format),
    (
        r"roi_heads\.box_head\.conv(\d)\.(norm\.)?(\w+)",
        lambda number, norm, last: f"roi_heads.box_head.{int(number) - 1}.{int(bool(norm))}.{last}",
    ),
    (r"roi_heads\.box_head\.fc1\.(\w+)", "roi_heads.box_head.5.{}".format),
    (
        r"roi_heads\.mask_head\.mask_fcn(\d)\.(norm\.)?(\w+)",
        lambda number, norm, last: (
            f"roi_heads.mask_head.{int(number) - 1}.{int(bool(norm))}.{last}"
        ),
    ),
    (r"roi_heads\.mask_head\.deconv\.(\w+)", "roi_heads.mask_predictor.conv5_mask.{}".format),
    (
        r"roi_heads\.mask_head\.predictor\.(\w+)",
        "roi_heads.mask_predictor.mask_fcn_logits.{}".format,
    ),
)
_CONSTANTS = (r"pixel_(mean|std)", r"proposal_generator\.anchor_generator\.cell_anchors\.\d+")
"""What some releases of detectron2 save beside the weights."""


def _from_detectron2(detector: nn.Module, content: Mapping[str, Any], path: PathLike) -> State:
    _check_norms(detector, tuple(_specs(detector)), path)
    file = _tensors(content.get("model", content), path)
    state = {
        _renamed(key, _DETECTRON2): value
        for key, value in file.items()
        if not any(re.fullmatch(constant, key) for constant in _CONSTANTS)
    }
    mean, std = (
        file[name].flatten().tolist() if name in file else usual
        for name, usual in (("pixel_mean", _DETECTRON_MEAN), ("pixel_std", _DETECTRON_STD))
    )
    _turn_images(detector, state, "backbone.body.conv1.weight", path, mean, std)
    predictor, masks = "roi_heads.box_predictor", "roi_heads.mask_predictor.mask_fcn_logits"
    for last in ("weight", "bias"):
        if (name := f"{predictor}.cls_score.{last}") in state:
            state[name] = state[name].roll(1, 0)
        for name, rows in ((f"{predictor}.bbox_pred.{last}", 4), (f"{masks}.{last}", 1)):
            if name in state:  # of the background, which has neither a box nor a mask
                state[name] = torch.cat([torch.zeros_like(state[name][:rows]), state[name]])
    return state


def _from_caffe2(content: Mapping[str, Any], path: PathLike) -> State:
    """A ResNet with group norm by torchvision's keys; the solver's state is left out."""
    blobs = _tensors(content.get("blobs", content), path)
    state = {_renamed(key, _CAFFE2): value for key, value in blobs.items()}
    return {key: value for key, value in state.items() if not key.endswith("_momentum")}


_LAST = {"w": "weight", "b": "bias", "s": "weight"}
_CAFFE2: Rules = (
    (r"pred_([wb])", lambda last: f"fc.{_LAST[last]}"),
    (r"conv1_(w)", lambda last: f"conv1.{_LAST[last]}"),
    (r"conv1_gn_([sb])", lambda last: f"bn1.{_LAST[last]}"),
    (
        r"res(\d)_(\d+)_branch1_(gn_)?([wsb])",
        lambda stage, block, norm, last: (
            f"{_stage(stage)}.{block}.downsample.{int(bool(norm))}.{_LAST[last]}"
        ),
    ),
    (
        r"res(\d)_(\d+)_branch2([abc])_(gn_)?([wsb])",
        lambda stage, block, letter, norm, last: (
            f"{_stage(stage)}.{block}.{'bn' if norm else 'conv'}{'abc'.index(letter) + 1}."
            f"{_LAST[last]}"
        ),
    ),
)


def _check_norms(detector: nn.Module, places: Sequence[str], path: PathLike) -> None:
    specs = _specs(detector)
    others = [f"{specs[place]} in {place}" for place in places if specs[place] != _GN]
    if others:
        raise ValueError(
            f"{path} has {_GN} (32 groups, eps 1e-5, plain convolutions) in every place, the "
            f"detector has {', '.join(others)}"
        )


def _turn_images(
    detector: nn.Module,
    state: State,
    key: str,
    path: PathLike,
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    """Let the first convolution take our images in place of blue, green and red in 0 to 255.

    Its input becomes (x - image_mean) / image_std per channel of red, green and blue. Where both
    have the same mean, that is the other's input but for a factor, which goes into the weights.
    """
    transform: Any = detector.transform
    ours = [255 * value for value in transform.image_mean]
    if max(abs(a - b) for a, b in zip(ours, reversed(mean), strict=True)) > _SAME_MEAN:
        raise ValueError(
            f"{path} belongs to images with mean {[*reversed(mean)]} of red, green and blue in 0 "
            f"to 255, the detector's image_mean is {transform.image_mean}, which is {ours}"
        )
    if key in state:
        factors = [255 * a / b for a, b in zip(transform.image_std, reversed(std), strict=True)]
        weight = state[key].flip(1)
        state[key] = weight * weight.new_tensor(factors).view(1, -1, 1, 1)


_SAME_MEAN = 0.01
