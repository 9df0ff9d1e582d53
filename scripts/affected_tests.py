"""The tests that a change can reach, the nearest first.

    python scripts/affected_tests.py [FILES...] | xargs pytest

The fewest steps from the change come first, and a folder that the change is not in is one more.
Without FILES: what differs from the last commit, new files included. Read from the sources alone;
nothing is imported. A file depends on

- what it imports, anywhere in it; of a name that a package only passes on, the module it is from;
- a module that one of its strings names ("groupnorm.study.runners.worker", run as a child process);
- a file whose name, or whose folder's name, stands in one of its strings ("report.html.j2");
- the sources of a compiled module that it imports;
- as a test: the `conftest.py` beside and above it, and the configuration of pytest.

Two kinds of dependence come last, whatever the number of steps: a package runs all that it passes
on, and a test that lists the package's files reads every one of them.
"""

from __future__ import annotations

import argparse
import ast
import heapq
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent

NEAR, FAR = 1, 1000  # steps of a dependence
COMPILED_SOURCES = {".cpp", ".h", ".cu"}
CONFIGURATION = "pyproject.toml"


def project_files(root: Path) -> list[str]:
    """The files of a project that git does not ignore, as paths from its root.

    Of a folder that is no checkout: all but compiled ones and caches.
    """
    if (root / ".git").exists():
        listed = _git(root, "ls-files", "--cached", "--others", "--exclude-standard")
        return sorted(name for name in set(listed) if (root / name).is_file())
    found = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if not _is_made(path))


def _is_made(path: Path) -> bool:
    caches = any(part == "__pycache__" or part.endswith("_cache") for part in path.parts)
    return caches or path.suffix in (".so", ".pyd", ".pyc")


def changed_files(root: Path) -> list[str]:
    """What differs from the last commit, and what is new."""
    changed = _git(root, "diff", "--name-only", "HEAD", "--relative")
    return sorted({*changed, *_git(root, "ls-files", "--others", "--exclude-standard")})


def _git(root: Path, *arguments: str) -> list[str]:
    command = ["git", "-C", str(root), *arguments, "-z"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    return [name for name in done.stdout.split("\0") if name]


def is_test(name: str) -> bool:
    """Whether pytest collects this file."""
    return PurePosixPath(name).name.startswith("test_") and name.endswith(".py")


class _Source:
    """What one Python file says: imports, names it defines by importing, strings."""

    def __init__(self, name: str, text: str) -> None:
        self.path = PurePosixPath(name)
        tree = ast.parse(text, filename=name)
        docstrings = _docstrings(tree)
        self.imported: list[tuple[str, str]] = []  # (module, name in it or "")
        self.bound: dict[str, tuple[str, str]] = {}  # the names that the imports define
        self.strings: list[str] = []
        self.lists_files = False
        chains: list[list[str]] = []
        used: set[str] = set()
        self.defined: set[str] = set()  # all names that it assigns or defines
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.split(".")[0]
                    self._add(alias.asname or top, alias.name if alias.asname else top, "")
                    self.imported.append((alias.name, ""))
            elif isinstance(node, ast.ImportFrom):
                module = self._absolute(node)
                for alias in node.names:
                    self._add(alias.asname or alias.name, module, alias.name)
            elif isinstance(node, ast.Attribute):
                chains += _chain(node)
                self.lists_files |= node.attr in ("rglob", "glob")
            elif isinstance(node, ast.Name):
                (used if isinstance(node.ctx, ast.Load) else self.defined).add(node.id)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                self.defined.add(node.name)
            elif isinstance(node, ast.Constant) and id(node) not in docstrings:
                self.strings += [node.value] if isinstance(node.value, str) else []
        self.passed_on = set(self.bound) - used if self.is_package else set()
        for first, *inner, last in chains:
            if first in self.bound:
                module = ".".join(filter(None, self.bound[first]))
                self.imported.append((".".join([module, *inner]), last))

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    def _add(self, bound: str, module: str, name: str) -> None:
        self.imported.append((module, name))
        self.bound[bound] = (module, name)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if node.level == 0:
            return node.module or ""
        above = self.path.parent.parts[: len(self.path.parent.parts) - node.level + 1]
        return ".".join([*above, *([node.module] if node.module else [])])


def _docstrings(tree: ast.AST) -> set[int]:
    found = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            found.add(id(body[0].value))
    return found


def _chain(node: ast.Attribute) -> Iterator[list[str]]:
    """`a`, `b`, `c` of `a.b.c`, if `a` is a name."""
    names = [node.attr]
    value = node.value
    while isinstance(value, ast.Attribute):
        names.append(value.attr)
        value = value.value
    if isinstance(value, ast.Name):
        yield [value.id, *reversed(names)]


class ImportGraph:
    """Which file of a project depends on which."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = project_files(root)
        self.tests = [name for name in self.files if is_test(name)]
        self._sources = {
            name: _Source(name, (root / name).read_text(encoding="utf-8"))
            for name in self.files
            if name.endswith(".py")
        }
        self._modules = {_module_name(name): name for name in self._sources}
        self._modules |= {
            PurePosixPath(name).stem: name  # a script imports its neighbour by its name alone
            for name in self._sources
            if str(PurePosixPath(name).parent / "__init__.py") not in self._sources
        }

    def tests_reached_by(self, changed: Iterable[str]) -> list[str]:
        """The test files that depend on one of these files, the nearest first.

        Raises:
            KeyError: a file is not one of the project's.
        """
        changed = list(changed)
        for name in changed:
            if name not in self._dependents and name not in self.files:
                raise KeyError(name)
        steps = self._steps_from(changed)
        return sorted(
            (name for name in self.tests if name in steps),
            key=lambda name: (steps[name] + min(_apart(name, c) for c in changed), name),
        )

    def _steps_from(self, changed: list[str]) -> dict[str, int]:
        steps: dict[str, int] = {}
        queue = [(0, name) for name in changed]
        heapq.heapify(queue)
        while queue:
            distance, name = heapq.heappop(queue)
            if name in steps:
                continue
            steps[name] = distance
            for dependent, length in self._dependents[name].items():
                if dependent not in steps:
                    heapq.heappush(queue, (distance + length, dependent))
        return steps

    @cached_property
    def _dependents(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = defaultdict(dict)
        for name, source in self._sources.items():
            for needed, length in self._needed_by(name, source):
                if needed != name:
                    found[needed][name] = min(length, found[needed].get(name, length))
        return found

    def _needed_by(self, name: str, source: _Source) -> Iterator[tuple[str, int]]:
        for bound in source.imported:
            only_passed_on = bound[1] in source.passed_on
            for needed in self._imported(*bound):
                yield needed, FAR if only_passed_on else NEAR
            for needed in self._compiled_sources(*bound):
                yield needed, NEAR
        for needed in self._named_in(source.strings):
            yield needed, FAR if source.is_package else NEAR
        if not is_test(name):
            return
        for folder in PurePosixPath(name).parents:
            if (conftest := str(folder / "conftest.py")) in self._sources:
                yield conftest, NEAR
        if CONFIGURATION in self.files:
            yield CONFIGURATION, FAR
        if source.lists_files:
            listed = self.packages & set(source.strings)
            for needed in self.files:
                if needed.split("/")[0] in listed:
                    yield needed, FAR

    def _imported(self, module: str, name: str) -> Iterator[str]:
        """The files that `from module import name` runs."""
        parts = f"{module}.{name}".rstrip(".").split(".")
        known = self._depth_known(parts)
        for end in range(1, known + 1):  # a module's packages run before it
            if (above := self._modules.get(".".join(parts[:end]))) is not None:
                yield above
        if 0 < known < len(parts):
            home = self._sources[self._modules[".".join(parts[:known])]]
            bound = home.bound.get(parts[known]) if home.is_package else None
            if bound is not None and bound != (module, name):
                yield from self._imported(*bound)

    def _depth_known(self, parts: list[str]) -> int:
        """How many names of `a.b.c.d`, from the first on, are a module of the project."""
        for end in range(len(parts), 0, -1):
            if ".".join(parts[:end]) in self._modules:
                return end
        return 0

    def _compiled_sources(self, module: str, name: str) -> Iterator[str]:
        """The sources of a compiled module: all in the package that has no other such name."""
        package = PurePosixPath(*module.split("."))
        source = self._sources.get(str(package / "__init__.py"))
        if source is None or not name or f"{module}.{name}" in self._modules:
            return
        if source.bound.get(name, (module, name)) != (module, name):
            return
        if {name, "__getattr__"} & source.defined:
            return
        for file in self.files:
            path = PurePosixPath(file)
            if package in path.parents and (
                path.suffix in COMPILED_SOURCES or path.name == "CMakeLists.txt"
            ):
                yield file

    def _named_in(self, strings: list[str]) -> Iterator[str]:
        words: set[str] = set()
        for text in strings:
            words.update(re.findall(r"[\w./-]+", text))
            for module in self._dotted.findall(text):
                yield from self._imported(module.rstrip("."), "")
        if "-m" in words:
            for package in self.packages & words:
                yield from self._imported(f"{package}.__main__", "")
        for word in words:
            parts = [part for part in word.split("/") if part.strip(".")]
            for name in self._by_name.get(parts[-1], ()) if parts else ():
                if f"/{'/'.join(parts)}/" in f"/{name}/":
                    yield name

    @cached_property
    def packages(self) -> set[str]:
        """The packages at the top of the project, without the tests'."""
        return {
            package
            for package in self._top
            if not any(test.startswith(f"{package}/") for test in self.tests)
        }

    @cached_property
    def _top(self) -> set[str]:
        return {name.split("/")[0] for name in self._sources if name.endswith("/__init__.py")}

    @cached_property
    def _dotted(self) -> re.Pattern[str]:
        return re.compile(rf"\b(?:{'|'.join(sorted(self._top)) or '(?!)'})(?:\.\w+)+")

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """Files by their names, where only one has it, and by their folders without code."""
        by_name: dict[str, list[str]] = defaultdict(list)
        folders: dict[str, list[str]] = defaultdict(list)
        code = {part for name in self._sources for part in PurePosixPath(name).parent.parts}
        for name in self.files:
            path = PurePosixPath(name)
            by_name[path.name].append(name)
            named = set(path.parent.parts) - code
            if name not in self._sources and path.parts[0] not in self._top:
                named |= set(path.parent.parts[:1])  # docs/ and results/, whatever else is in them
            for folder in named:
                folders[folder].append(name)
        return {n: found for n, found in by_name.items() if len(found) == 1} | folders


def _module_name(name: str) -> str:
    parts = PurePosixPath(name).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _apart(test: str, changed: str) -> int:
    """How many folders of a test a changed file is not in; -1 for its own test."""
    path, other = PurePosixPath(test), PurePosixPath(changed)
    folders, others = path.parts[1:-1], other.parts[1:-1]
    shared = 0
    while shared < min(len(folders), len(others)) and folders[shared] == others[shared]:
        shared += 1
    return len(folders) - shared - (path.stem == f"test_{other.stem}")


def main() -> None:
    """Print the test files, one a line."""
    parser = argparse.ArgumentParser(description="The tests that a change can reach.")
    parser.add_argument("files", nargs="*", help="changed files (default: as git says)")
    named = parser.parse_args().files
    files = [str(Path(name).resolve().relative_to(ROOT)) for name in named] or changed_files(ROOT)
    graph = ImportGraph(ROOT)
    known = [name for name in files if (ROOT / name).is_file()]
    for name in sorted(set(files) - set(known)):
        what = "a folder; name its files" if (ROOT / name).is_dir() else "not there"
        print(f"{name}: {what}; what depends on it is not known", file=sys.stderr)
    for test in graph.tests_reached_by(known) if known else []:
        print(test)


if __name__ == "__main__":
    main()
