"""The recipes of the COCO tables: schedules, norms by place, and where backbones start from."""

import functools
import re
from pathlib import Path

import pytest
import torch

from groupnorm.conversion import load_backbone
from groupnorm.experiments import Options, build, coco, imagenet, study_plan
from groupnorm.models import build_detector, build_model
from groupnorm.models.detection.architectures import architecture_of
from groupnorm.run import detection, run
from groupnorm.run.detection import warm_start
from groupnorm.study.execute import run_study
from groupnorm.study.plan import PlanError
from groupnorm.study.results import published
from groupnorm.study.results.compare import same_name
from groupnorm.training.config import DetectionConfig, RunConfig
from groupnorm.training.distributed import ALONE
from groupnorm.training.loop import train
from groupnorm.training.schedules import lr_factor
from groupnorm.training.warm_start import load_weights
from tests.data.detection.tiny_garments import tiny_garments
from tests.models.detection.test_build import ROWS

NAMES = ("coco-c4", "coco-heads", "coco-systems", "coco-scratch", "coco-retinanet")
ARMS = {
    f"{name}, {variant.labels['arm']}": variant.config
    for name in NAMES
    for variant in build(name).variants
}
STARTS = {config.run_name(): config for name in NAMES for config in build(name).initial}
# Each network once, however many tables have it.
SMOKE = {
    variant.config.run_name(): (name, variant)
    for name in NAMES
    for variant in build(name, Options(scale="smoke")).variants
}


def norms_of(config):
    """The norms by place, without those that are none."""
    places = architecture_of(config.model).places
    norms = {place: str(config.norms.get(place, config.norm)) for place in places}
    return {place: norm for place, norm in norms.items() if norm != "none"}


@functools.cache
def on_meta(model, norm, norms=(), box_head=None, freeze_at=0):
    with torch.device("meta"):
        if box_head is None:
            return build_model(model, norm=norm, num_classes=1000)
        return build_detector(
            model, norm=norm, norms=dict(norms), box_head=box_head, freeze_at=freeze_at,
            num_classes=80, canvas=800,
        )  # fmt: skip


def detector(config):
    norms = tuple(config.norms.items())
    return on_meta(config.model, config.norm, norms, config.box_head, config.freeze_at)


def rate_at(config, step):
    return config.learning_rate * lr_factor(
        config.schedule, step, config.steps, config.warmup_steps,
        warmup_from=config.warmup_from, drops=config.drops,
    )  # fmt: skip


def test_every_arm_has_the_norms_that_are_counted_in_its_network():
    counted = {arm: row[:3] for arm, row in ROWS.items()}
    found = {arm: (config.model, norms_of(config), config.box_head) for arm, config in ARMS.items()}
    longer = {"coco-systems, R50, GN, long", "coco-systems, R101, GN, long"}
    same = longer | {"coco-scratch, R50, GN", "coco-scratch, R101, GN"}
    assert {arm: row for arm, row in found.items() if arm not in same} == counted
    for arm in same:
        assert found[arm] == counted[arm.replace("scratch", "systems").removesuffix(", long")]


@pytest.mark.parametrize(
    ("name", "arm", "steps", "rate", "images", "at"),
    [
        ("coco-c4", "GN", 360_000, 0.01, (8, 1), [240_000, 320_000]),
        ("coco-c4", "BN trained at 2", 180_000, 0.02, (8, 2), [120_000, 160_000]),
        ("coco-heads", "frozen BN", 180_000, 0.02, (8, 2), [120_000, 160_000]),
        ("coco-systems", "R101, GN", 180_000, 0.02, (8, 2), [120_000, 160_000]),
        ("coco-systems", "R50, GN, long", 270_000, 0.02, (8, 2), [210_000, 250_000]),
        ("coco-scratch", "R50, GN", 270_000, 0.02, (8, 2), [210_000, 250_000]),
        ("coco-retinanet", "GN in pyramid", 90_000, 0.01, (8, 2), [60_000, 80_000]),
    ],
)
def test_schedules_are_those_of_detectron(name, arm, steps, rate, images, at):
    config = ARMS[f"{name}, {arm}"]
    assert (config.steps, config.learning_rate) == (steps, rate)
    assert (config.workers, config.batch_per_worker) == images
    for step, factor in zip(at, (1, 0.1), strict=True):
        assert rate_at(config, step - 1) == pytest.approx(rate * factor)
        assert rate_at(config, step) == pytest.approx(rate * factor / 10)
    assert rate_at(config, 0) == pytest.approx(rate / 3)
    assert rate_at(config, 500) == rate


@pytest.mark.parametrize("arm", ARMS)
def test_what_all_recipes_have(arm):
    config = ARMS[arm]
    assert config.data == "coco"
    assert config.short_side is config.long_side is None, "800 and 1333, the data set's own"
    assert (config.momentum, config.nesterov) == (0.9, False)
    assert (config.weight_decay, config.decay_norms) == (1e-4, False)
    assert (config.warmup_steps, config.warmup_from) == (500, 1 / 3)
    assert config.head_init == "published"
    assert config.freeze_at == (0 if "scratch" in arm else 2)
    assert (config.init is None) == ("scratch" in arm)
    assert config.accumulate == (1 if "synchronized" in arm else 4)


def test_backbones_start_from_the_papers_imagenet_runs():
    of_table_1 = {v.config.run_name() for v in build("imagenet-norms").variants}
    of_r50 = {name for name, config in STARTS.items() if config.model == "resnet50"}
    assert of_r50 < of_table_1
    for name, config in STARTS.items():
        assert name == config.run_name()
        assert config == imagenet.recipe(config.model).model_copy(update={"norm": config.norm})
    started = {arm: STARTS[config.init] for arm, config in ARMS.items() if config.init}
    for arm, start in started.items():
        norm = norms_of(ARMS[arm])["backbone"]
        assert str(start.norm) == ("bn" if norm == "frozenbn" else norm)
        assert start.model == architecture_of(ARMS[arm].model).body


@pytest.mark.filterwarnings("ignore:for .*num_batches_tracked. copying from a non-meta")
@pytest.mark.parametrize("arm", [arm for arm, config in ARMS.items() if config.init])
def test_the_backbones_weights_fit(arm):
    config = ARMS[arm]
    start = STARTS[config.init]
    model, classifier = detector(config), on_meta(start.model, start.norm)
    found = load_weights(
        model, classifier.state_dict(), warm_start(config, model, start.identity())
    )
    assert found["left_out"] == ["fc.weight", "fc.bias"]
    assert not any("backbone.body" in key or "layer4" in key for key in found["fresh"])


@pytest.mark.parametrize("arm", ARMS)
def test_every_detector_is_built_at_full_size(arm):
    model = detector(ARMS[arm])
    assert next(model.parameters()).is_meta
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    low = 55 if "R101" in arm else 32
    assert low < parameters < low + 35


@pytest.mark.parametrize("name", NAMES)
def test_arms_are_called_as_in_the_published_table(name):
    experiment = build(name)
    arms = [variant.labels["arm"] for variant in experiment.variants]
    rows = list(published.results_by_arm(published.load(experiment.published[0])))
    if name == "coco-retinanet":
        assert arms == [*rows, "GN in pyramid, heads and backbone"]
    else:
        assert arms == rows
        columns = published.load(name).data
        assert [metric.name for metric in (experiment.metric, *experiment.also)] == [
            column for column in columns if column != "arm"
        ]


@pytest.mark.parametrize("name", NAMES[:-1])
def test_models_are_those_of_the_published_table(name):
    models = {variant.config.model for variant in build(name).variants}
    named = published.load(name).model.split(" and ")
    assert len(models) == len(named)
    assert all(any(same_name(model, other) for other in named) for model in models)


@pytest.mark.parametrize("name", NAMES)
def test_the_words_have_the_published_numbers(name):
    experiment = build(name)
    text = f"{experiment.result} {getattr(coco, name.removeprefix('coco-')).__doc__}"
    for table in experiment.published[: 2 if name == "coco-retinanet" else 1]:
        rows = published.results_by_arm(published.load(table))
        for arm, numbers in rows.items():
            first = next(iter(numbers.values()))
            if arm == "frozen BN, BN in box head":  # given as a difference
                assert first == rows["frozen BN, GN in box head"]["box_ap"] - 9
            else:
                assert f"{first:.1f}" in text


def test_what_a_user_may_change():
    plan = study_plan("coco-heads", Options(epochs=1, seeds=2, train_images=1000))
    assert len(plan.configs) == 10
    assert {(c.epochs, c.steps, c.train_images) for c in plan.configs.values()} == {(1, None, 1000)}
    assert len(plan.initial) == 2, "one for each norm, whatever the seeds"
    with pytest.raises(PlanError, match="unknown key 'image_size'"):
        study_plan("coco-heads", Options(image_size=224))


def test_the_commands_of_the_documentation_are_the_recipe():
    document = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    commands = re.findall(r"-m groupnorm train (.*?) --device", document.replace("\\\n", " "))
    start, fields = (dict(field.split("=") for field in text.split()) for text in commands[:2])
    arm = ARMS["coco-systems, R50, GN"]
    classifier = RunConfig(**start)
    assert classifier.run_name() == arm.init
    assert fields.pop("init") == "r50-gn"
    made = DetectionConfig(**fields, accumulate=4, init=classifier.run_name())
    assert made == arm


@pytest.mark.slow
@pytest.mark.usefixtures("scenes_on_disk")
@pytest.mark.parametrize("published_norm", ["bn", "gn"])
def test_published_backbones_train(published_norm, tmp_path):
    """As the documentation says: a file of a classifier's weights in place of a run's."""
    classifier = build_model("resnet50", norm=published_norm, num_classes=1000)
    torch.save(classifier.state_dict(), tmp_path / "resnet50.pt")
    (variant,) = (
        variant
        for variant in build("coco-systems", Options(scale="smoke")).variants
        if variant.labels["arm"] == {"bn": "R50, frozen BN", "gn": "R50, GN"}[published_norm]
    )
    config = variant.config.model_copy(
        update={"init": None, "data": "coco", "validation_images": None}
    )
    data = detection.load(config, "cpu", tiny_garments())
    model = detection.build(config, data, "cpu")
    load_backbone(model, tmp_path / "resnet50.pt")
    assert torch.equal(model.backbone.body.conv1.weight, classifier.conv1.weight)
    task = detection.make_task(config, data, model, ALONE)
    metrics = train(config, model, task, checkpoint=tmp_path / "detector.pt")
    assert metrics[-1]["box_ap"] is not None
    assert torch.equal(model.backbone.body.conv1.weight, classifier.conv1.weight), "it is frozen"
    assert not torch.equal(
        model.backbone.body.layer4[2].conv3.weight, classifier.layer4[2].conv3.weight
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Checkpoints of the classifiers that the smoke runs start from, each trained once."""

    @functools.cache
    def checkpoint(config):
        path = tmp_path_factory.mktemp("starts") / "checkpoint.pt"
        run(config, with_cost=False, checkpoint=path)
        return path

    return checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("run_name", SMOKE)
def test_the_smoke_scale_runs(run_name, trained):
    name, variant = SMOKE[run_name]
    config, init = variant.config, None
    if config.init is not None:
        starts = build(name, Options(scale="smoke")).initial
        init = trained(next(start for start in starts if start.run_name() == config.init))
    env = {}
    result = run(config, with_cost=False, init=init, on_start=env.update)
    assert result.status == "finished"
    last = result.metrics[-1]
    assert last["step"] == config.steps == 2
    assert 0 < last["train_loss"] < 20
    assert last["box_ap"] is not None
    assert ("init" in env) == (config.init is not None)


@pytest.mark.slow
def test_a_smoke_study_shows_its_arms(tmp_path):
    outcome = run_study(study_plan("coco-retinanet", Options(scale="smoke")), tmp_path, jobs=1)
    assert {record.status for record in outcome.records} == {"finished"}
    page = outcome.report.read_text()
    for arm in coco.RETINANET:
        assert arm in page
