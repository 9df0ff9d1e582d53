"""Lists of video files: what they have beyond lists of image files."""

from dataclasses import replace

import pytest

from groupnorm.data import DataError
from groupnorm.data.files.listing import list_files
from groupnorm.data.video.listing import VideoFiles
from tests.data.files.image_trees import write


@pytest.fixture
def files(tmp_path):
    listing = [(write(tmp_path / f"{n}.mp4", b"not decoded here"), n % 2) for n in range(4)]
    return list_files("toy", tmp_path, listing, listing, ["right", "left"], kind=VideoFiles)


def test_a_list_of_videos(files):
    assert isinstance(files, VideoFiles)
    assert (files.train_size, files.test_size, files.channels) == (4, 4, 3)
    assert (files.flip_labels, files.mean, files.std) == (None, None, None)


def test_a_flip_is_undone_by_a_flip(files):
    assert replace(files, flip_labels=(1, 0)).flip_labels == (1, 0)
    for wrong in ((0,), (0, 0), (1, 2), (0, 1, 2)):
        with pytest.raises(
            DataError, match=r"^toy: flip_labels must give each of 2 classes the on"
        ):
            replace(files, flip_labels=wrong)


def test_an_empty_list(tmp_path):
    with pytest.raises(DataError, match=r"^toy, train: expected at least one video, got none$"):
        list_files("toy", tmp_path, [], [], ["right", "left"], kind=VideoFiles)
