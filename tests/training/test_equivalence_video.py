"""One process with W workers and many processes compute the same training of a video classifier.

As `test_equivalence` has it for images: twenty steps in float64, every step's loss, the weights,
the running statistics and the evaluation; of videos in memory and in files.
"""

import functools

import numpy as np
import pytest
import torch

from groupnorm.conversion import recomputed_statistics
from groupnorm.data.video.batches import FromVideoFiles
from groupnorm.data.video.clips import Sampling
from groupnorm.data.video.memory import VideosInMemory
from groupnorm.data.video.transforms import CropSizes
from groupnorm.layers import norm_layer
from groupnorm.models import build_video_model
from groupnorm.training.config import VideoConfig
from groupnorm.training.distributed import ALONE, Processes
from groupnorm.training.loop import train
from groupnorm.training.tasks.video import VideoClassification
from tests.child import needs_processes
from tests.data.video.tiny_videos import load_files, tiny_videos, write_files
from tests.processes import in_processes
from tests.tolerances import STEP, TWENTY_STEPS

pytestmark = needs_processes

COUNTS = {"train": 160, "test": 27}
SPLIT = {"workers": 1, "batch_per_worker": 16}
# number of processes: fields of the configuration, and those in which one process differs
CASES = {
    8: [
        ({"norm": "bn"}, {}),
        ({"norm": "bn+ws", "centre_time": True, "memory_format": "channels_last"}, {}),
        ({"norm": "gn:groups=4"}, SPLIT),
        ({"norm": "syncbn"}, SPLIT),
        ({"norm": "bn", "data": "columns-files", "base_lr": 0.2}, {}),
    ],
    2: [({"norm": "bn", "accumulate": 2}, {"accumulate": 1})],
    1: [({"norm": "bn", "accumulate": 4}, {"accumulate": 1})],
}
ALL = [
    pytest.param(
        count, number,
        id=f"{count} processes, {fields}", marks=[pytest.mark.slow] if count > 1 else [],
    )
    for count, cases in CASES.items()
    for number, (fields, _) in enumerate(cases)
]  # fmt: skip


class Recorded(VideoClassification):
    """The task in float64; it remembers the loss of every pass."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.seen = []

    def prepared(self, inputs):
        return super().prepared(inputs).double()

    def losses(self, model, part):
        losses, counts = super().losses(model, part)
        self.seen.append(losses["loss"].item())
        return losses, counts


def videos(config, folder):
    """Batches of the videos in memory, or of those in the files of a folder."""
    sampling = Sampling(4, 2)
    if config.data == "columns-files":
        files = load_files(folder)
        return FromVideoFiles(files, sampling, CropSizes.whole(files.frame_size), test_clips=3)
    return VideosInMemory(tiny_videos(**COUNTS), sampling, test_clips=3)


def trained(fields, folder, processes=ALONE):
    """Losses of every step made (of this process), weights and statistics, metrics."""
    defaults = {"workers": 8, "batch_per_worker": 2, "steps": 20, "base_lr": 0.4, "frames": 4}
    config = VideoConfig(**{**defaults, **fields})
    norm = norm_layer(config.norm, batch_per_worker=config.batch_per_worker)
    torch.manual_seed(config.seed)
    model = build_video_model("i3d_narrow", norm=norm, num_classes=4).double()
    recompute = recomputed_statistics if config.uses_batch_statistics else None
    task = Recorded(config, videos(config, folder), recompute, processes)
    metrics = train(config, model, task, processes=processes)
    losses = np.array(task.seen).reshape(-1, config.accumulate).mean(1)
    state = {key: value.detach().numpy() for key, value in model.state_dict().items()}
    rows = [{key: row[key] for key in row if "accuracy" in key or "loss" in key} for row in metrics]
    return losses, state, rows


def work(rank, count, folder):
    return [trained(fields, folder, Processes(rank, count)) for fields, _ in CASES[count]]


@functools.cache
def in_many(count, folder):
    return in_processes(count, work, folder) if count > 1 else [work(0, 1, folder)]


@functools.cache
def in_one(fields, folder):
    return trained(dict(fields), folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of video files, which the slow tests need."""
    return tmp_path_factory.mktemp("videos") / "columns"


@pytest.mark.parametrize(("count", "number"), ALL)
def test_equals_one_process(count, number, folder):
    fields, others = CASES[count][number]
    if count == 8 and not folder.exists():
        write_files(folder, **COUNTS)
    losses, state, rows = in_one(tuple(sorted({**fields, **others}.items())), folder)
    assert losses[-5:].mean() < losses[0] - 0.02, "nothing was learned: the test sees nothing"
    found = [result[number] for result in in_many(count, folder)]
    np.testing.assert_allclose(
        np.mean([one[0] for one in found], axis=0), losses, rtol=TWENTY_STEPS
    )
    for _, ours, metrics in found:
        assert ours.keys() == state.keys()
        for key, value in state.items():
            allowed = TWENTY_STEPS * max(1.0, float(np.abs(value).max()))
            np.testing.assert_allclose(ours[key], value, rtol=0, atol=allowed, err_msg=key)
        assert len(metrics) == len(rows) == 2
        for row, expected in zip(metrics, rows, strict=True):
            assert row.keys() == expected.keys()
            for key, value in expected.items():
                assert row[key] == (value if value is None else pytest.approx(value, rel=STEP)), key
        uses_statistics = VideoConfig(steps=1, norm=fields["norm"]).uses_batch_statistics
        assert (rows[-1]["precise_val_accuracy"] is not None) == uses_statistics


@pytest.mark.slow
def test_a_worker_more_is_another_experiment_for_batch_norm(folder):
    """The comparison can fail: statistics over 4 clips instead of 2."""
    two = in_one((("norm", "bn"),), folder)
    four = trained({"norm": "bn", "workers": 4, "batch_per_worker": 4}, folder)
    assert np.abs(two[0] - four[0]).max() > 1e3 * TWENTY_STEPS
