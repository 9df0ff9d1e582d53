"""What the contract of a task brings along."""

import pytest

from groupnorm.training.config import RunConfig
from groupnorm.training.task import whole_steps


def test_an_incomplete_step_is_dropped_and_none_is_an_error():
    config = RunConfig(workers=2, batch_per_worker=4, epochs=1)
    assert [whole_steps(config, size) for size in (8, 15, 16)] == [1, 1, 2]
    with pytest.raises(ValueError, match="at least 8 training images, the data has 7"):
        whole_steps(config, 7)
