"""A run's folder as a trained detector."""

import pytest

from groupnorm.study.trained import find_run, read_trained
from tests.study.fake_store import batch_study


def test_a_classifier_is_used_with_its_data_set(tmp_path):
    batch_study(tmp_path, norms=("bn",), batches=(32,), seeds=1)
    (folder,) = (tmp_path / "runs").iterdir()
    assert find_run(folder) == folder
    told = r"holds a run of classification \(.*\), which is used with its data set; expected one of"
    with pytest.raises(ValueError, match=told):
        read_trained(folder)
