"""The import rules of the architecture: who may import whom, and what an import loads."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "groupnorm"

# Standard library only, so that every part may import them.
BASICS = {"array_pickle", "counts", "files", "lazy", "printable", "spec"}
# part -> the parts of the package it may import besides itself and the basics; a dotted name allows
# one module of a part
ALLOWED = {
    **{part: set() for part in BASICS},
    "memory": set(),
    "environment": {"ops"},
    "ops": set(),
    "layers": {"ops"},
    "models": {"layers"},
    "conversion": {"ops", "layers", "memory"},
    "cost": {"layers"},
    "export": {"ops", "layers", "conversion", "environment"},
    "frameworks": set(),
    "data": set(),
    "training": {"data"},
    "run": {"layers", "models", "conversion", "cost", "data", "training", "environment"},
    "study": {"models", "conversion", "cost", "data", "training", "environment", "memory", "run"},
    "experiments": {
        "training.config", "training.metric", "data", "models", "study.plan", "study.tuning",
        "study.search", "study.results.halving", "study.conversions.trial",
    },
    "cli": {
        "ops", "models", "conversion", "cost", "data", "environment", "experiments", "run",
        "study", "export", "memory", "training.config", "training.device", "training.launch",
        "training.metric",
    },
    "__main__": {"cli"},
    "__init__": {"ops", "layers", "conversion", "memory"},
}  # fmt: skip
# module -> the only parts that it may import: narrower than the part it belongs to
NARROWER = {
    "groupnorm.training.config": {"spec", "training.schedules"},
    "groupnorm.training.metric": set(),
    "groupnorm.run.tasks": {"data", "models", "training.config", "training.metric"},
    "groupnorm.study.plan": {
        "data",
        "run.tasks",
        "study",
        "training.config",
        "training.metric",
    },
}


def modules(root=ROOT):
    """The package's modules: dotted name -> path."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = ("groupnorm", *path.relative_to(root).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def part_of(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(source):
    """Dotted names inside the package that a source imports at any depth, in code that runs.

    With `from package import name` both `package.name` and `package` are given; which of them is a
    module the caller knows.
    """
    for node in running(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.startswith("groupnorm."))


def running(node):
    """The nodes below, without those that only a type checker reads."""
    yield node
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    for child in ast.iter_child_nodes(node):
        yield from running(child)


def offences(part, source, allowed):
    for full in imported(source):
        name = full.removeprefix("groupnorm.")
        starts = {name, *(name.rsplit(".", n)[0] for n in range(1, name.count(".") + 1))}
        if part not in starts and not starts & (allowed | BASICS):
            yield f"{part} imports {name}"


@pytest.mark.parametrize("path", modules().values(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    part = part_of(path)
    assert part in ALLOWED, f"say in ALLOWED what {part} may import"
    assert list(offences(part, path.read_text(), ALLOWED[part])) == []


@pytest.mark.parametrize("name", NARROWER)
def test_some_modules_import_less_than_their_part(name):
    """Of a package each of its modules."""
    own = [path for found, path in modules().items() if f"{found}.".startswith(f"{name}.")]
    assert own
    for path in own:
        found = offences(name.removeprefix("groupnorm."), path.read_text(), NARROWER[name])
        assert list(found) == []


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("study", "from groupnorm.experiments import EXPERIMENTS"),
        ("study", "def plan():\n    import groupnorm.experiments.catalog"),
        ("layers", "from groupnorm import models"),
        ("conversion", "from groupnorm.models import build_model"),
        ("models", "from groupnorm.conversion.precise_bn import recompute"),
        ("experiments", "from groupnorm.training.loop import train"),
        ("experiments", "from groupnorm.study import execute"),
        ("ops", "import groupnorm.layers"),
        ("spec", "from groupnorm.ops.group_norm import api"),
        ("run", "from groupnorm.study.record import record_run"),
    ],
)
def test_an_import_that_points_the_wrong_way_is_found(part, source):
    assert len(list(offences(part, source, ALLOWED[part]))) == 1


def test_the_parts_stand_in_an_order():
    parts = {part: {name.split(".")[0] for name in names} for part, names in ALLOWED.items()}
    order = list(graphlib.TopologicalSorter(parts).static_order())
    for below, above in (("ops", "layers"), ("data", "training"), ("run", "study"),
                         ("study", "experiments"), ("experiments", "cli")):  # fmt: skip
        assert order.index(below) < order.index(above)


def circles(sources):
    """A circle of modules, each importing the next one at some depth; [] when there is none."""
    graph = {}
    for module, source in sources.items():
        graph[module] = set()
        for name in imported(source):
            found = name if name in sources else name.rpartition(".")[0]
            if found in sources and found != module:
                graph[module].add(found)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_module_imports_itself_by_way_of_others():
    assert circles({name: path.read_text() for name, path in modules().items()}) == []


def test_a_circle_is_found():
    sources = {
        "groupnorm.a": "from groupnorm.b import thing",
        "groupnorm.b": "def later():\n    from groupnorm import c",
        "groupnorm.c": "import groupnorm.a",
    }
    assert set(circles(sources)) == set(sources)
    sources["groupnorm.c"] = "if TYPE_CHECKING:\n    import groupnorm.a"
    assert circles(sources) == []


def norm_classes(source):
    tree = ast.parse(source)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return {name for name in names if name.endswith("Norm") or "BatchNorm" in name}


def test_models_never_name_a_norm_class():
    for path in (ROOT / "models").rglob("*.py"):
        assert norm_classes(path.read_text()) == set(), path
    assert norm_classes("nn.BatchNorm2d(3); GroupNorm(2, 4)") == {"BatchNorm2d", "GroupNorm"}


REPORT = ROOT / "study" / "report"


def report_siblings(name, source):
    """What text, tables and figures of a report import of each other."""
    siblings = {"text", "tables", "figures"} - {name}
    for full in imported(source):
        parts = full.split(".")
        if parts[1:3] == ["study", "report"] and len(parts) > 3 and parts[3] in siblings:
            yield full


def test_text_tables_and_figures_of_a_report_do_not_import_each_other():
    for path in REPORT.rglob("*.py"):
        name = path.relative_to(REPORT).with_suffix("").parts[0]
        if name in ("text", "tables", "figures"):
            assert list(report_siblings(name, path.read_text())) == [], path
    assert list(report_siblings("text", "from groupnorm.study.report.figures import draw"))


def matplotlib_importers(root):
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(name.split(".")[0] == "matplotlib" for name in names):
                yield path


def test_only_figures_import_matplotlib(tmp_path):
    assert {path.parent for path in matplotlib_importers(ROOT)} == {REPORT / "figures"}
    (tmp_path / "planted.py").write_text("def draw():\n    from matplotlib.figure import Figure\n")
    assert [path.name for path in matplotlib_importers(tmp_path)] == ["planted.py"]


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def loaded_by(statement):
    done = python(f"{statement}\nimport sys; print(*sorted(m for m in sys.modules))")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_package_is_cheap():
    heavy = {"torch", "triton", "torchvision", "matplotlib", "pydantic", "ray", "rich", "typer"}
    assert not loaded_by("import groupnorm, groupnorm.spec") & heavy


PLANNING = """
import sys
sys.modules["torch"] = None  # importing it is an error from here on
from groupnorm.experiments import EXPERIMENTS, Options, study_plan
for name, entry in EXPERIMENTS.items():
    for scale in entry.scales:
        assert study_plan(name, Options(scale=scale)).configs
"""


def test_blocks_are_kept_without_torch():
    loaded = loaded_by("import groupnorm; groupnorm.keep_large_blocks()")
    assert not loaded & {"torch", "numpy"}


def test_every_study_is_planned_without_torch():
    done = python(PLANNING)
    assert done.returncode == 0, done.stderr
    done = python(f"{PLANNING}\nimport groupnorm.run.train")
    assert "import of torch halted" in done.stderr


def test_the_command_line_starts_without_torch_ray_and_tensorboard():
    loaded = loaded_by("import groupnorm.cli")
    assert not loaded & {"torch", "ray", "matplotlib", "tensorboard"}


@pytest.mark.slow
def test_tracking_is_known_without_tensorboard():
    loaded = loaded_by("import groupnorm.study.runners.track, groupnorm.study.execute")
    assert not loaded & {"ray", "tensorboard", "torch.utils.tensorboard"}


def test_the_library_half_needs_torch_and_numpy_only():
    loaded = loaded_by("from groupnorm import layers; from groupnorm.models import ResNetCifar")
    assert "torch" in loaded
    others = {"triton", "torchvision", "matplotlib", "pydantic", "ray", "rich", "typer", "sklearn"}
    assert not loaded & others


def test_using_the_library_touches_no_cuda():
    done = python(
        "import torch, groupnorm\n"
        "groupnorm.GroupNorm(2, 4)(torch.randn(1, 4, 3))\n"
        "assert not torch.cuda.is_initialized()"
    )
    assert done.returncode == 0, done.stderr
