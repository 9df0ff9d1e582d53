"""The import rules of the architecture: who may import whom, and what `import groupnorm` loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "groupnorm"

# part -> the parts of the package it may import (besides itself)
ALLOWED = {
    "spec": set(),
    "files": set(),
    "memory": set(),
    "environment": {"ops"},
    "printable": set(),
    "ops": {"spec"},
    "layers": {"spec", "ops"},
    "models": {"spec", "ops", "layers"},
    "conversion": {"spec", "ops", "layers", "models"},
    "cost": {"spec", "layers"},
    "data": {"spec", "files"},
    "training": {"spec", "files", "data"},
    "experiments": {"training.config", "data", "models", "study"},
    "run": {
        "spec",
        "ops",
        "layers",
        "models",
        "conversion",
        "cost",
        "data",
        "training",
        "environment",
    },
    "study": {
        "spec",
        "files",
        "environment",
        "memory",
        "ops",
        "layers",
        "models",
        "cost",
        "printable",
        "data",
        "training",
        "experiments",
        "run",
    },
    "doctor": {"ops", "data", "environment"},
    "cli": {
        "data.issues",
        "printable",
        "experiments",
        "spec",
        "models",
        "cost",
        "study",
        "run",
        "doctor",
        "files",
        "training.config",
        "training.device",
        "training.launch",
    },
    "__main__": {"cli"},
    "__init__": {"spec", "ops", "layers"},
}


def modules():
    return sorted(ROOT.rglob("*.py"))


def part_of(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(path):
    """Dotted names inside the package that a file imports, at any depth, without the prefix."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [node.module]
            if node.module == "groupnorm":
                names = [f"groupnorm.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("groupnorm."):
                yield name.removeprefix("groupnorm.")


def offences(path, allowed):
    part = part_of(path)
    for name in imported(path):
        top = name.split(".")[0]
        if top != part and top not in allowed and name not in allowed:
            yield f"{part} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    part = part_of(path)
    assert part in ALLOWED, f"say in ALLOWED what {part} may import"
    assert list(offences(path, ALLOWED[part])) == []


def test_the_check_can_fail():
    assert list(offences(ROOT / "cli" / "study.py", set())) != []
    assert list(offences(ROOT / "run.py", ALLOWED["models"])) != []


def loaded_by(statement):
    code = f"{statement}\nimport sys; print(*sorted(m for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_is_cheap():
    heavy = {"torch", "triton", "torchvision", "matplotlib", "pydantic", "ray", "rich", "typer"}
    assert not loaded_by("import groupnorm") & heavy
    assert "torch" not in loaded_by("import groupnorm.spec")


def test_the_command_line_needs_neither_ray_nor_tensorboard():
    loaded = loaded_by("import groupnorm.cli, groupnorm.study, groupnorm.study.runners.track")
    assert not loaded & {"ray", "tensorboard", "torch.utils.tensorboard"}


def test_the_library_half_needs_torch_and_numpy_only():
    loaded = loaded_by("import groupnorm.layers, groupnorm.models")
    assert not loaded & {"torchvision", "matplotlib", "pydantic", "rich", "typer", "sklearn"}


def test_recipes_and_configurations_need_no_torch():
    assert "torch" not in loaded_by("import groupnorm.experiments, groupnorm.training.config")


def test_using_the_library_touches_no_cuda():
    code = (
        "import torch, groupnorm\n"
        "groupnorm.GroupNorm(2, 4)(torch.randn(1, 4, 3))\n"
        "assert not torch.cuda.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
