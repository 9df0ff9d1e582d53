"""Which backend runs, and why."""

import os
import subprocess
import sys

import pytest
import torch

from groupnorm.ops.group_norm import explain, group_norm
from groupnorm.ops.group_norm.backends import BACKENDS, choose, report
from tests.ops.group_norm.runners import TRITON


def test_auto_takes_the_kernels_and_says_so():
    found = explain(torch.randn(2, 4, 3, 3))
    assert found.backend == choose(torch.randn(2, 4)).name == "native"
    assert found.off == {
        "triton": "runs only by name: its launches cost more than small tensors gain (docs/gpu.md)",
        "aten": "native comes first",
        "reference": "runs only by name: slow",
    }
    assert str(found).splitlines()[0] == f"native: {found.reason}"
    assert "reference is off: runs only by name: slow" in str(found)
    assert explain() == found


def test_elsewhere_than_on_the_cpu_pytorchs_operator_runs():
    found = explain(torch.empty(2, 4, 3, 3, device="meta"))
    assert found.backend == "aten"
    assert found.off["native"] == "runs on cpu, the input is on meta"
    with pytest.raises(ValueError, match="native runs on cpu, the input is on meta"):
        group_norm(torch.empty(2, 4, device="meta"), 2, backend="native")


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(2, 4, 3, 3).contiguous(memory_format=torch.channels_last),
        torch.randn(2, 4, 3, 3).bfloat16(),
    ],
)
def test_the_shift_is_mentioned_where_it_happens(x):
    assert "shifted to zero mean" in explain(x, "aten").reason
    assert "shifted" not in explain(torch.randn(2, 4, 3, 3), "aten").reason


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_asked_for_by_name_runs(name):
    found = explain(backend=name)
    assert found.backend == name
    assert "asked for by name" in found.reason
    assert set(found.off) == set(BACKENDS) - {name}
    y = group_norm(torch.randn(2, 4, 3, requires_grad=True), 2, backend=name)
    assert y.grad_fn.name().startswith("NativeGroupNorm") == (name == "aten")


def test_unknown_names_and_types_raise():
    with pytest.raises(
        ValueError, match="unknown backend 'cudnn'; known: auto, native, triton, aten, reference"
    ):
        explain(backend="cudnn")
    with pytest.raises(ValueError, match=r"native takes torch\.float16, .*, got torch\.int64"):
        explain(torch.ones(2, 4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"reference takes .*got torch\.complex64"):
        group_norm(torch.ones(2, 4, dtype=torch.complex64), 2, backend="reference")


def test_report_lists_every_backend():
    rows = report()
    assert [row["name"] for row in rows] == list(BACKENDS)
    assert all(row["available"] and row["reason"] for row in rows)
    assert rows[-1]["reason"] == "the specification; runs only by name: slow"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_triton_without_a_gpu_and_without_its_interpreter():
    code = (
        "import torch, groupnorm; from groupnorm.ops.group_norm.backends import report\n"
        "print([r for r in report() if r['name'] == 'triton'][0])\n"
        "groupnorm.group_norm(torch.randn(2, 4), 2, backend='triton')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "0"},
        check=False,
    )
    assert "'available': False" in done.stdout
    assert done.returncode
    if TRITON:
        assert "needs a CUDA device, and PyTorch finds none" in done.stdout
        assert "triton runs on cuda, the input is on cpu" in done.stderr
