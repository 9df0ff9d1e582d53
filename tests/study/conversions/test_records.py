"""The files of trials: what they hold, and what is refused."""

import json

import pytest

from groupnorm.study.conversions.records import (
    is_done,
    read_trial,
    trial_path,
    write_failure,
    write_result,
)
from groupnorm.study.store import StoreError
from tests.study.fake_conversions import FIT, fake_result


def test_a_result_takes_the_place_of_a_failure(tmp_path):
    assert read_trial(tmp_path, FIT) is None
    write_failure(tmp_path, FIT, "ValueError: made up")
    assert read_trial(tmp_path, FIT)["reason"] == "ValueError: made up"
    assert not is_done(tmp_path, FIT)
    write_result(tmp_path, FIT, fake_result(FIT, 80.0, 0))
    assert is_done(tmp_path, FIT)
    assert read_trial(tmp_path, FIT)["result"] == fake_result(FIT, 80.0, 0)
    assert [path.name for path in tmp_path.rglob("*.json")] == [f"{FIT.name}.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trial": {**FIT.as_json(), "steps": 3}}, "is not of the trial that the file is named"),
        ({"result": None}, "has neither a result nor a reason"),
        ({"reason": "both"}, "or both"),
        ({"format": 2}, "has format 2"),
        ({"more": 1}, "has the key 'more'"),
        ({"result": {}}, "lacks 'result.value'"),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, change, message):
    write_result(tmp_path, FIT, fake_result(FIT, 80.0, 0))
    path = trial_path(tmp_path, FIT)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(StoreError, match=message) as caught:
        read_trial(tmp_path, FIT)
    assert str(path) in str(caught.value)
    assert "delete it: the command that made the study does the trial again" in str(caught.value)
