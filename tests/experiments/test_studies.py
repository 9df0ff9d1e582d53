"""Every study's plan can be written, read and run: names, labels and runs agree."""

import json

import pytest

from groupnorm.experiments.studies import STUDIES
from groupnorm.study.plan import StudyOptions
from groupnorm.study.store import read_cells


@pytest.mark.parametrize("scale", ["quick", "standard", "paper"])
@pytest.mark.parametrize("name", STUDIES)
def test_plans_are_consistent(name, scale):
    plan = STUDIES[name](StudyOptions(scale=scale))
    assert plan.study == name
    assert {cell.run for cell in plan.cells} == set(plan.configs)
    for cell in plan.cells:
        config = plan.configs[cell.run]
        assert config.norm == cell.labels["norm"]
        assert config.seed == cell.seed
        assert config.run_name() == cell.run
    manifest = {"cells": [vars(cell) for cell in plan.cells]}
    assert read_cells(json.loads(json.dumps(manifest))) == plan.cells


def test_the_default_is_what_the_readme_promises():
    plan = STUDIES["batch-size"](StudyOptions())
    assert plan.options.data == "fashion-scenes"
    assert {c.model for c in plan.configs.values()} == {"resnet8"}
    norms = list(dict.fromkeys(cell.labels["norm"] for cell in plan.cells))
    assert [norm.split(":")[0] for norm in norms] == ["bn", "gn", "gn"]
    assert norms[2].endswith("+ws")
    assert len(plan.configs) == 5
