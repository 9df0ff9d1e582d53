"""Ridge regression of a convolution: the student's layer gives what the teacher's gave.

Earlier norms of the student lose a part of what the teacher knows; the next convolution, fitted
anew from the student's input to the teacher's output, wins some of it back (as layers of pruned
networks are reconstructed by He et al. 2017, arXiv 1707.06168, section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RIDGE = 0.03
"""Pull towards the old weights, in units of the mean variance of an input."""
_ROWS = 8192  # of the patches that are copied at a time


class LayerRows:
    """What a layer sees at some positions of its output, and what it shall give there.

    Args:
        layer: `nn.Conv1d`, `nn.Conv2d`, `nn.Conv3d` (dense, grouped or depthwise, any padding) or
            `nn.Linear`.
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
        self.groups = 1 if isinstance(layer, nn.Linear) else layer.groups
        self.outputs = layer.weight.shape[0] // self.groups
        self.inputs = layer.weight[0].numel()

    def of(self, input: Tensor, target: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The rows of a batch in parts: (groups, inputs, rows) and (groups, outputs, rows).

        Args:
            input: of the layer, (N, in_channels, *), or of a linear layer (*, in).
            target: in the shape that the layer gives.

        Raises:
            ValueError: the target has another shape than the layer's output would have.
        """
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
        if target.shape[:2] != (len(windows), self.outputs * self.groups):
            raise ValueError(
                f"the layer has {self.outputs * self.groups} outputs for {len(windows)} samples, "
                f"the target is {tuple(target.shape)}"
            )
        count = max(1, _ROWS // max(target.shape[2], 1))
        for x, y in zip(torch.split(windows, count), torch.split(target, count), strict=True):
            x = x if index is None else x[index].flatten(3)  # N, in_channels, positions, kernel
            x = torch.unflatten(x.transpose(0, 1), 0, (self.groups, -1))
            x = x.permute(0, 1, 4, 2, 3).reshape(self.groups, self.inputs, -1)
            y = y.transpose(0, 1).reshape(self.groups, self.outputs, -1)
            dtype = torch.promote_types(x.dtype, torch.float32)
            yield x.to(dtype), y.to(dtype)


class RidgeRefit:
    """Collects the normal equations of a layer batch by batch; never holds a batch's patches whole.

    It holds groups * inputs * (inputs + outputs) numbers of float64, 190 MB for a 3x3 convolution
    of 512 channels, and three times as much while it solves.

    Args:
        layer: as in `LayerRows`, whose weights are pulled towards; it is not changed.
        positions: as in `LayerRows`.
        seed: as in `LayerRows`.

    Raises:
        ValueError: as `LayerRows`.
    """

    def __init__(self, layer: nn.Module, *, positions: int | None = None, seed: int = 0) -> None:
        self._of = LayerRows(layer, positions=positions, seed=seed)
        weight = layer.weight
        assert isinstance(weight, Tensor)
        self._weight = weight.detach()
        groups, outputs, f = self._of.groups, self._of.outputs, self._of.inputs
        self._rows = 0
        empty = torch.empty(0, dtype=torch.float64, device=weight.device)
        self._sum_x = empty.new_zeros(groups, f, 1)
        self._sum_y = empty.new_zeros(groups, outputs, 1)
        self._gram = empty.new_zeros(groups, f, f)
        self._cross = empty.new_zeros(groups, outputs, f)

    @torch.no_grad()
    def add(self, input: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            input: of the student's layer, as in `LayerRows.of`.
            target: output of the teacher's layer.

        Raises:
            ValueError: as `LayerRows.of`.
        """
        for x, y in self._of.of(input, target):
            if self._rows == 0:
                self._shift = x.mean(2, keepdim=True)
            x = x - self._shift  # so that the products are not large beside the covariance
            self._rows += x.shape[2]
            self._sum_x += x.sum(2, keepdim=True, dtype=torch.float64)
            self._sum_y += y.sum(2, keepdim=True, dtype=torch.float64)
            self._gram += x @ x.mT
            self._cross += y @ x.mT

    @torch.no_grad()
    def solve(self, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
        """Weight, in the layer's shape and dtype, and bias, which no ridge pulls.

        Where the equations have no stable solution, the old weight.

        Args:
            ridge: 0 for least squares.

        Raises:
            ValueError: no rows were added, or a ridge below 0.
        """
        if self._rows == 0 or ridge < 0:
            raise ValueError(
                f"a refit needs rows and a ridge of 0 or more, got {self._rows} rows and {ridge}"
            )
        old = self._weight.double().reshape(self._cross.shape)
        mean_x, mean_y = self._sum_x / self._rows, self._sum_y / self._rows
        covariance = (self._gram / self._rows).baddbmm_(mean_x, mean_x.mT, alpha=-1)
        cross = self._cross / self._rows - mean_y @ mean_x.mT - old @ covariance
        variances = covariance.diagonal(dim1=1, dim2=2)
        pull = (ridge * variances.mean(1)).clamp(min=1e-10 * float(variances.max()) + 1e-30)
        variances += pull.unsqueeze(1)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        weight = old if failed.any() else old + torch.cholesky_solve(cross.mT, factor).mT
        bias = mean_y - weight @ (mean_x + self._shift)
        found = weight.reshape(self._weight.shape), bias.flatten()
        return found[0].to(self._weight.dtype), found[1].to(self._weight.dtype)


class HeldOutRows:
    """Rows that a refit is judged by; they are held, so that `positions` should be few.

    Args:
        layer: and positions and seed, as in `LayerRows`.
        positions: see `layer`.
        seed: see `layer`.
    """

    def __init__(self, layer: nn.Module, *, positions: int | None = None, seed: int = 0) -> None:
        self._of = LayerRows(layer, positions=positions, seed=seed)
        self._rows: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def add(self, input: Tensor, target: Tensor) -> None:
        """Add a batch, as `RidgeRefit.add`."""
        self._rows += self._of.of(input, target)

    @torch.no_grad()
    def error(self, weight: Tensor, bias: Tensor | None) -> float:
        """The squared error of a layer with these values on all rows, over that of zeros.

        Args:
            weight: in the layer's shape.
            bias: (out_channels,), or None for 0.
        """
        groups, outputs = self._of.groups, self._of.outputs
        w = weight.detach().reshape(groups, outputs, -1)
        b = 0.0 if bias is None else bias.detach().reshape(groups, outputs, 1)
        squared = total = 0.0
        for x, y in self._rows:
            squared += float((w.to(x.dtype) @ x + b - y).double().square().sum())
            total += float(y.double().square().sum())
        return squared / max(total, 1e-300)


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
