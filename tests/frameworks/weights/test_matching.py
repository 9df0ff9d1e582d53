"""Names of arrays, matched by the path of the module."""

import pytest

from groupnorm.frameworks.weights.matching import Slot, match
from groupnorm.frameworks.weights.problems import WeightsError, refuse

SLOTS = [
    Slot("stem.kernel", "stem", "weight", "conv", (3, 3, 4, 8), "float32"),
    Slot("blocks.0.bn.scale", "blocks.0.bn", "weight", "same", (8,), "float32"),
    Slot("blocks.0.bn.bias", "blocks.0.bn", "bias", "same", (8,), "float32"),
    Slot("blocks.0.bn.var", "blocks.0.bn", "running_var", "same", (8,), "float32"),
    Slot("token", "", "token", "same", (8,), "float32"),
]
FITTING = {
    "stem.weight": ((8, 4, 3, 3), "float32"),
    "blocks.0.bn.weight": ((8,), "float32"),
    "blocks.0.bn.bias": ((8,), "float32"),
    "blocks.0.bn.running_var": ((8,), "float32"),
    "blocks.0.bn.num_batches_tracked": ((), "int64"),
    "token": ((8,), "float32"),
}


def lines(problems):
    return {heading.partition(" (")[0]: found for heading, found in problems.items() if found}


def test_names_are_matched_by_the_module():
    found, problems = match(SLOTS, FITTING)
    assert not lines(problems)
    assert {name: slot.name for name, slot in found.items()} == {
        "stem.weight": "stem.kernel",
        "blocks.0.bn.weight": "blocks.0.bn.scale",
        "blocks.0.bn.bias": "blocks.0.bn.bias",
        "blocks.0.bn.running_var": "blocks.0.bn.var",
        "token": "token",
    }


def test_the_longest_name_given_counts_for_what_is_below_it():
    torchs = {
        name.replace("blocks.0.bn", "net.layers.0.norm1").replace("stem", "net.first"): value
        for name, value in FITTING.items()
    }
    names = {"net": "", "net.layers": "blocks", "net.layers.0.norm1": "blocks.0.bn",
             "net.first": "stem"}  # fmt: skip
    found, problems = match(SLOTS, torchs, {k: v for k, v in names.items() if k != "net"})
    assert not lines({**problems, "in the names given, but no module of PyTorch's": []})
    assert len(found) == 5
    found, _ = match(SLOTS, {f"module.{name}": value for name, value in FITTING.items()},
                     {"module": ""})  # fmt: skip
    assert len(found) == 5
    found, _ = match([SLOTS[0]], {"weight": FITTING["stem.weight"]}, {"": "stem"})
    assert len(found) == 1


def test_everything_that_does_not_fit_is_listed():
    torchs = dict(FITTING)
    del torchs["blocks.0.bn.bias"]
    torchs |= {
        "extra.weight": ((3,), "float32"),
        "stem.weight": ((8, 4, 3, 5), "float32"),
        "token": ((8,), "float64"),
        "other.weight": ((8,), "float32"),
    }
    _, problems = match(SLOTS, torchs, {"other": "blocks.0.bn", "typo": "stem"})
    found = lines(problems)
    assert found == {
        "in PyTorch alone": ["extra.weight (3,)"],
        "in the model alone": ["blocks.0.bn.bias (8,)"],
        "of another shape": [
            "stem.weight (8, 4, 3, 5), where stem.kernel (3, 3, 4, 8) takes (8, 4, 3, 3)"
        ],
        "of another dtype": ["token float64, where token is float32"],
        "matched more than once": [
            "blocks.0.bn.scale (8,) with blocks.0.bn.weight and other.weight"
        ],
        "in the names given, but no module of PyTorch's": ["'typo'"],
    }
    with pytest.raises(WeightsError, match="nothing was loaded") as error:
        refuse(problems)
    for listed in found.values():
        for line in listed:
            assert line in str(error.value)


def test_a_name_given_that_leads_nowhere_says_so():
    _, problems = match(SLOTS, {"a.weight": ((8,), "float32")}, {"a": "b"})
    assert problems["in PyTorch alone"] == ["a.weight (8,), by the names given in 'b'"]


def test_names_of_modules_without_arrays_are_no_mistake():
    _, problems = match(SLOTS, FITTING, {"act": "relu"}, ["stem", "act"])
    assert not lines(problems)
    _, problems = match(SLOTS, FITTING, {"act": "relu"}, ["stem"])
    assert lines(problems)


def test_slots_with_one_name_are_listed():
    twin = Slot("stem.weight", "stem", "weight", "same", (8,), "float32")
    found, problems = match([*SLOTS, twin], FITTING)
    assert lines(problems) == {
        "several arrays of the model with one place": [
            "stem.weight: stem.kernel (3, 3, 4, 8) and stem.weight (8,)"
        ]
    }
    assert "stem.weight" not in found
