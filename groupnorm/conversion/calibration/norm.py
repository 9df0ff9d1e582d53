"""One norm on its way to be replaced: the layer in front, the fit, the new layer in its place."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

from groupnorm.conversion.calibration.affine import fold_affine
from groupnorm.conversion.calibration.fit import (
    FitLimits,
    LayerFit,
    fit_layer,
    relative_error,
)
from groupnorm.conversion.calibration.group_rule import (
    ErrorBudget,
    choose_groups,
)
from groupnorm.conversion.calibration.moments import LayerMoments, MomentAccumulator, halves
from groupnorm.conversion.calibration.options import Options
from groupnorm.conversion.calibration.order import (
    can_reorder,
    order_of,
    reorder_inputs,
    reorder_outputs,
)
from groupnorm.conversion.calibration.refit import HeldOutRows, RidgeRefit
from groupnorm.conversion.calibration.segments import Point, Walk
from groupnorm.conversion.calibration.tape import Holder
from groupnorm.conversion.constants.fold import set_weights
from groupnorm.conversion.constants.producers import LinearLayer
from groupnorm.conversion.finite import NotFiniteError
from groupnorm.conversion.rebuild import build
from groupnorm.conversion.report import NONE_STORED, ConvertedLayer
from groupnorm.conversion.sources import SourceNorm, read_norm
from groupnorm.conversion.walk import FoundNorm, find_norms, swap
from groupnorm.spec import NormSpec

Refit: TypeAlias = Callable[[Tensor, int], LayerFit]
_ROWS = 8192  # that a layer is refitted to, or twice its inputs where these are more
_NOTHING = 1e-10  # relative error of a layer whose input is the teacher's
_LEAST_STD = 0.1  # of a channel, in deviations that the norm has stored


@dataclass
class NormFit:
    """One norm on its way to be replaced.

    Attributes:
        teacher: and student, both networks.
        student: see `teacher`.
        point: where it stands.
        row: of the report, without data.
        spec: of the new norm.
        options: of the calibration.
        seed: of the norm.
        moved: whether its channels have another order than the teacher's.
    """

    teacher: Holder
    student: Holder
    point: Point
    row: ConvertedLayer
    spec: NormSpec
    options: Options
    seed: int
    moved: bool = False

    def replace(self, walk: Walk, budget: ErrorBudget) -> ConvertedLayer:
        """Fit the norm and put it in its place in the student; the row of the report."""
        source = read_norm(self.teacher.get_submodule(self.point.norm), None)
        producer = self._producer()
        refitted = False
        if producer is not None and self.options.refit:
            refitted = self._refit(producer, walk)
        fitting, held_out = self._moments(source, walk)
        more = functools.cache(lambda: self._parts(source, walk))
        fit, error, reason, again = self._fit(source, fitting, held_out, more, budget)
        if self.options.reorder and producer is not None:
            fit, error = self._reordered(walk, producer, fitting, held_out, fit, error, again)
        self._check(fit)
        own_affine = producer is None and not self.options.plain
        why = self.point.why_none
        if why:
            why = f"{'own' if own_affine else 'no'} scale and offset before it: {why}"
        found, own = norm_of(self.student, self.point.norm)
        new = build(own, self.spec, fit.groups, fit.eps, own_affine, fit.hybrid)[0]
        _fill(new, fit)
        swap(self.student, [(found, new)])
        if producer is not None:
            self._fold(producer, fit)
        return replace(
            self.row,
            target=type(new).__name__,
            groups=fit.groups,
            affine=self.row.affine.replace("from statistics", "fitted").replace("copied", "fitted"),
            statistics=self._statistics(fit),
            error=error,
            note=", ".join(filter(None, [reason or self.row.note, why])),
            in_front=self._in_front(own_affine),
            refitted=refitted,
            offset_share=fit.offset_share,
            hybrid=fit.hybrid,
        )

    def _producer(self) -> LinearLayer | None:
        if self.point.producer is None:
            return None
        layer = self.student.get_submodule(self.point.producer)
        assert isinstance(layer, LinearLayer)
        return layer

    def _in_front(self, own_affine: bool) -> str:
        if self.point.producer is None:
            return "itself" if own_affine else ""
        return self.point.producer.removeprefix("model.")

    def _statistics(self, fit: LayerFit) -> str:
        """What became of the stored statistics."""
        if fit.hybrid < 1:
            return "the data's, in part"
        return self.row.statistics if self.row.statistics == NONE_STORED else "left out"

    def _refit(self, producer: LinearLayer, walk: Walk) -> bool:
        """Fit the layer in front to the teacher's, if that is nearer to it on held-out data."""
        if isinstance(producer, nn.modules.conv._ConvTransposeNd):
            return False
        fitting: RidgeRefit | None = None
        for seen in walk.producer_inputs():
            if fitting is None:
                rows = max(_ROWS, 2 * producer.weight[0].numel())
                positions = -(-rows // (len(seen.student) * walk.batches.fitted))
                fitting = RidgeRefit(producer, positions=positions, seed=self.seed)
                held_out = HeldOutRows(producer, positions=positions, seed=self.seed)
            (held_out if seen.held_out else fitting).add(seen.student, seen.teacher)
        assert fitting is not None
        before = held_out.error(producer.weight, producer.bias)
        if before < _NOTHING:
            return False
        weight, bias = fitting.solve()
        if not held_out.error(weight, bias) < before:
            return False
        set_weights(producer, weight, bias)
        return True

    def _moments(self, source: SourceNorm, walk: Walk) -> tuple[LayerMoments, LayerMoments]:
        """Of the samples to fit on, and of those held out."""
        fitting, held_out = MomentAccumulator(), MomentAccumulator()
        for seen in walk.norm_inputs():
            try:
                (held_out if seen.held_out else fitting).add(
                    seen.student, _output(source, seen.teacher)
                )
            except NotFiniteError as error:
                raise NotFiniteError(f"{self.row.name}: {error}") from None
        return fitting.moments(), held_out.moments()

    def _fit(
        self,
        source: SourceNorm,
        fitting: LayerMoments,
        held_out: LayerMoments,
        more: Callable[[], LayerMoments | None],
        budget: ErrorBudget,
    ) -> tuple[LayerFit, float, str, Refit]:
        """The fit, its held-out error, why it has its groups, and how to fit in another order.

        Args:
            source: the teacher's norm.
            fitting: samples to fit on.
            held_out: other ones.
            more: rows of parts of maps, which join where a group has more scales and offsets than
                there are samples: these alone would be fitted as they happen to be.
            budget: of the network.
        """
        options = self.options
        least = None
        if source.var is not None:
            least = _LEAST_STD * source.var.double().cpu().sqrt()
        one = functools.partial(
            fit_layer,
            eps=self.row.eps,
            hybrid=options.hybrid,
            in_front=self.point.producer is not None or not options.plain,
            seed=self.seed,
        )

        def fit(moments: LayerMoments, groups: int, limits: FitLimits) -> LayerFit:
            few = 2 * moments.channels // groups > moments.samples
            parts = more() if few else None
            rows = moments if parts is None else moments.joined(parts)
            return one(rows, groups, limits=limits, least_std=least)

        def again(order: Tensor, groups: int) -> LayerFit:
            few = 2 * fitting.channels // groups > fitting.samples
            parts = more() if few else None
            rows = (fitting if parts is None else fitting.joined(parts)).reordered(order)
            deviations = None if least is None else least[order]
            return one(rows, groups, limits=options.limits, least_std=deviations)

        if options.free:
            choice = choose_groups(
                fitting, held_out, budget,
                min_channels=options.min_channels, fit=fit, limits=options.limits,
            )  # fmt: skip
            return choice.fit, choice.error, choice.reason, again
        fixed = fit(fitting, self.row.groups, limits=options.limits)
        return fixed, relative_error(fixed, held_out), "", again

    def _reordered(
        self,
        walk: Walk,
        producer: LinearLayer,
        fitting: LayerMoments,
        held_out: LayerMoments,
        fit: LayerFit,
        error: float,
        again: Refit,
    ) -> tuple[LayerFit, float]:
        """The fit of channels in another order, if it is nearer and the network allows it."""
        behind = walk.readers(self.point)
        if not behind or not can_reorder(producer) or fit.groups in (1, fitting.channels):
            return fit, error
        order = order_of(fitting, fit.groups)
        other = again(order, fit.groups)
        nearer = relative_error(other, held_out.reordered(order))
        if not nearer < error:
            return fit, error
        reorder_outputs(producer, order)
        for layer in behind:
            reorder_inputs(layer, order)
        self.moved = True
        return other, nearer

    def _parts(self, source: SourceNorm, walk: Walk) -> LayerMoments | None:
        """Rows of the halves or quarters of maps to fit on; None where they are too small."""
        parts = MomentAccumulator()
        found = False
        for seen in walk.norm_inputs():
            if seen.held_out:
                continue
            x, y = seen.student, _output(source, seen.teacher)
            for index in halves(x.shape[2:]):
                found = True
                parts.add(x[:, :, *index], y[:, :, *index])
        return parts.moments() if found else None

    def _check(self, fit: LayerFit) -> None:
        for value in (fit.input_scale, fit.input_shift, fit.weight, fit.bias):
            if not bool(value.isfinite().all()):
                raise ValueError(
                    f"{self.row.name}: the fit is not finite; leave it out with `only`"
                )

    def _fold(self, producer: LinearLayer, fit: LayerFit) -> None:
        groups = None
        if isinstance(producer, nn.modules.conv._ConvTransposeNd):
            groups = producer.groups
        weight, bias = fold_affine(
            producer.weight, producer.bias, fit.input_scale, fit.input_shift,
            transposed_groups=groups,
        )  # fmt: skip
        set_weights(producer, weight, bias)


def norm_of(student: Holder, name: str) -> tuple[FoundNorm, SourceNorm]:
    """A norm of the student, by its name below the holder."""
    found = next(norm for norm in find_norms(student, None) if name in norm.names)
    return found, read_norm(found.module, found.near)


def _fill(new: nn.Module, fit: LayerFit) -> None:
    """Give a new norm the values of a fit."""
    values = {
        "weight": fit.weight,
        "bias": fit.bias,
        "input_weight": fit.input_scale,
        "input_bias": fit.input_shift,
        "stored_mean": fit.stored_mean,
        "stored_var": fit.stored_var,
    }
    for key, value in values.items():
        own = getattr(new, key, None)
        if isinstance(own, Tensor):
            own.copy_(value)


def _output(source: SourceNorm, x: Tensor) -> Tensor:
    """What the teacher's norm makes of an input, before what follows it in its layer."""
    if source.groups is not None:
        return F.group_norm(x, source.groups, source.weight, source.bias, source.eps)
    return F.batch_norm(
        x, source.mean, source.var, source.weight, source.bias, training=False, eps=source.eps
    )
