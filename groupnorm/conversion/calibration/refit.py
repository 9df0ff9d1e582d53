"""Ridge regression of a convolution: the student's layer gives what the teacher's gave.

Earlier norms of the student lose a part of what the teacher knows; the next convolution, fitted
anew from the student's input to the teacher's output, wins some of it back (as layers of pruned
networks are reconstructed by He et al. 2017, arXiv 1707.06168, section 3.1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RIDGE = 0.03
"""Pull towards the old weights, in units of the mean variance of an input."""
_ROWS = 8192  # of the patches that are held at a time


class RidgeRefit:
    """Collects the normal equations of a layer batch by batch; never holds a batch's patches whole.

    With F = in_channels / groups * kernel it holds groups * F * (F + out_channels / groups) numbers
    of float64, 170 MB for a 3x3 convolution of 512 channels.

    Args:
        layer: `nn.Conv1d`, `nn.Conv2d`, `nn.Conv3d` (dense, grouped or depthwise, any padding) or
            `nn.Linear`, whose weights are pulled towards; it is not changed.
        positions: take so many random positions of each sample's output, the same for all samples
            of a batch; None takes all.
        seed: of these positions.

    Raises:
        ValueError: another kind of layer, a transposed convolution among them.
    """

    def __init__(self, layer: nn.Module, *, positions: int | None = None, seed: int = 0) -> None:
        if not isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
            raise ValueError(
                f"Conv1d, Conv2d, Conv3d and Linear can be refitted, got {type(layer).__name__}"
            )
        self._layer = layer
        self._positions = positions
        self._generator = torch.Generator().manual_seed(seed)
        weight = layer.weight.detach()
        groups = 1 if isinstance(layer, nn.Linear) else layer.groups
        self._old = weight.double().reshape(groups, weight.shape[0] // groups, -1)
        f, outputs = self._old.shape[2], self._old.shape[1]
        self._rows = 0
        self._sum_x = self._old.new_zeros(groups, f, 1)
        self._sum_y = self._old.new_zeros(groups, outputs, 1)
        self._gram = self._old.new_zeros(groups, f, f)
        self._cross = self._old.new_zeros(groups, outputs, f)
        self._square_y = self._old.new_zeros(groups, outputs)

    @torch.no_grad()
    def add(self, input: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            input: of the student's layer, (N, in_channels, *), or of a linear layer (*, in).
            target: output of the teacher's layer, in the shape that the layer gives.

        Raises:
            ValueError: the target has another shape than the layer's output would have.
        """
        groups = len(self._old)
        index: tuple[slice | Tensor, ...] | None = None
        if isinstance(self._layer, nn.Linear):
            windows = input.reshape(-1, input.shape[-1], 1, 1)  # rows, features, position, kernel
            target = target.reshape(-1, target.shape[-1], 1)
        else:
            windows = _windows(self._layer, input)
            spatial = windows.shape[2 : input.dim()]
            if target.shape[:1] + target.shape[2:] != (len(input), *spatial):
                raise ValueError(
                    f"the layer gives maps of {tuple(spatial)} for {len(input)} samples, the "
                    f"target is {tuple(target.shape)}"
                )
            total = spatial.numel()
            chosen = torch.arange(total)
            if self._positions is not None and self._positions < total:
                order = torch.randperm(total, generator=self._generator)
                chosen = order[: self._positions].sort().values
            where = torch.unravel_index(chosen.to(input.device), spatial)
            index = (slice(None), slice(None), *where)
            target = target.flatten(2)[:, :, chosen.to(target.device)]
        if target.shape[:2] != (len(windows), self._old.shape[1] * groups):
            raise ValueError(
                f"the layer has {self._old.shape[1] * groups} outputs for {len(windows)} samples, "
                f"the target is {tuple(target.shape)}"
            )
        count = max(1, _ROWS // max(target.shape[2], 1))
        for x, y in zip(torch.split(windows, count), torch.split(target, count), strict=True):
            self._add_rows(x if index is None else x[index].flatten(3), y)

    def solve(self, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
        """Weight, in the layer's shape and dtype, and bias, which no ridge pulls.

        Args:
            ridge: 0 for least squares.

        Raises:
            ValueError: no rows were added, or a ridge below 0.
        """
        if self._rows == 0 or ridge < 0:
            raise ValueError(
                f"a refit needs rows and a ridge of 0 or more, got {self._rows} rows and {ridge}"
            )
        mean_x, mean_y, gram, cross = self._moments()
        variances = gram.diagonal(dim1=1, dim2=2)
        pull = (ridge * variances.mean(1)).clamp(min=1e-10 * float(variances.max()) + 1e-30)
        regular = gram + torch.diag_embed(pull.unsqueeze(1).expand_as(variances))
        change = torch.linalg.solve(regular, (cross - self._old @ gram).mT).mT
        weight = self._old + change
        bias = mean_y - weight @ mean_x
        old = self._layer.weight
        assert isinstance(old, Tensor)
        return weight.reshape(old.shape).to(old.dtype), bias.flatten().to(old.dtype)

    def error(self, weight: Tensor, bias: Tensor | None) -> float:
        """The squared error of a layer with these values on the rows, relative.

        The mean square of what its outputs differ from the targets, summed over the outputs, over
        the sum of the targets' variances; 0 where these do not vary.

        Args:
            weight: in the layer's shape.
            bias: (out_channels,), or None for 0.
        """
        w = weight.detach().double().reshape(self._old.shape)
        mean_x, mean_y, gram, cross = self._moments()
        variances = self._square_y / self._rows - mean_y.squeeze(2) ** 2
        off = mean_y - w @ mean_x
        if bias is not None:
            off = off - bias.detach().double().reshape(off.shape)
        squared = variances + ((w @ gram - 2 * cross) * w).sum(2) + off.squeeze(2) ** 2
        total = float(variances.sum())
        return max(float(squared.sum()), 0.0) / total if total > 0 else 0.0

    def _moments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Means of x and y, covariance of x, of y and x."""
        mean_x, mean_y = self._sum_x / self._rows, self._sum_y / self._rows
        gram = self._gram / self._rows - mean_x @ mean_x.mT
        return mean_x, mean_y, gram, self._cross / self._rows - mean_y @ mean_x.mT

    def _add_rows(self, windows: Tensor, target: Tensor) -> None:
        """Args: windows (N, in_channels, P, kernel) and target (N, out_channels, P)."""
        groups, outputs, f = self._old.shape
        x = torch.unflatten(windows.double().transpose(0, 1), 0, (groups, -1))  # G, in / G, N, P, K
        x = x.permute(0, 1, 4, 2, 3).reshape(groups, f, -1)
        y = target.double().transpose(0, 1).reshape(groups, outputs, -1)
        self._rows += x.shape[2]
        self._sum_x += x.sum(2, keepdim=True)
        self._sum_y += y.sum(2, keepdim=True)
        self._gram += x @ x.mT
        self._cross += y @ x.mT
        self._square_y += y.square().sum(2)


def _windows(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, input: Tensor) -> Tensor:
    """What each output position sees: a view (N, in_channels, *output, *kernel)."""
    sides = []
    for axis in reversed(range(input.dim() - 2)):
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
        if layer.padding == "same":
            sides += [reach // 2, reach - reach // 2]
        else:
            sides += [0, 0] if layer.padding == "valid" else [int(layer.padding[axis])] * 2
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(input, sides, mode=mode)
    for axis in range(input.dim() - 2):
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
        x = x.unfold(axis + 2, reach + 1, layer.stride[axis])[..., :: layer.dilation[axis]]
    return x
