"""A run's folder as a trained detector."""

import pytest

from groupnorm.study.trained import find_run, read_network, read_trained
from groupnorm.training.checkpoint import CheckpointError
from tests.study.fake_store import batch_study, spoil


def test_a_classifier_is_used_with_its_data_set(tmp_path):
    batch_study(tmp_path, norms=("bn",), batches=(32,), seeds=1)
    (folder,) = (tmp_path / "runs").iterdir()
    assert find_run(folder) == folder
    told = r"holds a run of classification \(.*\), which is used with its data set; expected one of"
    with pytest.raises(ValueError, match=told):
        read_trained(folder)


def test_without_a_checkpoint_a_command_is_promised_only_where_it_makes_one(tmp_path):
    batch_study(tmp_path, norms=("bn",), batches=(32,), seeds=1)
    (folder,) = (tmp_path / "runs").iterdir()
    with pytest.raises(CheckpointError, match="The command that trained it makes it"):
        read_network(folder)
    spoil(folder, "diverged", "loss is not finite")
    told = r"the run diverged \(loss is not finite\), and the command .* does not train it again"
    with pytest.raises(CheckpointError, match=told):
        read_network(folder)
