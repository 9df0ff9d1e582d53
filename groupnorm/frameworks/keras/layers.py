"""Layers for Keras: group normalization, and convolutions with standardized weights."""

from __future__ import annotations

import warnings
from typing import Any

import keras
from keras import layers, ops

from groupnorm.frameworks.arguments import (
    channel_axis,
    check_activation,
    check_eps,
    check_form,
    check_input,
    check_kernel,
    group_count,
)
from groupnorm.frameworks.keras.group_norm import group_norm
from groupnorm.frameworks.keras.weight_standardization import standardize

_PACKAGE = "groupnorm"


@keras.saving.register_keras_serializable(_PACKAGE)
class GroupNormalization(layers.GroupNormalization):  # type: ignore[misc]
    """Keras's layer of this name, right far from zero, faster, and with an activation.

    Arguments, weights and their names are those of `keras.layers.GroupNormalization`, whose saved
    weights it loads; **`epsilon` is 1e-3 as there, where PyTorch has 1e-5**. Statistics are of
    centred values, in float32 under every policy, and the result is rounded once.

    A whole model that was saved with Keras's layer becomes one with this layer so::

        def with_ours(layer):
            own = type(layer) is keras.layers.GroupNormalization
            return (GroupNormalization if own else type(layer)).from_config(layer.get_config())

        saved = keras.saving.load_model("model.keras")
        model = keras.models.clone_model(saved, clone_function=with_ours, recursive=True)
        model.set_weights(saved.get_weights())

    Args:
        groups: number of groups, a divisor of the channels; -1 is one for each channel.
        axis: of the channels, not the batch axis.
        epsilon: added to the biased variance inside the root.
        activation: applied to the result: None or a name of `groupnorm.group_norm`, such as "relu"
            or "silu"; see `group_norm`.
        arguments: the others of `keras.layers.GroupNormalization`.

    Raises:
        ValueError: an unknown activation, an epsilon that is no number of at least 0, or groups
            that are not a positive integer or -1; when it is built, an axis or channels that do not
            fit, or input that is not floating-point.
    """

    def __init__(
        self,
        groups: int = 32,
        axis: int = -1,
        epsilon: float = 1e-3,
        *,
        activation: str | None = None,
        **arguments: Any,
    ) -> None:
        check_activation(activation)
        super().__init__(groups, axis, check_eps("epsilon", epsilon), **arguments)
        self.activation = activation
        self._groups_given = groups

    def build(self, input_shape: Any) -> None:
        """Make gamma and beta (C,)."""
        axis = channel_axis(input_shape, self.axis)
        channels = input_shape[axis]
        groups = group_count(input_shape, axis, channels if self.groups == -1 else self.groups)
        sizes = [size for i, size in enumerate(input_shape) if i not in (0, axis)]
        if groups == channels and all(size == 1 for size in sizes):
            warnings.warn(
                f"{self.name}: each of the {groups} groups holds one value of an input of shape "
                f"{tuple(input_shape)}; whatever the input, the output is beta",
                stacklevel=2,
            )
        super().build(input_shape)

    def compute_output_spec(self, inputs: Any) -> Any:
        """Shape and dtype of the output; raises for input that is not floating-point."""
        check_input(inputs.shape, keras.backend.standardize_dtype(inputs.dtype))
        return super().compute_output_spec(inputs)

    def call(self, inputs: Any) -> Any:
        """Normalize a tensor (N, *, C), or with the channels on `axis`; the same shape."""
        # Keras casts neither inputs nor variables of this layer to its policy: dtypes may differ.
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        gamma, beta = (
            values if values is None or values.dtype == dtype else ops.cast(values, dtype)
            for values in (self.gamma, self.beta)
        )
        y = group_norm(inputs, self.groups, gamma, beta, self.epsilon, self.activation, self.axis)
        return ops.cast(y, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """What makes the same layer, with `groups` as they were given."""
        return {
            **super().get_config(),
            "groups": self._groups_given,
            "activation": self.activation,
        }


class _Standardized:
    """A convolution whose kernel is standardized whenever it is used.

    Gradients go through the standardization to the variable, which keeps its own values; it is
    standardized in its own precision and rounded to the policy's afterwards.
    """

    ws_form: str
    ws_eps: float

    def __init__(
        self, *arguments: Any, ws_form: str = "timm", ws_eps: float | None = None, **options: Any
    ) -> None:
        self_eps = check_form(ws_form, ws_eps)
        super().__init__(*arguments, **options)
        self.ws_form = ws_form
        self.ws_eps = self_eps

    def build(self, input_shape: Any) -> None:
        """Make kernel and bias."""
        super().build(input_shape)  # type: ignore[misc]
        kernel: Any = self._kernel  # type: ignore[attr-defined]
        check_kernel(kernel.shape, kernel.dtype)
        kernel._autocast = False

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """The convolution with the standardized kernel."""
        standardized = standardize(kernel, self.ws_form, self.ws_eps)
        return super().convolution_op(inputs, ops.cast(standardized, inputs.dtype))  # type: ignore[misc]

    def get_config(self) -> dict[str, Any]:
        """What makes the same layer."""
        return {**super().get_config(), "ws_form": self.ws_form, "ws_eps": self.ws_eps}  # type: ignore[misc]


@keras.saving.register_keras_serializable(_PACKAGE)
class WSConv1D(_Standardized, layers.Conv1D):  # type: ignore[misc]
    """`WSConv2D` over sequences."""

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """The convolution with the standardized kernel."""
        if self.padding != "causal":
            return super().convolution_op(inputs, kernel)
        standardized = standardize(kernel, self.ws_form, self.ws_eps)
        return ops.conv(
            ops.pad(inputs, self._compute_causal_padding()),
            ops.cast(standardized, inputs.dtype),
            strides=list(self.strides), padding="valid", dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )  # fmt: skip

    def call(self, inputs: Any) -> Any:
        """As the other convolutions: Keras's own of one dimension passes by `convolution_op`."""
        return super(layers.Conv1D, self).call(inputs)


@keras.saving.register_keras_serializable(_PACKAGE)
class WSConv2D(_Standardized, layers.Conv2D):  # type: ignore[misc]
    """`keras.layers.Conv2D` with standardized weights (Qiao et al., arXiv 1903.10520).

    Args:
        arguments: those of `keras.layers.Conv2D`, with any padding, strides, dilation, groups and
            data format.
        ws_form: where eps goes and how large it is: "timm", "bit" or "original"; see `standardize`.
        ws_eps: None takes the form's.

    Raises:
        ValueError: unknown form, eps outside (0, 1), or, when it is built, filters of one weight.
    """


@keras.saving.register_keras_serializable(_PACKAGE)
class WSConv3D(_Standardized, layers.Conv3D):  # type: ignore[misc]
    """`WSConv2D` over volumes."""
