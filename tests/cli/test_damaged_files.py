"""Damaged files, full disks and folders in the wrong place: one message, never a traceback.

Every command runs in this process; so do the trials of a study.
"""

import errno
import json
import os
import shutil
import traceback
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from groupnorm.cli import app
from groupnorm.study.record import record_run
from groupnorm.study.runners.local import finish, prepare
from groupnorm.study.runners.worker import work
from groupnorm.study.store import read_metrics, read_record, read_run, run_folder

pytestmark = pytest.mark.xdist_group("damaged")  # one study to damage
STUDY = ["study", "norms", "--data", "digits", "--model", "resnet8", "--norms", "ln"]
STUDY += ["--epochs", "2", "--train-images", "64", "--seeds", "1", "--out"]
TRAIN = ["train", "model=resnet8", "width=0.25", "data=digits", "train_images=64", "norm=ln"]
TRAIN += ["workers=1", "batch_per_worker=16", "epochs=2", "--out"]
FILES = ("config.json", "env.json", "metrics.jsonl", "DONE", "FAILED")
OF_STUDY = ("study.json", "cost.json")
CLOSED = (*OF_STUDY, "config.json", "DONE", "FAILED")  # without room for unknown keys


def trials_here(out, configs, progress, **_):
    for name in prepare(out, configs, progress):
        record_run(configs[name], run_folder(out, name), threads=1)
        finish(out, name, None, progress)
    return [read_record(out, name) for name in configs]


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr("groupnorm.study.execute.run_trials", trials_here)
    monkeypatch.setattr("groupnorm.study.report.page.build_figures", lambda study, rows: [])


def command(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def succeeds(*arguments):
    done = command(*arguments)
    assert done.exit_code == 0, done.output + "".join(traceback.format_exception(done.exception))


def refused(*arguments):
    """The one line that the command says when it ends with status 2."""
    done = command(*arguments)
    assert isinstance(done.exception, SystemExit), "".join(
        traceback.format_exception(done.exception)
    )
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study with one finished run, and a single run."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("groupnorm.study.execute.run_trials", trials_here)
        patch.setattr("groupnorm.study.report.page.build_figures", lambda study, rows: [])
        succeeds(*STUDY, folder / "study")
        succeeds(*TRAIN, folder / "run")
    return folder


@pytest.fixture
def study(made, tmp_path):
    return shutil.copytree(made / "study", tmp_path / "study")


@pytest.fixture
def single(made, tmp_path):
    return shutil.copytree(made / "run", tmp_path / "run")


def places(file, study, single):
    """(folder that holds `file`, commands that read it there)."""
    (trial,) = (study / "runs").iterdir()
    at = study if file in OF_STUDY else trial
    yield at, [("report", study), (*STUDY, study)]
    if file not in OF_STUDY:
        yield single, [(*TRAIN, single)]


def sound_content(folder, file):
    """What is in a file; FAILED takes the place of DONE."""
    if file == "FAILED":
        (folder / "DONE").unlink()
        (folder / file).write_bytes(b'{\n  "reason": "killed"\n}\n')
    return (folder / file).read_bytes()


DAMAGES = {
    "cut": lambda content: content[: 2 * len(content) // 3],
    "empty": lambda content: b"",
    "a list": lambda content: b"[]",
    "null": lambda content: b"null",
    "not UTF-8": lambda content: content.replace(b'"', b'"\xff', 1),
    "UTF-16": lambda content: content.decode().encode("utf-16"),
    "NaN": lambda content: content.replace(b"{", b'{"lr": NaN, ', 1),
    "infinite": lambda content: content.replace(b"{", b'{"lr": 1e999, ', 1),
    "nested": lambda content: content.replace(b"{", b'{"lr": ' + 99_999 * b"[", 1),
    "huge": lambda content: content.replace(b"{", b'{"lr": ' + 400 * b"9" + b", ", 1),
    "unknown key": lambda content: content.replace(b"{", b'{"colour": "red", ', 1),
}


# Every damage of one file and every file with one damage; the others are slow.
DAMAGED = [
    pytest.param(
        file, damage, marks=[] if file == "config.json" or damage == "null" else [pytest.mark.slow]
    )
    for file in (*OF_STUDY, *FILES)
    for damage in DAMAGES
]


@pytest.mark.parametrize(("file", "damage"), DAMAGED)
def test_a_damaged_file_is_named_with_the_remedy(study, single, file, damage):
    for folder, commands in places(file, study, single):
        (folder / file).write_bytes(DAMAGES[damage](sound_content(folder, file)))
        for arguments in commands:
            if damage == "unknown key" and file not in CLOSED:
                succeeds(*arguments)  # what a run has measured may grow
                continue
            message = refused(*arguments)
            assert f"{folder / file} " in message
            assert "Restore it, or delete it" in message


def test_a_byte_order_mark_is_no_damage(study):
    (trial,) = (study / "runs").iterdir()
    for path in (
        *(study / file for file in OF_STUDY),
        *(trial / file for file in FILES if file != "FAILED"),
    ):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    succeeds("report", study)


@pytest.mark.parametrize("file", [*OF_STUDY, *FILES])
def test_a_folder_in_the_place_of_a_file_is_named_with_the_remedy(study, single, file):
    for folder, commands in places(file, study, single):
        sound_content(folder, file)
        (folder / file).unlink()
        (folder / file).mkdir()
        for arguments in commands:
            message = refused(*arguments)
            assert f"{folder / file} cannot be read (Is a directory)" in message
            assert "Restore it, or delete it" in message


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("DONE", {"status": "perhaps"}, "status='perhaps'"),
        ("DONE", {"status": None}, "status=None"),
        ("config.json", {"norm": "xn"}, "unknown normalization 'xn'"),
        ("config.json", {"epochs": "many"}, "epochs='many'"),
        ("config.json", {"seed": -1}, "seed=-1"),
        ("env.json", {"threads": "all"}, "threads='all'"),
        ("env.json", {"parameters": -5}, "parameters=-5"),
        ("env.json", {"cost": {"saved_bytes_per_image": "x"}}, "saved_bytes_per_image='x'"),
        ("env.json", {"cost": {"training_flops_per_image": -1}}, "training_flops_per_image=-1"),
        ("config.json", {"width": 2.0}, "is not what the run's folder is named after"),
        ("config.json", {"accumulate": 2}, "is not what the run's folder is named after"),
        ("study.json", {"format": 7}, "has format 7, this version reads 1"),
        (
            "study.json",
            {"cells": [{"labels": {}, "seed": 0, "run": "x"}]},
            "without the label 'norm'",
        ),
        ("study.json", {"cells": "none"}, "cells='none'"),
        ("study.json", {"versions": None}, "versions=None"),
        ("study.json", {"tuned_over": "base_lr"}, "without the label 'base_lr'"),
        ("study.json", {"shows": "groups"}, "without the label 'division'"),
    ],
)
def test_a_value_that_cannot_be_is_named(study, file, changes, words):
    (trial,) = (study / "runs").iterdir()
    path = (study if file == "study.json" else trial) / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    message = refused("report", study)
    assert f"{path} " in message
    assert words in message


def test_a_run_that_never_trained_gives_its_folder_to_another(tmp_path):
    """But a config.json that somebody wrote by hand is not replaced."""
    out = tmp_path / "run"
    too_large = [text.replace("batch_per_worker=16", "batch_per_worker=256") for text in TRAIN]
    assert "needs at least 256 training images" in refused(*too_large, out)
    (out / "unreadable.json").write_text("{}")
    succeeds(*TRAIN, out)
    assert json.loads((out / "config.json").read_text())["batch_per_worker"] == 16
    assert not (out / "unreadable.json").exists()
    assert read_run(out).status == "finished"
    assert "holds another run" in refused(*TRAIN, out, "seed=1")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "config.json").write_text('{"norm": "ln", "epochs": 2}')
    assert "holds another run" in refused(*TRAIN, mine)
    assert (mine / "config.json").read_text() == '{"norm": "ln", "epochs": 2}'


@pytest.mark.parametrize("keep", [0, 1])
def test_a_finished_run_without_all_its_epochs_is_refused_and_mended_as_told(single, keep):
    path = single / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:keep]))
    message = refused(*TRAIN, single)
    assert f"{path} ends at epoch {keep} of 2" in message
    path.unlink()
    (single / "DONE").unlink()
    succeeds(*TRAIN, single)
    assert path.read_text().splitlines(keepends=True) == lines


def test_a_finished_run_without_its_metrics_is_refused_and_mended_as_told(single):
    path = single / "metrics.jsonl"
    content = path.read_text()
    path.unlink()
    message = refused(*TRAIN, single)
    assert f"{path} is missing, and DONE says finished. Restore it, or delete DONE" in message
    (single / "DONE").unlink()
    succeeds(*TRAIN, single)
    assert path.read_text() == content


def test_an_epoch_out_of_order_is_refused(study):
    (path,) = study.glob("runs/*/metrics.jsonl")
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    assert f"{path} line 1 is of epoch 2" in refused("report", study)


@pytest.mark.parametrize("error", [1e30, 100.5, -1])
@pytest.mark.parametrize("key", ["train_error", "val_error", "precise_val_error"])
def test_an_error_that_is_no_percentage_is_refused(study, key, error):
    (path,) = study.glob("runs/*/metrics.jsonl")
    rows = read_metrics(path.parent)
    path.write_text("".join(json.dumps({**row, key: error}) + "\n" for row in rows))
    assert f"{path} line 1 has {key}={error}: " in refused("report", study)


@pytest.mark.slow
def test_deleting_the_damaged_file_is_a_remedy(study):
    (trial,) = (study / "runs").iterdir()
    for file in ("config.json", "DONE", "env.json"):
        (trial / file).unlink()
    for file in OF_STUDY:
        (study / file).unlink()
    weights = (trial / "checkpoint.pt").read_bytes()
    rows = read_metrics(trial)
    succeeds(*STUDY, study)
    assert read_record(study, trial.name).status == "finished"
    assert (trial / "checkpoint.pt").read_bytes() == weights
    assert read_metrics(trial) == rows
    assert (study / "cost.json").exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "a list", "flipped", "a folder"])
def test_a_damaged_checkpoint_is_named_with_the_remedy(single, damage):
    path = single / "checkpoint.pt"
    content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage == "flipped":
        path.write_bytes(content[:5000] + bytes([content[5000] ^ 4]) + content[5001:])
    else:
        path.write_bytes(DAMAGES[damage](content))
    message = refused(*TRAIN, single)
    assert str(path) in message
    assert "delete it to train this run from the start" in message
    job = {
        "folder": single, "threads": 1, "device": "cpu", "data_root": None, "stop_epoch": None
    }  # fmt: skip
    with pytest.raises(RuntimeError, match=r"checkpoint\.pt.*delete it to train"):  # as a trial
        work(job, lambda *_, **__: None)


def one_study_with_checkpoint(study, content):
    """Its run is to be tried again, with such a checkpoint."""
    (trial,) = (study / "runs").iterdir()
    (trial / "DONE").unlink()
    (trial / "metrics.jsonl").unlink()
    (trial / "checkpoint.pt").write_bytes(content)
    return trial


def trials_that_fail(out, configs, progress, **_):
    """As a runner of processes: what a trial raises becomes the reason of its failure."""
    for name in prepare(out, configs, progress):
        reason = None
        try:
            record_run(configs[name], run_folder(out, name), threads=1)
        except RuntimeError as error:
            reason = f"{type(error).__name__}: {error}"
        finish(out, name, reason, progress)
    return [read_record(out, name) for name in configs]


def test_a_study_with_a_damaged_checkpoint_says_what_to_do_and_goes_on_after_it(study, monkeypatch):
    monkeypatch.setattr("groupnorm.study.execute.run_trials", trials_that_fail)
    path = one_study_with_checkpoint(study, b"damaged") / "checkpoint.pt"
    for _ in range(2):
        message = refused(*STUDY, study)
        assert "1 of 1 runs failed" in message
        assert "The same command fails again until this is done: " in message
        assert f"{path} does not end with a digest of its content" in message
        assert "delete it to train this run from the start. Then it goes on." in message
        assert "tries again" not in message
    path.unlink()
    succeeds(*STUDY, study)


def test_a_folder_that_cannot_be_written_to_is_named_with_the_remedy(tmp_path, monkeypatch):
    """Nothing is said to be kept there, and no command to go on."""
    locked = tmp_path / "closed" / "new"
    mkdir = Path.mkdir

    def closed(path, *arguments, **options):
        if path == locked:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", closed)
    for arguments in ((*STUDY, locked), (*TRAIN, locked)):
        assert refused(*arguments) == (
            f"error: no file can be written in {locked} ({locked}: Permission denied); see to it "
            "that one can, or choose another folder with --out\n"
        )


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no /proc here")
def test_a_folder_that_the_system_does_not_make_is_named_with_the_remedy():
    for arguments in ((*STUDY, "/proc/none"), (*TRAIN, "/proc/none")):
        message = refused(*arguments)
        assert message.startswith("error: no file can be written in /proc/none (/proc/none: No ")
        assert message.endswith("or choose another folder with --out\n")


def test_names_that_can_be_no_folder(tmp_path):
    long = tmp_path / ("x" * 300)
    for arguments in ((*STUDY, long), (*TRAIN, long), ("report", "a", "b", "--out", long)):
        assert f"{long} cannot be one: File name too long; name another" in refused(*arguments)
    assert f"FOLDER takes a folder, {long} cannot be one" in refused("report", long)
    for empty in ("", " "):
        assert "error: FOLDER is empty; name a folder" in refused("report", empty)
        assert "error: --out is empty; name a folder" in refused("report", "a", "--out", empty)
    none = tmp_path / "none"
    assert f"{none} holds no study: there is no such folder. Name the" in refused("report", none)
    assert "study.json is missing. Name the folder" in refused("report", tmp_path)


def test_what_may_not_be_read_or_written_is_named_with_the_remedy(study, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as patch:
        patch.setattr("groupnorm.study.report.page.write_atomic", refuse)
        listed = study / "figures" / ".written.json"
        assert refused("report", study) == (
            f"error: {listed}: Permission denied; a report is written beside its records: see to "
            "it that it can be, or copy the study to another folder\n"
        )
    read = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: (refuse if path.name == "study.json" else read)(path)
    )
    assert refused("report", study) == (
        f"error: {study / 'study.json'} cannot be read (Permission denied); allow reading it, or "
        "copy what may be read to a folder of your own\n"
    )


def disk_full_after(monkeypatch, checkpoints):
    """From the checkpoint after so many on, nothing can be written any more."""
    replace, left = os.replace, [checkpoints]

    def full(source, target):
        if str(target).endswith("checkpoint.pt"):
            left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr("groupnorm.files.os.replace", full)


def test_train_on_a_full_disk_keeps_its_last_checkpoint_and_says_so(made, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        disk_full_after(patch, 1)
        message = refused(*TRAIN, out)
    assert f"{out / 'checkpoint.pt'}: No space left on device; " in message
    assert f"the checkpoint of step 4 in {out} is intact; the same command goes on" in message
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock", "checkpoint.pt", "config.json", "env.json", "metrics.jsonl",
    ]  # fmt: skip
    succeeds(*TRAIN, out)
    whole, found = (
        torch.load(folder / "checkpoint.pt", weights_only=True)["model"]
        for folder in (made / "run", out)
    )
    assert all(torch.equal(found[key], whole[key]) for key in whole)


@pytest.mark.slow
def test_a_full_disk_stops_a_study_in_words(study, tmp_path, monkeypatch):
    disk_full_after(monkeypatch, -1)
    for arguments in ((*STUDY, tmp_path / "new"), (*STUDY, study), ("report", study)):
        assert "No space left on device" in refused(*arguments)
    assert "nothing is kept, because no folder" not in refused(*TRAIN, tmp_path / "run")


def test_a_folder_or_file_in_the_way_is_named(study, single, tmp_path):
    file = tmp_path / "file"
    file.write_text("not a folder")
    for arguments in ((*STUDY, file), (*TRAIN, file)):
        assert f"--out takes a folder, {file} is a file; name another" in refused(*arguments)
    assert f"FOLDER takes a folder, {file} is a file; name another" in refused("report", file)
    for arguments in ((*STUDY, file / "a" / "b"), (*TRAIN, file / "a" / "b")):
        message = refused(*arguments)
        assert message.endswith(f"{file}/a/b cannot be one: {file} is a file; name another\n")
        assert message.startswith("error: --out takes a folder")
    for folder, arguments in ((study, (*STUDY, study)), (single, (*TRAIN, single))):
        (folder / ".lock").unlink()
        (folder / ".lock").mkdir()
        assert f"{folder / '.lock'}: Is a directory" in refused(*arguments)
    (study / "tables.csv").unlink()
    (study / "tables.csv").mkdir()
    in_the_way = f"{study / 'tables.csv'}: Is a directory; remove or rename it"
    assert in_the_way in refused("report", study)
    shutil.rmtree(study / "runs")
    (study / "runs").touch()
    message = f"{study / 'runs'} is a file and should be a folder; remove or rename it"
    assert message in refused("report", study)


@pytest.mark.parametrize(
    "arguments",
    [
        ("doctor",),
        ("plan", "resnet8", "--memory", "1GiB"),
        ("report", "."),
        ("train", "data=digits", "epochs=1"),
        ("study", "norms", "--data", "digits", "--norms", "bn"),
    ],
)
def test_every_command_says_which_file_the_system_refused(arguments, tmp_path, monkeypatch):
    """Whatever it is that a command opens first."""

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/some/file")

    for name in ("cli.doctor.examine", "cost.fit.fit", "study.report.page.write_report"):
        monkeypatch.setattr(f"groupnorm.{name}", refuse)
    for name in ("training.launch.find_launch", "study.run_study"):
        monkeypatch.setattr(f"groupnorm.{name}", refuse)
    monkeypatch.chdir(tmp_path)
    assert "error: /some/file: Permission denied\n" in command(*arguments).stderr


def test_a_reader_who_has_gone_is_no_error(single, monkeypatch):
    def gone(*_, **__):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    monkeypatch.setattr("groupnorm.study.record.write_metrics", gone)
    done = command(*TRAIN, single)
    assert done.exit_code == 1
    assert "error" not in done.stderr


def test_a_run_in_a_study_and_a_study_in_a_run_are_refused(study, single, monkeypatch):
    (trial,) = (study / "runs").iterdir()
    for out in (study, trial, study / "new"):
        message = refused(*TRAIN, out)
        assert f"{out} is {'' if out == study else 'inside '}the folder of a study" in message
        assert "choose a folder outside it" in message
    for out in (single, single / "new", trial):
        message = refused(*STUDY, out)
        assert f"{out} is {'inside ' if out.name == 'new' else ''}the folder of a run" in message
        assert "choose a folder outside it" in message
    assert not (study / "config.json").exists()
    assert not (study / "new").exists()
    assert not (single / "study.json").exists()
    monkeypatch.chdir(trial)
    assert "the folder of a study" in refused(*TRAIN, ".")
