"""Weights of a 2-D network into the network for video that is it with an axis of time."""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import Tensor, nn

from groupnorm.conversion.checkpoints import as_state_dict, check_fit, read_resnet, torchvision_keys

_LAST_LAYER = "fc."


def inflate(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The weights of a 2-D network with every filter repeated in time where `model` has it in 3-D.

    A kernel of t frames gets weight / t at each of them (Carreira & Zisserman 2017, arXiv
    1705.07750, section 2.4), so that on a still clip, whose frames are all equal, a convolution
    gives what the 2-D convolution gives of one frame. What is equal then, and what is not:

    - A kernel that reaches over an end of the clip sees zeros there, in the authors' code
      (facebookresearch/video-nonlocal-net) as here, and gives less.
    - With batch norm in evaluation the whole network gives the 2-D network's logits if the first
      and the last frame are repeated in place of those zeros. As it is, the zeros reach every frame
      of I3D ResNet-50's last maps in clips of 128 frames and fewer, 32 and 64 among them; from 136
      on the frames in the middle are equal.
    - Norms that take statistics over time mix all frames: with the ends repeated their networks are
      equal as well, without that they are not, whatever the length.

    Args:
        weights: by the names that the parameters and buffers have in `model`. Values of other names
            and of other shapes are passed on as they are, for whoever loads them to name.
        model: the network in 3-D. That its norms are those of the 2-D network (32 groups, say)
            cannot be seen in the weights.

    Raises:
        ValueError: a convolution of `model` that is longer than a frame is weight-standardized,
            which undoes the division by t.
    """
    own = model.state_dict()
    inflated = dict(weights)
    for key, value in weights.items():
        if key not in own or own[key].dim() != 5 or value.dim() != 4:
            continue
        outputs, inputs, frames, *size = own[key].shape
        if value.shape != (outputs, inputs, *size):
            continue
        if frames > 1 and hasattr(model.get_submodule(key.rpartition(".")[0]), "ws_form"):
            raise ValueError(
                f"{key}: weight standardization gives a filter of {frames} frames {frames} times "
                "the response of the 2-D filter on a still clip; weights of a 2-D network go into "
                "networks without +ws"
            )
        inflated[key] = (value / frames).unsqueeze(2).repeat(1, 1, frames, 1, 1)
    return inflated


def load_inflated(
    model: nn.Module, source: str | os.PathLike[str] | Mapping[str, Tensor]
) -> list[str]:
    """Load a 2-D ResNet's weights into `I3D`, whose last layer keeps its first weights.

    Args:
        model: changed only if every key fits.
        source: a state dict of ResNet-50, or a file of torch.save that holds one, as this package,
            torchvision, timm (resnet50_gn) and the group norm paper's first author write them
            (`load_published` says more). Its last layer is left out, whatever its classes.

    Returns:
        The keys of the model that were not loaded.

    Raises:
        ValueError: as `inflate`; the file cannot be read; or keys do not fit, in which case the
            message names the missing, the unexpected and those of another shape.
        FileNotFoundError: no such file.
    """
    if isinstance(source, Mapping):
        name, state = "the state dict", torchvision_keys(as_state_dict(dict(source), "the source"))
    else:
        name, state = str(source), read_resnet(source)[0]
    full = model.state_dict()
    fresh = [key for key in full if key.startswith(_LAST_LAYER)]
    state = {key: value for key, value in state.items() if not key.startswith(_LAST_LAYER)}
    state = inflate(state, model)
    check_fit({key: value for key, value in full.items() if key not in fresh}, state, name)
    model.load_state_dict(state, strict=False)
    return fresh
