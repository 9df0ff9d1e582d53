"""Options: texts of a command line as values, and values as plain text."""

import pytest

from groupnorm.experiments.options import Options, read_norms, read_sizes, split_norms
from groupnorm.spec import NormSpec
from groupnorm.study.plan import PlanError
from groupnorm.training.config import RunConfig


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ("bn", ("bn",)),
        ("bn,gn", ("bn", "gn")),
        ("gn:groups=8,eps=1e-6+ws,in", ("gn:groups=8,eps=1e-6+ws", "in")),
        ("bn:eps=1e-3,affine=false, ln", ("bn:eps=1e-3,affine=false", "ln")),
        ("bn,xn", ("bn", "xn")),
    ],
)
def test_split_norms(text, specs):
    assert split_norms(text) == specs


def test_texts_and_values_are_the_same_options():
    texts = Options(norms="bn,gn:groups=8,eps=1e-6+ws", batch_sizes="32, 8", seeds="2")
    specs = (NormSpec("bn"), NormSpec.parse("gn:groups=8,eps=1e-6+ws"))
    assert texts == Options(norms=specs, batch_sizes=(32, 8), seeds=2)
    assert texts.norms == specs
    record = texts.model_dump(mode="json")
    assert (record["norms"], record["batch_sizes"]) == (["bn", str(specs[1])], [32, 8])
    assert Options(**record) == texts


@pytest.mark.parametrize(
    ("read", "value", "message"),
    [
        (read_norms, "bn,xn", "unknown normalization 'xn'; known kinds"),
        (read_norms, ("gn", "gn:groups=32"), "^gn given twice"),
        (read_norms, (), "^none is given"),
        (read_sizes, "32,x", "^expected whole numbers, as 32,8,2; got '32,x'"),
        (read_sizes, (0,), "^each must be at least 1, got 0"),
        (read_sizes, (8, 8), "^8 given twice"),
        (read_sizes, (), "^none is given"),
    ],
)
def test_lists_that_make_no_study(read, value, message):
    with pytest.raises(ValueError, match=message):
        read(value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seeds": 0}, "^seeds: a study has 1 to 1,000 of them, got 0$"),
        ({"seeds": 10**5}, "^seeds: a study has 1 to 1,000 of them, got 100000$"),
        (
            {"seeds": "0,1.5"},
            "^seeds: expected a count, as 3, or the seeds .*, as 0,1,2 or 7,; ",
        ),
        ({"seeds": "0,1,0"}, "^seeds: 0 given twice$"),
        ({"seeds": "3,-1"}, "^seeds: each must be at least 0 and below .*, got -1$"),
        ({"seeds": [2**64]}, f"^seeds: each must be .*, got {2**64}$"),
        ({"epochs": 0}, "^epochs must be at least 1, got 0$"),
        ({"image_size": 8}, "^image_size must be at least 32, got 8$"),
        ({"max_unreadable": 1.5}, "^max_unreadable must be at most 1, got 1.5$"),
        ({"colour": "red"}, "^unknown key 'colour'; known keys: scale, data"),
        ({"norms": "bn,bn"}, "^norms: bn given twice$"),
        ({"tune": "base_lr"}, "^tune: expected a field and its values, as base_lr=0.05,0.1,0.2; g"),
        ({"tune": "base_lr=0.1,x"}, "^tune: expected a field .* got 'base_lr=0.1,x'$"),
        ({"tune": "base_lr=0.1"}, "^tune: give two values of base_lr at least"),
        ({"tune": "seed=1,2"}, "^tune: base_lr or .* can be tuned, 'seed' cannot"),
        ({"validation_images": 0}, "^validation_images must be at least 1, got 0$"),
    ],
)
def test_fields_that_are_refused(fields, message):
    with pytest.raises(PlanError, match=message):
        Options(**fields)


@pytest.mark.parametrize(
    ("given", "seeds"),
    [
        ("3", (0, 1, 2)),
        (2, (0, 1)),
        ("0,2,7", (0, 2, 7)),
        ("5, 1", (5, 1)),
        ("7,", (7,)),
        ((4,), (4,)),
    ],
)
def test_seeds_are_a_count_or_themselves(given, seeds):
    options = Options(seeds=given)
    assert options.seeds == seeds
    assert options.model_dump(mode="json")["seeds"] == list(seeds)


def test_what_a_run_has_goes_into_every_run():
    options = Options(data="digits", epochs=3, seeds=2, norms="bn")
    assert options.given() == {
        "data": "digits",
        "norms": (NormSpec("bn"),),
        "epochs": 3,
        "seeds": (0, 1),
    }
    assert options.of_the_run() == {"data": "digits", "epochs": 3}
    assert {"model", "train_images", "image_size"} <= set(RunConfig.model_fields)


def test_every_field_has_a_description():
    assert all(field.description for field in Options.model_fields.values())
