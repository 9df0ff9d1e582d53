"""Published weights of ResNets with group normalization, into the package's ImageNet ResNets."""

from __future__ import annotations

import os
import re
from typing import Any

import torch
from torch import Tensor, nn

from groupnorm.spec import NormSpec

_PUBLISHED = NormSpec.parse("gn")


def load_published(model: nn.Module, path: str | os.PathLike[str]) -> str:
    """Load a published checkpoint into `model`, which `build_model("resnet50", norm="gn")` makes.

    Two formats are recognized by their keys:

    - "timm": a state dict of timm's resnet50_gn; its keys are torchvision's (`bn1`, `layer1.0.bn1`,
      `downsample.1`) and so ours.
    - "author": what the training script of GroupNorm-reproduce (Yuxin Wu, ImageNet-ResNet-PyTorch)
      saves and its `--resume` reads: a dict with the state dict under `state_dict`, each key with
      the `module.` of DataParallel, and `gn1` where torchvision says `bn1`. Known from the
      script, not from a released file, which was not at hand: a `module.` or a `state_dict`
      that is missing is accepted, also in timm's format.

    Both have 32 groups and eps 1e-5, and the model must too: the file does not say so itself.
    The file is read with `weights_only=True`, so that it can execute nothing; safetensors files
    are not read.

    Args:
        model: changed only if every key fits.
        path: a file that torch.save wrote.

    Returns:
        "timm" or "author".

    Raises:
        ValueError: the model is not an ImageNet ResNet with `gn`; the file holds no state dict; or
            keys do not fit, in which case the message names the missing, the unexpected and those
            of another shape.
        FileNotFoundError: no such file.
    """
    _check_model(model)
    state, layout = _torchvision_keys(_read(path))
    own = model.state_dict()
    problems = {
        "missing": sorted(own.keys() - state.keys()),
        "unexpected": sorted(state.keys() - own.keys()),
        "of another shape": sorted(
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own.keys() & state.keys()
            if own[key].shape != state[key].shape
        ),
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in problems.items() if keys)
        raise ValueError(f"{path} does not fit the model. Keys {listed}")
    model.load_state_dict(state)
    return layout


def _check_model(model: nn.Module) -> None:
    spec = getattr(model, "norm_spec", None)
    if not isinstance(spec, NormSpec):
        raise ValueError(
            "published weights go into an ImageNet ResNet of this package, such as "
            f"build_model('resnet50', norm='gn', num_classes=1000), got {type(model).__name__}"
        )
    if spec != _PUBLISHED:
        raise ValueError(
            f"the published weights belong to {_PUBLISHED} (32 groups, eps 1e-5, plain "
            f"convolutions), the model has {spec}"
        )


def _read(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state dict in a file, without wrappers."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever the unpickler stumbles over
        raise ValueError(f"{path} cannot be read as weights: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds no state dict but {type(content).__name__}")
    other = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if other:
        raise ValueError(f"{path} holds no state dict: no tensors are {', '.join(other)}")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _torchvision_keys(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The state dict with torchvision's keys, and the format it had."""
    renamed = {re.sub(r"(^|\.)gn(\d)\.", r"\1bn\2.", key): value for key, value in state.items()}
    return renamed, "timm" if renamed.keys() == state.keys() else "author"
