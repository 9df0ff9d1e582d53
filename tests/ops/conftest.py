"""`backend`: every implementation of the operation in turn."""

import pytest

from tests.ops.runners import RUNNERS, running


@pytest.fixture(params=RUNNERS)
def backend(request):
    with running(request.param) as name:
        yield name
