"""The recipe of the paper's Table 8: its cells, schedules, starts, and its smoke scale."""

import re
from pathlib import Path

import pytest
import torch

from groupnorm.data.sets import garments_motion, garments_motion_files
from groupnorm.experiments import Options, build, imagenet, kinetics, study_plan
from groupnorm.models import build_model, build_video_model, check_video_model
from groupnorm.run import run
from groupnorm.run.video import warm_start
from groupnorm.study.results.compare import same_name
from groupnorm.study.results.published import load
from groupnorm.training.config import RunConfig, VideoConfig
from groupnorm.training.schedules import lr_factor
from groupnorm.training.warm_start import load_weights
from tests.data.sets.scene_sources import cached_sources

CELLS = {
    (config.norm.kind, config.frames, config.batch_per_worker): config
    for config in (variant.config for variant in build("kinetics-clips").variants)
}
SMOKE = build("kinetics-clips", Options(scale="smoke"))


def test_the_cells_are_those_of_the_published_table():
    experiment = build("kinetics-clips")
    table = load("kinetics-clips")
    columns = ("norm", "batch_per_worker", "frames", "stride")
    rows = [
        tuple(experiment.labels(variant)[key] for key in columns) for variant in experiment.variants
    ]
    assert rows == list(zip(*(table.data[key] for key in columns), strict=True))
    assert all(same_name(config.model, table.model) for config in CELLS.values())
    measured = [metric.name for metric in (experiment.metric, *experiment.also)]
    assert measured[:2] == list(table.data)[4:]
    words = f"{experiment.result} {kinetics.clips.__doc__}"
    assert all(f"{number:.1f}" in words for number in table.data["val_accuracy"])


@pytest.mark.parametrize("cell", CELLS)
def test_the_schedule_is_the_networks_authors(cell):
    config = CELLS[cell]
    halved = config.batch_per_worker == 4
    assert config.learning_rate == (0.005 if halved else 0.01)
    assert config.steps * config.step_images == 25_600_000
    assert (config.workers, config.accumulate) == (8, 8), "one worker at a time"
    assert (config.nesterov, config.momentum) == (True, 0.9)
    assert (config.weight_decay, config.decay_norms) == (1e-4, False)
    assert (config.test_clips, config.test_crops) == (10, 1)
    assert (config.data, config.image_size, config.centre_time) == ("kinetics", 224, False)
    for drop in (150_000, 300_000):
        at = drop * (2 if halved else 1)
        before, after = (
            lr_factor(config.schedule, step, config.steps, 0, drops=config.drops)
            for step in (at - 1, at)
        )
        assert after == pytest.approx(before / 10)


def test_each_norm_starts_from_its_imagenet_run():
    starts = {config.norm.kind: config for config in build("kinetics-clips").initial}
    assert list(starts) == ["bn", "gn"]
    of_table_1 = {variant.config.run_name() for variant in build("imagenet-norms").variants}
    assert {config.run_name() for config in starts.values()} < of_table_1
    for (kind, *_), config in CELLS.items():
        assert config.init == starts[kind].run_name()
        assert starts[kind] == imagenet.recipe().model_copy(update={"norm": config.norm})


def on_meta(config):
    with torch.device("meta"):
        return build_video_model(config.model, norm=config.norm, num_classes=400)


@pytest.mark.filterwarnings("ignore:for .*num_batches_tracked. copying from a non-meta")
@pytest.mark.parametrize("kind", ["bn", "gn"])
def test_the_network_is_built_at_full_size_and_takes_the_classifiers_weights(kind):
    config = CELLS[kind, 64, 4]
    model = on_meta(config)
    parameters = sum(p.numel() for p in model.parameters())
    assert next(model.parameters()).is_meta
    assert 27e6 < parameters < 29e6
    check_video_model(config.model, frames=config.frames, size=config.image_size)
    (start,) = (s for s in build("kinetics-clips").initial if s.norm.kind == kind)
    with torch.device("meta"):
        classifier = build_model(start.model, norm=start.norm, num_classes=1000)
    found = load_weights(
        model, classifier.state_dict(), warm_start(config, model, start.identity())
    )
    assert found["left_out"] == ["fc.weight", "fc.bias"]
    assert not any("layer" in key or "conv1" in key for key in found["fresh"])


def test_what_a_user_may_change():
    options = Options(epochs=1, seeds=2, train_images=1000, image_size=112)
    plan = study_plan("kinetics-clips", options)
    assert len(plan.configs) == 12
    found = {(c.epochs, c.steps, c.train_images, c.image_size) for c in plan.configs.values()}
    assert found == {(1, None, 1000, 112)}
    assert len(plan.initial) == 2, "one for each norm, whatever the seeds"
    small = study_plan("kinetics-clips", Options(data="garments-motion"))
    assert {config.image_size for config in small.configs.values()} == {None}


def test_the_commands_of_the_documentation_are_the_recipe():
    document = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    commands = re.findall(r"-m groupnorm train (.*?) --device", document.replace("\\\n", " "))
    start, fields = (dict(field.split("=") for field in text.split()) for text in commands[-2:])
    classifier, cell = RunConfig(**start), CELLS["gn", 64, 4]
    assert classifier.run_name() == cell.init
    assert fields.pop("init") == "r50-gn"
    assert VideoConfig(**fields, accumulate=8, init=classifier.run_name()) == cell


def test_smoke_keeps_networks_norms_and_one_span():
    for variant, full in zip(SMOKE.variants, CELLS.values(), strict=True):
        config = variant.config
        assert (config.model, config.norm) == (full.model, full.norm)
        assert config.frames * config.stride == 16
        assert (config.steps, config.accumulate, config.workers) == (2, 1, 2)
        assert config.batch_per_worker == full.batch_per_worker // 2


@pytest.fixture
def _few_videos(monkeypatch, tmp_path):
    """The data set of the smoke scale, with few videos, in a folder of its own."""
    pytest.importorskip("av")
    monkeypatch.setattr(garments_motion, "load_sources", cached_sources)
    monkeypatch.setattr(garments_motion, "COUNTS", {"train": 40, "test": 10})
    monkeypatch.setattr(garments_motion_files, "folder", lambda: tmp_path / "videos")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The checkpoint of a classifier that smoke runs start from, by its run's name."""
    made = {}

    def checkpoint(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("starts") / "checkpoint.pt"
            (start,) = (config for config in SMOKE.initial if config.run_name() == name)
            run(start, with_cost=False, checkpoint=made[name])
        return made[name]

    return checkpoint


@pytest.mark.slow
@pytest.mark.usefixtures("_few_videos")
@pytest.mark.parametrize("number", range(len(SMOKE.variants)))
def test_the_smoke_scale_runs(number, trained):
    config, env = SMOKE.variants[number].config, {}
    result = run(config, with_cost=False, init=trained(config.init), on_start=env.update)
    assert result.status == "finished"
    last = result.metrics[-1]
    assert last["step"] == config.steps == 2
    assert 0 < last["train_loss"] < 10
    assert 0 <= last["val_accuracy"] <= 100
    assert env["init"]["left_out"] == ["fc.weight", "fc.bias"]
