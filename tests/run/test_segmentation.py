"""How a network that labels every pixel is set up: data, network, cost, where weights come from."""

import copy

import pytest
import torch
from torch import nn

from groupnorm.conversion import convert
from groupnorm.data import DataError, catalog
from groupnorm.layers import BatchNorm, FrozenBatchNorm, GroupNorm
from groupnorm.models import build_model, build_segmentation_model
from groupnorm.run import check, config_class, run, segmentation
from groupnorm.run.segmentation import build, first_step, load, notes, warm_start
from groupnorm.training.checkpoint import CheckpointError, Progress, save_checkpoint
from groupnorm.training.config import RunConfig
from groupnorm.training.distributed import Processes
from groupnorm.training.optimizer import sgd
from groupnorm.training.warm_start import WarmStartError, load_weights
from tests.data.segmentation import tiny_maps
from tests.processes import in_processes
from tests.tolerances import NETWORK

FIELDS = {
    "task": "segmentation", "data": "shapes", "norm": "bn", "workers": 2, "batch_per_worker": 4,
    "base_lr": 1.6, "steps": 4,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _by_name(monkeypatch):
    monkeypatch.setitem(catalog._SEGMENTATION_SETS, "shapes", tiny_maps.ENTRY)
    monkeypatch.setitem(catalog._SEGMENTATION_SETS, "others", tiny_maps.ENTRY)


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
        {"precision": "bfloat16"},
        {"memory_format": "channels_last", "norms": {"decoder": "gn:groups=4"}},
        {"batch_per_worker": 2, "workers": 4, "accumulate": 2},
    ],
    ids=str,
)
def test_every_norm_and_precision_trains(changes):
    env, made = {}, config(**changes)
    result = run(made, on_start=env.update)
    (*_, last) = result.metrics
    assert result.status == "finished"
    assert 0 < last["train_loss"] < 3
    assert 0 < last["val_loss"] < 20
    fresh = build(made, load(made, "cpu", None), "cpu")
    weights = dict(fresh.named_parameters())
    assert {name for name, weight in result.model.named_parameters()
            if torch.equal(weight, weights[name])} == set(), "every weight has moved"  # fmt: skip
    assert (last["precise_val_mean_iou"] is not None) == made.uses_batch_statistics
    assert env["metrics"][0]["name"] == "val_mean_iou"
    assert env["cost"]["images"] == made.step_images // made.accumulate
    assert env["cost"]["image_shape"] == [3, 16, 16]
    assert env["data_version"] == "1"
    assert "data_notes" not in env


@pytest.mark.slow
def test_it_learns():
    """A network that takes everything for background has an IoU of 25 %."""
    made = config(steps=90, schedule="cosine", base_lr=3.2, warmup_steps=10, evaluate_every=30)
    last = run(made, with_cost=False).metrics[-1]
    assert last["val_mean_iou"] > 60
    assert last["class_iou"]["frame"] > 30
    assert last["precise_val_mean_iou"] > 60


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


def test_held_out_images_take_the_place_of_the_test_images():
    data = load(config(validation_images=8, train_images=10), "cpu", None)
    assert (data.train_size, data.test_size) == (10, 8)
    with pytest.raises(ValueError, match="=20 and validation_images=8, but shapes has 24 training"):
        load(config(validation_images=8, train_images=20), "cpu", None)


def test_classes_that_no_test_pixel_has_are_noted_and_left_out(monkeypatch):
    env = {}
    more = tiny_maps.tiny_maps(class_names=(*tiny_maps.CLASSES, "star", "moon"))
    monkeypatch.setattr(tiny_maps, "load", lambda root: more)
    result = run(config(steps=1), with_cost=False, on_start=env.update)
    assert env["data_notes"] == [
        "no test pixel is of star, moon: mean IoU is that of the other 3 classes"
    ]
    found = result.metrics[-1]["class_iou"]
    assert found["star"] is found["moon"] is None
    there = [found[name] for name in tiny_maps.CLASSES]
    assert result.metrics[-1]["val_mean_iou"] == pytest.approx(sum(there) / 3)
    held = config(validation_images=2)
    assert notes(held, load(held, "cpu", None))[0].startswith("no validation pixel is of star")


def test_the_cost_is_of_a_pass():
    made = config(accumulate=2, memory_format="channels_last")
    data = load(made, "cpu", None)
    step = first_step(made, data, build(made, data, "cpu"))
    assert step.images.shape == (4, 3, 16, 16)
    assert step.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"model": "resnet20"}, "unknown network for segmentation 'resnet20'; known: unet_narrow"),
        ({"data": "digits"}, "unknown segmentation data set 'digits'; known: garments-masks"),
        ({"norms": {"stem": "ln"}}, "unet_narrow has no place 'stem'; its places: encoder, decod"),
    ],
)
def test_what_is_refused_before_anything_is_loaded(fields, told):
    with pytest.raises((ValueError, DataError), match=told):
        check(config(**fields))


def taken(made, weights, other):
    """What becomes of a model's weights, whose run's identity is `other`; also the new network."""
    model = build(made, load(made, "cpu", None), "cpu")
    return load_weights(model, weights.state_dict(), warm_start(made, model, other)), model


def test_weights_of_another_run_but_not_its_last_layer_where_the_data_differ():
    first = build_segmentation_model("unet_narrow", norm="bn", num_classes=3)
    same, model = taken(config(), first, config().identity())
    assert same["left_out"] == same["fresh"] == []
    assert torch.equal(model.logits.weight, first.logits.weight)
    other, model = taken(config(seed=1), first, config(data="others").identity())
    assert other["left_out"] == other["fresh"] == ["logits.weight", "logits.bias"]
    assert not torch.equal(model.logits.weight, first.logits.weight)
    assert torch.equal(model.upsample[0].weight, first.upsample[0].weight)


def test_weights_that_do_not_fit():
    other = RunConfig(model="resnet20", norm="bn", epochs=1).identity()
    told = "they are of resnet20, it takes those of unet_narrow, or its encoder those of unet_encod"
    with pytest.raises(WarmStartError, match=told):
        warm_start(config(), torch.nn.Linear(1, 1), other)
    with pytest.raises(WarmStartError, match="trained with gn; with bn"):
        warm_start(config(), torch.nn.Linear(1, 1), config(norm="gn").identity())


CLASSIFIER = RunConfig(model="unet_encoder", norm="bn", data="digits", epochs=1)
ENCODERS = {
    "converted": {"norms": {"encoder": "gn"}, "init_norms": "convert"},
    "eight groups": {"norms": {"encoder": "gn:groups=8"}, "init_norms": "convert"},
    "no offsets": {
        "norms": {"encoder": "gn:groups=8"},
        "init_norms": "convert",
        "init_offset_limit": 0,
    },
    "reset": {"norms": {"encoder": "gn:groups=8"}, "init_norms": "reset"},
    "frozen": {"norms": {"encoder": "frozenbn"}},
    "trained": {"norms": {"encoder": "bn"}},
}
CONVERTED = ("converted", "eight groups", "no offsets")
ARMS = [pytest.param(arm, marks=pytest.mark.slow if arm in CONVERTED else ()) for arm in ENCODERS]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A classifier whose statistics are those of the images, and the file of its checkpoint."""
    torch.manual_seed(0)
    model = build_model("unet_encoder", norm="bn", num_classes=10)
    images = tiny_maps.load(None).train_images.float()
    images = (images - images.mean((0, 2, 3), keepdim=True)) / images.std()
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, BatchNorm):
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.3)
        for _ in range(60):
            model(images)
    path = tmp_path_factory.mktemp("classifier") / "checkpoint.pt"
    save_checkpoint(
        path, config=CLASSIFIER, progress=Progress(), model=model, optimizer=sgd(CLASSIFIER, model)
    )
    return model.eval(), path


def encoder_config(arm, **changes):
    fields = {"norm": "gn:groups=8", "init": CLASSIFIER.run_name(), **ENCODERS[arm], **changes}
    return config(**fields)


def started(classifier, arm, **changes):
    """The U-Net of an arm before its first step, and what the record says of its start."""
    made, model = encoder_config(arm, **changes), classifier[0]
    data = load(made, "cpu", None)
    unet = build(made, data, "cpu")
    how = warm_start(made, unet, CLASSIFIER.identity())
    found = load_weights(unet, model.state_dict(), how)
    return unet, found | ({} if how.finish is None else {"conversion": how.finish(data)})


@pytest.mark.parametrize("arm", ARMS)
def test_every_weight_of_the_encoder_is_the_classifiers(classifier, arm):
    unet, found = started(classifier, arm)
    reset = arm == "reset"
    assert found["loaded"] == (8 if reset else 48)
    norms = 8 * 5 if reset else 0
    assert len(found["left_out"]) == 2 + norms
    assert {"fc.weight", "fc.bias"} <= set(found["left_out"])
    of_encoder = [key for key in found["fresh"] if key.startswith("encoder.")]
    assert len(of_encoder) == (16 if reset else 0), "gamma and beta of 8 norms"
    if arm in ("frozen", "trained", "reset"):
        assert torch.equal(unet.encoder[3][3].weight, classifier[0].encoder[3][3].weight)


@pytest.mark.parametrize("arm", ARMS)
def test_the_norms_are_what_the_arm_says(classifier, arm):
    kinds = {"frozen": FrozenBatchNorm, "trained": BatchNorm}
    unet, found = started(classifier, arm)
    norms = [layers[place] for layers in unet.encoder for place in (1, 4)]
    assert all(isinstance(norm, kinds.get(arm, GroupNorm)) for norm in norms)
    decoder = [m for m in unet.decoder.modules() if isinstance(m, GroupNorm)]
    assert [norm.num_groups for norm in decoder] == [8] * 6
    if arm in ("eight groups", "no offsets", "reset"):
        assert [norm.num_groups for norm in norms] == [8] * 8
    if arm == "reset":
        assert all((n.weight == 1).all() and (n.bias == 0).all() for n in norms)
    if arm == "trained":
        assert norms[0].batch_per_worker == 4
    assert ("conversion" in found) == (arm in CONVERTED)
    if arm in CONVERTED:
        assert len(found["conversion"]["layers"]) == 8
        assert found["conversion"]["skipped"] == []
        shares = {layer["offset_share"] for layer in found["conversion"]["layers"]}
        assert (shares == {0}) == (arm == "no offsets")


@pytest.mark.slow
def test_what_the_encoder_gives_before_the_first_step(classifier):
    """That of frozen and trained batch norm is the classifier's, that of converted ones near it."""
    model, _ = classifier
    made = encoder_config("trained")
    images = next(iter(load(made, "cpu", None).test()))[0]

    def distance(arm):
        with torch.no_grad():
            ours = started(classifier, arm)[0].eval().encoder(images)
            theirs = model.encoder(images)
        pairs = list(zip(ours, theirs, strict=True))
        return max(float((a - b).square().sum() / (b - b.mean()).square().sum()) for a, b in pairs)

    assert distance("trained") == 0.0
    assert distance("frozen") < NETWORK
    far = distance("reset")
    for arm in CONVERTED:
        assert NETWORK < distance(arm) < far / 4


@pytest.mark.slow
def test_a_conversion_is_the_same_each_time(classifier):
    first, second = (started(classifier, "converted", memory_format="channels_last")
                     for _ in range(2))  # fmt: skip
    assert first[1] == second[1]
    for a, b in zip(first[0].state_dict().values(), second[0].state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert isinstance(first[0].encoder[1][0], nn.Conv2d)


@pytest.mark.parametrize("arm", [pytest.param("converted", marks=pytest.mark.slow), "reset"])
def test_stopped_and_continued_it_ends_with_the_same_bits(classifier, arm, tmp_path, monkeypatch):
    made = encoder_config(arm, steps=6, memory_format="channels_last")
    init = classifier[1]
    env = {}
    whole = run(made, with_cost=False, init=init, on_start=env.update)
    assert ("conversion" in env["init"]) == (arm == "converted")
    assert env["parameters"] == sum(p.numel() for p in whole.model.parameters())
    checkpoint = tmp_path / "checkpoint.pt"
    begun = run(made, with_cost=False, init=init, checkpoint=checkpoint, stop_epoch=1)
    assert begun.status == "stopped"
    with pytest.raises(ValueError, match="and no checkpoint of it was given"):
        run(made, with_cost=False)
    monkeypatch.setattr(segmentation, "convert", None)  # it is not converted again
    again = run(made, with_cost=False, checkpoint=checkpoint)
    assert without_timing(again.metrics) == without_timing(whole.metrics)
    for a, b in zip(
        whole.model.state_dict().values(), again.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)


def report_of(encoder, groups):
    """The report of a conversion that gave every norm so many groups, by the rule of no data."""
    with pytest.warns(UserWarning, match="converted without data"):
        return convert(encoder, f"gn:groups={groups}", inplace=True)[1].to_dict()


def converted_to(groups):
    """What stands in for a conversion, which chooses so many groups."""
    return lambda config, model, data: report_of(model.encoder, groups)


def groups_of(model):
    return [layers[place].num_groups for layers in model.encoder for place in (1, 4)]


def test_a_run_goes_on_with_the_groups_it_began_with(classifier, tmp_path, monkeypatch):
    """Although a conversion of the same weights elsewhere would choose others."""
    made, checkpoint = encoder_config("converted", steps=6), tmp_path / "checkpoint.pt"
    fields = {"with_cost": False, "init": classifier[1], "checkpoint": checkpoint}
    monkeypatch.setattr(segmentation, "_convert", converted_to(4))
    run(made, **fields, stop_epoch=1)
    monkeypatch.setattr(segmentation, "_convert", converted_to(2))
    assert groups_of(run(made, **fields).model) == [4] * 8


def test_a_checkpoint_without_its_conversion_is_refused(classifier, tmp_path, monkeypatch):
    made, path = encoder_config("converted"), tmp_path / "checkpoint.pt"
    model = build(made, load(made, "cpu", None), "cpu")
    state = {"config": made, "model": model, "optimizer": sgd(made, model)}
    save_checkpoint(path, progress=Progress(), **state)
    with pytest.raises(CheckpointError, match=r"does not hold the report of the conversion .* del"):
        run(made, checkpoint=path)
    report = report_of(copy.deepcopy(classifier[0].encoder), 4)
    report["layers"][0]["groups"] = 3
    save_checkpoint(path, progress=Progress(conversion=report), **state)
    with pytest.raises(CheckpointError, match=r"3 groups of 16 channels do not go .* delete it"):
        run(made, checkpoint=path)


def _trained_together(rank, count, init):
    """The groups and the sums of the weights of a process that would choose its own groups."""
    catalog._SEGMENTATION_SETS["shapes"] = tiny_maps.ENTRY
    segmentation._convert = converted_to(4 if rank == 0 else 2)
    processes = Processes(rank, count)
    made = encoder_config("converted", steps=1)
    model = run(made, with_cost=False, init=init, processes=processes).model
    return groups_of(model), [float(values.sum()) for values in model.state_dict().values()]


@pytest.mark.usefixtures("_fork_server")
@pytest.mark.xdist_group("processes")
def test_the_first_of_several_processes_converts(classifier):
    first, second = in_processes(2, _trained_together, classifier[1])
    assert first == second
    assert first[0] == [4] * 8


@pytest.mark.parametrize(
    ("arm", "other", "told"),
    [
        ("trained", {"norm": "gn"}, "trained with gn; with bn"),
        ("trained", {"norms": {"stage2": "gn"}}, "trained with gn; with bn"),
        ("converted", {"norm": "gn"}, "init_norms=convert converts batch norms without ws, they w"),
        ("converted", {"norm": "bn+ws"}, r"without ws, they were trained with bn\+ws"),
        (
            "reset",
            {"norm": "bn+ws"},
            r"they were trained with bn\+ws; convolutions with gn:groups=8",
        ),
    ],
)
def test_norms_of_a_classifier_that_cannot_become_that(arm, other, told):
    made = encoder_config(arm)
    model = build(made, load(made, "cpu", None), "cpu")
    identity = CLASSIFIER.model_copy(update={}).identity() | other
    with pytest.raises(WarmStartError, match=told):
        warm_start(made, model, identity)


def test_only_a_classifiers_norms_become_something():
    made = encoder_config("reset")
    with pytest.raises(WarmStartError, match="goes with the weights of unet_encoder, these are of"):
        warm_start(made, nn.Linear(1, 1), config().identity())
