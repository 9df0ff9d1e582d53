"""`backend`: the implementations of the operation, Triton's kernels with the tiles they have."""

import pytest

from tests.ops.group_norm.runners import USUAL, running


@pytest.fixture(params=USUAL)
def backend(request):
    with running(request.param) as name:
        yield name
