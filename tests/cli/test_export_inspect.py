"""groupnorm export inspect: the table, the copy, the status, and errors in one line."""

import json

import pytest

pytest.importorskip("onnx", reason="onnx is not installed")

import onnx
from typer.testing import CliRunner

from groupnorm.cli.export import export_app
from tests.export.onnx_file import graphs
from tests.export.onnx_file.graphs import SHAPE, Net, save


def typed(*arguments):
    return CliRunner().invoke(export_app, ["inspect", *map(str, arguments)])


def plain(text):
    return " ".join(text.split())


@pytest.fixture
def wrong(tmp_path):
    net = Net(opset=21)
    graphs.operator(net, out="a")
    graphs.instance(net, "a")
    return save(net.model(SHAPE), tmp_path / "wrong.onnx")


@pytest.fixture
def right(tmp_path):
    net = Net()
    graphs.instance(net, subtract=True)
    return save(net.model(SHAPE), tmp_path / "right.onnx")


def test_what_goes_wrong_is_listed(wrong):
    done = typed(wrong)
    assert done.exit_code == 1
    said = plain(done.stdout)
    assert f"{wrong}, opset 21: 2 group norms, 1 of which go wrong somewhere" in said
    assert "4 of 16" in said
    assert "wrong: ONNX Runtime: it takes mean(x^2) - mean(x)^2: it is off by 3e-2" in said
    assert "https://github.com/microsoft/onnxruntime/issues/24538" in said
    assert "note: ONNX Runtime: digits go in proportion to the mean" in said
    assert done.stderr == ""


def test_a_file_that_is_right(right):
    done = typed(right)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "1 group norm, none goes wrong" in done.stdout


def test_a_copy_is_repaired(wrong, tmp_path):
    out = tmp_path / "out.onnx"
    before = wrong.read_bytes()
    done = typed(wrong, "--repair", out)
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"{out}: 1 group norm written anew, 1 were right" in plain(done.stdout)
    assert wrong.read_bytes() == before
    assert typed(out).exit_code == 0
    again = typed(out, "--repair", tmp_path / "again.onnx")
    assert again.exit_code == 0
    assert "nothing to repair" in again.stdout
    assert not (tmp_path / "again.onnx").exists()


def test_what_stays_wrong_is_said(tmp_path):
    net = Net()
    graphs.squares(net)
    mean = next(node.output[0] for node in net.nodes if node.op_type == "ReduceMean")
    path = save(net.model(SHAPE, outputs=("y", mean)), tmp_path / "a.onnx")
    done = typed(path, "--repair", tmp_path / "out.onnx")
    assert done.exit_code == 1
    assert "nothing was written" in done.stdout
    assert f"left as it is: Add_13: {mean!r} between its operators" in plain(done.stdout)


def test_json(wrong, tmp_path):
    done = typed(wrong, "--json", "--repair", tmp_path / "out.onnx")
    found = json.loads(done.stdout)
    assert (found["opset"], len(found["norms"])) == (21, 2)
    first, second = found["norms"]
    assert (first["form"], first["is_wrong"], first["groups"]) == ("GroupNormalization", True, 4)
    assert not second["is_wrong"]
    assert found["repair"]["out"] == str(tmp_path / "out.onnx")
    assert [norm["output"] for norm in found["repair"]["repaired"]] == ["a"]
    assert json.loads(typed(wrong, "--json").stdout)["repair"] is None


def test_what_is_not_looked_into_is_said(tmp_path):
    net = Net()
    graphs.squares(net)
    path = save(net.model((2, 16, 2048, 2048)), tmp_path / "a.onnx")
    done = typed(path)
    assert done.exit_code == 0
    assert "not looked into: Sqrt Sqrt_" in done.stdout


@pytest.mark.parametrize("content", [None, b"", b"a text that is no model"])
def test_files_that_are_none(content, tmp_path):
    path = tmp_path / "a.onnx"
    if content is not None:
        path.write_bytes(content)
    done = typed(path)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_files_that_are_not_written_to(wrong, right):
    for out, said in ((wrong, "is read from"), (right, "exists; name another file")):
        done = typed(wrong, "--repair", out)
        assert done.exit_code == 2
        assert said in done.stderr
    assert typed(wrong, "--repair", right, "--overwrite").exit_code == 0
    assert len(onnx.load(right).graph.node) > 5


def test_names_that_would_steer_a_terminal(tmp_path):
    net = Net(opset=21)
    graphs.operator(net)
    model = net.model(SHAPE)
    model.graph.node[0].name = "\x1b[31mred[bold]"
    done = typed(save(model, tmp_path / "a.onnx"), "--repair", tmp_path / "out.onnx")
    assert done.exit_code == 0
    assert "\x1b[31m" not in done.stdout
    assert "[bold]" in plain(done.stdout).replace(" ", "").replace("│", "")
