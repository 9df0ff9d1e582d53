"""Rules about names: what is public is used, no module hides one of Python's, kinds of norms."""

import ast
import re
import sys
from pathlib import Path

from groupnorm.spec import KINDS

TOP = Path(__file__).parent.parent
ROOT = TOP / "groupnorm"


def public_names(source):
    """The strings of `__all__`."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [element.value for element in node.value.elts]
    return []


def readers():
    """Every text that may use a public name: package, tests, scripts, benchmarks and pages."""
    folders = ("groupnorm", "tests", "benchmarks", "scripts", "examples", "docs")
    paths = [path for folder in folders for path in (TOP / folder).rglob("*")]
    paths += TOP.glob("*.md")
    texts = {p: p.read_text() for p in paths if p.suffix in (".py", ".md", ".sh")}
    del texts[TOP / "CHANGELOG.md"], texts[TOP / "tests" / "test_public_api.py"]
    return texts


def defined(source):
    """The names that a module defines at its top level, or assigns."""
    found = re.finditer(r"^(?:class |def )?(\w+)\b(.*)", source, re.MULTILINE)
    return {m[1] for m in found if m[0].startswith(("class ", "def ")) or " = " in m[2]}


def unused_names(names, texts):
    """Those of `names` that only their own module, its test and a package's list have."""
    words = {path: set(re.findall(r"\w+", text)) for path, text in texts.items()}
    homes = {path: defined(text) for path, text in texts.items() if ROOT in path.parents}
    for name in names:
        modules = [path for path, found in homes.items() if name in found]
        own = {*modules, *(f"test_{module.stem}.py" for module in modules)}
        if not any(
            name in found
            for path, found in words.items()
            if path.name != "__init__.py" and path not in own and path.name not in own
        ):
            yield name


def test_every_public_name_is_used_outside_its_own_test():
    texts = readers()
    names = {name for path in ROOT.rglob("*.py") for name in public_names(path.read_text())}
    assert len(names) > 50
    assert sorted(unused_names(names, texts)) == []


def test_a_public_name_that_nothing_uses_is_found():
    texts = {
        ROOT / "ops" / "planted.py": "__all__ = ['used', 'unused']\ndef used(): ...\n"
        "def unused(): ...",
        ROOT / "ops" / "__init__.py": "from groupnorm.ops.planted import unused, used",
        TOP / "tests" / "ops" / "test_planted.py": "unused() == used()",
        TOP / "docs" / "page.md": "what `used` is",
    }
    names = public_names(texts[ROOT / "ops" / "planted.py"])
    assert names == ["used", "unused"]
    assert list(unused_names(names, texts)) == ["unused"]


def shadows(paths):
    return [path for path in paths if path.stem in sys.stdlib_module_names - {"__main__"}]


def test_no_module_has_the_name_of_one_of_pythons():
    assert (
        shadows([*ROOT.rglob("*.py"), *(path.parent for path in ROOT.rglob("__init__.py"))]) == []
    )
    assert shadows([ROOT / "ops" / "statistics.py", ROOT / "spec.py"]) == [
        ROOT / "ops" / "statistics.py"
    ]


def compared_kinds(source):
    """Where a source compares the kind of a norm, or something with the name of a kind."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.Match):
            sides = [node.subject]
        elif isinstance(node, ast.MatchValue):
            sides = [node.value]
        else:
            continue
        inner = [one for side in sides for one in ast.walk(side)]
        if any(
            (isinstance(one, ast.Constant) and one.value in KINDS)
            or (isinstance(one, ast.Attribute) and one.attr == "kind")
            for one in inner
        ):
            yield ast.unparse(node)


def test_kinds_of_norms_are_compared_where_layers_are_made_only():
    found = {
        str(path.relative_to(ROOT)): text
        for path in ROOT.rglob("*.py")
        if (text := list(compared_kinds(path.read_text())))
    }
    assert set(found) <= {"spec.py", "layers/factory.py", "frameworks/keras/factory.py"}, found


def test_a_comparison_of_kinds_is_found():
    assert list(compared_kinds("if spec.kind == 'bn': ...")) == ["spec.kind == 'bn'"]
    assert len(list(compared_kinds("norm in ('gn', 'ln')"))) == 1
    assert len(list(compared_kinds("match kind:\n    case 'frn' | 'in': ..."))) == 2
    assert len(list(compared_kinds("norm.spec.kind == wanted"))) == 1
    assert len(list(compared_kinds("match spec.kind:\n    case _: ..."))) == 1
    assert len(list(compared_kinds("(spec.kind, spec.ws) == found"))) == 1
    assert list(compared_kinds("shows == 'groups'; {'bn': 1}['bn']")) == []
