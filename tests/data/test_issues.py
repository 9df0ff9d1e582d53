"""Images that cannot be decoded: said on the terminal, named in the run's folder, in the report."""

import json

import pytest
from typer.testing import CliRunner

from groupnorm.cli import app
from groupnorm.study.report.tables import problems
from groupnorm.study.results.rows import load_study, summarize_study
from tests.cli.commands import typed
from tests.data.files.image_trees import BROKEN, class_folders, photo, write
from tests.study.fake_store import batch_study

NOTE = "left out because of the ending of the name: 1 file in /photos (.heic 1)"


@pytest.fixture
def photos(tmp_path):
    class_folders(tmp_path / "set/train", ("cat", "dög"), images=6)
    class_folders(tmp_path / "set/val", ("cat", "dög"), images=2)
    write(tmp_path / "set/train/cat/3.jpg", BROKEN)
    write(tmp_path / "set/val/dög/1.jpg", b"")
    write(tmp_path / "set/val/dög/1.heic", b"")
    return tmp_path / "set"


def train(photos, *settings, code=0):
    out = photos.parent / "out"
    settings = (
        "data=imagefolder", "model=resnet8", "norm=none", "image_size=32", "workers=1",
        "batch_per_worker=6", "epochs=2", *settings,
    )  # fmt: skip
    done = CliRunner().invoke(
        app, ["train", *settings, "--data-root", str(photos), "--out", str(out)]
    )
    assert done.exit_code == code, done.output
    return done.stderr.splitlines(), out


def test_a_run_tells_and_names_them(photos):
    said, out = train(photos, "max_unreadable=0.3")
    note = f"left out because of the ending of the name: 1 file in {photos}/val (.heic 1)"
    assert said == [
        f"note: {note}",
        "files that cannot be decoded: 1 training image replaced by others of the same class, "
        f"1 test image left out; named in {out}/unreadable.json",
    ]
    named = json.loads((out / "unreadable.json").read_text(encoding="utf-8"))
    assert named.pop("counted").startswith("every file that could not be decoded in this run")
    assert named == {
        "replaced_images": {"train/cat/3.jpg": "OSError: Truncated File Read"},
        "left_out_images": {"val/dög/1.jpg": "the file is empty"},
    }
    assert json.loads((out / "env.json").read_text(encoding="utf-8"))["data_notes"] == [note]
    rows = map(json.loads, (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    counts = {"replaced_images": 1, "left_out_images": 1, "converted_images": 0}
    assert [row["image_counts"] for row in rows] == [counts, counts]


def test_an_ascii_terminal_gets_the_notes(photos):
    write(photos / "train/cät — ±/1.jpg", photo())
    done = typed(
        "train", "data=imagefolder", "model=resnet8", "norm=none", "image_size=32", "workers=1",
        "batch_per_worker=7", "steps=1", "max_unreadable=0.3", "--data-root", photos,
        encoding="ascii",
    )  # fmt: skip
    assert done.returncode == 0
    assert r"without c\xe4t - +/-" in done.stderr


def test_more_than_one_percent_end_a_run_and_are_named(photos):
    said, out = train(photos, code=2)
    assert said[-1].startswith("error: 1 of the 12 training images of imagefolder cannot be dec")
    named = json.loads((out / "unreadable.json").read_text(encoding="utf-8"))
    assert list(named["replaced_images"]) == ["train/cat/3.jpg"]
    train(photos, "max_unreadable=0.3")
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert config["max_unreadable"] == 0.3, "the same folder, with the share that it ended with"


def test_videos_that_are_not_used_as_they_are_stand_in_the_report(tmp_path):
    out = batch_study(tmp_path)
    counts = {"short_videos": 0, "rotated_videos": 2, "left_out_videos": 0}
    for number, run in enumerate(sorted((out / "runs").iterdir())):
        path = run / "metrics.jsonl"
        *before, last = path.read_text(encoding="utf-8").splitlines(keepends=True)
        counted = {**counts, "short_videos": number % 2}
        last = json.dumps({**json.loads(last), "image_counts": counted})
        path.write_text("".join([*before, f"{last}\n"]), encoding="utf-8")
    study = load_study(out)
    assert sorted(problems(study, summarize_study(study))) == [
        ["digits", "rotated videos", "2 videos stored in another orientation: turned upright"],
        ["digits", "short videos",
         "1 video with fewer frames than a clip takes: the last is repeated"],
    ]  # fmt: skip


def test_the_report_has_them_among_the_problems(tmp_path):
    out = batch_study(tmp_path)
    for number, run in enumerate(sorted((out / "runs").iterdir())):
        path = run / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            row["image_counts"] = {"replaced_images": 3, "left_out_images": 0}
        rows[-1]["image_counts"]["left_out_images"] = int(number == 1)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        env = json.loads((run / "env.json").read_text(encoding="utf-8"))
        (run / "env.json").write_text(json.dumps({**env, "data_notes": [NOTE]}), encoding="utf-8")
    study = load_study(out)
    first, second = sorted(study.records)[:2]
    text = "files that cannot be decoded: 3 training images replaced by others of the same class"
    found = problems(study, summarize_study(study))
    assert ["digits", "data", NOTE] in found
    assert [
        "digits", "unreadable files", f"{text}, 1 test image left out; named in "
        f"runs/{second}/unreadable.json",
    ] in found  # fmt: skip
    (others,) = [line for line in found if text in line[2] and "left out" not in line[2]]
    assert others[:2] == ["digits", "unreadable files"]
    assert len(found) == 3
    assert first != second
