"""RunConfig: the learning-rate rule, the hash that names a run, and what it refuses."""

import pytest
import torch
from pydantic import ValidationError

from groupnorm.data.batches import epoch_order
from groupnorm.training.config import RunConfig, describe_errors


@pytest.mark.parametrize(
    ("batch_per_worker", "lr"), [(32, 0.1), (16, 0.05), (8, 0.025), (4, 0.0125), (2, 0.00625)]
)
def test_the_papers_learning_rate_rule(batch_per_worker, lr):
    config = RunConfig(batch_per_worker=batch_per_worker, epochs=1)
    assert config.workers == 8
    assert config.learning_rate == pytest.approx(lr)


def test_learning_rate_is_per_256_images_for_any_number_of_workers():
    assert RunConfig(workers=2, batch_per_worker=32, epochs=1).learning_rate == pytest.approx(0.025)


def test_equal_steps_of_a_batch_independent_norm_are_one_run():
    a = RunConfig(norm="gn:groups=8", workers=2, batch_per_worker=32, epochs=3)
    b = RunConfig(norm="gn:groups=8", workers=32, batch_per_worker=2, epochs=3)
    assert a.digest() == b.digest()
    assert a.run_name() == b.run_name()


def test_batch_norm_is_another_run_for_every_split():
    a = RunConfig(norm="bn", workers=2, batch_per_worker=32, epochs=3)
    b = RunConfig(norm="bn", workers=32, batch_per_worker=2, epochs=3)
    assert a.digest() != b.digest()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"epochs": 4},
        {"model": "resnet14"},
        {"norm": "gn+ws"},
        {"norms": {"stage1": "ln"}},
        {"base_lr": 0.2},
        {"data": "digits"},
        {"train_images": 100},
        {"workers": 4},
        {"shortcut": "B"},
        {"schedule": "cosine"},
        {"memory_format": "channels_last"},
        {"zero_gamma": False},
        {"size_schedule": "16:0.3"},
        {"validation_images": 50},
        {"reported_epochs": 1},
        {"evaluate_every": 2},
    ],
)
def test_every_field_changes_the_hash(change):
    fields = {"epochs": 3, "seed": 0}
    assert RunConfig(**fields).digest() != RunConfig(**{**fields, **change}).digest()


def test_a_later_field_at_its_default_renames_no_run():
    """These names are from before there were more fields than `named`; they never change."""
    assert RunConfig(epochs=3).run_name() == "gn-1x256-s0-52d863f086"
    assert RunConfig(norm="bn", epochs=1).run_name() == "bn-8x32-s0-73af4dac4f"
    named = RunConfig(epochs=3).identity().keys()
    assert len(named) == 22
    later = set(RunConfig.model_fields) - named - {"max_unreadable"}
    assert {"zero_gamma", "size_schedule", "validation_images"} < later
    defaults = RunConfig(epochs=3).model_dump(include=later)
    assert RunConfig(epochs=3, **defaults).run_name() == RunConfig(epochs=3).run_name()


@pytest.mark.parametrize(
    "value", ["16:0.3,24:0.7", [[16, 0.3], [24, 0.7]], (("16", "0.3"), (24, 0.7))]
)
def test_a_size_schedule_is_read_from_text_and_pairs(value):
    config = RunConfig(epochs=1, size_schedule=value)
    assert config.size_schedule == ((16, 0.3), (24, 0.7))
    assert config.model_dump()["size_schedule"] == "16:0.3,24:0.7"
    assert RunConfig.model_validate(config.model_dump(), strict=True) == config
    assert RunConfig(epochs=1, size_schedule="") == RunConfig(epochs=1)


def test_norms_of_places():
    config = RunConfig(norm="gn:groups=8", norms={"stage3": "gn:groups=16", "stem": "ln"}, epochs=1)
    assert config.norm_text == "gn:groups=8 stage3=gn:groups=16 stem=ln"
    assert config.identity()["norms"] == {"stage3": "gn:groups=16", "stem": "ln"}
    assert config.run_name().startswith("gn-groups-8-stage3-gn-groups-16-stem-ln-1x256-s0-")
    assert RunConfig.model_validate_json(config.model_dump_json()) == config
    other = RunConfig(**{**dict(config), "norms": dict(reversed(config.norms.items()))})
    assert other.run_name() == config.run_name()


@pytest.mark.parametrize("norms", [{}, {"stage1": "gn:groups=8"}])
def test_places_with_the_norm_of_all_others_are_no_part_of_the_identity(norms):
    config = RunConfig(norm="gn:groups=8", norms=norms, epochs=1)
    assert "norms" not in config.identity()
    assert config.norm_text == "gn:groups=8"
    assert config.digest() == RunConfig(norm="gn:groups=8", epochs=1).digest()


def test_batch_norm_in_one_place_is_batch_statistics():
    config = RunConfig(norm="gn", norms={"stem": "bn"}, workers=4, batch_per_worker=8, epochs=1)
    assert config.uses_batch_statistics
    assert config.identity()["workers"] == 4
    with pytest.raises(ValueError, match="4 workers cannot be divided among 3"):
        config.check_processes(3)
    assert not config.synchronized
    with pytest.raises(ValidationError, match="syncbn needs all images of a step at once"):
        RunConfig(norm="gn", norms={"stage2": "syncbn"}, accumulate=2, epochs=1)


def test_norms_are_stored_in_canonical_form():
    assert str(RunConfig(norm=" GN:groups=32 ", epochs=1).norm) == "gn"


def test_round_trip_through_json():
    config = RunConfig(norm="bn+ws", steps=5, seed=7)
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "exactly one"),
        ({"epochs": 1, "steps": 1}, "exactly one"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"epochs": 1, "batchsize": 2}, "batchsize"),
        ({"epochs": 1, "norm": "xn"}, "known kinds"),
        ({"epochs": 1, "schedule": "poly"}, "'step' or 'cosine'"),
        ({"epochs": 1, "base_lr": 0}, "greater than 0"),
    ],
)
def test_what_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        RunConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"lr": 3}, f"unknown key 'lr'; known keys: {', '.join(RunConfig.model_fields)}"),
        ({"optimizer": "sgd"}, "unknown key 'optimizer'; known keys: task, model, norm, "),
        ({"precision": "half"}, "precision must be 'float32' or 'bfloat16', got 'half'"),
        ({"compile": "maybe"}, "compile must be true or false, got 'maybe'"),
        ({"workers": "2.5"}, "workers must be a whole number, got '2.5'"),
        ({"workers": 2.5}, "workers must be a whole number, got 2.5"),
        ({"workers": "0"}, "workers must be at least 1, got '0'"),
        ({"workers": 10**10}, "workers must be at most 1,000,000,000, got 10000000000"),
        ({"image_size": 16}, "image_size must be at least 32, got 16"),
        ({"image_size": 10**5}, "image_size must be at most 4,096, got 100000"),
        ({"width": "wide"}, "width must be a number, got 'wide'"),
        ({"width": "1e9"}, "width must be at most 64, got '1e9'"),
        ({"width": "0"}, "width must be greater than 0, got '0'"),
        ({"base_lr": "inf"}, "base_lr must be a finite number, got 'inf'"),
        ({"base_lr": "nan"}, "base_lr must be a finite number, got 'nan'"),
        ({"weight_decay": "1e300"}, "weight_decay must be at most 1,000,000, got '1e300'"),
        ({"warmup_epochs": "inf"}, "warmup_epochs must be a finite number, got 'inf'"),
        ({"momentum": 1}, "momentum must be less than 1, got 1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"seed": 2**64}, f"seed must be less than {2**64:,}, got {2**64}"),
        ({"model": None}, "model must be text, got None"),
        ({"norm": "gn:groups=0"}, "norm: gn: groups must be a positive integer or auto, got 0"),
        ({"norm": "gn:groups=99999999999"}, "norm: gn: groups must be at most 10000000, got 9"),
        ({"norms": "ln"}, "norms must be norms by place, as norms.stage3=gn:groups=16, got 'ln'"),
        ({"norms": {"stem": "xn"}}, "norms.stem: unknown normalization 'xn'; known kinds: gn"),
        ({"steps": 1}, "give epochs or steps, exactly one; got epochs=1, steps=1"),
        ({"zero_gamma": "half"}, "zero_gamma must be true or false, got 'half'"),
        ({"validation_images": "a"}, "validation_images must be a whole number, got 'a'"),
        ({"reported_epochs": 0}, "reported_epochs must be at least 1, got 0"),
        ({"evaluate_every": "0"}, "evaluate_every must be at least 1, got '0'"),
        *[
            ({"size_schedule": value}, f"size_schedule: expected sizes in pixels, {text}")
            for value, text in [
                (
                    "16",
                    "each with the share of the run that it lasts to, as 16:0.3,24:0.7; got '16'",
                ),
                *[(bad, "") for bad in ("16:x", "16.5:0.3", "16:0.3,,24:0.7", "16:0.3:2", 5, None)],
            ]
        ],
        *[
            ({"size_schedule": value}, "size_schedule: sizes must be above 0 and rise, shares")
            for value in ("24:0.3,16:0.7", "16:0.7,24:0.3", "0:0.3", "16:0", "16:1", "16:nan")
        ],
        ({"lr": 3, "seed": -1}, "seed must be at least 0, got -1\nunknown key 'lr'"),
    ],
)
def test_what_does_not_fit_in_words(fields, told):
    with pytest.raises(ValidationError) as refused:
        RunConfig(**{"epochs": 1, **fields})
    said = describe_errors(refused.value, RunConfig)
    assert said.startswith(told)
    assert "Input should" not in said


def test_the_largest_seed_draws():
    seed = RunConfig(epochs=1, seed=2**64 - 1).seed
    torch.manual_seed(seed)
    assert sorted(epoch_order(8, seed, 1).tolist()) == list(range(8))


def test_it_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig(epochs=1).seed = 2


def test_run_names_are_file_names():
    name = RunConfig(norm="gn:groups=8,eps=1e-6+ws", epochs=1).run_name()
    assert all(c.isalnum() or c == "-" for c in name)


def test_differences_in_words():
    one, other = RunConfig(norm="bn", epochs=1), RunConfig(norm="bn", epochs=2, seed=3)
    assert one.describe_difference(one.identity()) == ""
    assert other.describe_difference(one.identity()) == "epochs was 1, is 2, seed was 0, is 3"
    grown = RunConfig(norm="bn", epochs=1, size_schedule="16:0.3")
    assert grown.describe_difference(one.identity()) == "size_schedule was '', is '16:0.3'"
    assert one.describe_difference(grown.identity()) == "size_schedule was '16:0.3', is ''"
    assert "width was None, is 1.0" in one.describe_difference({"norm": "bn"})


@pytest.mark.parametrize("norm", ["bn", "brn", "syncbn"])
@pytest.mark.parametrize("change", [{"workers": 4}, {"batch_per_worker": 16}])
def test_a_change_of_batch_norms_meaning_is_named(norm, change):
    one = RunConfig(norm=norm, epochs=1)
    text = RunConfig(norm=norm, epochs=1, **change).describe_difference(one.identity())
    assert "Batch norm's meaning would change" in text


def test_another_split_changes_no_other_norms_meaning():
    one = RunConfig(norm="gn", workers=8, batch_per_worker=4, epochs=1)
    assert (
        one.describe_difference(RunConfig(workers=2, batch_per_worker=16, epochs=1).identity())
        == ""
    )
    assert "meaning" not in one.describe_difference(RunConfig(workers=2, epochs=1).identity())


@pytest.mark.parametrize(
    ("fields", "count", "message"),
    [
        ({"norm": "bn"}, 3, "8 workers cannot be divided among 3 processes"),
        ({"norm": "bn", "accumulate": 4}, 4, "accumulate=4"),
        ({"norm": "gn"}, 3, "256 images of a step cannot be divided among 3"),
    ],
)
def test_processes_that_cannot_share_a_step(fields, count, message):
    config = RunConfig(epochs=1, **fields)
    config.check_processes(2)
    with pytest.raises(ValueError, match=message):
        config.check_processes(count)


def test_the_share_of_unreadable_images_is_no_part_of_the_identity():
    one, other = RunConfig(epochs=1), RunConfig(epochs=1, max_unreadable=0.5)
    assert one.run_name() == other.run_name()
    assert one.describe_difference(other.identity()) == ""
    with pytest.raises(ValidationError, match="max_unreadable"):
        RunConfig(epochs=1, max_unreadable=1.1)
