"""groupnorm export: a network of the user's own, as a file for another runtime."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli.commands import typed

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

NETWORK = """
from torch import nn
from groupnorm import GroupNorm

def net(channels=8):
    return nn.Sequential(nn.Conv2d(3, channels, 3), GroupNorm(2, channels), nn.ReLU())
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "own_network.py").write_text(NETWORK, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def export(folder, *arguments):
    return typed(
        "export", "own_network:net", "net.onnx", "--example", "1x3x12x12", *arguments, cwd=folder
    )


@pytest.mark.slow
def test_a_file_its_report_and_the_tables(folder):
    done = export(folder, "--dynamic", "0,2,3")
    assert done.returncode == 0, done.stderr
    assert "group norms in the form pooled" in done.stdout
    assert "wrote net.onnx" in done.stdout
    assert "offset 1,000" in done.stdout
    assert (folder / "net.onnx").exists()
    report = json.loads((folder / "net.onnx.report.json").read_text(encoding="utf-8"))
    assert report["dynamic"] == [0, 2, 3]
    again = typed("export", "verify", "net.onnx", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "offset 1,000" in again.stdout


def test_json_options_and_weights(folder):
    from own_network import net

    torch.save(net(channels=4).state_dict(), folder / "weights.pt")
    done = export(folder, "--option", "channels=4", "--checkpoint", "weights.pt", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["reports"]["onnxruntime"]
    assert found["form"] == "instance"
    assert "kept" not in found
    assert all(check["error"] <= check["allowed"] for check in found["checks"])


@pytest.mark.slow
def test_calibration_images(folder):
    (folder / "photos").mkdir()
    draw = np.random.default_rng(0)
    for number in range(14):
        pixels = draw.integers(0, 255, (14, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
    done = export(folder, "--calibrate", "photos", "--count", "10", "--dtype", "float16")
    assert done.returncode == 0, done.stderr
    assert "conditioned: 1" in done.stdout
    assert "largest |x|" in done.stdout
    report = json.loads((folder / "net.onnx.report.json").read_text(encoding="utf-8"))
    assert [row["layer"] for row in report["ranges"]] == ["1"]


@pytest.mark.slow
def test_forms_that_were_refused_are_told(folder):
    """Of groups of millions the instance form is wrong."""
    done = typed("export", "own_network:net", "net.onnx", "--example", "1x3x600x600", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "not as instance: what was written for ONNX Runtime" in " ".join(done.stdout.split())


@pytest.mark.slow
def test_all_that_are_installed(folder):
    done = typed("export", "own_network:net", "out", "--to", "all", "--example", "1x3x12x12",
                 "--opset", "19", cwd=folder)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "only ONNX Runtime's files have one" not in done.stdout
    assert (folder / "out" / "onnxruntime.onnx").exists()
    assert "wrote out/onnxruntime.onnx" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "tensorrt"], "unknown runtime 'tensorrt'; known: onnxruntime"),
        (["--opset", "21"], "opset=21 has the operator GroupNormalization"),
        (["--dtype", "int8"], "was run with float32, float16 here, got dtype='int8'"),
        (["--form", "grouped"], "unknown form 'grouped'"),
        (["--dynamic", "1"], "axis 1 is that of the channels"),
        (["--dynamic", "a"], "it takes numbers of axes, as 0,2,3, got a"),
        (["--example", "1x"], "it takes sizes, as 1x3x224x224, got 1x"),
        (["--example", "1x4x12x12"], "does not run on inputs of shape [(1, 4, 12, 12)]"),
        (["--checkpoint", "no.pt"], "there is no file 'no.pt'"),
        (["--calibrate", "nowhere"], "nowhere"),
        (["--option", "depth=3"], "depth"),
    ],
)
def test_what_is_refused(folder, arguments, message):
    done = export(folder, *arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not list(folder.glob("net*onnx*"))


def test_a_file_without_a_report_cannot_be_verified(folder):
    (folder / "other.onnx").write_bytes(b"")
    done = typed("export", "verify", "other.onnx", cwd=folder)
    assert done.returncode == 2
    assert "has no report" in done.stderr
