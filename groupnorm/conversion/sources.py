"""What the normalization layers of a network compute, whichever library they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from groupnorm import layers
from groupnorm.layers.norms import _NORMS
from groupnorm.layers.with_activation import _WithActivation

_STATE = ("weight", "bias", "running_mean", "running_var")

# The forward of a class decides what it computes: a subclass that keeps it is the same norm.
_STORED_STATISTICS = (
    nn.BatchNorm2d.forward,  # also that of 1 and 3 dimensions
    nn.SyncBatchNorm.forward,
    layers.BatchNorm.forward,
    layers.SyncBatchNorm.forward,
    layers.BatchRenorm.forward,
    layers.FrozenBatchNorm.forward,
)
_INSTANCE = (nn.InstanceNorm2d.forward,)
_GROUP = (nn.GroupNorm.forward, layers.GroupNorm.forward)
# Of timm, which the package does not import: norms with drop and act. Those of frozen statistics
# are found by their buffers.
_TIMM_STORED = {"BatchNormAct2d", "SyncBatchNormAct", "FrozenBatchNormAct2d"}
_TIMM_GROUP = {"GroupNorm", "GroupNorm1", "GroupNormAct", "GroupNorm1Act"}


class Refusal(Exception):  # noqa: N818  # it is a reason, shown in the report, not an error
    """Why a layer is left as it is."""


@dataclass(frozen=True)
class SourceNorm:
    """A normalization layer of a network, and what is needed to put another in its place.

    Attributes:
        module: the layer.
        channels: C.
        eps: added to the variance.
        groups: of a norm that takes each sample's own statistics; None for one with stored ones.
        weight: and bias, (C,): parameters, buffers of frozen norms, or None.
        mean: and var, (C,): the stored statistics, or None.
        drop: and act, what follows the norm within the layer.
        device: where its values lie, or would lie.
        dtype: of its values.
    """

    module: nn.Module
    channels: int
    eps: float
    groups: int | None
    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor | None
    var: Tensor | None
    drop: nn.Module | None
    act: nn.Module | None
    device: torch.device
    dtype: torch.dtype

    @property
    def trainable(self) -> bool:
        """True when the layer's scale or shift requires a gradient."""
        return any(p is not None and p.requires_grad for p in (self.weight, self.bias))

    @property
    def frozen(self) -> bool:
        """True for constants: the frozen batch norms of this package and of others."""
        return self.mean is not None and not isinstance(self.module, _NormBase)

    @property
    def may_take_features(self) -> bool:
        """True where the layer takes an input (N, C), with one value per channel and sample."""
        if isinstance(self.module, _InstanceNorm):
            return False
        check = getattr(self.module, "_check_input_dim", None)
        if check is None:
            return not type(self.module).__name__.endswith("2d")  # others' frozen norms
        try:
            check(torch.empty(2, self.channels))
        except NotImplementedError:
            return True
        except ValueError:
            return False
        return True

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of a factory of norms: device, dtype, and what follows the norm in its layer."""
        arguments: dict[str, Any] = {"device": self.device, "dtype": self.dtype}
        if self.drop is not None or self.act is not None:
            arguments |= {"drop_layer": lambda: self.drop, "act_layer": lambda **_: self.act}
        return arguments


def is_norm(module: nn.Module) -> bool:
    """True for each layer that normalizes activations, whether it can be converted or not.

    Those are the package's and PyTorch's norms, whatever has the buffers of a batch norm, and
    layers of these kinds in TorchScript.
    """
    if isinstance(module, torch.jit.ScriptModule):
        name = str(getattr(module, "original_name", ""))
        return "BatchNorm" in name or name.startswith(("GroupNorm", "InstanceNorm"))
    return isinstance(module, _NORMS) or "running_mean" in module._buffers


def read_norm(module: nn.Module, near: Tensor | None) -> SourceNorm:
    """What a normalization layer computes.

    Args:
        module: a layer.
        near: a parameter of its network, for the device and dtype of a layer without values.

    Raises:
        Refusal: it cannot be told from its class, its state is computed by other means, or it holds
            no values yet.
    """
    name = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        raise Refusal("inside a scripted module; convert the network before torch.jit.script")
    if any(is_lazy(p) for p in module.parameters(recurse=False)):
        raise Refusal(f"{name} has no shape yet; run the network once")
    if "forward" in vars(module):
        raise Refusal("its forward was replaced on the object itself, which a new layer would lose")
    if parametrize.is_parametrized(module):
        raise Refusal("its parameters are parametrized; remove the parametrization first")
    state = {key: _own_tensor(module, key) for key in _STATE}
    tensors = [value for value in state.values() if value is not None]
    if any(value.is_meta for value in tensors):
        raise Refusal("it has no values (meta device); load the weights first")
    if any(value.is_inference() for value in tensors):
        raise Refusal("its tensors were made in inference mode, where they cannot be changed")
    followed = _followers(module)
    eps = float(getattr(module, "eps", 0.0))  # maskrcnn-benchmark's frozen norm has none
    if _is_group(module):
        assert isinstance(module, nn.GroupNorm)
        groups: int | None = module.num_groups
        channels = module.num_channels
    elif _is_stored(module) or _forward(module) in _INSTANCE:
        instance = _forward(module) in _INSTANCE
        channels = int(getattr(module, "num_features", 0) or len(tensors[0] if tensors else ()))
        groups = channels if instance and state["running_mean"] is None else None
    elif isinstance(module, _NormBase | nn.GroupNorm) or state["running_mean"] is not None:
        raise Refusal(f"{_class_name(module)} has a forward of its own, which is not known")
    else:
        raise Refusal(f"{name} is no norm that can be converted")
    if groups is None and (state["running_mean"] is None or state["running_var"] is None):
        raise Refusal("it stores no statistics (track_running_stats=False)")
    return SourceNorm(
        module, channels, eps, groups, state["weight"], state["bias"],
        state["running_mean"], state["running_var"], *followed, *_place([*tensors, near]),
    )  # fmt: skip


def check_statistics(norm: SourceNorm) -> None:
    """Check that a norm with stored statistics has some that were trained.

    Raises:
        Refusal: they are not finite, a variance is negative, or they are exactly 0 and 1, with
            which every layer begins.
    """
    mean, var = norm.mean, norm.var
    assert mean is not None
    assert var is not None
    if not (mean.isfinite().all() and var.isfinite().all() and (var >= 0).all()):
        raise Refusal("its statistics are not finite, or a variance is negative")
    if (mean == 0).all() and (var == 1).all():
        raise Refusal("its statistics are 0 and 1: never trained")


def _forward(module: nn.Module) -> object:
    """The function that the class's forward is, of a norm with activation the norm's own."""
    if isinstance(module, _WithActivation):
        return super(_WithActivation, module).forward.__func__  # type: ignore[attr-defined]
    return type(module).forward


def _is_stored(module: nn.Module) -> bool:
    if _forward(module) in _STORED_STATISTICS or _timm_class(module) in _TIMM_STORED:
        return True
    # torchvision's, detectron2's, maskrcnn-benchmark's: the same buffers, the same formula
    frozen = any(kind.__name__ == "FrozenBatchNorm2d" for kind in type(module).__mro__)
    return frozen and all(key in module._buffers for key in _STATE)


def _is_group(module: nn.Module) -> bool:
    return isinstance(module, nn.GroupNorm) and (
        _forward(module) in _GROUP or _timm_class(module) in _TIMM_GROUP
    )


def _timm_class(module: nn.Module) -> str | None:
    """The class of timm whose forward the module has."""
    forward = type(module).forward
    if forward.__module__.partition(".")[0] != "timm":
        return None
    return forward.__qualname__.partition(".")[0]


def _followers(module: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
    """The children that a norm applies to its output: drop and act.

    Raises:
        Refusal: it has other children.
    """
    children = dict(module.named_children())
    if not children:
        return None, None
    if set(children) != {"drop", "act"}:
        raise Refusal(f"{_class_name(module)} has children that are not known: {list(children)}")
    return children["drop"], children["act"]


def _own_tensor(module: nn.Module, key: str) -> Tensor | None:
    """The parameter or buffer.

    Raises:
        Refusal: a hook computes it, as `torch.nn.utils.weight_norm` does.
    """
    parameter = module._parameters.get(key)
    found = module._buffers.get(key) if parameter is None else parameter
    if found is None and isinstance(module.__dict__.get(key), Tensor):
        raise Refusal(f"its {key} is computed by a hook; remove that first")
    return found


def _place(tensors: list[Tensor | None]) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of the first tensor that there is."""
    for tensor in tensors:
        if tensor is not None:
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.get_default_dtype()


def _class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
