"""The study of videos: its cells, the runs that they share, its findings and its smoke scale."""

from collections import Counter

import pytest

from groupnorm.data.sets import garments_motion
from groupnorm.data.video.clips import Sampling
from groupnorm.experiments import Options, build, study_plan, video
from groupnorm.run import run
from groupnorm.spec import NormSpec
from groupnorm.study.plan import PlanError
from groupnorm.study.results.published import load
from groupnorm.study.schema import LABELS
from groupnorm.training.metric import VIDEO
from tests.data.sets.scene_sources import cached_sources

GN, BN = "gn:size=8", "bn"


def cells(scale="quick", **options):
    """The configurations of a plan by norm, clips per worker, frames and seed, and the plan."""
    plan = study_plan("video", Options(scale=scale, **options))
    keys = ("norm", "batch_per_worker", "frames")
    found = {
        (*(cell.labels[key] for key in keys), cell.seed): plan.configs[cell.run]
        for cell in plan.cells
    }
    assert len(found) == len(plan.cells)
    return found, plan


def test_the_cells_of_quick_and_their_seeds():
    found, plan = cells()
    assert list(found) == [
        (norm, size, frames, seed)
        for norm in (GN, BN)
        for frames in (8, 16)
        for size in (8, 4, 2)
        for seed in range(3)
    ]
    assert (plan.shows, plan.protocol, plan.data) == ("clips", "fixed-step", "garments-motion")
    assert (plan.metric, plan.also) == (VIDEO[0], VIDEO[1:4])
    assert plan.published == ("kinetics-clips",)
    for cell in plan.cells:
        assert cell.labels.keys() == {*LABELS["clips"], "training"}


def test_group_norm_is_trained_once_for_all_numbers_of_clips():
    found, plan = cells()
    assert len(plan.configs) == 24
    names = {key: config.run_name() for key, config in found.items()}
    for frames in (8, 16):
        assert len({names[GN, size, frames, 0] for size in (8, 4, 2)}) == 1
        assert len({names[BN, size, frames, 0] for size in (8, 4, 2)}) == 3


def test_a_step_has_the_same_clips_everywhere():
    found, _ = cells("standard")
    for (norm, size, frames, _), config in found.items():
        assert config.step_images == 16
        assert config.learning_rate == pytest.approx(0.05)
        assert str(config.norm) == norm
        if norm.startswith("bn"):
            assert (config.batch_per_worker, config.workers) == (size, 16 // size)
        assert (config.frames, config.stride) == (frames, 16 // frames), "one span"


def test_every_cell_of_quick_has_the_same_recipe():
    found, _ = cells()
    differ = {"norm", "workers", "batch_per_worker", "frames", "stride", "seed"}
    (recipe,) = {config.model_dump_json(exclude=differ) for config in found.values()}
    base = video.quick()
    assert recipe == base.model_dump_json(exclude=differ)
    assert (base.steps, base.centre_time, base.schedule) == (900, True, "cosine")
    assert (base.decay_norms, base.nesterov, base.weight_decay) == (True, True, 1e-4)


@pytest.mark.usefixtures("_few_videos")
def test_test_clips_start_at_the_same_frames_in_every_cell():
    """Short and long clips start at the same frames, of which short ones skip the same."""
    found, _ = cells()
    videos = garments_motion.load()
    starts = {
        str(videos.test_starts(Sampling(config.frames, config.stride), config.test_clips))
        for config in found.values()
    }
    assert starts == {"[0, 2, 4]"}


def test_standard_has_weight_standardization_on_other_input_and_longer():
    found, plan = cells("standard")
    quick, _ = cells()
    assert Counter(cell.labels["training"] for cell in plan.cells) == {
        "900 steps, input centred over time": 60, "1,800 steps, input as it is": 60,
    }  # fmt: skip
    assert {seed for *_, seed in found} == set(range(5))
    assert len(plan.configs) == 80
    for key, config in quick.items():
        assert found[key] == config, "a standard study goes on from a quick one"
    for (norm, *_), config in found.items():
        ws = norm.endswith("+ws")
        assert (config.steps, config.centre_time) == ((1800, False) if ws else (900, True))
        same = {"norm", "steps", "centre_time"}
        plain = found[norm.removesuffix("+ws"), *_]
        assert config.model_dump(exclude=same) == plain.model_dump(exclude=same)


def test_larger_is_quick_on_larger_clips():
    found, plan = cells("larger")
    quick, _ = cells()
    assert plan.data == "garments-motion-24"
    assert {seed for *_, seed in found} == set(range(5))
    for key, config in quick.items():
        assert found[key] == config.model_copy(update={"data": "garments-motion-24"})


def test_smoke_is_two_steps_of_every_cell():
    found, plan = cells("smoke")
    assert {config.steps for config in found.values()} == {2}
    assert {config.train_images for config in found.values()} == {16}
    assert {config.validation_images for config in found.values()} == {10}
    assert {seed for *_, seed in found} == {0}
    assert plan.untimed


@pytest.mark.parametrize("scale", video.SCALES)
def test_the_published_findings_are_about_cells_of_plain_norms(scale):
    plan = study_plan("video", Options(scale=scale))
    labels = [cell.labels for cell in plan.cells]
    assert len(plan.findings) == 8
    for finding in plan.findings:
        pairs = [{"better": finding.better, "worse": finding.worse}, finding.than or {}]
        for one in (row for pair in pairs for row in pair.values()):
            assert one in labels
            assert not NormSpec.parse(one["norm"]).ws


def test_findings_say_what_the_published_table_does():
    """Each is put to the paper's numbers, whose short clips have 32 frames and long ones 64."""
    data = load("kinetics-clips").data
    accuracies = {
        (norm, size, stride): accuracy
        for norm, size, stride, accuracy in zip(
            *(data[key] for key in ("norm", "batch_per_worker", "stride", "val_accuracy")),
            strict=True,
        )
    }

    def published(labels):
        kind = NormSpec.parse(labels["norm"]).kind
        return accuracies[kind, labels["batch_per_worker"], labels["stride"]]

    for finding in build("video").findings:
        better, worse = published(finding.better), published(finding.worse)
        numbers = {better, worse}
        if finding.than is not None:
            than = [published(finding.than[key]) for key in ("better", "worse")]
            gain = better - worse
            assert gain > than[0] - than[1] == 0
            assert gain == pytest.approx(2 * video.EQUAL_WITHIN)
            numbers |= {*than}
        elif finding.within is not None:
            assert better == worse
            assert f"equal within {finding.within} points" in finding.statement
        else:
            assert better > worse
        for number in numbers:
            assert f"{number}" in finding.source


@pytest.mark.parametrize(
    "fields",
    [
        {"norms": "gn"},
        {"batch_sizes": "1"},
        {"data": "kinetics"},
        {"model": "i3d_resnet50"},
        {"epochs": 2},
        {"image_size": 96},
        {"tune": "base_lr=0.1,0.2"},
        {"protocol": "paper"},
    ],
)
def test_what_the_study_decides_itself(fields):
    with pytest.raises(PlanError, match="unknown key"):
        study_plan("video", Options(**fields))


@pytest.fixture
def _few_videos(monkeypatch, tmp_path):
    """The data set of that name with few videos, in a cache of its own."""
    monkeypatch.setattr(garments_motion, "load_sources", cached_sources)
    monkeypatch.setattr(garments_motion, "COUNTS", {"train": 40, "test": 10})
    monkeypatch.setenv("GROUPNORM_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.usefixtures("_few_videos")
@pytest.mark.parametrize("key", [(GN, 8, 16, 0), (BN, 2, 8, 0)])
def test_the_smoke_scale_runs(key):
    found, _ = cells("smoke")
    result = run(found[key], with_cost=False)
    assert result.status == "finished"
    last = result.metrics[-1]
    assert last["step"] == 2
    assert 0 < last["train_loss"] < 8
    assert 0 <= last["val_accuracy"] <= last["val_accuracy_top5"] <= 100
    assert (last["precise_val_accuracy"] is None) == (key[0] != BN)
