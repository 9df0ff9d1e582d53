"""`--help` of a command that takes KEY=VALUE lists exactly the fields of its configuration."""

import pytest
import typer

from groupnorm.cli import app
from groupnorm.experiments import EXPERIMENTS, Options
from groupnorm.training.config import DetectionConfig, RunConfig, SegmentationConfig, VideoConfig
from tests.cli.commands import typed

CONFIGS = (RunConfig, DetectionConfig, SegmentationConfig, VideoConfig)
FIELDS = {("train",): tuple({name: 0 for config in CONFIGS for name in config.model_fields})}
FIELDS |= {("study", name): entry.takes for name, entry in EXPERIMENTS.items()}


def commands(command, path=()):
    """Every command with its path."""
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))
    else:
        yield path, command


def listed(help_text):
    """The fields that the help of KEY=VALUE lists, each with its description if it has one."""
    intro, *lines = help_text.split("\n\n")
    if not lines:
        return dict.fromkeys(intro.rpartition("Keys: ")[2].rstrip(".").split(", "), "")
    return {line.split(": ", 1)[0]: line.split(": ", 1)[1] for line in lines}


def settings_of(command):
    return [p for p in command.params if p.metavar == "KEY=VALUE"]


def test_every_command_that_takes_key_value_is_known_here():
    found = {path for path, command in commands(typer.main.get_command(app))
             if settings_of(command)}  # fmt: skip
    assert found == set(FIELDS)


@pytest.mark.parametrize("path", FIELDS, ids=" ".join)
def test_the_help_lists_the_fields(path):
    command = dict(commands(typer.main.get_command(app)))[path]
    (settings,) = settings_of(command)
    found = listed(settings.help)
    assert tuple(found) == FIELDS[path]
    texts = found if path == ("train",) else options_of(command)
    assert all(texts[key] for key in found)


def test_a_missing_and_an_unknown_field_would_be_noticed():
    assert listed("Fields.\n\nmodel: one\n\ncolour: two: three") == {
        "model": "one",
        "colour": "two: three",
    }
    assert listed("As epochs=3. Keys: model, colour.") == {"model": "", "colour": ""}


def options_of(command):
    """The options that the help shows, each with its text, by the name of their field."""
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    return {p.opts[0].removeprefix("--").replace("-", "_"): p.help for p in options}


def test_the_options_reach_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    said = typed("study", "groups", "--help").stdout
    for key in EXPERIMENTS["groups"].takes:
        assert f" --{key.replace('_', '-')} " in said
    assert "--norms" not in said
    assert "Images per worker: one number." in said
    assert "default: quick" in said
    assert " seed: " in typed("train", "--help").stdout


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_field_is_an_option_too(name):
    options = options_of(dict(commands(typer.main.get_command(app)))["study", name])
    entry = EXPERIMENTS[name]
    taken = {key: text for key, text in options.items() if key in Options.model_fields}
    assert taken == {key: entry.describe(key) for key in entry.takes}
    assert taken["scale"].endswith(f"default: {next(iter(entry.scales))}.")


def test_the_list_of_commands_says_what_each_compares_whatever_its_options():
    study = typer.main.get_command(app).commands["study"]
    for name in ("batch-size", "norms", "groups"):
        assert study.commands[name].help.startswith(f"{EXPERIMENTS[name].summary}: ")
        assert "32" not in study.commands[name].help


def test_both_spellings_are_the_same_study(monkeypatch, tmp_path):
    plans = []
    monkeypatch.setattr("groupnorm.study.run_study", lambda plan, *_, **__: plans.append(plan))
    monkeypatch.chdir(tmp_path)
    for line in (
        ["--data", "digits", "--norms", "bn,gn:groups=4,eps=1e-6", "--epochs", "3"],
        ["data=digits", "norms=bn,gn:groups=4,eps=1e-6", "--epochs", "3"],
    ):
        typed("study", "norms", "--seeds", "1", *line)
    assert plans[0] == plans[1]
    assert [cell.labels["norm"] for cell in plans[0].cells] == ["bn", "gn:groups=4,eps=1e-06"]
