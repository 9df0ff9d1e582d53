"""The runs in results/ keep their names, and today's catalogue plans the studies in results/.

A recipe may change: a study of an older one has the same cells, and runs of other names. In a tuned
study, and in a search, today's code makes the choice that stands in the record.
"""

import json
from pathlib import Path

import pytest

from groupnorm.experiments import Options, study_plan
from groupnorm.run.tasks import config_class
from groupnorm.study.store import read_cells, read_record

RESULTS = Path(__file__).parents[2] / "results"
STUDIES = sorted(path.parent for path in RESULTS.glob("*/study.json"))
# Made before every field of today's configurations existed, so under other names.
OLDER = ("batch-norm-40-epochs",)
# Made with 64 images a step, gamma = 0, images of 32 pixels throughout, and one seed by default.
OLDER_RECIPE = (*OLDER, "all-norms", "batch-size-resnet20")
DATE = "2026-11-21"


@pytest.mark.parametrize("folder", STUDIES, ids=lambda path: path.name)
def test_runs_keep_their_names(folder):
    for run in (folder / "runs").iterdir():
        record = read_record(folder, run.name)  # which checks the name against the configuration
        if not folder.name.startswith(OLDER):
            assert config_class(record.config)(**record.config).run_name() == run.name


@pytest.mark.parametrize("folder", STUDIES, ids=lambda path: path.name)
def test_the_options_in_a_record_still_plan_its_study(folder):
    manifest = json.loads((folder / "study.json").read_text())
    options, cells = manifest["options"], read_cells(manifest)
    if folder.name.startswith(OLDER_RECIPE) and options["scale"] in (None, "quick"):
        options = {**options, "seeds": options["seeds"] or 1}
    plan = study_plan(manifest["study"], Options(**options))
    if folder.name.startswith(OLDER_RECIPE) and folder.name.endswith(DATE):
        plan, cells = (
            [(cell.labels, cell.seed) for cell in found] for found in (plan.cells, cells)
        )
        assert plan == cells
        return
    found = plan.cells if plan.final_cells is None else plan.final_cells(folder)
    assert found == cells
    assert (plan.title, plan.protocol, plan.scale) == (
        manifest["title"],
        manifest["protocol"],
        manifest["scale"],
    )
