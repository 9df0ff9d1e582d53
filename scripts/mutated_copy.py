"""A copy of a project in which faults are tried: put in, compiled, tested, taken out."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from affected_tests import COMPILED_SOURCES, ImportGraph, project_files
from faults import Fault

NO_TEST = "pytest itself"  # in the place of a test's name

# On the path of every process in a copy. An installed project may point to the working tree.
_SITE = {
    "sitecustomize.py": """
import importlib.machinery, os, sys
sys.meta_path.insert(0, importlib.machinery.PathFinder)
sys.path.insert(0, os.environ["MUTATED_COPY"])
""",
    "first_failure.py": """
import json, os
def _note(report):
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        message = crash.message if crash else str(report.longrepr)
        with open(os.environ["MUTATION_FAILURES"], "a", encoding="utf-8") as file:
            file.write(json.dumps([report.nodeid, message]) + "\\n")
pytest_runtest_logreport = pytest_collectreport = _note
def pytest_runtest_logstart(nodeid):
    with open(os.environ["MUTATION_RUNNING"], "w", encoding="utf-8") as file:
        file.write(nodeid)
""",
}


class Copy:
    """A copy of a project's files in which faults are tried."""

    def __init__(self, root: Path, graph: ImportGraph) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mutate-"))
        self.tree, self.build = self.folder / "tree", self.folder / "build"
        self.left_out: list[str] = []  # tests that fail without a fault, too
        self._writes = 0
        compiled = [path for package in graph.packages for path in (root / package).rglob("*.so")]
        for name in [*project_files(root), *(str(path.relative_to(root)) for path in compiled)]:
            target = self.tree / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, target)
        self._compiled = {path.name: self.tree / path.relative_to(root) for path in compiled}
        for path in compiled:
            shutil.copy(path, self.folder / path.name)
        if (root / ".git").exists():  # for tests that ask git which files there are
            _output("git", "init", "-q", str(self.tree))
            _output("git", "-C", str(self.tree), "add", "--all")
        for name, text in _SITE.items():
            (self.folder / name).write_text(text, encoding="utf-8")

    @contextlib.contextmanager
    def with_fault(self, fault: Fault) -> Iterator[None]:
        """The copy with this fault in it, compiled if it must be; afterwards as before.

        Raises:
            subprocess.CalledProcessError: it does not compile.
        """
        original = (self.tree / fault.file).read_text(encoding="utf-8")
        self._write(fault.file, fault.put_into(original))
        try:
            if Path(fault.file).suffix in COMPILED_SOURCES:
                self._compile(fault.file)
            yield
        finally:
            self._write(fault.file, original)
            for name, path in self._compiled.items():
                shutil.copy(self.folder / name, path)

    def _write(self, name: str, text: str) -> None:
        path = self.tree / name
        path.write_text(text, encoding="utf-8")
        if path.suffix == ".py":  # Python knows a changed file by its time in seconds and its size
            self._writes += 1
            os.utime(path, (self._writes, self._writes))

    def _compile(self, name: str) -> None:
        source = (self.tree / name).parent
        while not (source / "CMakeLists.txt").exists():
            source = source.parent
        configure = ["cmake", "-S", str(source), "-B", str(self.build)]
        _output(*configure, f"-DPython_EXECUTABLE={sys.executable}")
        _output("cmake", "--build", str(self.build))
        for built in self.build.glob("*.so"):
            if built.name not in self._compiled:
                raise SystemExit(f"{built.name} is not built in the working tree; install first")
            shutil.copy(built, self._compiled[built.name])

    def first_failure(self, arguments: list[str], seconds: float) -> tuple[str, str] | None:
        """The first test that fails, or `NO_TEST`, and with what message.

        Raises:
            subprocess.TimeoutExpired: after so many seconds.
        """
        failures, running = self.folder / "failures", self.folder / "running"
        for path in (failures, running):
            path.unlink(missing_ok=True)
        for kept in (self.tree / ".hypothesis", self.folder / "cache"):  # from another fault
            shutil.rmtree(kept, ignore_errors=True)
        options = ["-n", "0", "-x", "-q", "--tb=short", "-p", "no:cacheprovider"]
        options += [f"--deselect={test}" for test in self.left_out if "::" in test]
        options += [f"--ignore={file}" for file in self.left_out if "::" not in file]
        environment = os.environ | {
            "PYTHONPATH": str(self.folder),
            "MUTATED_COPY": str(self.tree),
            "MUTATION_FAILURES": str(failures),
            "MUTATION_RUNNING": str(running),
            "GROUPNORM_CACHE": str(self.folder / "cache"),
            "OMP_NUM_THREADS": "1",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "first_failure", *options, *arguments],
            cwd=self.tree,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            status = process.wait(max(seconds, 0))
        finally:
            with contextlib.suppress(ProcessLookupError):  # its children too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if failures.exists():
            nodeid, message = json.loads(failures.read_text(encoding="utf-8").splitlines()[0])
            return nodeid, message
        if status in (0, 5):  # 5: no test is selected
            return None
        test = running.read_text(encoding="utf-8") if status < 0 and running.exists() else NO_TEST
        return test, f"the process ended with {status}"


def _output(*command: str) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", check=True
    )
    return done.stdout.strip()
