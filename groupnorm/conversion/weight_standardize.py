"""Weight standardization of the convolutions of an existing model, in place."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from groupnorm.conversion.example import check_not_compiled
from groupnorm.layers.base import FxLeaf
from groupnorm.ops.weight_standardization import (
    WS_FORMS,
    check_form,
    filter_moments,
    standardize,
)


class WeightStandardization(FxLeaf, nn.Module):
    """A parametrization for `torch.nn.utils.parametrize`: `standardize` with its arguments bound.

    Example:
        >>> conv = nn.Conv2d(3, 8, 3)
        >>> _ = parametrize.register_parametrization(conv, "weight", WeightStandardization("bit"))

    Args:
        form: and eps and transposed_groups, as in `standardize`.
    """

    form: str = "timm"
    eps: float = WS_FORMS["timm"]
    transposed_groups: int | None = None

    def __init__(
        self,
        form: str = "timm",
        eps: float | None = None,
        *,
        transposed_groups: int | None = None,
    ) -> None:
        super().__init__()
        self.form = form
        self.eps = check_form(form, eps)
        self.transposed_groups = transposed_groups

    def forward(self, weight: Tensor) -> Tensor:
        """The standardized weight, of the same shape."""
        return standardize(weight, self.form, self.eps, transposed_groups=self.transposed_groups)

    def extra_repr(self) -> str:
        """The form and its eps."""
        return f"form={self.form!r}, eps={self.eps}"


class RescaledWeightStandardization(WeightStandardization):
    """Weight standardization that gives each filter the mean and deviation it has now.

    The buffers `mean` and `divisor` are those of the pretrained weight, which the parametrized
    weight therefore equals at the start, to rounding (ConvAWS of the detectors with switchable
    atrous convolution: Qiao et al. 2020, arXiv 2006.02334). Training changes the filters' shape,
    and their mean and deviation stay.

    Args:
        weight: of the convolution. The others as in `standardize`.
    """

    mean: Tensor
    divisor: Tensor

    def __init__(
        self,
        weight: Tensor,
        form: str = "timm",
        eps: float | None = None,
        *,
        transposed_groups: int | None = None,
    ) -> None:
        super().__init__(form, eps, transposed_groups=transposed_groups)
        moments = filter_moments(
            weight.detach(), form, self.eps, transposed_groups=transposed_groups
        )
        for name, value in zip(("mean", "divisor"), moments, strict=True):
            self.register_buffer(name, value)

    def forward(self, weight: Tensor) -> Tensor:
        """The standardized weight with the first one's moments, of the same shape and dtype."""
        standardized = super().forward(weight.to(self.mean.dtype))
        return (standardized * self.divisor + self.mean).to(weight.dtype)


def standardize_weights(
    model: nn.Module,
    form: str = "timm",
    eps: float | None = None,
    *,
    skip: Collection[str] = (),
) -> list[str]:
    """Standardize the convolutions of a pretrained model so that it computes what it did.

    As `standardize_convolutions`, but each filter keeps its mean and deviation
    (`RescaledWeightStandardization`): the model's weights are the same at the start, to rounding.
    Fine-tuning goes on from there under weight standardization.

    Args:
        model: and form, eps, skip: as in `standardize_convolutions`.

    Returns:
        The names of the convolutions changed, in the model's order.

    Raises:
        ValueError: as `standardize_convolutions`. The model is unchanged.
    """

    def rescaled(conv: _ConvNd, groups: int | None) -> WeightStandardization:
        return RescaledWeightStandardization(conv.weight, form, eps, transposed_groups=groups)

    return _parametrize(model, rescaled, form, eps, skip)


def standardize_convolutions(
    model: nn.Module,
    form: str = "timm",
    eps: float | None = None,
    *,
    skip: Collection[str] = (),
) -> list[str]:
    """Standardize the weights of every convolution of a model before use; the model is changed.

    Plain and transposed convolutions of 1 to 3 dimensions, by
    `torch.nn.utils.parametrize`: the learned weight moves to the key
    `<name>.parametrizations.weight.original`, and
    `parametrize.remove_parametrizations(conv, "weight")` writes the standardized weight back as an
    ordinary one, for export. A model that is built new takes `conv_layer("...+ws")` instead.

    Args:
        model: any module; itself, if it is a convolution.
        form: and eps, as in `standardize`.
        skip: names of convolutions to leave as they are, as in `model.named_modules()`.

    Returns:
        The names of the convolutions changed, in the model's order.

    Raises:
        ValueError: a name in `skip` is no convolution; a convolution has filters of one weight,
            or is standardized already; the model is compiled; unknown form, eps outside (0, 1). The
            model is unchanged.
    """

    def plain(conv: _ConvNd, groups: int | None) -> WeightStandardization:
        return WeightStandardization(form, eps, transposed_groups=groups)

    return _parametrize(model, plain, form, eps, skip)


def _parametrize(
    model: nn.Module,
    make: Callable[[_ConvNd, int | None], WeightStandardization],
    form: str,
    eps: float | None,
    skip: Collection[str],
) -> list[str]:
    """Register what `make` gives for each convolution, once all of them fit."""
    check_form(form, eps)
    check_not_compiled(model)
    found = {name: m for name, m in model.named_modules() if isinstance(m, _ConvNd)}
    unknown = sorted(set(skip) - set(found))
    if unknown:
        raise ValueError(f"skip names what is no convolution of the model: {', '.join(unknown)}")
    chosen = {name: conv for name, conv in found.items() if name not in skip}
    parametrizations = {}
    for name, conv in chosen.items():
        if hasattr(conv, "standardized_weight") or parametrize.is_parametrized(conv, "weight"):
            raise ValueError(f"the weight of {name!r} is standardized or parametrized already")
        groups = conv.groups if conv.transposed else None
        try:
            parametrizations[name] = make(conv, groups)
            standardize(conv.weight.detach().to("meta"), form, eps, transposed_groups=groups)
        except ValueError as error:
            raise ValueError(f"{name!r}: {error}; name it in skip") from None
    for name, conv in chosen.items():
        parametrize.register_parametrization(conv, "weight", parametrizations[name])
        _give_copies_their_own_class(type(conv))
    return list(chosen)


def _give_copies_their_own_class(parametrized: Any) -> None:
    """Have deep copies of a parametrized layer of this class get a class of their own.

    The class has the property that computes the weight. PyTorch's deep copies share it, so that
    `remove_parametrizations` on one takes the weight from all of them.
    """
    deep_copy = parametrized.__deepcopy__

    def copied(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
        copy: nn.Module = deep_copy(self, memo)
        kind = type(self)
        members = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
        copy.__class__ = type(kind.__name__, kind.__bases__, members)
        return copy

    parametrized.__deepcopy__ = copied
