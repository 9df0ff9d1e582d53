"""FromVideoFiles: batches of clips, decoded from video files in worker processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice, tee

import torch

from groupnorm.data.batches import ALL, Step
from groupnorm.data.files.decode import IMAGE_DECODERS
from groupnorm.data.files.issues import FileIssues
from groupnorm.data.files.processes import in_processes
from groupnorm.data.files.transforms import MEAN, STD
from groupnorm.data.files.workers import shard_of
from groupnorm.data.issues import ROTATED_VIDEOS, SHORT_VIDEOS, UNREADABLE_VIDEOS, Issues
from groupnorm.data.video.clips import Clips, Sampling, VideoClips
from groupnorm.data.video.decode import import_av
from groupnorm.data.video.listing import VideoFiles
from groupnorm.data.video.memory import normalize
from groupnorm.data.video.transforms import CropSizes
from groupnorm.data.video.workers import EvaluationClips, Example, Loaded, TrainClips

REPLACED, LEFT_OUT = UNREADABLE_VIDEOS
_LIBRARIES = ("libavcodec", "libavformat", "libswscale")


class FromVideoFiles:
    """The `VideoBatches` of video files.

    A training clip starts at a random frame, and is cut out and perhaps flipped at random, all of
    its frames alike. A training video that cannot be decoded is replaced by the next one of its
    class that can; a test video that cannot be decoded is left out. `data_issues` tells which. Too
    many of them, or all of a class, are a DataError.

    Args:
        files: the data set.
        sampling: which frames make a clip.
        sizes: of the clips, and of the frames that they are cut out of.
        test_clips: of a test video, at equal distances; each distinct start is taken once.
        test_crops: of each test clip: 1, the centre, or 3 along the longer side.
        test_batch: videos in a test batch.
        processes: worker processes that decode, for each `train` or `test` under way, fewer where
            the clips of a video are large; 0 decodes in this process. The clips are the same for
            any number.
        device: where the batches go, "cpu" or "cuda".
        max_unreadable: the greatest share of the training videos, and of the test videos, that may
            be unreadable.

    Raises:
        ValueError: a count below 1, an even number of crops, or a negative number of processes.
        DataError: PyAV is not installed.
    """

    def __init__(
        self,
        files: VideoFiles,
        sampling: Sampling,
        sizes: CropSizes,
        *,
        test_clips: int = 10,
        test_crops: int = 1,
        test_batch: int = 1,
        processes: int = 0,
        device: str = "cpu",
        max_unreadable: float = 0.01,
    ) -> None:
        if min(test_clips, test_crops, test_batch) < 1 or test_crops % 2 == 0 or processes < 0:
            raise ValueError(
                "expected test_clips and test_batch of at least 1, an odd test_crops and processes "
                f"of at least 0, got test_clips={test_clips}, test_crops={test_crops}, "
                f"test_batch={test_batch}, processes={processes}"
            )
        av = import_av()
        of_ffmpeg = {name: ".".join(map(str, av.library_versions[name])) for name in _LIBRARIES}
        self.decoders: dict[str, str] = {"av": av.__version__, **of_ffmpeg, **IMAGE_DECODERS}
        self.name, self.version, self.notes = files.name, files.version, files.notes
        self.num_classes, self.class_names = files.num_classes, files.class_names
        self.train_size, self.test_size = files.train_size, files.test_size
        self.files, self.sampling, self.image_size = files, sampling, sizes.crop
        self.test_batch, self.processes, self.device = test_batch, processes, device
        self._bytes = 3 * sampling.frames * sizes.crop**2  # of a clip
        self._test_bytes = self._bytes * test_clips * test_crops
        self._train = TrainClips(files, sampling, sizes)
        self._test = EvaluationClips(files, sampling, sizes, test_clips, test_crops)
        self._mean = torch.tensor(files.mean or MEAN, device=device)
        self._std = torch.tensor(files.std or STD, device=device)
        self._issues = FileIssues(
            files, UNREADABLE_VIDEOS, (SHORT_VIDEOS, ROTATED_VIDEOS), max_unreadable
        )

    def train(self, steps: Iterable[Step], rows: slice = ALL) -> Iterator[Clips]:
        """For every step a clip of each of its videos, perhaps flipped, and the labels.

        Args:
            steps: read ahead by a few clips for each worker process.
            rows: which places of every step to make; a process makes its share.

        Raises:
            ValueError: a step names an example that is not there.
            DataError: a file cannot be opened, too many videos cannot be decoded, or a worker
                process was killed.
        """
        shards, ahead = tee(shard_of(step, rows, self.train_size) for step in steps)
        examples = (
            Example(shard.seed, *place)
            for shard in ahead
            for place in zip(shard.positions, shard.indices, strict=True)
        )
        made = in_processes(self._train, examples, self.processes, self.device, self._bytes)
        with closing(made):
            for shard in shards:
                loaded = []
                for one in islice(made, len(shard.indices)):
                    self._note(one, REPLACED, self.files.train_paths)
                    loaded.append(one)
                yield self._clips(loaded)

    def test(self, first: int = 0, every: int = 1) -> Iterator[VideoClips]:
        """Every `every`-th batch of the test videos, from batch `first` on: all of their clips.

        Batches are of `test_batch` files in the order of the list; unreadable ones leave theirs
        smaller, and a batch of which nothing remains is left out.

        Raises:
            DataError: a file cannot be opened, too many videos cannot be decoded, or a worker
                process was killed.
        """
        size = self.test_batch
        begins = range(first * size, self.test_size, every * size)
        batches = [range(begin, min(begin + size, self.test_size)) for begin in begins]
        indices = (index for batch in batches for index in batch)
        made = in_processes(self._test, indices, self.processes, self.device, self._test_bytes)
        with closing(made):
            for batch in batches:
                loaded = []
                for one in islice(made, len(batch)):
                    self._note(one, LEFT_OUT, self.files.test_paths)
                    if len(one.clips):
                        loaded.append(one)
                if loaded:
                    yield self._video_clips(loaded)

    def data_issues(self) -> Issues:
        """Issues of the batches given out so far by this object, and those that are remembered.

        `replaced_videos`: training videos that cannot be decoded. `left_out_videos`: such test
        videos. `short_videos`: videos of either kind with fewer frames than a clip takes, whose
        last frame is repeated. `rotated_videos`: those whose frames are turned upright.
        """
        return self._issues.found()

    def remember(self, issues: Issues) -> None:
        """Add the issues of other processes, or of this run before it was resumed.

        Those of files that have been removed from the data set since then are dropped.

        Raises:
            DataError: more than `max_unreadable` of the training or of the test videos cannot be
                decoded, or all test videos of a class.
        """
        self._issues.remember(issues)

    def _note(self, one: Loaded, unreadable: str, paths: tuple[str, ...]) -> None:
        self._issues.note(unreadable, paths, one.unreadable)
        self._issues.note(SHORT_VIDEOS, paths, one.short)
        self._issues.note(ROTATED_VIDEOS, paths, one.rotated)

    def _clips(self, loaded: list[Loaded]) -> Clips:
        shape = (0, self.sampling.frames, self.image_size, self.image_size, 3)
        pixels = [torch.empty(shape, dtype=torch.uint8), *(one.clips for one in loaded)]
        labels = torch.tensor([one.label for one in loaded], dtype=torch.int64)
        moved = torch.cat(pixels).to(self.device, non_blocking=True)
        inputs = normalize(moved, self._mean, self._std)
        return Clips(inputs, labels.to(self.device))

    def _video_clips(self, loaded: list[Loaded]) -> VideoClips:
        counts = torch.tensor([len(one.clips) for one in loaded])
        before = counts.cumsum(0) - counts
        middle = before + torch.tensor([one.middle for one in loaded])
        videos = torch.arange(len(loaded)).repeat_interleave(counts)
        inputs, labels = self._clips(loaded)
        return VideoClips(inputs, videos.to(self.device), middle.to(self.device), labels)
