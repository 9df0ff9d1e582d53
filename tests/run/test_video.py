"""How a video classifier is set up: data, network, cost, and where its weights come from."""

import re
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch

from groupnorm import data as datasets
from groupnorm.cost.measure import count_cost
from groupnorm.data import DataError, catalog
from groupnorm.data.sets import garments_motion
from groupnorm.data.sets.kinetics import load as load_kinetics
from groupnorm.models import build_model, build_video_model
from groupnorm.run import check, config_class, run, video
from groupnorm.run.video import build, first_step, load, make_task, warm_start
from groupnorm.training.config import RunConfig, VideoConfig
from groupnorm.training.distributed import ALONE
from groupnorm.training.warm_start import WarmStartError, load_weights
from tests.data.sets.scene_sources import cached_sources
from tests.data.video.tiny_videos import ENTRY, FILES_ENTRY, write_files
from tests.data.video.video_files import broken, numbered, write_video
from tests.tolerances import NETWORK, STEP

FIELDS = {
    "task": "video", "data": "columns", "frames": 4, "stride": 2, "norm": "bn", "workers": 2,
    "batch_per_worker": 4, "base_lr": 0.4, "steps": 4, "test_clips": 3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _by_name(monkeypatch):
    monkeypatch.setitem(catalog._VIDEO_SETS, "columns", ENTRY)
    monkeypatch.setitem(catalog._VIDEO_SETS, "others", ENTRY)
    monkeypatch.setitem(catalog._VIDEO_SETS, "columns-files", FILES_ENTRY)


def config(**changes):
    fields = {**FIELDS, **changes}
    return config_class(fields)(**fields)


def without_timing(metrics):
    return [{**row, "timing": None} for row in metrics]


def test_the_same_configuration_gives_the_same_bits():
    first, second = (run(config(), with_cost=False) for _ in range(2))
    assert without_timing(first.metrics) == without_timing(second.metrics)
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "changes",
    [
        *({"norm": norm} for norm in ("gn:size=8", "gn:size=8+ws", "syncbn", "brn", "none")),
        {"precision": "bfloat16", "frames": 8, "stride": 1},
        {"memory_format": "channels_last", "centre_time": True},
        {"batch_per_worker": 2, "workers": 4, "accumulate": 2, "norms": {"stem": "gn:groups=4"}},
    ],
    ids=str,
)
def test_every_norm_and_precision_trains(changes):
    env, made = {}, config(**changes)
    result = run(made, on_start=env.update)
    (*_, last) = result.metrics
    assert result.status == "finished"
    assert 1 < last["train_loss"] < 2
    assert 0 < last["val_loss"] < 10
    fresh = build(made, load(made, "cpu", None), "cpu")
    weights = dict(fresh.named_parameters())
    assert {name for name, weight in result.model.named_parameters()
            if torch.equal(weight, weights[name])} == set(), "every weight has moved"  # fmt: skip
    assert (last["precise_val_accuracy"] is not None) == made.uses_batch_statistics
    assert env["metrics"][0]["name"] == "val_accuracy"
    assert env["cost"]["images"] == made.step_images // made.accumulate
    assert env["cost"]["image_shape"] == [3, made.frames, 8, 8]
    assert env["data_version"] == "1"


def test_half_precision_is_refused_where_the_cpu_computes_wrong_gradients():
    with pytest.raises(ValueError, match=r"wrong gradients .* \(5 frames on 4\); use more frames"):
        run(config(precision="bfloat16"), with_cost=False)


def test_a_batch_independent_norm_does_not_see_the_workers():
    a, b = (
        run(config(norm="gn:size=8", workers=w, batch_per_worker=8 // w), with_cost=False).metrics
        for w in (1, 4)
    )
    assert without_timing(a) == without_timing(b)


def test_channels_last_computes_the_same_to_rounding():
    formats = ("contiguous", "channels_last")
    a, b = (run(config(memory_format=name), with_cost=False).metrics[-1] for name in formats)
    assert a["train_loss"] == pytest.approx(b["train_loss"], rel=NETWORK)


def test_notes_of_the_clips_are_recorded():
    env = {}
    run(config(test_clips=10), with_cost=False, on_start=env.update)
    (note,) = env["data_notes"]
    assert note.startswith("test_clips=10: a video of 10 frames has 3 clips")


def test_held_out_videos_take_the_place_of_the_test_videos():
    data = load(config(validation_images=8, train_images=10), "cpu", None)
    assert (data.train_size, data.test_size) == (10, 8)
    with pytest.raises(
        ValueError,
        match="=20 and validation_images=8, but columns has 24 training videos",
    ):
        load(config(validation_images=8, train_images=20), "cpu", None)


@pytest.fixture
def few_files(monkeypatch, tmp_path):
    pytest.importorskip("av")
    monkeypatch.setattr(garments_motion, "load_sources", cached_sources)
    monkeypatch.setattr(garments_motion, "COUNTS", {"train": 20, "test": 10})
    monkeypatch.setenv("GROUPNORM_CACHE", str(tmp_path))


def test_frames_of_one_size_are_taken_whole(few_files):
    data = load(config(data="garments-motion-files", train_images=10), "cpu", None)
    assert (data.train_size, data.test_size, data.image_size) == (10, 10, 16)
    with pytest.raises(ValueError, match="the images of garments-motion-files have a size"):
        check(config(data="garments-motion-files", image_size=32))


@pytest.mark.slow
def test_a_network_trained_on_files_is_as_good_on_the_same_videos_in_memory(few_files):
    made = config(data="garments-motion-files", frames=8)
    result = run(made, with_cost=False)
    assert result.status == "finished"
    last = result.metrics[-1]
    files = datasets.load_video(made.data)
    found, moments = {}, (files.mean, files.std)
    for name in ("garments-motion", "garments-motion-files"):
        data = load(made.model_copy(update={"data": name}), "cpu", None)
        data._mean, data._std = (torch.tensor(given) for given in moments)
        task = make_task(made, data, result.model, ALONE)
        found[name] = task.evaluate(result.model, reported=False)
    measured = [name for name, value in found["garments-motion"].items() if value is not None]
    assert {"val_loss", "val_accuracy", "one_clip_accuracy"} <= set(measured)
    for name in measured:
        assert found["garments-motion-files"][name] == last[name]
        assert found["garments-motion"][name] == pytest.approx(last[name], rel=NETWORK)


@pytest.mark.slow
def test_the_number_of_decoding_processes_does_not_change_a_training(tmp_path, monkeypatch):
    write_files(tmp_path / "videos")
    made = config(data="columns-files", seed=5)
    results = []
    for count in (0, 1, 2):
        monkeypatch.setattr(video, "decoders", lambda count=count: count)
        results.append(run(made, with_cost=False, data_root=tmp_path / "videos"))
    for other in results[1:]:
        assert without_timing(other.metrics) == without_timing(results[0].metrics)
        for a, b in zip(results[0].model.parameters(), other.model.parameters(), strict=True):
            assert torch.equal(a, b)


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory):
    """A folder with 8 training and 3 test videos in two classes; one of each cannot be read."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(11):
        split, name = ("train" if number < 8 else "val"), ("up", "down")[number % 2]
        path = root / "kinetics" / split / name / f"{number}.mp4"
        if number in (3, 10):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(broken(number))
        else:
            write_video(path, numbered(12, 36, 44))
    return root


def test_video_files_train_and_what_is_broken_is_counted(kinetics):
    made = config(
        data="kinetics", image_size=32, test_crops=3, test_clips=2, max_unreadable=0.5, steps=1
    )
    told, env = [], {}
    result = run(made, data_root=kinetics, with_cost=False, on_start=env.update,
                 on_unreadable=told.append)  # fmt: skip
    assert list(env["decoders"]) == ["av", "libavcodec", "libavformat", "libswscale", "pillow"]
    assert env["decoders"]["av"] == version("av")
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", text) for text in env["decoders"].values())
    (row,) = result.metrics
    assert row["image_counts"]["left_out_videos"] == 1
    assert row["val_accuracy"] in (0.0, 50.0, 100.0)
    assert [len(files) for files in told[-1].values()] == [1, 1]
    data = load(made, "cpu", kinetics)
    (clips, _) = list(data.test())
    assert clips.inputs.shape == (2 * 3, 3, 4, 32, 32)
    assert clips.middle.tolist() == [4], "the central crop of the second clip"
    with pytest.raises(ValueError, match="a size of their own"):
        check(config(data="garments-motion", image_size=32))


def test_files_of_one_size_are_taken_whole(kinetics, monkeypatch):
    def load_whole(name, root):
        return replace(load_kinetics(root), frame_size=36, mean=(0.5,) * 3, std=(0.5,) * 3)

    monkeypatch.setattr(datasets, "load_video", load_whole)
    data = load(config(data="kinetics", max_unreadable=0.5), "cpu", kinetics)
    assert data.image_size == 36
    assert next(data.test()).inputs.shape[3:] == (36, 36)


def test_the_cost_is_of_a_pass():
    made = config(accumulate=2, centre_time=True, memory_format="channels_last")
    data = load(made, "cpu", None)
    step = first_step(made, data, build(made, data, "cpu"))
    assert step.images.shape == (4, 3, 4, 8, 8)
    assert step.images.is_contiguous(memory_format=torch.channels_last_3d)
    assert step.images.mean(2).abs().max() < STEP
    cost = count_cost(step.model, step.images)
    assert cost["training_flops_per_image"] > 2 * cost["flops_per_image"] > 1e5


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"model": "resnet20"}, "'resnet20'; known: i3d_"),
        ({"data": "digits"}, "unknown video data set 'digits'; known: "),
        ({"norms": {"stage9": "ln"}}, "i3d_narrow has no place 'stage9'; its places: stem, stage1"),
        ({"image_size": 64}, "the images of columns have a size of their own"),
        ({"test_crops": 3}, "the frames of columns are taken whole; test_crops=3 is for kinetics"),
        ({"model": "i3d_resnet50", "frames": 2}, "i3d_resnet50 takes clips of 7 frames at least"),
    ],
)
def test_what_is_refused_before_anything_is_loaded(fields, told):
    with pytest.raises((ValueError, DataError), match=told):
        check(VideoConfig(**{**FIELDS, **fields}))


def taken(made, weights, other):
    """What becomes of a model's weights, whose run's identity is `other`; also the new network."""
    model = build(made, load(made, "cpu", None), "cpu")
    return load_weights(model, weights.state_dict(), warm_start(made, model, other)), model


def test_weights_of_another_run_but_not_its_last_layer_where_the_data_differ():
    first = build_video_model("i3d_narrow", norm="bn", num_classes=4)
    same, model = taken(config(), first, config().identity())
    assert same["left_out"] == same["fresh"] == []
    assert torch.equal(model.fc.weight, first.fc.weight)
    other, model = taken(config(seed=1), first, config(data="others").identity())
    assert other["left_out"] == other["fresh"] == ["fc.weight", "fc.bias"]
    assert not torch.equal(model.fc.weight, first.fc.weight)
    assert torch.equal(model.conv1.weight, first.conv1.weight)


@pytest.mark.slow
def test_a_classifier_of_images_is_inflated():
    images = RunConfig(model="resnet50", norm="gn", data="imagenet", epochs=1)
    flat = build_model("resnet50", norm="gn", num_classes=1000)
    made = config(model="i3d_resnet50", norm="gn", frames=8, stride=1)
    found, model = taken(made, flat, images.identity())
    assert found["left_out"] == found["fresh"] == ["fc.weight", "fc.bias"]
    assert found["loaded"] == len(model.state_dict()) - 2
    torch.testing.assert_close(model.conv1.weight.sum(2), flat.conv1.weight)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"model": "i3d_resnet50"}, "they are of resnet20, it takes those of resnet50"),
        ({"model": "i3d_narrow"}, "they are of resnet20, it takes those of videos alone"),
    ],
)
def test_classifiers_that_do_not_fit(fields, told):
    other = RunConfig(model="resnet20", norm="bn", epochs=1).identity()
    with pytest.raises(WarmStartError, match=told):
        warm_start(config(**fields), torch.nn.Linear(1, 1), other)


def test_weights_that_cannot_be_inflated():
    made = config(model="i3d_resnet50", norm="gn+ws", frames=8, stride=1)
    with torch.device("meta"):
        flat = build_model("resnet50", norm="gn+ws", num_classes=10)
        model = build_video_model("i3d_resnet50", norm="gn+ws", num_classes=10)
    other = RunConfig(model="resnet50", norm="gn+ws", epochs=1).identity()
    with pytest.raises(WarmStartError, match="weight standardization"):
        load_weights(model, flat.state_dict(), warm_start(made, model, other))
    plain = RunConfig(model="resnet50", norm="gn", epochs=1).identity()
    with pytest.raises(WarmStartError, match="trained with gn; with gn"):
        warm_start(made, model, plain)
