"""`backend`: every implementation of the operation in turn."""

import pytest
import torch

from tests.ops.group_norm.runners import GPU, RUNNERS, TRITON, running


@pytest.fixture(
    params=[pytest.param(name, marks=GPU if name in TRITON else []) for name in RUNNERS]
)
def backend(request):
    with running(request.param) as name:
        yield name


def pytest_collection_modifyitems(config, items):
    """Interpreted kernels with small tiles take long, and nothing new with these."""
    kept, left_out = [], []
    for item in items:
        values = item.callspec.params if hasattr(item, "callspec") else {}
        runner, dtype = values.get("backend"), values.get("dtype")
        small = runner in ("triton/split", "triton/looped", "triton/streamed")
        known = (
            values.get("layout") in ("permuted", "sliced")  # copied before any kernel sees them
            or values.get("case") == "larger than a vector"  # of the C++ kernels; 64 slabs
            or dtype == torch.float16  # cast as bfloat16 is; "triton/as it is" has it
            or (runner == "triton/streamed" and dtype not in (None, torch.float32))  # as "split"
        )
        (left_out if small and known else kept).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept
