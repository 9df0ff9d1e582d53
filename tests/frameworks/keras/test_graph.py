"""What lies in front of a layer: order of the axes, padding."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from groupnorm.frameworks.keras.graph import Border, Flattened, Graph, add  # noqa: E402

layers = keras.layers


def graph_of(model, compared=()):
    return Graph(model, model._flatten_layers(include_self=False), compared)


def chain(*parts, shape=(8, 6, 2)):
    inputs = x = keras.Input(shape)
    for part in parts:
        x = part(x)
    return keras.Model(inputs, x)


def axes_before_last(*parts, **options):
    model = chain(*parts, layers.Identity(name="last"), **options)
    graph = graph_of(model)
    (call,) = graph.calls(model.get_layer("last"))
    return graph.axes_before(call)


def border_of_last(*parts, compared=()):
    model = chain(*parts, layers.Identity(name="last"))
    graph = graph_of(model, compared)
    (call,) = graph.calls(model.get_layer("last"))
    return graph.border(call)


def test_axes():
    assert axes_before_last() == [(0, 1, "C")]
    assert axes_before_last(layers.Permute((3, 1, 2))) == [("C", 0, 1)]
    assert axes_before_last(layers.Dense(3), shape=(5,)) == [("C",)]
    first = layers.Conv2D(2, 1, data_format="channels_first")
    assert axes_before_last(first, layers.Dropout(0.5)) == [("C", 0, 1)]
    assert axes_before_last(layers.GlobalAveragePooling2D(), layers.Reshape((1, 1, 2))) == [
        (0, 1, "C")
    ]


def test_a_flattened_axis_says_of_what():
    ((axis,),) = axes_before_last(layers.Flatten(name="flat"))
    assert axis == Flattened((0, 1, "C"), "flat", "put Permute((3, 1, 2)) before it")
    assert not axis.as_in_torch
    ((axis,),) = axes_before_last(layers.Permute((3, 1, 2)), layers.Flatten())
    assert axis.as_in_torch
    assert axes_before_last(layers.Flatten(), shape=(1, 1, 4)) == [("C",)]


def test_axes_behind_operations():
    ops = keras.ops
    assert axes_before_last(lambda x: ops.transpose(x, (0, 3, 1, 2))) == [("C", 0, 1)]
    ((axis,),) = axes_before_last(
        lambda x: ops.reshape(x, (-1, 96)), lambda x: ops.relu(x), lambda x: x + 1.0
    )
    assert axis.axes == (0, 1, "C")


PAD = ((1, 1), (1, 1))


def test_borders():
    assert border_of_last() == Border()
    assert border_of_last(layers.ZeroPadding2D(1)) == Border(PAD)
    assert border_of_last(layers.ZeroPadding2D(1), layers.ELU(), layers.PReLU()) == Border(PAD)
    assert border_of_last(layers.ZeroPadding2D(1), layers.Rescaling(2, name="by")) == Border(PAD)
    assert border_of_last(layers.ZeroPadding2D(1), layers.Rescaling(2, 1, name="by")) == Border(
        PAD, "by"
    )
    assert border_of_last(layers.ZeroPadding2D(1), layers.MaxPooling2D(2)) == Border()
    assert border_of_last(layers.ZeroPadding2D(1), layers.Cropping2D(1)) == Border(PAD, seen=False)
    pad = layers.ZeroPadding2D(1)
    assert border_of_last(pad, compared=[pad]) == Border()
    assert not border_of_last(lambda x: keras.ops.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])).seen


def test_branches_that_differ_are_unseen():
    inputs = keras.Input((8, 6, 2))
    padded = layers.ZeroPadding2D(1)(inputs)
    other = layers.Conv2D(2, 1)(padded)
    last = layers.Identity(name="last")
    model = keras.Model(inputs, last(layers.Add()([padded, other])))
    graph = graph_of(model)
    assert graph.border(graph.calls(last)[0]) == Border(PAD, seen=False)


def test_what_a_subclassed_model_calls_is_unknown():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="d")])

        def call(self, x):
            return self.inner(x)

    model = Model()
    model(np.zeros((1, 3), np.float32))
    graph = graph_of(model)
    assert graph.calls(model.inner) == []
    (call,) = graph.calls(model.inner.get_layer("d"))
    assert not graph.border(call).seen


def test_sums_of_pads():
    assert add((), PAD) == add(PAD, ()) == PAD
    assert add(PAD, ((0, 2), (1, 0))) == ((1, 3), (2, 1))
