"""The README: its commands, its example, its numbers."""

import json
import re
import sys
from pathlib import Path

import pytest

from groupnorm.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCUMENTS = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "HACKING")),
    *(ROOT / "docs").rglob("*.md"),
]
EXAMPLES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]


def test_the_two_commands_stand_in_it():
    assert "pip install -e '.[study]' && groupnorm study batch-size" in README
    assert "pip install -e '.[test]' && pytest" in README


def test_every_command_in_it_exists():
    import typer.main

    tree = typer.main.get_command(app)
    for name, rest in re.findall(r"`groupnorm (\w+) ?((?!-)[\w-]*)", README.replace("\n", " ")):
        assert name in tree.commands, name
        if name == "study" and rest:
            assert rest in tree.commands["study"].commands, rest
    options = {option for command in tree.commands["study"].commands.values()
               for parameter in command.params for option in parameter.opts}  # fmt: skip
    for option in re.findall(r"`(--[\w-]+)", README):
        assert option in options, option


def test_the_page_of_recipes_names_every_recipe_and_no_other():
    from groupnorm.experiments import EXPERIMENTS, build

    published = {name for name in EXPERIMENTS if build(name).result is not None}
    text = (ROOT / "docs" / "recipes.md").read_text()
    kinds = "imagenet|cifar10|pets|coco|kinetics"
    named = set(re.findall(rf"`(?:groupnorm study )?((?:{kinds})-[\w-]+)", text))
    both = {f"{name}-one-worker" for name in named} & published  # said once for all
    assert named | both == published


@pytest.mark.parametrize("document", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_run(document, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for code in re.findall(r"```python\n(.*?)```", document.read_text(), flags=re.DOTALL):
        exec(code, {})
    if document.name == "README.md":
        assert "native" in capsys.readouterr().out


def test_its_numbers_are_those_of_the_records(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import update_readme

    monkeypatch.setattr(sys, "argv", ["update_readme.py", "--check"])
    update_readme.main()


def test_a_changed_number_would_be_noticed(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import update_readme

    row = next(line for line in README.splitlines() if line.startswith("| bn |"))
    sections = update_readme.readme_sections()
    changed = README.replace(row, row.replace("| bn |", "| bn | 1"))
    assert update_readme.updated(changed, sections) == README


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


def test_on_data_with_an_offset_pytorch_is_far_off_and_ours_is_not():
    (path,) = (ROOT / "results").glob("offset-accuracy-*/accuracy.json")
    rows = json.loads(path.read_text())["rows"]
    error = {(r["mean"], r["layout"], r["name"]): r["output"] for r in rows}
    for mean in (1_000, 10_000):
        ours = error[mean, "channels_last", "groupnorm"]
        assert error[mean, "channels_last", "torch"] > 1000 * ours
