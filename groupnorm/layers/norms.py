"""Which modules normalize activations."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from groupnorm.layers.evonorm import EvoNormS0
from groupnorm.layers.filter_response_norm import FilterResponseNorm
from groupnorm.layers.frozen_batch_norm import FrozenBatchNorm
from groupnorm.layers.layer_norm import LayerNorm2d

_NORMS = (
    _NormBase,  # batch, synchronized batch and instance norm, PyTorch's and this package's
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    EvoNormS0,
    FilterResponseNorm,
    FrozenBatchNorm,
    LayerNorm2d,
)


def norm_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Names and modules of a model's normalization layers, in the model's order, each once.

    Everything that `norm_layer` builds (but the identity of `none`), and PyTorch's own batch,
    instance, group, layer and root-mean-square norms. For weight decay, and wherever a search by
    PyTorch's classes would miss some. A norm inside a norm belongs to the outer
    one. Weight standardization normalizes weights and is not among them.
    """
    found: list[tuple[str, nn.Module]] = []
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if isinstance(module, _NORMS) and module not in inside:
            found.append((name, module))
            inside.update(module.modules())
    return found
