"""A repaired file is right in ONNX Runtime at every offset, and else the file that it was."""

import os
import sys

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

import onnx
from onnx import TensorProto, helper

from groupnorm.export.errors import ExportError
from groupnorm.export.onnx_file import inspect, repair
from groupnorm.export.onnx_file.accurate import write_accurate
from groupnorm.export.onnx_file.faults import SHIFTED, TWO_PASS
from tests.export.onnx_file import graphs
from tests.export.onnx_file.graphs import EPS, LAST, SHAPE, C, G, Net, expected, save, whole
from tests.export.onnx_file.runtime import allowed, assert_accurate, draws, session

WRONG = [graphs.operator, graphs.layer, graphs.squares, graphs.flax]
names = lambda values: [value.name for value in values]  # noqa: E731


def made(write, path, dtype=np.float32, opset=21, sizes=None, **options):
    net = Net(dtype, opset)
    write(net, **options)
    return save(net.model(sizes or (LAST if write is graphs.flax else SHAPE)), path)


def repaired(path, **options):
    out = path.with_name("out.onnx")
    report = repair(path, out, **options)
    assert report.out == out
    onnx.checker.check_model(str(out), full_check=True)
    return out


def axis(write):
    return -1 if write in (graphs.flax, graphs.keras) else 1


@pytest.mark.parametrize("opset", [13, 17, 18, 20, 21, 23])
@pytest.mark.parametrize("write", WRONG, ids=lambda f: f.__name__)
def test_it_is_right_at_every_offset(write, opset, tmp_path):
    if (write is graphs.layer and opset < 17) or (write is graphs.operator and opset < 21):
        pytest.skip("the operator is of a later opset, or another one in this")
    path = made(write, tmp_path / "a.onnx", opset=opset)
    before = path.read_bytes()
    out = repaired(path)
    assert path.read_bytes() == before
    shape = LAST if write is graphs.flax else SHAPE
    assert_accurate(out, shape, lambda x: expected(x, axis(write)))
    (norm,) = inspect(out).norms
    assert not norm.is_wrong
    assert norm.form == (TWO_PASS if write is graphs.flax else SHIFTED)
    model = onnx.load(out)
    assert [o.version for o in model.opset_import if not o.domain] == [opset]
    assert names(model.graph.input) == ["x"]
    assert names(model.graph.output) == ["y"]


@pytest.mark.parametrize("write", [*WRONG, graphs.two_pass, graphs.keras], ids=lambda f: f.__name__)
def test_float16_keeps_its_statistics_in_float32(write, tmp_path):
    net = Net(np.float16, 21)
    write(net)
    shape = LAST if axis(write) == -1 else SHAPE
    out = repaired(save(net.model(shape), tmp_path / "a.onnx"))
    assert_accurate(out, shape, lambda x: expected(x, axis(write)), np.float16)


@pytest.mark.parametrize("write", [graphs.operator, graphs.squares], ids=lambda f: f.__name__)
def test_float64(write, tmp_path):
    """ONNX Runtime computes the operator of opset 21 in float32 there."""
    out = repaired(made(write, tmp_path / "a.onnx", np.float64))
    run = session(out)
    for x in draws(SHAPE, np.float64):
        (y,) = run.run(None, {"x": x})
        truth = expected(x)
        # the formula's 1e-14 (1 + offset), which float32 cannot reach
        assert np.abs(y - truth).max() <= allowed(np.float64, np.abs(truth).max())


@pytest.mark.slow
def test_groups_of_many_values_are_not_added_up_one_after_the_other(tmp_path):
    shape = (1, C, 512, 512)
    net = Net(opset=18)
    graphs.instance(net, subtract=True)
    path = save(net.model(shape), tmp_path / "a.onnx")
    (norm,) = inspect(path).norms
    assert norm.values_per_group == C // G * 512 * 512
    assert [fault.runtime for fault in norm.faults if fault.wrong] == ["ONNX Runtime"]
    out = repaired(path)
    (norm,) = inspect(out).norms
    assert (norm.form, norm.is_wrong) == (TWO_PASS, False)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    before, after = (
        np.abs(session(file).run(None, {"x": x})[0] - expected(x, 1)).max() for file in (path, out)
    )
    assert after < before / 5


def test_bfloat16_is_computed_in_float32(tmp_path):
    """ONNX Runtime has too few operators of bfloat16 on a CPU to run it: what is in the file."""
    kind = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
    net = Net(kind, 21)
    graphs.operator(net)
    out = repaired(save(net.model(SHAPE), tmp_path / "a.onnx"))
    nodes = onnx.load(out).graph.node
    assert [nodes[0].op_type, nodes[-1].op_type] == ["Cast", "Cast"]
    (norm,) = inspect(out).norms
    assert (norm.dtype, norm.form, norm.is_wrong) == ("bfloat16", SHIFTED, False)


@pytest.mark.parametrize(
    ("groups", "shape"),
    [(1, SHAPE), (C, SHAPE), (G, (3, C)), (G, (2, C, 7)), (G, (1, C, 3, 4, 5)), (8, (2, C, 1, 1))],
)
def test_the_operator_at_any_rank_and_number_of_groups(groups, shape, tmp_path):
    out = repaired(made(graphs.operator, tmp_path / "a.onnx", sizes=shape, groups=groups))
    assert_accurate(out, shape, lambda x: expected(x, groups=groups))


@pytest.mark.parametrize("write", [graphs.operator, graphs.squares], ids=lambda f: f.__name__)
def test_sizes_that_change(write, tmp_path):
    out = repaired(made(write, tmp_path / "a.onnx", sizes=("n", C, "h", "w")))
    for shape in ((1, C, 8, 8), (3, C, 5, 2)):
        assert_accurate(out, shape, expected)


def test_the_operator_where_not_even_the_rank_is_known(tmp_path):
    net = Net(opset=21)
    graphs.operator(net)
    model = net.model(SHAPE)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.ClearField("shape")
    path = tmp_path / "a.onnx"
    onnx.save(model, path)
    report = repair(path, tmp_path / "out.onnx")
    assert (report.repaired[0].shape, report.repaired[0].channels) == (None, C)
    for shape in (SHAPE, (2, C), (1, C, 2, 3, 4)):
        assert_accurate(tmp_path / "out.onnx", shape, expected)


def test_the_operator_of_opset_18(tmp_path):
    """Its scale is for each group; the file does not pass the checker, the copy does."""
    net = Net(opset=18)
    graphs.operator(net)
    path = tmp_path / "a.onnx"
    onnx.save(net.model(SHAPE), path)
    scale, shift = (values.repeat(C // G) for values in graphs.affine(channels=G))
    assert_accurate(repaired(path), SHAPE, lambda x: expected(x, weights=(scale, shift)))


def test_a_scale_that_is_computed(tmp_path):
    """As of a norm whose scale and shift come from the time step."""
    net = Net(opset=21)
    scale = net("Add", net("ReduceMean", "x", whole(0, 2, 3), keepdims=0), np.array(2.0))
    net("GroupNormalization", "x", scale, net("Neg", scale), out="y", num_groups=G, epsilon=EPS)
    out = repaired(save(net.model(SHAPE), tmp_path / "a.onnx"))

    def truth(x):
        scale = x.astype(np.float64).mean((0, 2, 3)) + 2
        return expected(np.float64(x), weights=(scale, -scale))

    run = session(out)
    x = next(draws(SHAPE))
    assert np.abs(run.run(None, {"x": x})[0] - truth(x)).max() <= allowed(np.float32, 1)


def test_a_scale_that_may_be_given(tmp_path):
    """An initializer that is an input, too, stays one."""
    net = Net(opset=21)
    graphs.operator(net)
    model = net.model(SHAPE)
    model.graph.input.append(helper.make_tensor_value_info("y.scale", TensorProto.FLOAT, [C]))
    out = repaired(save(model, tmp_path / "a.onnx"))
    assert names(onnx.load(out).graph.input) == ["x", "y.scale"]
    x, scale = next(draws(SHAPE)), np.full(C, 3, np.float32)
    (y,) = session(out).run(None, {"x": x, "y.scale": scale})
    truth = expected(x, weights=(scale, graphs.affine()[1]))
    assert np.abs(y - truth).max() <= allowed(np.float32, 1)


def test_only_what_is_wrong_is_written_anew(tmp_path):
    net = Net(opset=21)
    graphs.squares(net, out="a")
    graphs.instance(net, net("Relu", "a"), out="b")
    graphs.operator(net, net("Sigmoid", "b"), out="c")
    graphs.two_pass(net, "c", out="y")
    path = save(net.model(SHAPE, outputs=("y", "b")), tmp_path / "a.onnx")
    report = repair(path, tmp_path / "out.onnx")
    assert [norm.output for norm in report.repaired] == ["a", "c"]
    assert report.right == 2
    before, after = (onnx.load(p).graph for p in (path, tmp_path / "out.onnx"))
    gone = _made_anew(path)
    stay = {n.name: n for n in before.node if n.output[0] not in gone}
    same = [n for n in after.node if n.name in stay]
    assert [n.SerializeToString() for n in same] == [n.SerializeToString() for n in stay.values()]
    x = next(draws(SHAPE))
    for old, new in zip(*(session(p).run(None, {"x": x}) for p in (path, report.out)), strict=True):
        assert np.abs(old - new).max() <= allowed(np.float32, 1)


def _made_anew(path):
    """Outputs of the nodes of norms that go wrong, scale and shift excepted where they follow."""
    by_name = {n.name: n.output[0] for n in onnx.load(path).graph.node}
    gone = {by_name[n] for norm in inspect(path).norms if norm.is_wrong for n in norm.nodes}
    for norm in inspect(path).norms:
        if norm.is_wrong and len(norm.nodes) > 1:
            gone -= {by_name[n] for n in norm.nodes[-2:]}
            gone.add(by_name[norm.nodes[-3]])
    shapes = {n.output[0] for n in onnx.load(path).graph.node if n.op_type == "Shape"}
    return gone | shapes


def test_weights_of_the_operator_keep_their_names(tmp_path):
    path = made(graphs.operator, tmp_path / "a.onnx")
    before, after = (onnx.load(p).graph.initializer for p in (path, repaired(path)))
    kept = {tensor.name: tensor.SerializeToString() for tensor in after}
    assert all(kept[tensor.name] == tensor.SerializeToString() for tensor in before)


def test_nothing_that_is_not_read_is_left(tmp_path):
    graph = onnx.load(repaired(made(graphs.flax, tmp_path / "a.onnx"))).graph
    read = {name for node in graph.node for name in node.input} | {"y"}
    assert {name for node in graph.node for name in node.output} <= read
    assert set(names(graph.initializer)) <= read
    assert set(names(graph.value_info)) <= read


def test_a_file_that_is_right_is_not_written_again(tmp_path):
    for write in (graphs.instance, graphs.two_pass, graphs.keras, graphs.pooled):
        net = Net()
        write(net)
        path = save(net.model(LAST if write is graphs.keras else SHAPE), tmp_path / "a.onnx")
        report = repair(path, tmp_path / "out.onnx")
        assert (report.out, report.repaired, report.kept, report.right) == (None, (), (), 1)
        assert not (tmp_path / "out.onnx").exists()


def test_a_repaired_file_is_right(tmp_path):
    for write in WRONG:
        out = repaired(made(write, tmp_path / f"{write.__name__}.onnx"), overwrite=True)
        assert repair(out, tmp_path / "again.onnx").out is None


def test_a_norm_inside_which_something_reads_stays(tmp_path):
    net = Net()
    graphs.squares(net)
    mean = next(node.output[0] for node in net.nodes if node.op_type == "ReduceMean")
    path = save(net.model(SHAPE, outputs=("y", mean)), tmp_path / "a.onnx")
    report = repair(path, tmp_path / "out.onnx")
    assert (report.out, report.repaired) == (None, ())
    assert "is read elsewhere" in report.kept[0].kept
    assert not (tmp_path / "out.onnx").exists()


def test_norms_in_branches(tmp_path):
    path = save(graphs.branches(), tmp_path / "a.onnx")
    out = repaired(path)
    assert len(repair(path, tmp_path / "other.onnx").repaired) == 2
    assert_accurate(out, SHAPE, lambda x: expected(np.float32(expected(x))))


def test_names_that_are_taken_are_left_alone(tmp_path):
    """A file that was repaired once, and has a tensor of each name that repairing makes."""
    first = onnx.load(repaired(made(graphs.operator, tmp_path / "a.onnx")))
    taken = {name for node in first.graph.node for name in node.output} - {"y"}
    net = Net(opset=21)
    graphs.operator(net)
    for name in sorted(taken):
        net("Relu", "x", out=name)
    path = save(net.model(SHAPE, outputs=("y", *sorted(taken))), tmp_path / "b.onnx")
    repair(path, tmp_path / "c.onnx")
    assert_accurate(tmp_path / "c.onnx", SHAPE, expected)
    x = next(draws(SHAPE))
    outputs = session(tmp_path / "c.onnx").run(None, {"x": x})
    assert all((y == np.maximum(x, 0)).all() for y in outputs[1:])


# ---- Files --------------------------------------------------------------------------------------


def test_the_file_itself_is_never_written_to(tmp_path):
    path = made(graphs.operator, tmp_path / "a.onnx")
    before = path.read_bytes()
    link = tmp_path / "link.onnx"
    link.symlink_to(path)
    for out in (path, tmp_path / "." / "a.onnx", link):
        with pytest.raises(ExportError, match="is read from; name another file"):
            repair(path, out, overwrite=True)
    assert path.read_bytes() == before


def test_a_file_that_is_there_is_replaced_only_when_asked(tmp_path):
    path = made(graphs.operator, tmp_path / "a.onnx")
    out = tmp_path / "out.onnx"
    out.write_text("mine")
    with pytest.raises(ExportError, match=r"out\.onnx exists; name another file"):
        repair(path, out)
    assert out.read_text() == "mine"
    repair(path, out, overwrite=True)
    assert len(inspect(out).norms) == 1


@pytest.mark.parametrize(
    ("out", "said"),
    [("folder", "is a folder; name a file"), ("no/such/out.onnx", "there is no folder")],
)
def test_places_that_take_no_file(out, said, tmp_path):
    path = made(graphs.operator, tmp_path / "a.onnx")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ExportError, match=said):
        repair(path, tmp_path / out)
    assert sorted(os.listdir(tmp_path)) == ["a.onnx", "folder"]


def external(tmp_path):
    """A model whose weights are in two files beside it."""
    net = Net(opset=21)
    graphs.operator(net)
    model = net.model(SHAPE)
    folder = tmp_path / "model"
    folder.mkdir()
    for tensor in model.graph.initializer:
        onnx.external_data_helper.set_external_data(tensor, f"{tensor.name}.bin")
    onnx.external_data_helper.write_external_data_tensors(model, str(folder))
    path = folder / "a.onnx"
    path.write_bytes(model.SerializeToString())
    assert len(list(folder.iterdir())) == 3
    return path


def test_weights_in_other_files_stay_there(tmp_path):
    path = external(tmp_path)
    out = repaired(path)
    assert sorted(os.listdir(path.parent)) == ["a.onnx", "out.onnx", "y.bias.bin", "y.scale.bin"]
    assert_accurate(str(out), SHAPE, expected)


def test_weights_of_gigabytes_are_not_read(tmp_path):
    """A file of 3 GB that takes no space."""
    net = Net(opset=21)
    net("MatMul", net("FromNowhere", graphs.operator(net, out="n"), domain="somebody.else"), "w",
        out="y")  # fmt: skip
    model = net.model(SHAPE)
    model.opset_import.append(helper.make_opsetid("somebody.else", 1))
    size = 3 * 2**30
    weight = model.graph.initializer.add(name="w", dims=[size // 4 // 1024, 1024], data_type=1)
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "w.bin", "offset": 0, "length": size}.items():
        weight.external_data.add(key=key, value=str(value))
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(size)
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    assert repair(path, tmp_path / "out.onnx").repaired
    assert sorted(os.listdir(tmp_path)) == ["a.onnx", "out.onnx", "w.bin"]
    (norm,) = inspect(tmp_path / "out.onnx").norms
    assert norm.form == SHIFTED


def test_in_another_folder_they_are_copied(tmp_path):
    path = external(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    repair(path, other / "b.onnx")
    assert sorted(os.listdir(other)) == ["b.onnx", "b.onnx.data", "b.onnx.data.1"]
    onnx.checker.check_model(str(other / "b.onnx"))
    assert_accurate(str(other / "b.onnx"), SHAPE, expected)
    with pytest.raises(ExportError, match="exists"):
        repair(path, other / "b.onnx")
    (other / "b.onnx").unlink()
    with pytest.raises(ExportError, match=r"b\.onnx\.data exists"):
        repair(path, other / "b.onnx")


def test_files_of_weights_are_never_written_to(tmp_path):
    path = external(tmp_path)
    with pytest.raises(ExportError, match="is read from"):
        repair(path, path.with_name("y.scale.bin"), overwrite=True)


def test_after_a_failure_nothing_is_left(tmp_path, monkeypatch):
    path = external(tmp_path)
    other = tmp_path / "other"
    other.mkdir()

    def full(*_):
        raise OSError(28, "No space left on device", "out.onnx")

    monkeypatch.setattr("groupnorm.export.onnx_file.write.write_atomic", full)
    with pytest.raises(ExportError, match="No space left"):
        repair(path, other / "b.onnx")
    assert os.listdir(other) == []


def test_nodes_that_differ_from_the_norm_are_not_written(tmp_path, monkeypatch):
    path = made(graphs.operator, tmp_path / "a.onnx")

    def other_eps(*arguments, eps, **options):
        write_accurate(*arguments, eps=10 * eps, **options)

    module = sys.modules["groupnorm.export.onnx_file.repair"]  # a function has its name
    monkeypatch.setattr(module, "write_accurate", other_eps)
    with pytest.raises(ExportError, match=r"differs by .* from what it was"):
        repair(path, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
