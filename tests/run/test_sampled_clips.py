"""The test videos on which trained networks are looked at, and what they take them for."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from groupnorm import data as datasets
from groupnorm import models
from groupnorm.data.video.clips import Sampling
from groupnorm.data.video.memory import VideosInMemory
from groupnorm.run import video
from groupnorm.run.sampled_clips import MOST_PIXELS, SampledClips
from groupnorm.run.setup import built
from groupnorm.training.config import VideoConfig
from groupnorm.training.evaluation.clips import clip_accuracies
from groupnorm.training.tasks.video import network_input
from tests.data.video.tiny_videos import CLASSES, RAW, SIDE, tiny_videos
from tests.data.video.video_files import mixed_set
from tests.tolerances import FOUR_DIGITS, HUNDREDTH

LONG = VideoConfig(frames=8, stride=1, test_clips=3, norm="bn", centre_time=True, steps=1)
SHORT = LONG.model_copy(update={"frames": 4, "stride": 2})


def build(config, videos, device):
    return built(
        config, device,
        lambda norm, of_places: models.build_video_model(
            config.model, norm=norm, norms=of_places, num_classes=videos.num_classes
        ),
    )  # fmt: skip


def sampled(config=LONG, count=5, **changes):
    return SampledClips(config, tiny_videos(**changes), count, build)


def weights_of(config):
    return build(config, tiny_videos(), "cpu").state_dict()


def test_the_first_test_videos_with_the_frames_of_their_middle_clip_side_by_side():
    found, videos = sampled(), tiny_videos()
    assert found.categories == list(CLASSES)
    assert [image["video"] for image in found.images] == [0, 1, 2, 3, 4]
    assert [image["truth"] for image in found.images] == [
        CLASSES[label] for label in videos.test_labels[:5]
    ]
    first = (RAW - 8) // 2
    for image, pixels in zip(found.images, found.pixels, strict=True):
        assert (image["height"], image["width"], image["frames"]) == (SIDE, SIDE, 8)
        assert pixels.shape == (SIDE, 8 * SIDE, 3)
        for frame in range(8):
            shown = pixels[:, frame * SIDE : (frame + 1) * SIDE]
            assert (shown == videos.test_videos[image["video"], first + frame].numpy()).all()


@pytest.mark.parametrize("frames", [20, 33, 39])
def test_frames_of_a_span_that_the_number_shown_does_not_divide(frames):
    """They are of the middle clip still, from its first frame nearly to its last."""
    raw = 40
    videos = torch.arange(raw, dtype=torch.uint8).view(1, raw, 1, 1, 1).expand(1, raw, 8, 8, 3)
    labels = torch.zeros(1, dtype=torch.int64)
    changes = {f"{split}_videos": videos.contiguous() for split in ("train", "test")}
    changes |= {f"{split}_labels": labels for split in ("train", "test")}
    config = LONG.model_copy(update={"frames": frames})
    found = sampled(config, 1, **changes)
    shown = found.pixels[0][0, ::8, 0].astype(int)
    first = (raw - frames) // 2
    assert (len(shown), shown[0]) == (16, first)
    assert first + frames - 3 <= shown[-1] < first + frames
    assert set(np.diff(shown)) <= {frames // 16, frames // 16 + 1}


def test_both_lengths_of_one_span_show_the_same_frames():
    long, short = sampled(), sampled(SHORT)
    assert long.images == short.images
    assert all((a == b).all() for a, b in zip(long.pixels, short.pixels, strict=True))


@pytest.mark.parametrize(("config", "ceilings"), [(LONG, None), (SHORT, None), (SHORT, {2: 75.0})])
def test_a_prediction_is_that_of_the_runs_test(config, ceilings):
    """Its accuracy on these videos is what the evaluation of the run says of them."""
    images = sampled(SHORT, count=11, ceilings=ceilings)
    found = images.predict(config, {}, weights_of(config), 0.0)
    assert found["not_finite"] == 0
    videos = tiny_videos(ceilings=ceilings)
    truth = [CLASSES[label] for label in videos.test_labels.tolist()]
    right = [one["category"] == name for (one,), name in zip(found["objects"], truth, strict=True)]
    model = build(config, videos, "cpu").eval()
    sampling = Sampling(config.frames, config.stride)
    batches = list(VideosInMemory(videos, sampling, test_clips=3).test())
    expected = clip_accuracies(
        lambda clips: model(network_input(clips, config)), batches, torch.device("cpu")
    )
    assert 100 * np.mean(right) == pytest.approx(expected["val_accuracy"])
    with torch.no_grad():
        chances = torch.cat([model(network_input(one.inputs, config)).softmax(1)
                             for one in batches])  # fmt: skip
    best = chances.view(11, -1, len(CLASSES)).mean(1).amax(1)
    scores = torch.tensor([one["score"] for (one,) in found["objects"]])
    assert (scores - best).abs().max() <= FOUR_DIGITS, "rounded"
    assert all(1 / len(CLASSES) <= one["score"] <= 1 for (one,) in found["objects"])


def test_a_class_below_the_lowest_score_and_a_value_that_is_no_number_are_left_out():
    images, weights = sampled(count=2), weights_of(LONG)
    assert images.predict(LONG, {}, weights, 1.0)["objects"] == [[], []]
    broken = {name: value * float("nan") for name, value in weights.items()}
    assert images.predict(LONG, {}, broken, 0.0) == {"objects": [[], []], "not_finite": 2}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "kinetics"}, "its test videos are others: data is kinetics, not garments-motion"),
        ({"validation_images": 4}, "its test videos are others: validation_images is 4, not None"),
        ({"frames": 4}, "its clips span 4 frames, those that are shown 8"),
    ],
)
def test_runs_with_other_videos_or_clips_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        sampled().predict(LONG.model_copy(update=changes), {}, {}, 0.0)


def test_weights_of_another_network_are_refused():
    with pytest.raises(ValueError, match="the weights do not fit i3d_narrow"):
        sampled().predict(LONG, {}, {}, 0.0)


def test_long_clips_show_some_of_their_frames_and_large_frames_are_made_smaller():
    videos = torch.zeros(1, 40, 2 * MOST_PIXELS, MOST_PIXELS, 3, dtype=torch.uint8)
    videos[:, ::2] = 200
    labels = torch.zeros(1, dtype=torch.int64)
    found = SampledClips(
        LONG.model_copy(update={"frames": 32}),
        tiny_videos(train_videos=videos, train_labels=labels, test_videos=videos,
                    test_labels=labels),
        3, build,
    )  # fmt: skip
    (image,) = found.images
    assert (image["height"], image["width"], image["frames"]) == (96, 48, 16)
    assert found.pixels[0].shape == (96, 16 * 48, 3)
    assert found.pixels[0].mean() == pytest.approx(200, abs=HUNDREDTH), "every second frame"


@pytest.mark.parametrize(("frame_size", "image_size"), [(20, None), (None, 32)])
def test_videos_in_files_are_predicted_at_the_size_of_the_run(
    tmp_path, monkeypatch, frame_size, image_size
):
    files = replace(mixed_set(tmp_path, train=3, test=4), frame_size=frame_size)
    monkeypatch.setattr(datasets, "load_video", lambda name, root: files)
    config = VideoConfig(
        data="kinetics", image_size=image_size, frames=4, stride=2, test_clips=2, norm="gn",
        steps=1,
    )  # fmt: skip
    model, sizes = build(config, files, "cpu").eval(), []
    expected = []
    for batch in video.load(config, "cpu", None).test():
        sizes.append(batch.inputs.shape[3:])
        with torch.no_grad():
            expected.append(float(model(batch.inputs).softmax(1).mean(0).max()))
    assert set(sizes) == {(frame_size or image_size,) * 2}
    found = SampledClips(config, files, 4, build).predict(config, {}, model.state_dict(), 0.0)
    assert [one["score"] for (one,) in found["objects"]] == [round(e, 4) for e in expected]
