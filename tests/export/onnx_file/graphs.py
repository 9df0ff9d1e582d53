"""ONNX models of one norm, written by hand in the ways that people and converters write it."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

EPS = 1e-5
C, G = 16, 4
D = C // G
SHAPE = (2, C, 6, 5)
LAST = (2, 6, 5, C)  # channels last, as TensorFlow and JAX have them


def affine(seed=0, channels=C):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.5, 1.5, channels), rng.uniform(-1, 1, channels)


def whole(*numbers):
    return np.array(numbers, np.int64)


class Net:
    """Nodes and constants, added in order: `net("Add", "x", array)` gives the output's name."""

    def __init__(self, dtype=np.float32, opset=18, prefix=""):
        self.dtype, self.opset, self.prefix = np.dtype(dtype), opset, prefix
        self.nodes, self.constants = [], []

    def constant(self, value, name=None):
        array = np.asarray(value)
        if array.dtype.kind == "f" and array.dtype != self.dtype and not name:
            array = array.astype(self.dtype)
        name = name or f"{self.prefix}c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def __call__(self, operator, *inputs, out=None, domain="", **attributes):
        names = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        out = out or f"{self.prefix}t{len(self.nodes)}"
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(operator, names, [out], name=name, domain=domain, **attributes)
        )
        return out

    def mean(self, x, *axes, operator="ReduceMean", keepdims=1):
        if self.opset < 18 and operator == "ReduceMean":
            return self(operator, x, axes=axes, keepdims=keepdims)
        return self(operator, x, whole(*axes), keepdims=keepdims)

    def model(self, shape, outputs=("y",), inputs=(("x", None),), functions=()):
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info(n, kind, s or shape) for n, s in inputs],
            [helper.make_tensor_value_info(n, kind, [None] * len(shape)) for n in outputs],
            self.constants,
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        opsets += [helper.make_opsetid(f.domain, 1) for f in functions]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=10, functions=list(functions)
        )


def operator(net, x="x", out="y", groups=G, channels=C):
    """GroupNormalization: of opset 21 with a scale for each channel, before for each group."""
    scale, shift = affine(channels=channels if net.opset >= 21 else groups)
    names = [
        net.constant(v.astype(net.dtype), f"{out}.{n}")
        for v, n in ((scale, "scale"), (shift, "bias"))
    ]
    return net("GroupNormalization", x, *names, out=out, num_groups=groups, epsilon=EPS)


def instance(net, x="x", out="y", subtract=False):
    """As PyTorch exports it; with the mean subtracted at first if wanted."""
    scale, shift = affine()
    view = net("Reshape", x, whole(0, G, -1))
    if subtract:
        view = net("Sub", view, net.mean(view, 2))
    y = net("InstanceNormalization", view, np.ones(G), np.zeros(G), epsilon=EPS)
    y = net("Reshape", y, net("Shape", x))
    y = net("Mul", y, scale.reshape(-1, 1, 1))
    return net("Add", y, shift.reshape(-1, 1, 1), out=out)


def layer(net, x="x", out="y"):
    """LayerNormalization of each group."""
    scale, shift = affine()
    view = net("Reshape", x, whole(0, G, -1))
    length = D * SHAPE[2] * SHAPE[3]
    y = net("LayerNormalization", view, np.ones(length), np.zeros(length), axis=-1, epsilon=EPS)
    y = net("Reshape", y, whole(*SHAPE))
    y = net("Mul", y, scale.reshape(-1, 1, 1))
    return net("Add", y, shift.reshape(-1, 1, 1), out=out)


def two_pass(net, x="x", out="y"):
    """(x - mean) / sqrt(variance + eps), as people write it."""
    scale, shift = affine()
    view = net("Reshape", x, whole(0, G, -1))
    d = net("Sub", view, net.mean(view, -1))
    variance = net.mean(net("Pow", d, np.array(2.0)), -1)
    y = net("Div", d, net("Sqrt", net("Add", variance, np.array(EPS))))
    y = net("Reshape", y, net("Shape", x))
    y = net("Mul", y, scale.reshape(-1, 1, 1))
    return net("Add", y, shift.reshape(-1, 1, 1), out=out)


def squares(net, x="x", out="y"):
    """The variance as mean(x^2) - mean(x)^2: digits cancel where the mean is large."""
    scale, shift = affine()
    view = net("Reshape", x, whole(0, G, -1))
    mean = net.mean(view, -1)
    variance = net("Sub", net.mean(net("Mul", view, view), -1), net("Mul", mean, mean))
    y = net("Div", net("Sub", view, mean), net("Sqrt", net("Add", variance, np.array(EPS))))
    y = net("Reshape", y, net("Shape", x))
    y = net("Mul", y, scale.reshape(-1, 1, 1))
    return net("Add", y, shift.reshape(-1, 1, 1), out=out)


def keras(net, x="x", out="y"):
    """Channels last, x * inv + (beta - mean * inv) in a view of five axes, as Keras has it."""
    scale, shift = affine()
    view = net("Reshape", x, whole(-1, LAST[1], LAST[2], G, D))
    mean = net.mean(view, 1, 2, 4)
    d = net("Sub", view, mean)
    variance = net.mean(net("Mul", d, d), 1, 2, 4)
    root = net("Sqrt", net("Add", variance, np.array(EPS)))
    inv = net("Mul", net("Reciprocal", root), scale.reshape(1, 1, 1, G, D))
    rest = net("Sub", shift.reshape(1, 1, 1, G, D), net("Mul", mean, inv))
    y = net("Add", net("Mul", view, inv), rest)
    return net("Reshape", y, net("Shape", x), out=out)


def flax(net, x="x", out="y"):
    """Channels last, mean(x^2) - mean(x)^2 that is not let below 0, spread over the channels."""
    scale, shift = affine()
    view = net("Reshape", x, whole(*LAST[:3], G, D))
    mean = net.mean(view, 1, 2, 4, keepdims=0)
    square = net.mean(net("Mul", view, view), 1, 2, 4, keepdims=0)
    variance = net("Max", net("Sub", square, net("Mul", mean, mean)), np.array(0.0))

    def spread(t):
        t = net("Expand", net("Unsqueeze", t, whole(2)), whole(LAST[0], G, D))
        return net("Reshape", t, whole(LAST[0], 1, 1, C))

    d = net("Sub", x, spread(mean))
    inv = net("Pow", net("Add", spread(variance), np.array(EPS)), np.array(-0.5))
    return net("Add", net("Mul", d, net("Mul", inv, scale)), shift, out=out)


def pooled(net, x="x", out="y"):
    """No view of the map: means over the positions, then 1x1 convolutions of each group."""
    scale, shift = affine()
    gather = net.constant(np.full((G, D, 1, 1), 1 / D, net.dtype))
    spread = net.constant(np.ones((C, 1, 1, 1), net.dtype))

    def mix(t):
        t = net("Conv", net.mean(t, 2, 3), gather, group=G)
        return net("Conv", t, spread, group=G)

    d = net("Sub", x, mix(x))
    r = mix(d)
    variance = net("Sub", mix(net("Mul", d, d)), net("Mul", r, r))
    root = net("Sqrt", net("Add", variance, np.array(EPS)))
    a = net("Mul", net("Reciprocal", root), scale.reshape(1, -1, 1, 1))
    b = net("Sub", shift.reshape(1, -1, 1, 1), net("Mul", r, a))
    return net("Add", net("Mul", d, a), b, out=out)


def branches():
    """A model that normalizes twice where its largest number is not 0, else once."""
    two, one = (Net(opset=21, prefix=prefix) for prefix in ("then_", "else_"))
    squares(two, operator(two, out="inner"), out="then_y")
    instance(one, out="else_y")
    kinds = {
        name: helper.make_graph(
            net.nodes,
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, SHAPE)],
            net.constants,
        )
        for name, net in (("then", two), ("else", one))
    }
    net = Net(opset=21)
    chosen = net("Cast", net("ReduceMax", "x", keepdims=0), to=TensorProto.BOOL)
    net("If", chosen, out="y", then_branch=kinds["then"], else_branch=kinds["else"])
    return net.model(SHAPE)


def expected(x, axis=1, channels=C, groups=G, weights=None):
    """Group norm in float64, of the rounded input."""
    scale, shift = affine(channels=channels) if weights is None else weights
    scale, shift = (v.astype(x.dtype).astype(np.float64) for v in (scale, shift))
    x = np.moveaxis(x.astype(np.float64), axis, 1)
    view = x.reshape(len(x), groups, -1)
    d = view - view.mean(2, keepdims=True)
    d = d - d.mean(2, keepdims=True)
    y = (d / np.sqrt((d * d).mean(2, keepdims=True) + EPS)).reshape(x.shape)
    at = (-1,) + (1,) * (x.ndim - 2)
    return np.moveaxis(y * scale.reshape(at) + shift.reshape(at), 1, axis)


def save(model, path):
    onnx.checker.check_model(model, full_check=False)
    onnx.save(model, path)
    return path
