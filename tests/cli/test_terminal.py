"""What every command has: help, errors in words, and text that leaves the terminal as it is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import groupnorm as groupnorm_package
from groupnorm import data
from groupnorm.cli import app, doctor
from groupnorm.cost import fit as memory_fit
from groupnorm.study import record
from groupnorm.study.report import page as reports
from tests.cli.commands import groupnorm, typed

STRANGE = ["", "-1", "nan", "9" * 30, "x\x1b[31m\x9b:smile:", "a..b:80"]
# What each verb needs besides the option that is tried; experiments and studies share theirs.
VERBS = {
    ("train",): ["epochs=1", "model=resnet8"],
    ("plan",): ["resnet8", "--memory", "1GB"],
    ("doctor",): [],
    ("study", "batch-size"): ["--data", "digits"],
    ("study", "pets-resnet34"): ["--scale", "smoke"],
}


class StartedError(Exception):
    """The command has begun its work, so nothing was wrong with what was asked for."""


@pytest.fixture
def nothing_starts(monkeypatch, tmp_path):
    def start(*_, **__):
        raise StartedError

    monkeypatch.chdir(tmp_path)
    for owner, name in (
        (record, "record_run"), (data, "load"), (data, "load_any"), (memory_fit, "fit"),
        (doctor, "examine"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, start)


def options_of(verb):
    command = typer.main.get_command(app)
    for name in verb:
        command = command.commands[name]
    for option in command.params:
        if option.param_type_name == "option" and not option.is_flag and option.name != "help":
            yield option.opts[0]


@pytest.mark.parametrize(
    "verb",
    [
        pytest.param(verb, id=" ".join(verb), marks=[pytest.mark.slow] * (verb[0] == "study"))
        for verb in VERBS
    ],
)
def test_any_value_of_any_option_is_taken_or_refused_in_words(verb, nothing_starts, tmp_path):
    tried = 0
    for option in options_of(verb):
        needed = ["--cluster", "auto"] if option in ("--cpus-per-trial", "--gpus-per-trial") else []
        for value in STRANGE:
            line = [*verb, *VERBS[verb], *needed, option, value]
            tried += 1
            try:
                done = typed(*line)
            except StartedError:
                assert value, f"{line} takes an empty value"
                continue
            assert done.returncode == 2, line
            assert done.stderr.startswith("error: "), line
            assert done.stderr.count("error: ") == 1, line
            for never in ("Traceback", "Input should", "\x1b", "\x9b", "😄", "got None"):
                assert never not in done.stderr + done.stdout, line
    assert tried >= len(STRANGE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [[], ["study"], ["study", "batch-size"], ["study", "norms"], ["study", "groups"],
     ["study", "imagenet-vgg16"], ["train"], ["report"], ["doctor"]],
)  # fmt: skip
def test_help(arguments):
    assert "Usage" in typed(*arguments, "--help").stdout


@pytest.mark.slow
def test_the_installed_command():
    assert "Usage" in groupnorm("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "batch-size", "--out"], "requires an argument"),
        (["doctor", "--data-root"], "'groupnorm --help' lists what it takes"),
        (["study", "batch-size", "--norms", "bn,xn"], "unknown normalization 'xn'; known kinds"),
        (["study", "batch-size", "--data", "imagenette"], "unknown data set 'imagenette'"),
        (
            ["study", "batch-size", "--batch-sizes", "32,x"],
            "--batch-sizes: expected whole numbers, as 32,8,2",
        ),
        (["study", "batch-size", "batch_sizes=x"], "error: batch_sizes: expected whole numbers"),
        (["study", "batch-size", "--norms", "bn,bn"], "error: --norms: bn given twice"),
        (["study", "batch-size", "--batch-sizes", "7"], "32 images of a step, 7 does not"),
        (
            ["train", "epochs=1", "size_schedule=32"],
            "size_schedule: expected sizes in pixels, each",
        ),
        (["study", "batch-size", "--protocol", "papr"], "protocol must be 'fixed-step' or 'paper'"),
        (["study", "batch-size", "--scale", "huge"], "'quick', 'standard' or 'paper'"),
        (["study", "batch-size", "--model", "vgg19"], "unknown model 'vgg19'"),
        (["study", "batch-size", "--epochs", "0"], "error: --epochs must be at least 1, got 0"),
        (["study", "batch-size", "epochs=0"], "error: epochs must be at least 1, got '0'"),
        (["study", "norms", "seeds=0,1,1"], "error: seeds: 1 given twice"),
        (["study", "norms", "epochs=1", "epochs=2"], "given twice, as epochs=1 and as epochs=2"),
        (["train", "epochs=1", "epochs=2"], "epochs is given twice, as epochs=1 and as epochs=2"),
        (
            ["study", "batch-size", "--data", "digits", "--train-images", "5000"],
            "needs more than the 1437 training images of digits",
        ),
        (["study", "batch-size", "--jobs", "0"], "jobs must be at least 1"),
        (
            ["study", "batch-size", "--seeds", "9999"],
            "--seeds: a study has 1 to 1,000 of them, got 9999",
        ),
        (["study", "batch-size", "--seeds", "x"], "--seeds: expected a count, as 3, or the seeds"),
        (["study", "norms", "--gpus-per-trial", "x"], "it takes a number, got 'x'"),
        (["study", "batch-size", "--out", ""], "--out is empty; name a folder"),
        (
            ["study", "batch-size", "--out", "/dev/null"],
            "--out takes a folder, /dev/null is a file",
        ),
        (["study", "norms", "--data-root", "none"], "--data-root takes a folder, none does not"),
        (["study", "norms", "--device", "gpu"], "unknown device 'gpu'; known: cpu, cuda"),
        (["study", "norms", "--cluster", "nohost:x"], "HOST:PORT, got 'nohost:x'"),
        (["study", "norms", "--cluster", "--gpus-per-trial", "inf"], "whole number, got inf"),
        (["study", "norms", "colour=red"], "unknown key 'colour'; known keys: scale, data, model"),
        (["study", "groups", "norms=gn"], "unknown key 'norms'; known keys: scale, data, model"),
        (["study", "norms", "epochs=x"], "epochs must be a whole number, got 'x'"),
        (["study", "norms", "epochs"], "KEY=VALUE, got 'epochs'"),
        (["study", "norms", "seeds=2", "--seeds", "2"], "seeds is given twice, as seeds= and as"),
        (["study", "--list", "norms"], "--list stands alone; got 'norms' after it"),
        (["study", "--json"], "--json goes with --list"),
        (["report", ""], "FOLDER is empty; name a folder"),
        (["doctor", "--data-root", ""], "--data-root is empty"),
        (["plan", "resnet8", "--memory", "16"], "memory '16' has no unit; write 16GiB"),
        (["plan", "resnet8", "--memory", "1GB", "--norms", "gn,gn"], "--norms: gn given twice"),
        (["plan", "resnet8", "--memory", "1GB", "--batch", "0"], "1 to 1,000,000, got 0"),
        (["train", "epochs=1", "--device", "gpu"], "unknown device 'gpu'"),
        (["train", "epochs=1", "--out", " "], "--out is empty"),
        (["train", "epochs=1", "workers=1e9"], "workers must be a whole number, got '1e9'"),
        (
            ["train", "epochs=1", "optimizer=sgd"],
            "unknown key 'optimizer'; known keys: task, model, ",
        ),
        (["train", "epochs=1", "precision=half"], "must be 'float32' or 'bfloat16', got 'half'"),
        (["train", "epochs=1", "base_lr=inf"], "base_lr must be a finite number, got 'inf'"),
        (["train", "epochs=1", "width=1e9"], "width must be at most 64, got '1e9'"),
        (["train", "epochs=1", f"seed={2**64}"], "seed must be less than"),
        (["train", "epochs=1", "width=1e-9"], "width 1e-09 leaves no channels"),
        (["train", "--config", "/dev/null"], "--config /dev/null is not JSON"),
        (["train", "--colour", "red"], "No such option: --colour"),
        (["trains"], "No such command 'trains'"),
        (["plan"], "'groupnorm plan --help' lists what it takes"),
        (["study", "batch-size", "--data", "cifar10", "--data-root", "."], "cifar-10-batches-py"),
        (["study", "norms", "--batch-sizes", "8,2"], "one batch size"),
        (["report", "."], "holds no study"),
        (["train", "norm=gn", "epochs=1", "lr=3"], "lr"),
        (["train", "norm=gn"], "exactly one"),
        (["train", "norm"], "KEY=VALUE, got 'norm'"),
        (["train", "--config", "none.json"], "none.json"),
    ],
)
def test_bad_input_is_answered_in_words(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = typed(*arguments)
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert not list(tmp_path.rglob("checkpoint.pt"))


@pytest.mark.parametrize("text", ["[]", "null", '"norm"', "[" * 100_000, '{"norm": ', "\xff"])
def test_a_file_that_is_no_configuration(text, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text, encoding="latin-1")
    done = typed("train", "--config", path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --config {path} ")
    assert "JSON" in done.stderr


def test_names_leave_the_terminal_as_it_is():
    """A port is no emoji, a bracket no markup, and a control character is shown, not obeyed."""
    done = typed("report", "x\x1b[31m:80:1234:[b]\udcff")
    assert r"x\x1b[31m:80:1234:[b]\xff holds no study" in done.stderr
    assert "\x1b" not in done.stderr
    done = typed("train", "epochs=1", "--config", "[/]\x1b:smile:")
    assert r"--config [/]\x1b:smile: cannot be read" in done.stderr
    done = typed("--x\x1b[31m")
    assert r"No such option: --x\x1b[31m" in done.stderr


def test_no_console_of_the_package_makes_emoji():
    files = Path(groupnorm_package.__file__).parent.rglob("*.py")
    made = [line for path in files for line in path.read_text().splitlines() if "Console(" in line]
    assert len(made) >= 3
    assert [line for line in made if "emoji=False" not in line] == []


def test_an_ascii_terminal_gets_everything(monkeypatch, tmp_path):
    table = (["norm — error", "32"], [["gn é", "40.1 ± 0.2"], ["bn", "—"]])
    monkeypatch.setattr(reports, "write_report", lambda out, **_: [out / "é — report.html"])
    monkeypatch.setattr(reports, "main_table", lambda *_, **__: table)
    monkeypatch.setattr(reports, "main_title", lambda _: "error ± spread")
    done = typed("report", tmp_path, encoding="ascii")
    assert done.returncode == 0
    for shown in ("40.1 +/- 0.2", r"gn \xe9", r"\xe9 - report.html"):
        assert shown in done.stdout
    numbers = {"rows": [{"norm": "gn é", "error": 40.1}]}
    monkeypatch.setattr(reports, "report_numbers", lambda _: numbers)
    assert json.loads(typed("report", tmp_path, "--json", encoding="ascii").stdout) == numbers
    for arguments in (
        ["train", "--help"],
        ["study", "--list"],
        ["study", "pets-resnet34", "--help"],
    ):
        assert typed(*arguments, encoding="ascii").stdout
    done = typed("train", "norm=é", encoding="ascii")
    assert r"unknown normalization '\xe9'" in done.stderr


def test_the_command_to_repeat_a_study_is_recorded_for_a_shell(monkeypatch, tmp_path):
    kept = {}

    def run_study(plan, out, *, command, **_):
        kept["command"] = command
        raise KeyboardInterrupt

    monkeypatch.setattr("groupnorm.study.run_study", run_study)
    monkeypatch.chdir(tmp_path)
    line = ["study", "norms", "--data", "digits", "--out", "é\x1b:80:"]
    done = typed(*line)
    assert done.returncode == 130
    command = r"groupnorm study norms --data digits --out $'é\x1b:80:'"
    assert kept["command"] == command
    assert (
        done.stderr
        == rf"stopped; what was finished is kept in é\x1b:80:. To continue: {command}" + "\n"
    )
    done = typed(*line, encoding="ascii")
    assert done.stderr.endswith(r"--out $'\xc3\xa9\x1b:80:'" + "\n")


def test_an_interrupt_of_a_command_that_keeps_nothing_is_one_line(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "examine", interrupted)
    done = typed("doctor")
    assert (done.returncode, done.stderr) == (130, "stopped\n")


INTERRUPTED = """
import sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "groupnorm.cli.study":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Finder())
from groupnorm.cli import main
"""


def test_an_interrupt_while_the_command_line_is_imported_is_one_line():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")
