"""Group norm written in ordinary operators, for runtimes whose own group norm is wrong or slow.

Letters: N batch, C channels, G groups, D = C / G channels per group.

Each form is a module with the parameters, keys and results of `groupnorm.GroupNorm`, and differs
in the operators that a converter sees (docs/export.md says which runtime gets which):

- `PlainGroupNorm`: PyTorch's operator, for runtimes that compute it well.
- `InstanceGroupNorm`: the mean subtracted, then an instance norm over the groups as channels.
- `PooledGroupNorm` and, for XNNPACK, `BlockedGroupNorm`: no view of the map at all, for runtimes
  that work channels last and for delegates, which cut a network in pieces at the operators that
  they do not have.

Half input is converted to float32 first and rounded once, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from groupnorm.conversion.sources import Refusal, SourceNorm, read_norm
from groupnorm.conversion.walk import has_hooks
from groupnorm.export.errors import ExportError
from groupnorm.layers import CalibratedGroupNorm
from groupnorm.layers.with_activation import fused_activation
from groupnorm.ops.group_norm.activations import activate, check_activation
from groupnorm.ops.group_norm.arguments import check_arguments
from groupnorm.ops.group_norm.backends import FLOATS
from groupnorm.ops.group_norm.memory import traced
from groupnorm.ops.group_norm.reference import statistics_dtype

_LARGE_MAP = 48 * 48  # positions, from which on means are taken of blocks first
_LARGEST_BLOCK = 16  # positions along each axis
_SIDE = 5  # the same where the blocks do not divide the map
_FEW_CHANNELS = 8  # of a group, up to which one convolution does for gather and spread


class GroupNormForm(nn.GroupNorm):
    """activation(GN(input) * weight + bias + residual); the forms below say how.

    Args:
        num_groups: and num_channels, eps, affine, device, dtype, bias, activation: as in
            `groupnorm.GroupNorm`, with the same parameters and keys.
        num_channels: see `num_groups`.
        eps: see `num_groups`.
        affine: see `num_groups`.
        device: see `num_groups`.
        dtype: see `num_groups`.
        bias: see `num_groups`.
        activation: see `num_groups`.

    Raises:
        ValueError: num_channels is not a multiple of num_groups, or an unknown activation.
    """

    activation: str | None

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | None = None,
    ) -> None:
        if num_groups < 1 or num_channels < 1 or num_channels % num_groups:
            raise ValueError(
                f"num_channels must be a multiple of num_groups, got {num_channels} channels and "
                f"{num_groups} groups"
            )
        check_activation(activation)
        super().__init__(num_groups, num_channels, eps, affine, device, dtype)
        if not bias:
            self.register_parameter("bias", None)
        self.activation = activation

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """activation(GN(input) * weight + bias + residual), in the input's shape and dtype.

        Args:
            input: (N, C, *) with up to three further axes, float16, bfloat16, float32 or float64.
            residual: of the input's shape and dtype, or None.

        Raises:
            ValueError: shapes, dtypes or devices that do not fit.
        """
        if not 2 <= input.dim() <= 5 or input.dtype not in FLOATS:
            raise ValueError(
                f"expected a floating-point input (N, {self.num_channels}, *) with at most three "
                f"axes after the channels, got {input.dtype} of shape {tuple(input.shape)}"
            )
        check_arguments(input, self.num_groups, self.weight, self.bias, self.activation, residual)
        dtype = statistics_dtype(input.dtype)
        y = self._normalized(_cast(input, dtype))
        if residual is not None:
            y = y + _cast(residual, dtype)
        return _cast(activate(y, self.activation), input.dtype)

    def _normalized(self, x: Tensor) -> Tensor:
        """GN(x) * weight + bias of x (N, C, *) in the statistics' dtype."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Torch's fields, and the activation."""
        return f"{super().extra_repr()}, activation={self.activation!r}"


class PlainGroupNorm(GroupNormForm):
    """Group norm as PyTorch's operator `aten.group_norm`, every argument written out."""

    def _normalized(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else _cast(self.weight, x.dtype)
        bias = None if self.bias is None else _cast(self.bias, x.dtype)
        # False is not the operator's default: torch.export leaves defaults at the end out, and
        # converters have been seen to put another eps in the place of 1e-5 then.
        return torch.group_norm(x, self.num_groups, weight, bias, self.eps, False)


class InstanceGroupNorm(GroupNormForm):
    """Group norm as an instance norm of G channels, from (N, C, *) seen as (N, G, values).

    Runtimes compute an instance norm as x * scale + shift, which loses digits where the mean is far
    above the spread. So the mean of each group is subtracted first.
    """

    def _normalized(self, x: Tensor) -> Tensor:
        groups = x.reshape(x.shape[0], self.num_groups, -1)
        centred = groups - groups.mean(2, keepdim=True)
        normalized = torch.instance_norm(
            centred, None, None, None, None, True, 0.0, self.eps, False
        )
        y = normalized.reshape(x.shape)
        if self.weight is not None:
            y = y * _per_channel(self.weight, x)
        return y if self.bias is None else y + _per_channel(self.bias, x)


class PooledGroupNorm(GroupNormForm):
    """Group norm without a view of the map: means over the positions, then over the channels.

    Means of groups are made of those of channels by a 1x1 convolution with G groups, and spread
    over the channels by another, C weights each; with one channel per group there is neither, with
    one group no second one. The mean is taken twice: what rounding left of it after it was
    subtracted once is put into the shift.

    The variance is a mean of squares in the statistics' dtype: values may differ from the mean of
    their group by about 1e19 / sqrt(positions) in float32.

    Args:
        num_groups: and the others as in `GroupNormForm`.
        num_channels: see `num_groups`.
        eps: see `num_groups`.
        affine: see `num_groups`.
        device: see `num_groups`.
        dtype: see `num_groups`.
        bias: see `num_groups`.
        activation: see `num_groups`.
        group_eps: (G,), an eps for each group in the place of `eps`, or None.

    Raises:
        ValueError: as `GroupNormForm`, or group_eps that are not G positive numbers.
    """

    eps_of_groups: tuple[float, ...] | None
    group_eps: Tensor | None  # (G or C,), one for each row of gather
    gather: Tensor | None  # (G or C, D, 1, 1), all 1 / D; None where D is 1
    spread: Tensor | None  # (C, 1, 1, 1), all 1; None where D or G is 1, or gather has C rows

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: str | None = None,
        group_eps: Tensor | None = None,
    ) -> None:
        super().__init__(
            num_groups, num_channels, eps, affine, device, dtype, bias=bias, activation=activation
        )
        self.eps_of_groups = None if group_eps is None else tuple(group_eps.tolist())
        if self.eps_of_groups is not None:
            each = self.eps_of_groups
            if len(each) != num_groups or not all(0 < value < math.inf for value in each):
                raise ValueError(
                    f"group_eps must be {num_groups} positive numbers, one for each group, got "
                    f"{list(each)}"
                )
        self._make_buffers(device, statistics_dtype(dtype or torch.get_default_dtype()))

    def _make_buffers(self, device: torch.device | str | None, dtype: torch.dtype) -> None:
        constants = self._constants(device, dtype)
        # torch.export counts those that are None as inputs of a program: they have to be the last
        for name in sorted(constants, key=lambda name: constants[name] is None):
            self.register_buffer(name, constants[name], persistent=False)

    def _constants(
        self, device: torch.device | str | None, dtype: torch.dtype
    ) -> dict[str, Tensor | None]:
        """The eps of the groups, and the weights of the two convolutions."""
        each = self.num_channels // self.num_groups
        rows = self._rows_of_gather()
        eps = gather = spread = None
        if self.eps_of_groups is not None:
            eps = torch.tensor(self.eps_of_groups, dtype=dtype, device=device)
            eps = eps.repeat_interleave(rows // self.num_groups)
        if each > 1:
            gather = torch.full((rows, each, 1, 1), 1 / each, dtype=dtype, device=device)
        if each > 1 and rows == self.num_groups > 1:
            spread = torch.ones((self.num_channels, 1, 1, 1), dtype=dtype, device=device)
        return {"group_eps": eps, "gather": gather, "spread": spread}

    def _rows_of_gather(self) -> int:
        """G, for means of groups, or C, for those means at each of their channels."""
        return self.num_groups

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move to another device or dtype; the buffers are made anew in the statistics' dtype."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        moved = next(self.buffers(), None)
        if moved is not None:
            self._make_buffers(moved.device, statistics_dtype(moved.dtype))
        return self

    def _normalized(self, x: Tensor) -> Tensor:
        if x.dim() == 2:  # as one position, for delegates take means of four axes alone
            shape = (-1, self.num_channels)
            return self._normalized(x.view(*shape, 1, 1)).view(shape)
        centred = x - self._to_channels(self._group_means(x), x)
        residual_mean = self._group_means(centred)
        # Below 0 by rounding alone, where all values of a group are equal.
        mean_square = self._group_means(centred * centred)
        var = torch.relu(mean_square - residual_mean * residual_mean)
        eps = self.eps if self.group_eps is None else self.group_eps.view(1, -1, 1, 1)
        scale = self._to_channels(torch.rsqrt(var + eps), x)
        if self.weight is not None:
            scale = scale * _per_channel(self.weight, x)
        shift = self._to_channels(residual_mean, x) * scale
        if self.bias is None:
            return centred * scale - shift
        return centred * scale + (_per_channel(self.bias, x) - shift)

    def _group_means(self, x: Tensor) -> Tensor:
        """Means of the groups of x (N, C, *) of 3 to 5 axes, shape (N, G or C, 1, 1)."""
        means = self._position_means(x)
        if x.dim() == 3:
            means = means.unsqueeze(3)
        elif x.dim() == 5:
            means = means.squeeze(4)
        return self._convolved(means, self.gather)

    def _position_means(self, x: Tensor) -> Tensor:
        """Means over the positions of x (N, C, *), shape (N, C, 1, ...)."""
        return x.mean(list(range(2, x.dim())), keepdim=True)

    def _to_channels(self, values: Tensor, x: Tensor) -> Tensor:
        """Values (N, G or C, 1, 1) of groups, for each channel, with as many axes as x.

        Those of one group are left to broadcasting: (N, 1, 1, ...).
        """
        values = self._convolved(values, self.spread)
        if x.dim() == 3:
            return values.squeeze(3)
        return values.unsqueeze(4) if x.dim() == 5 else values

    def _convolved(self, values: Tensor, weight: Tensor | None) -> Tensor:
        """Values (N, C or G, 1, 1) through a 1x1 convolution with the groups of the norm."""
        if weight is None:
            return values
        self._check_precision(values, weight)
        return F.conv2d(values, weight, None, (1, 1), (0, 0), (1, 1), self.num_groups)

    def _check_precision(self, values: Tensor, weight: Tensor) -> None:
        if weight.dtype != values.dtype:
            raise ValueError(
                f"expected input of the precision of {self}, got {values.dtype} for constants "
                f"in {weight.dtype}; convert one of them"
            )

    def extra_repr(self) -> str:
        """As `GroupNormForm`, and the eps of the groups."""
        each = self.eps_of_groups
        return super().extra_repr() + ("" if each is None else f", group_eps={list(each)}")


class BlockedGroupNorm(PooledGroupNorm):
    """The pooled form as XNNPACK computes it best.

    - XNNPACK adds up one position after the other: over 112 x 112 of them it is off by 4e-6. With
      means of blocks first it is off by 3e-7, in the same time. Where the size of a map is known
      and has divisors, the blocks are those of an average pooling. Else they are sums of 5 x 5
      positions by a depthwise convolution whose padding fills up the last ones, twice; XNNPACK is
      fast up to 25 positions. Small maps of known sizes have no blocks.
    - Groups of few channels have one convolution in the place of gather and spread, C * D weights.
    """

    sums: Tensor  # (C, 1, 5, 5), all 1

    def _constants(
        self, device: torch.device | str | None, dtype: torch.dtype
    ) -> dict[str, Tensor | None]:
        shape = (self.num_channels, 1, _SIDE, _SIDE)
        sums = torch.ones(shape, dtype=dtype, device=device)
        return super()._constants(device, dtype) | {"sums": sums}

    def _rows_of_gather(self) -> int:
        few = self.num_channels // self.num_groups <= _FEW_CHANNELS
        return self.num_channels if few and self.num_groups > 1 else self.num_groups

    def _position_means(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or traced():
            return super()._position_means(x)
        height, width = x.shape[2:]
        if not (is_concrete_int(height) and is_concrete_int(width)):
            return self._means_by_sums(x)
        if height * width < _LARGE_MAP:
            return super()._position_means(x)
        block = (_block(int(height)), _block(int(width)))
        if block[0] * block[1] < _SIDE * _SIDE:
            return self._means_by_sums(x)
        return super()._position_means(F.avg_pool2d(x, block, block, (0, 0), False, False))

    def _means_by_sums(self, x: Tensor) -> Tensor:
        self._check_precision(x, self.sums)
        positions = x.shape[2] * x.shape[3]
        for _ in range(2):
            x = F.conv2d(
                x, self.sums, None, (_SIDE, _SIDE), (_SIDE - 1, _SIDE - 1), (1, 1),
                self.num_channels,
            )  # fmt: skip
        return super()._position_means(x) * (x.shape[2] * x.shape[3]) / positions


def _block(size: int) -> int:
    """The largest divisor of a size that a block may have."""
    return max(n for n in range(1, _LARGEST_BLOCK + 1) if size % n == 0)


FORMS: dict[str, type[GroupNormForm]] = {
    "plain": PlainGroupNorm,
    "instance": InstanceGroupNorm,
    "pooled": PooledGroupNorm,
    "blocked": BlockedGroupNorm,
}


def as_form(
    norm: nn.GroupNorm,
    form: str,
    *,
    group_eps: Tensor | None = None,
    fill_bias: bool = False,
    near: Tensor | None = None,
) -> GroupNormForm:
    """A group norm in another form, with copies of its parameters.

    Args:
        norm: PyTorch's group norm, this package's, with or without activation, or timm's.
        form: a name of `FORMS`.
        group_eps: (G,), an eps for each group in the place of the layer's: for the pooled and the
            blocked form.
        fill_bias: give a layer with a scale alone a bias of zeros, for a runtime that cannot load
            it otherwise; the state then has one key more.
        near: a parameter of its network, for the device and dtype of a norm without parameters.

    Raises:
        ExportError: a norm whose result is not that of group norm and an activation of
            `groupnorm.group_norm`, or whose values are not there; a form that has no group_eps.
        ValueError: unknown form, or group_eps that are not G positive numbers.
    """
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r}; known: {', '.join(FORMS)}")
    if group_eps is not None and not issubclass(FORMS[form], PooledGroupNorm):
        raise ExportError(
            f"the form {form!r} has one eps for all groups; 'pooled' and 'blocked' take group_eps"
        )
    source = _read(norm, near)
    activation = _activation(norm, source.act)
    weight, bias = source.weight, source.bias
    if fill_bias and weight is not None and bias is None:
        bias = torch.zeros_like(weight)
    options: dict[str, Any] = {} if group_eps is None else {"group_eps": group_eps}
    made = FORMS[form](
        norm.num_groups, norm.num_channels, source.eps, weight is not None, source.device,
        source.dtype, bias=bias is not None, activation=activation, **options,
    )  # fmt: skip
    for name, values in (("weight", weight), ("bias", bias)):
        own = None
        if values is not None:
            own = nn.Parameter(values.detach().clone(), requires_grad=values.requires_grad)
        made.register_parameter(name, own)
    return made.train(norm.training)


def _read(norm: nn.Module, near: Tensor | None) -> SourceNorm:
    """What a group norm computes.

    Raises:
        ExportError: it is another norm, or more than that.
    """
    if not isinstance(norm, nn.GroupNorm):
        raise ExportError(f"expected a group norm, got {norm}")
    if isinstance(norm, CalibratedGroupNorm):
        raise ExportError(
            f"{norm} scales its input or mixes stored statistics in, which no form does; leave it "
            "as it is, or convert the network with plain=True and hybrid=1"
        )
    if has_hooks(norm):
        raise ExportError(f"{norm} has hooks, which a form would lose; remove them first")
    try:
        source = read_norm(norm, near)
    except Refusal as refusal:
        raise ExportError(f"{norm}: {refusal}") from None
    if source.drop is not None and source.drop.training and type(source.drop) is not nn.Identity:
        raise ExportError(f"{norm} drops values while it trains; call eval() on the network first")
    return source


def _activation(norm: nn.GroupNorm, act: nn.Module | None) -> str | None:
    """The name of what a norm applies to its output.

    Raises:
        ExportError: it has none in `groupnorm.group_norm`.
    """
    own: str | None = getattr(norm, "activation", None)
    if act is None or type(act) is nn.Identity:
        return own
    name = fused_activation(act)
    if name is None or own is not None:
        raise ExportError(
            f"{norm} applies {act}, which no form has; put it behind the norm as a layer of its own"
        )
    return name


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x if x.dtype == dtype else x.to(dtype)  # torch.export records even an idle `to`


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """Values (C,) in the dtype of x (N, C, *), in the shape (1, C, 1, ...)."""
    return _cast(values, x.dtype).view(1, -1, *[1] * (x.dim() - 2))
