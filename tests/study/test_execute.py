"""What a study checks before it trains: the folder, and the images of its runs."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from groupnorm.study import execute
from groupnorm.study.execute import run_study
from groupnorm.study.metrics import further_metrics, primary_metric
from groupnorm.study.plan import Finding, Plan, PlanError, repeat, vary
from groupnorm.study.store import Cell, StoreError, read_manifest
from groupnorm.training.config import RunConfig
from tests.data.files.image_trees import class_folders, photo, write
from tests.study.fake_store import BOX_AP, MASK_AP, add_to_manifest

CONFIG = RunConfig(
    model="resnet8", data="imagefolder", norm="none", epochs=1, image_size=32, workers=1,
    batch_per_worker=4,
)  # fmt: skip


def plan_of(seeds=1, measured=None, **changes):
    labelled = [({"norm": "none", "batch_per_worker": 4}, vary(CONFIG, **changes))]
    cells, configs = repeat(labelled, seeds)
    return Plan(
        "norms", "A norm", "paper", "quick", {}, cells, configs, "norms", (), **(measured or {})
    )


@pytest.fixture
def photos(tmp_path):
    for split in ("train", "val"):
        class_folders(tmp_path / "set" / split, ("cat", "dog"), images=3)
    return tmp_path / "set"


@pytest.fixture
def study(photos, tmp_path, monkeypatch):
    """Begins or continues a study on the photographs, up to the point where runs are trained."""

    class ClaimedError(Exception):
        pass

    def trial(*_, **__):
        raise ClaimedError

    monkeypatch.setattr(execute, "run_trials", trial)

    def begin(console=None, **changes):
        plan = plan_of(**changes)
        with pytest.raises(ClaimedError):
            run_study(plan, tmp_path / "out", data_root=photos, console=console)

    return begin


def test_a_folder_smaller_than_the_default_number_of_images_is_trained_on(study):
    study()


def test_data_that_has_changed(study, photos):
    study()
    study()
    write(photos / "train/cat/9.jpg", b"one more")
    with pytest.raises(
        PlanError,
        match=r"the data has changed since the study in .*out began: its version .* was \w+, is "
        r"\w+, the number of training images was 6, is 7. Its runs .* restore the data, or begin",
    ):
        study()


def test_another_experiment(study, tmp_path):
    study()
    add_to_manifest(tmp_path / "out", study="groups", title="Groups", command="groupnorm x")
    match = (
        r"another experiment, groups \(Groups, made by 'groupnorm x'\), not norms; choose another"
    )
    with pytest.raises(PlanError, match=match):
        study()


def test_other_data(study, tmp_path):
    study()
    add_to_manifest(tmp_path / "out", data={"name": "digits", "version": "1"})
    with pytest.raises(PlanError, match=r"a study of other data, digits .*not imagefolder; choose"):
        study()


def test_more_and_fewer_seeds_take_the_folder_over(study, tmp_path, capsys):
    study(seeds=2)
    before = read_manifest(tmp_path / "out")
    study(seeds=3)
    assert [cell["seed"] for cell in read_manifest(tmp_path / "out")["cells"]] == [0, 1, 2]
    assert "not shown" not in capsys.readouterr().out
    study(seeds=2)
    assert read_manifest(tmp_path / "out") == before
    said = " ".join(capsys.readouterr().out.split())
    assert "1 run of the command before, '': kept in" in said
    assert "2 runs: 0 reused, 0 continued, 2 to train" in said


def test_more_images_than_there_are(study):
    with pytest.raises(PlanError, match="images from 7 needs more than the 6 training images"):
        study(train_images=7)


def test_notes_are_said_before_anything_is_trained(study, photos, capsys):
    write(photos / "train/cat/9.heic", b"")
    study()
    assert (
        f"note: left out because of the ending of the name: 1 file in {photos}/train (.heic 1)"
        in (capsys.readouterr().out)
    )


def test_notes_are_plain_on_any_console(study, photos):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    write(photos / "train/dög:smile:/1.jpg", photo())
    study(console=Console(file=stream, width=40))
    stream.flush()
    note, _ = stream.buffer.getvalue().decode("ascii").splitlines()
    assert note.endswith(r"the error is over those, without d\xf6g:smile:")


def test_damaged_times_are_found_before_anything_is_trained(study, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cost.json").write_text("{}")
    with pytest.raises(StoreError, match=r"cost\.json has format None.*delete it: the command"):
        study()


def test_a_study_that_has_begun_keeps_its_manifest(study, tmp_path):
    study()
    add_to_manifest(tmp_path / "out", versions={"torch": "1.0"})
    study()
    before = (tmp_path / "out" / "study.json").read_bytes()
    assert read_manifest(tmp_path / "out")["versions"] == {"torch": "1.0"}
    study()
    assert (tmp_path / "out" / "study.json").read_bytes() == before


def test_the_record_names_a_metric_that_is_not_that_of_classifiers(study, tmp_path):
    path = tmp_path / "out" / "study.json"
    study()
    assert not {"metric", "also", "findings"} & json.loads(path.read_text()).keys(), (
        "as it always was"
    )
    finding = Finding("GN is above BN", "Table 4", {"arm": "GN"}, {"arm": "BN"})
    study(measured={"metric": BOX_AP, "also": (MASK_AP,), "findings": (finding,)})
    manifest = read_manifest(tmp_path / "out")
    assert manifest["metric"] == {
        "name": "box_ap", "unit": "", "better": "higher", "title": "box AP",
    }  # fmt: skip
    assert (primary_metric(manifest), further_metrics(manifest)) == (BOX_AP, (MASK_AP,))
    assert [Finding(**named) for named in manifest["findings"]] == [finding]


@pytest.mark.parametrize(("data", "pixels"), [("digits", 8), ("imagefolder", 224)])
def test_progress_knows_the_size_of_the_images(photos, tmp_path, monkeypatch, data, pixels):
    class BegunError(Exception):
        pass

    def begin(configs, console, stop_epoch, metric, own_size):
        raise BegunError(own_size)

    monkeypatch.setattr(execute, "StudyProgress", begin)
    plan = plan_of(data=data, image_size=None)
    with pytest.raises(BegunError, match=f"^{pixels}$"):
        run_study(plan, tmp_path / "out", data_root=photos, console=Console(file=io.StringIO()))


def test_progress_tells_what_initial_runs_measure_and_what_arms_are_called():
    first = vary(CONFIG, norm="bn")
    configs = {f"run{i}": vary(CONFIG, seed=i) for i in range(2)}
    cells = [Cell({"arm": f"arm {i}", "training": "9 steps"}, 0, f"run{i}") for i in range(2)]
    plan = Plan(
        "x", "Arms", "paper", "quick", {}, cells, configs, "arms", (),
        initial={first.run_name(): first}, metric=BOX_AP,
    )  # fmt: skip
    (before,) = execute._initial_stages(plan)
    (after,) = execute._stages(plan, None)
    assert (before.metric.name, after.metric) == ("val_error", None)
    assert execute._names_of_arms(plan, before) == {}
    assert execute._names_of_arms(plan, after) == {
        "run0": "arm 0, 9 steps, seed 0", "run1": "arm 1, 9 steps, seed 0"
    }  # fmt: skip
    assert execute._names_of_arms(replace(plan, shows="norms"), after) == {}
