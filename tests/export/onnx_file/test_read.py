"""Whatever a file holds, what is wrong with it is one sentence, and nothing else is read."""

import contextlib
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx", reason="onnx is not installed")

import onnx
from onnx import TensorProto, helper

from groupnorm.export.errors import ExportError
from groupnorm.export.onnx_file import inspect, repair
from groupnorm.export.onnx_file.read import LARGEST_FILE, read_file
from tests.export.onnx_file import graphs
from tests.export.onnx_file.graphs import SHAPE, C, Net, save


def model(opset=21):
    net = Net(opset=opset)
    graphs.squares(net, graphs.operator(net, out="a") if opset >= 21 else "x")
    return net.model(SHAPE)


def refused(path):
    """What is said of a file that cannot be read: one line."""
    with pytest.raises(ExportError) as caught:
        inspect(path)
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    return said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"# a text\n" * 50, "is no ONNX file"),
        (bytes(1000), "is no ONNX file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "is no ONNX file"),
        (b"\x08\x0a", "no graph with an output"),
    ],
    ids=["empty", "text", "zeros", "picture", "half a model"],
)
def test_files_of_other_kinds(content, said, tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    assert said in refused(path)
    assert str(path) in refused(path)


def test_no_file_and_folders(tmp_path):
    assert "there is no file" in refused(tmp_path / "a.onnx")
    assert "is not a file" in refused(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all files")
def test_a_file_that_may_not_be_read(tmp_path):
    path = save(model(), tmp_path / "a.onnx")
    path.chmod(0)
    assert "Permission denied" in refused(path)


def test_a_file_that_is_too_large(tmp_path):
    """Sparse: it takes no space."""
    path = tmp_path / "a.onnx"
    with path.open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    assert "an ONNX file holds at most 2,147,483,647" in refused(path)


def test_every_file_that_is_cut_off(tmp_path):
    data = save(model(), tmp_path / "a.onnx").read_bytes()
    path = tmp_path / "b.onnx"
    for end in range(1, len(data), 23):
        path.write_bytes(data[:end])
        assert str(path) in refused(path)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_damaged_files_never_end_in_another_error(data):
    """Any bytes changed: it is refused in words, or read."""
    content = bytearray(DAMAGED[0])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    DAMAGED[1].write_bytes(content)
    with contextlib.suppress(ExportError):
        inspect(DAMAGED[1])
        repair(DAMAGED[1], DAMAGED[1].with_name("out.onnx"), overwrite=True)


DAMAGED = []


@pytest.fixture(scope="module", autouse=True)
def _damaged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    DAMAGED[:] = save(model(), folder / "a.onnx").read_bytes(), folder / "b.onnx"


@pytest.mark.parametrize("opset", [0, 6])
def test_old_opsets(opset, tmp_path):
    made = model()
    made.opset_import[0].version = opset
    (tmp_path / "a.onnx").write_bytes(made.SerializeToString())
    assert "expected 7 or later" in refused(tmp_path / "a.onnx")


def test_nodes_that_are_not_in_order(tmp_path):
    made = model()
    made.graph.node.append(made.graph.node[0])
    del made.graph.node[0]
    (tmp_path / "a.onnx").write_bytes(made.SerializeToString())
    assert "reads 'a' before it is made" in refused(tmp_path / "a.onnx")


def test_a_tensor_that_is_made_twice(tmp_path):
    made = model()
    made.graph.node.append(made.graph.node[0])
    (tmp_path / "a.onnx").write_bytes(made.SerializeToString())
    assert "'a' is made twice" in refused(tmp_path / "a.onnx")


def test_a_constant_that_does_not_fit_its_shape(tmp_path):
    """The norm cannot be computed, which is said; the rest of the file is looked into."""
    made = model()
    for tensor in made.graph.initializer:
        if tensor.data_type == TensorProto.INT64:
            tensor.raw_data = tensor.raw_data[:-3]
    (tmp_path / "a.onnx").write_bytes(made.SerializeToString())
    inspection = inspect(tmp_path / "a.onnx")
    assert [norm.output for norm in inspection.norms] == ["a"]
    assert "is damaged" in inspection.not_looked_into[0]


def test_a_graph_that_would_fill_the_memory(tmp_path):
    """Tensors that constants make huge are not computed."""
    net = Net()
    huge = net("Expand", "x", net("Mul", np.array([10**6] * 4), np.array([1, 1, 1, 1])))
    graphs.squares(net, net("Slice", huge, np.zeros(4, int), np.array(SHAPE)))
    path = tmp_path / "a.onnx"
    onnx.save(net.model(SHAPE), path)
    inspection = inspect(path)
    assert [norm.input for norm in inspection.norms] == [net.nodes[2].output[0]]


# ---- Weights in other files ---------------------------------------------------------------------


def with_data(folder, location, entries=(), opset=21):
    """A model that says where the data of its first weight is."""
    made = model(opset)
    tensor = made.graph.initializer[0]
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": 0, "length": size, **dict(entries)}.items():
        tensor.external_data.add(key=key, value=str(value))
    folder.mkdir(exist_ok=True)
    path = folder / "a.onnx"
    path.write_bytes(made.SerializeToString())
    return path


@pytest.fixture
def secret(tmp_path):
    """A file outside of the model's folder."""
    path = tmp_path / "secret.bin"
    path.write_bytes(bytes(10_000))
    return path


def test_data_outside_of_the_folder_is_not_read(tmp_path, secret, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to(secret)
    (folder / "up").symlink_to(tmp_path)
    opened = []
    real = open
    monkeypatch.setattr("io.open", lambda name, *a, **k: opened.append(name) or real(name, *a, **k))
    for name in ("../secret.bin", str(secret), "link.bin", "up/secret.bin", "model/../../x", "..",
                 ".", "a\0b"):  # fmt: skip
        path = with_data(folder, name)
        opened.clear()
        said = "a link out of" if name in ("link.bin", "up/secret.bin") else "outside"
        assert f"{said} the model's folder" in refused(path)
        assert not [n for n in opened if "secret" in os.fspath(n)]


def test_data_that_is_missing_or_short(tmp_path):
    folder = tmp_path / "model"
    path = with_data(folder, "w.bin")
    assert "keeps weights in 'w.bin', which is not there" in refused(path)
    (folder / "w.bin").write_bytes(bytes(10))
    assert "is cut off: the model needs 64 bytes of it, it has 10" in refused(path)
    (folder / "w.bin").unlink()
    (folder / "w.bin").mkdir()
    assert "is not there" in refused(path)


@pytest.mark.parametrize(
    "entries", [{"offset": -5}, {"length": -1}, {"offset": "a"}, {"location": ""}]
)
def test_places_that_are_none(entries, tmp_path):
    assert "does not say where its data is" in refused(with_data(tmp_path, "w.bin", entries))


def test_data_beside_the_model_is_read_where_it_is_needed(tmp_path):
    """Of the scale of the second norm, which decides whether it is one."""
    made = Net()
    graphs.flax(made)
    net = made.model(graphs.LAST)
    folder = tmp_path / "model"
    folder.mkdir()
    for tensor in net.graph.initializer:
        onnx.external_data_helper.set_external_data(tensor, "all.bin")
    onnx.external_data_helper.write_external_data_tensors(net, str(folder))
    (folder / "a.onnx").write_bytes(net.SerializeToString())
    (norm,) = inspect(folder / "a.onnx").norms
    assert (norm.groups, norm.affine) == (graphs.G, "scale and shift")


def test_data_of_tensors_in_nodes_and_inner_graphs_is_checked(tmp_path):
    made = graphs.branches()
    inner = made.graph.node[-1].attribute[0].g
    tensor = inner.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    (tmp_path / "a.onnx").write_bytes(made.SerializeToString())
    assert "'/etc/passwd', outside the model's folder" in refused(tmp_path / "a.onnx")


def test_a_sparse_weight_is_no_obstacle(tmp_path):
    made = model()
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("", TensorProto.INT64, [1], [0])
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [C]))
    (tmp_path / "a.onnx").write_bytes(made.SerializeToString())
    assert len(inspect(tmp_path / "a.onnx").norms) == 2


def test_what_a_file_has(tmp_path):
    file = read_file(save(model(), tmp_path / "a.onnx"))
    assert (file.opset, file.data_files) == (21, ())
