"""Settings of Keras's layers beside those of PyTorch's modules: what the weights do not show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from keras import layers

from groupnorm.frameworks.keras.graph import (
    CHANNELS,
    PADDINGS,
    UNSEEN,
    Flattened,
    Graph,
    add,
    padding_of,
    torch_order,
)
from groupnorm.frameworks.weights.conventions import (
    Pads,
    each_axis,
    same_padding,
    torch_padding,
)
from groupnorm.frameworks.weights.norms import (
    BATCH_NORM,
    GROUP_NORM,
    LAYER_NORM,
    Norm,
    norms_differ,
)
from groupnorm.frameworks.weights.problems import Problems, differing
from groupnorm.frameworks.weights.transfer import Pair

CONVS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
NORMS = (layers.GroupNormalization, layers.LayerNormalization, layers.BatchNormalization)


def compare(model: Any, pairs: Sequence[Pair]) -> tuple[Problems, list[str]]:
    """What differs beside eps, and what could not be compared.

    Args:
        model: Keras's.
        pairs: path, layer, and PyTorch's module of this path.
    """
    below = model._flatten_layers(include_self=False)
    padded = [pair for pair in pairs if isinstance(pair[1], PADDINGS) and _torch_pads(pair[2])]
    graph = Graph(model, below, [layer for _, layer, _ in padded])
    convs = [
        pair
        for pair in pairs
        if isinstance(pair[1], (*CONVS, *TRANSPOSED, *DEPTHWISE))
        and hasattr(pair[2], "padding_mode")
    ]
    problems = norms_differ(pairs, norm)
    problems["axis of a norm"] = _axes_differ(pairs, graph)
    problems |= _convolutions_differ(pairs, convs)
    problems["padding"] = [
        f"{path}: pads {padding_of(layer)}, PyTorch {_torch_pads(module)}"
        for path, layer, module in padded
        if padding_of(layer) != _torch_pads(module)
    ]
    unseen = []
    elsewhere = graph.pads_by_operation or any(
        isinstance(layer, PADDINGS) and not graph.calls(layer) and layer not in _layers_of(padded)
        for layer in below
    )
    for path, layer, module in convs:
        if isinstance(layer, TRANSPOSED):
            problems["padding"] += _transposed_padding(path, layer, module)
        elif not module.transposed:
            lines, shown = _padding_differs(path, layer, module, graph, elsewhere)
            problems["padding"] += lines
            unseen += [] if shown else [path]
    flattened, hidden = _flattened(pairs, graph, below)
    problems["maps made of vectors: (C, H, W) in PyTorch, (H, W, C) in Keras"] = _unflattened(
        graph, below
    )
    problems["layers behind a flattened map: (C, H, W) in PyTorch, (H, W, C) in Keras"] = flattened
    warnings = [
        f"no graph shows what {what} in front of {', '.join(paths)}: compare the outputs of both "
        "models"
        for what, paths in (("pads", unseen), ("flattens", hidden))
        if paths
    ]
    return problems, warnings


# ---- Norms --------------------------------------------------------------------------------------


def norm(layer: Any) -> Norm | None:
    """What a norm of Keras's computes; None for any other layer."""
    if isinstance(layer, layers.GroupNormalization):
        return Norm(GROUP_NORM, layer.groups, getattr(layer, "activation", None))
    if isinstance(layer, layers.BatchNormalization):
        return Norm(BATCH_NORM)
    if isinstance(layer, layers.LayerNormalization):
        if getattr(layer, "rms_scaling", False):
            return Norm("layer norm with rms_scaling")
        axes = _axes_of(layer)
        return Norm(LAYER_NORM if len(axes) == 1 else f"layer norm over the axes {axes}")
    return None


def _axes_of(layer: Any) -> tuple[int, ...]:
    return tuple(layer.axis) if isinstance(layer.axis, (list, tuple)) else (layer.axis,)


def _axes_differ(pairs: Sequence[Pair], graph: Graph) -> list[str]:
    """Norms over another axis than that of the channels."""
    lines = []
    for path, layer, _ in pairs:
        shape = (layer.get_build_config() or {}).get("input_shape") if norm(layer) else None
        if shape is None or len(axes := _axes_of(layer)) != 1:
            continue
        rank = len(shape)
        inputs = [
            found for node in graph.calls(layer) for found in graph.axes_before(node)[:1]
        ] or [graph.default_axes(rank)]
        channels = {found.index(CHANNELS) + 1 for found in inputs if CHANNELS in found}
        if isinstance(layer, layers.LayerNormalization):
            channels.add(rank - 1)  # tokens have their features last whatever maps have
        if channels and axes[0] % rank not in channels:
            wanted = " or ".join(map(str, sorted(channels)))
            lines.append(f"{path}: axis={axes[0]}, where the channels are on axis {wanted}")
    return lines


# ---- Convolutions -------------------------------------------------------------------------------


def _convolutions_differ(pairs: Sequence[Pair], convs: Sequence[Pair]) -> Problems:
    problems: Problems = {
        "transposed convolutions beside others": differing(
            (path, isinstance(layer, TRANSPOSED), module.transposed)
            for path, layer, module in convs
        ),
        "groups of a convolution": differing(
            (path, _groups(layer), module.groups) for path, layer, module in convs
        ),
    }
    for heading, own_name, torch_name in (
        ("strides", "strides", "stride"),
        ("dilation", "dilation_rate", "dilation"),
    ):
        problems[heading] = differing(
            (path, tuple(own), each_axis(getattr(module, torch_name), len(own)))
            for path, layer, module in pairs
            if isinstance(own := getattr(layer, own_name, None), (tuple, list))
            and hasattr(module, torch_name)
        )
    problems["weight standardization (form, eps)"] = differing(
        (path, _standardized(layer), _standardized(module)) for path, layer, module in pairs
    )
    return problems


def _groups(layer: Any) -> int:
    if isinstance(layer, DEPTHWISE):
        return int(layer.kernel.shape[-2])
    return 1 if isinstance(layer, TRANSPOSED) else int(layer.groups)


def _standardized(module: Any) -> tuple[Any, Any]:
    return getattr(module, "ws_form", None), getattr(module, "ws_eps", None)


def _padding_differs(
    path: str, own: Any, module: Any, graph: Graph, elsewhere: bool
) -> tuple[list[str], bool]:
    """How a convolution pads otherwise than PyTorch's, and whether all that pads was seen.

    Args:
        path: of the layer.
        own: the layer.
        module: PyTorch's.
        graph: of the model.
        elsewhere: the model pads where its graph does not show it.
    """
    wanted = torch_padding(module)
    own_pads: Pads | None
    if own.padding == "same":
        own_pads = same_padding(own.kernel_size, own.strides, own.dilation_rate)
    elif own.padding == "causal":
        own_pads = ((own.dilation_rate[0] * (own.kernel_size[0] - 1), 0),)
    else:
        own_pads = ((0, 0),) * len(own.kernel_size)
    borders = [graph.border(node) for node in graph.calls(own)] or [UNSEEN]
    totals = [own_pads and add(own_pads, border.pads) for border in borders]
    cure = f"build it with padding='valid' behind ZeroPadding{len(own.kernel_size)}D({wanted})"
    for border in borders:
        if border.changed_by is not None and border.seen:
            return [
                f"{path}: {border.changed_by!r} makes other numbers of the zeros {border.pads} "
                f"that are padded in front of it, PyTorch pads {wanted} behind it; {cure}"
            ], True
    seen, zeros = all(border.seen for border in borders), module.padding_mode == "zeros"
    if all(total == wanted for total in totals) and zeros:
        return [], seen or not elsewhere
    if not seen and own.padding == "valid" and zeros:
        return [], False
    own_pads = next((total for total in totals if total != wanted), own_pads)
    how = "by the size of the map" if own_pads is None else f"{own_pads}"
    return [
        f"{path}: padding={own.padding!r} with strides {tuple(own.strides)} pads {how}, PyTorch "
        f"{wanted} ({module.padding_mode}); {cure}"
    ], True


def _torch_pads(module: Any) -> Pads | str | None:
    """What a padding module of PyTorch's pads, first axis first; None for any other module."""
    name = type(module).__name__
    if not re.fullmatch(r"(Zero|Constant|Reflection|Replication|Circular)Pad[123]d", name):
        return None
    if getattr(module, "value", 0) != 0 or not name.startswith(("Zero", "Constant")):
        return f"otherwise than with zeros ({name})"
    ends = module.padding
    return tuple((ends[i], ends[i + 1]) for i in range(len(ends) - 2, -1, -2))


def _transposed_padding(path: str, own: Any, module: Any) -> list[str]:
    """How a transposed convolution cuts its output otherwise than PyTorch's.

    "valid" is what PyTorch does without padding where the kernel is at least as long as the stride;
    what "same" cuts and pads is compared by nobody here.
    """
    if not hasattr(module, "output_padding") or not module.transposed:
        return []
    none = all(p == 0 for p in (*module.padding, *module.output_padding))
    long = all(k >= s for k, s in zip(own.kernel_size, own.strides, strict=True))
    if own.padding == "valid" and none and long and own.output_padding in (None, 0):
        return []
    if own.padding == "same" and none and tuple(own.kernel_size) == tuple(own.strides):
        return []
    return [
        f"{path}: transposed with padding={own.padding!r}, PyTorch's with padding={module.padding} "
        f"and output_padding={module.output_padding}; padding='valid' and no padding in PyTorch "
        "are the same"
    ]


# ---- Flattened maps -----------------------------------------------------------------------------


def _flattened(
    pairs: Sequence[Pair], graph: Graph, below: Iterable[Any]
) -> tuple[list[str], list[str]]:
    """Layers behind a map that was flattened in another order, and those where none shows."""
    elsewhere = any(isinstance(one, layers.Flatten) and not graph.calls(one) for one in below)
    lines: list[str] = []
    unseen: list[str] = []
    for path, layer, _ in pairs:
        if not isinstance(layer, (layers.Dense, *NORMS)):
            continue
        if not graph.calls(layer) and isinstance(layer, layers.Dense) and elsewhere:
            unseen.append(path)
        lines += {
            f"{path}: flattened by {axis.layer!r}; {axis.cure}"
            for node in graph.calls(layer)
            for axes in graph.axes_before(node)
            for axis in axes
            if isinstance(axis, Flattened) and not axis.as_in_torch
        }
    return lines, unseen


def _unflattened(graph: Graph, below: Iterable[Any]) -> list[str]:
    """Layers that make a map of a vector in another order."""
    lines = []
    for layer in below:
        for node in graph.calls(layer) if isinstance(layer, layers.Reshape) else ():
            size, shape = node.arguments.keras_tensors[0].shape[1:], node.outputs[0].shape[1:]
            order = graph.default_axes(len(shape) + 1)
            axes = [
                axis
                for axis, n in zip(order, shape, strict=True)
                if n != 1 and not isinstance(axis, Flattened)
            ]
            known = isinstance(graph.axes_before(node)[0][0], Flattened)
            if len(size) > 1 or len(shape) < 3 or known or graph.turned_behind(node):
                continue
            if tuple(axes) != torch_order(axes):
                lines.append(
                    f"{layer.name}: {shape}; build it with {(shape[-1], *shape[:-1])} in front of "
                    f"Permute({(*range(2, len(shape) + 1), 1)})"
                )
    return lines


def _layers_of(pairs: Iterable[Pair]) -> list[Any]:
    return [layer for _, layer, _ in pairs]
