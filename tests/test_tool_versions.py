"""The commit hooks run the versions that CI installs."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def pins(requirements):
    return dict(line.split("==") for line in requirements if "==" in line)


def test_hooks_and_continuous_integration_have_the_same_versions():
    hooks = pins(re.findall(r'"([\w-]+==[\d.]+)"', (ROOT / ".pre-commit-config.yaml").read_text()))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = pins(project["optional-dependencies"]["test"])
    assert hooks.keys() == {"ruff", "codespell", "pre-commit-hooks"}
    assert hooks == {name: ours[name] for name in hooks}


def test_all_pins_of_one_tool_agree():
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    assert len(set(re.findall(r"ruff==[\d.]+", text))) == 1
