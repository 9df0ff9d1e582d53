"""Published weights of ResNets with group normalization, into the package's ImageNet ResNets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from groupnorm.spec import NormSpec

_PUBLISHED = NormSpec.parse("gn")
_SHOWN = 5  # keys that a message lists of each kind


def load_published(model: nn.Module, path: str | os.PathLike[str]) -> str:
    """Load a published checkpoint into `model`, which `build_model("resnet50", norm="gn")` makes.

    Two formats are recognized:

    - "timm": a state dict of timm's resnet50_gn; its keys are torchvision's (`bn1`, `layer1.0.bn1`,
      `downsample.1`) and so ours.
    - "author": what the training script of GroupNorm-reproduce (Yuxin Wu, ImageNet-ResNet-PyTorch)
      saves and its `--resume` reads: a dict with the state dict under `state_dict` and, beside it,
      `best_acc1`. Each key has the `module.` of DataParallel; the norms are `bn1`, or `gn1` in one
      revision of the script. Any one of `best_acc1`, `module.` and `gn1` tells the format. A bare
      state dict with torchvision's keys cannot be told from timm's.

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
            keys do not fit, in which case the message names some that are missing, unexpected or
            of another shape.
        FileNotFoundError: no such file.
    """
    _check_model(model)
    state, layout = read_resnet(path)
    check_fit(model.state_dict(), state, path)
    model.load_state_dict(state)
    return layout


def check_fit(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: str | os.PathLike[str]
) -> None:
    """Check that a state dict has the keys and shapes of another.

    Args:
        own: the model's, and `state` that of the file at `path`.

    Raises:
        ValueError: it has not; the message names some of the missing keys, of the unexpected and
            of those of another shape.
    """
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
        listed = "; ".join(f"{kind}: {_first(keys)}" for kind, keys in problems.items() if keys)
        raise ValueError(f"{path} does not fit the model. Keys {listed}")


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


def read_resnet(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], str]:
    """The state dict in a file, with torchvision's keys, and the format of the file.

    Raises:
        ValueError: the file holds no state dict.
        FileNotFoundError: no such file.
    """
    content = load_tensors(path)
    authors = False
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        authors = "best_acc1" in content
        content = content["state_dict"]
    state = as_state_dict(content, path)
    renamed = torchvision_keys(state)
    authors = authors or renamed.keys() != state.keys()
    return renamed, "author" if authors else "timm"


def load_tensors(path: str | os.PathLike[str]) -> Any:
    """What a file of torch.save holds, if that can execute nothing.

    Raises:
        ValueError: it is no such file, is damaged, or holds more than tensors and plain values.
        OSError: it cannot be opened.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises many kinds, and advises to load the file all the same
        raise ValueError(
            f"{path} cannot be read as weights: it was not written by torch.save, is damaged, or "
            "holds more than tensors and plain values, perhaps code"
        ) from error


def as_state_dict(content: Any, path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The content of a file, if it is a state dict.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds no state dict but {type(content).__name__}")
    other = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if other:
        raise ValueError(f"{path} holds no state dict: no tensors are {_first(other)}")
    return {str(key): value for key, value in content.items()}


def _first(keys: Sequence[str]) -> str:
    """The first of some keys, and how many more there are."""
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more


def torchvision_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a ResNet without DataParallel's `module.`, its norms called `bn`."""
    return {
        re.sub(r"(^|\.)gn(\d)\.", r"\1bn\2.", key.removeprefix("module.")): value
        for key, value in state.items()
    }
