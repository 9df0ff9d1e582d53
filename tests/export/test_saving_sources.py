"""Where a network comes from and a file goes to: devices, folders, and modules without values."""

import errno
import os
import tempfile

import pytest
import torch
from torch import nn

from groupnorm.export import ExportError, save
from groupnorm.export.runtimes.quiet import quiet
from tests.export.networks import convolutional, images

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package} is not installed")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_on_cuda_is_saved_and_stays_there(tmp_path):
    network, x = convolutional().cuda(), images(1, 3, 8, 8).cuda()
    report = save(network, tmp_path / "a.onnx", x)
    assert report.checks
    assert all(check.passed for check in report.checks)
    assert {p.device.type for p in network.parameters()} == {"cuda"}
    assert x.is_cuda


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o555)
    with pytest.raises(ExportError, match=r"shared cannot be written to \(Permission denied\)$"):
        save(convolutional(), folder / "a.onnx", images(1, 3, 8, 8))


def test_a_place_that_takes_no_files_is_refused_before_anything_runs(tmp_path, monkeypatch):
    def read_only(**options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(options["dir"]))

    ran = []
    network = convolutional()
    network.register_forward_hook(lambda *arguments: ran.append(arguments))
    monkeypatch.setattr(tempfile, "mkdtemp", read_only)
    with pytest.raises(ExportError, match=r" cannot be written to \(Read-only file system\)$"):
        save(network, tmp_path / "a.onnx", images(1, 3, 8, 8))
    assert ran == []
    assert list(tmp_path.iterdir()) == []


def scripted():
    with quiet():
        return torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)).eval())


def traced():
    with quiet():
        return torch.jit.trace(convolutional(), images(1, 3, 8, 8))


def scripted_in_part():
    with quiet():
        return nn.Sequential(nn.Conv2d(3, 8, 3), torch.jit.script(nn.GroupNorm(2, 8))).eval()


def lazy():
    return nn.Sequential(nn.LazyConv2d(8, 3), nn.GroupNorm(2, 8)).eval()


def without_values():
    return convolutional().to("meta")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (scripted, r"^the network \(\w+\) is in TorchScript, .*; give the"),
        (traced, r"^the network \(\w+\) is in TorchScript, .*; give the"),
        (scripted_in_part, r"^1 \(RecursiveScriptModule\) is in TorchScript, .*; give the"),
        (lazy, r"^0 \(LazyConv2d\) has no shape yet; run the network once$"),
        (without_values, r"^0 \(Conv2d\) has no values \(meta device\); load the weights first$"),
    ],
)
def test_networks_that_cannot_be_read_are_refused_in_one_sentence(make, message, tmp_path):
    network = make()
    with pytest.raises(ExportError, match=message) as caught:
        save(network, tmp_path / "a.onnx", images(1, 3, 8, 8))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
