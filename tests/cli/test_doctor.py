"""What the doctor finds, and what it prints."""

import json

import pytest

from groupnorm.cli.doctor import _large_blocks, examine
from groupnorm.data import DETECTION_NAMES, NAMES, SEGMENTATION_NAMES, VIDEO_NAMES
from tests.cli.commands import typed


def test_everything_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("GROUPNORM_CACHE", str(tmp_path / "cache"))
    found = examine()
    assert found["versions"]["torch"]
    assert found["devices"][0]["device"] == "cpu"
    assert [entry["name"] for entry in found["data"]] == [
        *NAMES, *DETECTION_NAMES, *SEGMENTATION_NAMES, *VIDEO_NAMES,
    ]  # fmt: skip
    assert all(backend["reason"] for backend in found["backends"])


def test_missing_data_says_where_it_was_looked_for(tmp_path):
    found = {entry["name"]: entry for entry in examine(tmp_path)["data"]}
    assert not found["cifar10"]["found"]
    assert str(tmp_path) in found["cifar10"]["where"]
    assert "cifar-10-batches-py" in found["cifar10"]["where"]


def test_nothing_is_made_by_looking(tmp_path, monkeypatch):
    monkeypatch.setenv("GROUPNORM_CACHE", str(tmp_path / "cache"))
    examine()
    assert not (tmp_path / "cache").exists()


def test_doctor(tmp_path):
    found = json.loads(typed("doctor", "--json", cwd=tmp_path).stdout)
    assert found["versions"]["torch"]
    assert {b["name"] for b in found["backends"]} >= {"aten", "reference"}
    assert found["large_blocks"]["kept"] in (True, False)
    sets = {entry["name"]: entry for entry in found["data"]}
    assert sets["digits"]["found"]
    assert sets["fashion-mnist-mini"]["found"]
    words = typed("doctor", cwd=tmp_path).stdout
    for name in ("torch", "aten", "large blocks", "fashion-scenes", "cifar10"):
        assert name in words


@pytest.mark.parametrize(
    ("kept", "platform", "said"),
    [
        (True, "linux", "no step pays for page faults"),
        (False, "linux", "groupnorm.keep_large_blocks() at the start"),
        (False, "darwin", "needs glibc"),
    ],
)
def test_whether_large_blocks_are_kept_is_said(monkeypatch, kept, platform, said):
    monkeypatch.setattr("groupnorm.cli.doctor.large_blocks_are_kept", lambda: kept)
    monkeypatch.setattr("sys.platform", platform)
    found = _large_blocks()
    assert found["kept"] is kept
    assert said in found["reason"]
