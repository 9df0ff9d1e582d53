"""Group norms are found however they are written, and nothing else is."""

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")

import onnx
from onnx import TensorProto, helper, parser

from groupnorm.export.onnx_file import inspect
from groupnorm.export.onnx_file.faults import (
    CONTRIB,
    INSTANCE,
    LAYER,
    OPERATOR,
    POOLED,
    SHIFTED,
    SQUARES,
    TWO_PASS,
)
from tests.export.onnx_file import graphs
from tests.export.onnx_file.graphs import EPS, LAST, SHAPE, C, D, G, Net, save, whole
from tests.tolerances import FIVE_DIGITS

FORMS = {
    graphs.operator: (OPERATOR, True),
    graphs.instance: (INSTANCE, False),
    graphs.layer: (LAYER, True),
    graphs.two_pass: (TWO_PASS, False),
    graphs.squares: (SQUARES, True),
    graphs.keras: (TWO_PASS, False),
    graphs.flax: (SQUARES, True),
    graphs.pooled: (POOLED, False),
}
CHANNELS_LAST = (graphs.keras, graphs.flax)


def written(write, path, dtype=np.float32, opset=21, **options):
    net = Net(dtype, opset)
    write(net, **options)
    return save(net.model(LAST if write in CHANNELS_LAST else SHAPE), path)


def found(model, path):
    return inspect(save(model, path)).norms


@pytest.mark.parametrize("opset", [13, 18, 21])
@pytest.mark.parametrize("write", FORMS, ids=lambda f: f.__name__)
def test_every_form_is_found(write, opset, tmp_path):
    if (write, opset) in {(graphs.layer, 13), (graphs.operator, 13), (graphs.operator, 18)}:
        pytest.skip("the operator is of a later opset, or another one in this")
    (norm,) = inspect(written(write, tmp_path / "a.onnx", opset=opset)).norms
    form, is_wrong = FORMS[write]
    last = write in CHANNELS_LAST
    assert (norm.form, norm.is_wrong, norm.channels_last) == (form, is_wrong, last)
    assert (norm.channels, norm.groups, norm.eps, norm.dtype) == (C, G, EPS, "float32")
    assert (norm.input, norm.output, norm.affine) == ("x", "y", "scale and shift")
    assert norm.shape == (LAST if last else SHAPE)
    assert norm.kept == ""


@pytest.mark.parametrize(
    ("write", "is_wrong"),
    [(graphs.instance, False), (graphs.two_pass, True), (graphs.squares, True),
     (graphs.pooled, False), (graphs.keras, True)],
    ids=lambda f: getattr(f, "__name__", ""),
)  # fmt: skip
def test_float16_is_judged_by_its_own_roundings(write, is_wrong, tmp_path):
    """Two passes whose mean is rounded to float16 lose what the mean has more than the spread."""
    (norm,) = inspect(written(write, tmp_path / "a.onnx", np.float16)).norms
    assert (norm.dtype, norm.is_wrong) == ("float16", is_wrong)


def test_a_mean_that_is_subtracted_at_first_is_seen(tmp_path):
    (norm,) = inspect(written(graphs.instance, tmp_path / "a.onnx", subtract=True)).norms
    assert (norm.form, norm.input, norm.faults) == (SHIFTED, "x", ())


@pytest.mark.parametrize("groups", [1, 2, 8, C])
def test_any_number_of_groups(groups, tmp_path):
    net = Net()
    view = net("Reshape", "x", whole(0, groups, -1))
    d = net("Sub", view, net.mean(view, -1))
    root = net("Sqrt", net("Add", net.mean(net("Mul", d, d), -1), np.array(EPS)))
    net("Reshape", net("Div", d, root), net("Shape", "x"), out="y")
    (norm,) = found(net.model(SHAPE), tmp_path / "a.onnx")
    assert (norm.groups, norm.channels, norm.affine) == (groups, C, "none")


@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-6, 1e-3, 0.5])
def test_eps_is_told(eps, tmp_path):
    net = Net()
    view = net("Reshape", "x", whole(0, G, -1))
    d = net("Sub", view, net.mean(view, -1))
    root = net("Sqrt", net("Add", net.mean(net("Mul", d, d), -1), np.array(eps)))
    net("Reshape", net("Div", d, root), net("Shape", "x"), out="y")
    (norm,) = found(net.model(SHAPE), tmp_path / "a.onnx")
    assert norm.eps == pytest.approx(eps, rel=FIVE_DIGITS)


# ---- What is not group norm ---------------------------------------------------------------------


def normalized(net, view, *axes, variance=None, root=None):
    d = net("Sub", view, net.mean(view, *axes))
    square = net.mean(net("Mul", d, d), *axes) if variance is None else variance(d)
    below = net("Sqrt", net("Add", square, np.array(EPS))) if root is None else root(square)
    return net("Div", d, below)


def layer_norm_of_tokens(net):
    net("Identity", normalized(net, "x", -1), out="y")


def layer_norm_in_rows(net):
    view = net("Reshape", "x", whole(-1, SHAPE[-1]))
    net("Reshape", normalized(net, view, -1), net("Shape", "x"), out="y")


def layer_norm_with_a_scale_for_each_element(net):
    view = net("Reshape", "x", whole(0, 1, -1))
    y = net("Reshape", normalized(net, view, -1), net("Shape", "x"))
    scale = np.random.default_rng(0).uniform(0.5, 1.5, SHAPE[1:])
    net("Mul", y, scale, out="z")
    net("Relu", "z", out="y")


def layer_norm_over_all_but_the_batch(net):
    net("Identity", normalized(net, "x", 1, 2, 3), out="y")


def instance_norm(net):
    net("InstanceNormalization", "x", np.ones(C), np.zeros(C), epsilon=EPS, out="y")


def instance_norm_in_elementary_operators(net):
    net("Identity", normalized(net, "x", 2, 3), out="y")


def batch_norm_of_a_batch(net):
    net("Identity", normalized(net, "x", 0, 2, 3), out="y")


def groups_with_the_batch(net):
    view = net("Reshape", "x", whole(SHAPE[0], G, -1))
    net("Reshape", normalized(net, view, 0, 2), net("Shape", "x"), out="y")


def interleaved_groups(net):
    """Channel c in group c mod G, as after a channel shuffle that is never undone."""
    view = net("Reshape", "x", whole(0, D, G, -1))
    net("Reshape", normalized(net, view, 1, 3), net("Shape", "x"), out="y")


def positions_apart(net):
    view = net("Reshape", "x", whole(0, G, D, *SHAPE[2:]))
    net("Reshape", normalized(net, view, 2), net("Shape", "x"), out="y")


def eps_outside_of_the_root(net):
    view = net("Reshape", "x", whole(0, G, -1))
    y = normalized(net, view, -1, root=lambda v: net("Add", net("Sqrt", v), np.array(1e-3)))
    net("Reshape", y, net("Shape", "x"), out="y")


def no_mean(net):
    """RMS norm of groups."""
    view = net("Reshape", "x", whole(0, G, -1))
    root = net("Sqrt", net("Add", net.mean(net("Mul", view, view), -1), np.array(EPS)))
    net("Reshape", net("Div", view, root), net("Shape", "x"), out="y")


def mean_of_another_tensor(net):
    view = net("Reshape", "x", whole(0, G, -1))
    other = net("Reshape", net("Sigmoid", "x"), whole(0, G, -1))
    d = net("Sub", view, net.mean(other, -1))
    root = net("Sqrt", net("Add", net.mean(net("Mul", d, d), -1), np.array(EPS)))
    net("Reshape", net("Div", d, root), net("Shape", "x"), out="y")


def deviation_alone(net):
    view = net("Reshape", "x", whole(0, G, -1))
    d = net("Sub", view, net.mean(view, -1))
    root = net("Sqrt", net("Add", net.mean(net("Mul", d, d), -1), np.array(EPS)))
    net("Reshape", net("Mul", view, root), net("Shape", "x"), out="y")


OTHERS = [
    layer_norm_of_tokens, layer_norm_in_rows, layer_norm_over_all_but_the_batch, instance_norm,
    instance_norm_in_elementary_operators, batch_norm_of_a_batch, groups_with_the_batch,
    interleaved_groups, positions_apart, eps_outside_of_the_root, no_mean, mean_of_another_tensor,
    deviation_alone,
]  # fmt: skip


@pytest.mark.parametrize("write", OTHERS, ids=lambda f: f.__name__)
def test_what_only_looks_like_it_is_not_listed(write, tmp_path):
    net = Net()
    write(net)
    inspection = inspect(save(net.model(SHAPE), tmp_path / "a.onnx"))
    assert inspection.norms == ()
    assert inspection.not_looked_into == ()


def test_a_scale_for_each_element_is_none_of_the_norm(tmp_path):
    """What follows the normalization of one group is then not taken for its scale."""
    net = Net()
    layer_norm_with_a_scale_for_each_element(net)
    (norm,) = found(net.model(SHAPE), tmp_path / "a.onnx")
    assert (norm.groups, norm.affine, norm.output) == (1, "none", net.nodes[-3].output[0])


@pytest.mark.parametrize(("sizes", "count"), [((2, C, "h", "w"), 0), (SHAPE, 1)])
def test_an_unbiased_variance_is_another_norm_where_sizes_change(sizes, count, tmp_path):
    """Where they cannot it is group norm with another scale, and listed as that."""
    net = Net()
    view = net("Reshape", "x", whole(0, G, -1))

    def unbiased(d):
        size = net("Cast", net("Gather", net("Shape", view), whole(2)), to=TensorProto.FLOAT)
        total = net.mean(net("Mul", d, d), -1, operator="ReduceSum")
        return net("Div", total, net("Sub", size, np.array(1.0)))

    y = normalized(net, view, -1, variance=unbiased)
    net("Reshape", y, net("Shape", "x"), out="y")
    norms = found(net.model(sizes), tmp_path / "a.onnx")
    assert len(norms) == count
    assert all(norm.affine == "scale" for norm in norms)


# ---- Where it stands ----------------------------------------------------------------------------


def test_what_else_reads_a_tensor_between_is_named(tmp_path):
    net = Net()
    graphs.squares(net)
    mean = next(node.output[0] for node in net.nodes if node.op_type == "ReduceMean")
    (norm,) = found(net.model(SHAPE, outputs=("y", mean)), tmp_path / "a.onnx")
    assert norm.is_wrong
    assert norm.kept == f"{mean!r} between its operators is read elsewhere, too"


def test_a_normalized_tensor_that_is_read_before_the_scale_ends_the_norm(tmp_path):
    net = Net()
    graphs.squares(net)
    plain = net.nodes[-2].input[0]
    net("Relu", plain, out="z")
    (norm,) = found(net.model(SHAPE, outputs=("y", "z")), tmp_path / "a.onnx")
    assert (norm.output, norm.affine, norm.kept) == (plain, "none", "")


def test_the_sum_with_the_input_is_not_part_of_it(tmp_path):
    net = Net()
    graphs.squares(net, out="n")
    net("Add", "x", "n", out="y")
    (norm,) = found(net.model(SHAPE), tmp_path / "a.onnx")
    assert norm.output == "n"


def test_several_in_a_row_are_told_apart(tmp_path):
    net = Net(opset=21)
    graphs.squares(net, out="a")
    graphs.instance(net, net("Relu", "a"), out="b")
    graphs.operator(net, net("Sigmoid", "b"), out="c")
    graphs.two_pass(net, "c", out="y")
    norms = found(net.model(SHAPE), tmp_path / "a.onnx")
    assert [norm.form for norm in norms] == [SQUARES, INSTANCE, OPERATOR, TWO_PASS]
    assert [norm.output for norm in norms] == ["a", "b", "c", "y"]


@pytest.mark.parametrize("sizes", [("n", C, "h", "w"), (None, C, None, None), (1, C, None, 5)])
@pytest.mark.parametrize(
    "write",
    [graphs.operator, graphs.instance, graphs.two_pass, graphs.squares, graphs.pooled],
    ids=lambda f: f.__name__,
)
def test_sizes_may_change(write, sizes, tmp_path):
    net = Net(opset=21)
    write(net)
    (norm,) = found(net.model(sizes), tmp_path / "a.onnx")
    assert (norm.channels, norm.groups) == (C, G)
    assert norm.shape == tuple(size or "" for size in sizes)


def from_nowhere(net):
    """A tensor of which nothing is known."""
    return net("FromNowhere", "x", domain="somebody.else")


def model_from_nowhere(net):
    model = net.model(SHAPE)
    model.opset_import.append(helper.make_opsetid("somebody.else", 1))
    return model


@pytest.mark.parametrize(
    "write",
    [graphs.operator, graphs.instance, graphs.squares, graphs.pooled],
    ids=lambda f: f.__name__,
)
def test_a_shape_may_be_unknown(write, tmp_path):
    net = Net(opset=21)
    write(net, from_nowhere(net))
    (norm,) = found(model_from_nowhere(net), tmp_path / "a.onnx")
    assert (norm.shape, norm.groups, norm.channels, norm.dtype) == (None, G, C, "")


def test_a_number_of_channels_that_nothing_tells_is_not_guessed(tmp_path):
    net = Net(opset=21)
    hidden = from_nowhere(net)
    view = net("Reshape", hidden, whole(0, G, -1))
    y = net("InstanceNormalization", view, np.ones(G), np.zeros(G), epsilon=EPS)
    net("Relu", net("Reshape", y, net("Shape", hidden)), out="y")
    (norm,) = found(model_from_nowhere(net), tmp_path / "a.onnx")
    assert (norm.groups, norm.channels, norm.affine) == (G, 0, "none")


def test_the_operator_of_opset_18_has_a_scale_for_each_group(tmp_path):
    net = Net(opset=18)
    graphs.operator(net)
    path = tmp_path / "a.onnx"
    onnx.save(net.model(SHAPE), path)  # onnx.checker calls it deprecated
    (norm,) = inspect(path).norms
    assert (norm.channels, norm.groups) == (C, G)
    assert {fault.runtime for fault in norm.faults} == {"ONNX Runtime", "ONNX"}


def test_one_group_is_another_fault_of_the_operator(tmp_path):
    net = Net(opset=21)
    graphs.operator(net, groups=1)
    (norm,) = found(net.model(SHAPE), tmp_path / "a.onnx")
    assert "TensorRT 10.16" in {fault.runtime for fault in norm.faults}


def test_the_operator_of_onnx_runtime_for_gpus_is_listed_and_left(tmp_path):
    net = Net()
    net("GroupNorm", "x", np.ones(C), np.zeros(C), out="y", domain="com.microsoft", groups=G,
        epsilon=EPS, activation=0, channels_last=1)  # fmt: skip
    (norm,) = found(net.model(LAST), tmp_path / "a.onnx")
    assert (norm.form, norm.channels_last, norm.channels) == (CONTRIB, True, C)
    assert norm.is_wrong
    assert "GPU" in norm.kept


def test_graphs_inside_of_nodes_are_looked_into(tmp_path):
    norms = found(graphs.branches(), tmp_path / "a.onnx")
    assert {(norm.graph, norm.form) for norm in norms} == {
        ("If If_2, then_branch", OPERATOR),
        ("If If_2, then_branch", SQUARES),
        ("If If_2, else_branch", INSTANCE),
    }


def test_functions_are_counted(tmp_path):
    net = Net(opset=21)
    node = helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=G)
    function = helper.make_function(
        "my.own", "Norm", ["x", "s", "b"], ["y"], [node, node], [helper.make_opsetid("", 21)]
    )
    del function.node[1]
    net("Norm", "x", np.ones(C), np.zeros(C), out="y", domain="my.own")
    inspection = inspect(save(net.model(SHAPE, functions=[function]), tmp_path / "a.onnx"))
    assert inspection.norms == ()
    assert inspection.not_looked_into == (
        "function my.own.Norm: 1 node GroupNormalization; functions are not looked into",
    )


def test_one_that_is_too_large_to_compute_is_named(tmp_path):
    net = Net()
    graphs.squares(net)
    inspection = inspect(save(net.model((2, C, 2048, 2048)), tmp_path / "a.onnx"))
    assert inspection.norms == ()
    (said,) = inspection.not_looked_into
    assert said.startswith("Sqrt Sqrt_")
    assert "too large to be computed" in said


def test_the_text_form_of_onnx(tmp_path):
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 21]>
        agraph (float[N, 8, H, W] x) => (float[N, 8, H, W] y)
        <float[8] s = {1, 2, 3, 4, 5, 6, 7, 8}, float[8] b = {0, 0, 0, 0, 0, 0, 0, 1}>
        { y = GroupNormalization <num_groups = 2, epsilon = 0.001> (x, s, b) }
    """)
    (norm,) = found(model, tmp_path / "a.onnx")
    assert (norm.groups, norm.eps, norm.shape) == (2, 0.001, ("N", 8, "H", "W"))


def test_a_file_without_any(tmp_path):
    net = Net()
    net("Relu", "x", out="y")
    inspection = inspect(save(net.model(SHAPE), tmp_path / "a.onnx"))
    assert (inspection.norms, inspection.not_looked_into, inspection.opset) == ((), (), 18)
