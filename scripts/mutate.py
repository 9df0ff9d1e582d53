"""Break the code on purpose, one fault at a time, and say which test notices.

    python scripts/mutate.py [--only TEXT ...] [--jobs 2] [--out FOLDER]
    python scripts/mutate.py --check     # is each fault's text still there, once?
    python scripts/mutate.py --table     # write docs/mutations.md from the record

`faults.toml` has the faults: a file, a text that stands in it once, and what replaces it. Each is
put into a copy of the tree; the working tree is only read. The tests that the change can reach
(`affected_tests.py`) run, the nearest first: those that `pytest` runs, and if all pass, those of
`pytest -m slow`. The first failure ends the search. The test that failed then runs once without the
fault; if it fails there, too, it is left out, and the search goes on.

Each result is written down as it comes. Starting again does what is missing: a fault whose text and
whose file are unchanged is not tried twice.

A fault in C++ is compiled in the copy, which needs `pip install nanobind cmake` and a compiler.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from queue import SimpleQueue

from affected_tests import COMPILED_SOURCES, ImportGraph, project_files

ROOT = Path(__file__).resolve().parent.parent
FAULTS = Path(__file__).with_name("faults.toml")
PAGE = Path("docs", "mutations.md")
FIRST_FILES, GROWTH = 6, 4  # test files of the first pytest; of each further one, times as many

NO_TEST = "pytest itself"  # in the place of a test's name

SETS = {"fast": [], "slow": ["-m", "slow"]}

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


class FaultError(Exception):
    """A fault cannot be put in: its text is not in its file, or more than once."""


class _StoppedError(Exception):
    """The time for all is over."""


@dataclass(frozen=True)
class Fault:
    """A change of one text in one file that must not go unnoticed."""

    name: str
    file: str
    old: str
    new: str

    def put_into(self, text: str) -> str:
        """The file's text with the fault.

        Raises:
            FaultError: the text is not there exactly once, or nothing would change.
        """
        count = text.count(self.old)
        if count != 1:
            raise FaultError(f"{self.name}: its text is {count} times in {self.file}, not once")
        if self.old == self.new:
            raise FaultError(f"{self.name}: it changes nothing")
        return text.replace(self.old, self.new)

    def key(self, root: Path) -> str:
        """A digest of the fault and of the file that it is put into."""
        text = json.dumps([self.name, self.file, self.old, self.new])
        return hashlib.sha256(text.encode() + (root / self.file).read_bytes()).hexdigest()[:16]


@dataclass
class Outcome:
    """What became of one fault."""

    name: str
    file: str
    key: str
    outcome: str  # caught, survived, timed out, or why it does not count
    set: str = ""  # fast or slow: which caught it
    test: str = ""
    message: str = ""
    seconds: float = 0.0
    files: int = 0  # test files that were run
    left_out: list[str] = field(default_factory=list)  # tests that fail without a fault, too


def read_faults(path: Path) -> list[Fault]:
    """The faults of a file, in its order.

    Raises:
        FaultError: two have the same name.
    """
    faults = [Fault(**fault) for fault in tomllib.loads(path.read_text(encoding="utf-8"))["fault"]]
    names = [fault.name for fault in faults]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FaultError(f"two faults with one name: {', '.join(twice)}")
    return faults


def check_faults(faults: list[Fault], root: Path) -> list[str]:
    """What is wrong with the faults: texts that are missing or not unique."""
    wrong = []
    for fault in faults:
        try:
            fault.put_into((root / fault.file).read_text(encoding="utf-8"))
        except (FaultError, OSError) as error:
            wrong.append(str(error))
    return wrong


class Copy:
    """A copy of a project's files in which faults are tried."""

    def __init__(self, root: Path, graph: ImportGraph, nanobind: str | None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mutate-"))
        self.tree, self.build = self.folder / "tree", self.folder / "build"
        self.left_out: list[str] = []  # tests that fail without a fault, too
        self._nanobind = nanobind
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
        nanobind = self._nanobind or _output(sys.executable, "-m", "nanobind", "--cmake_dir")
        configure = ["cmake", "-S", str(source), "-B", str(self.build)]
        definitions = {"Python_EXECUTABLE": sys.executable, "nanobind_DIR": nanobind}
        _output(*configure, *(f"-D{key}={value}" for key, value in definitions.items()))
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


def try_fault(
    copy: Copy, fault: Fault, tests: list[str], key: str, seconds: float, end: float
) -> Outcome:
    """Put one fault into a copy and look for the first test that notices it.

    Args:
        copy: where.
        fault: what.
        tests: the test files that it can reach, the nearest first.
        key: the fault's digest.
        seconds: how long each of the two sets may take.
        end: when all must end, in seconds of `time.monotonic`.
    """
    start = time.monotonic()
    outcome = Outcome(fault.name, fault.file, key, "survived")
    try:
        while True:
            with copy.with_fault(fault):
                _search(copy, tests, seconds, end, outcome)
            outcome.seconds = round(time.monotonic() - start, 1)
            if outcome.outcome == "survived" or not _fails_without_fault(copy, outcome, seconds):
                return outcome
            print(f"{outcome.test} fails without a fault too, and is left out", flush=True)
            copy.left_out.append(outcome.test)
            outcome.left_out.append(outcome.test)
    except subprocess.CalledProcessError as error:
        outcome.outcome, outcome.message = "does not compile", _first_line(error.stdout or "")
    except subprocess.TimeoutExpired:
        if time.monotonic() >= end:
            raise _StoppedError from None
        outcome.outcome = "timed out"
    outcome.seconds = round(time.monotonic() - start, 1)
    return outcome


def _search(copy: Copy, tests: list[str], seconds: float, end: float, outcome: Outcome) -> None:
    outcome.outcome, outcome.files = "survived", 0
    for name, selection in SETS.items():
        limit = min(time.monotonic() + seconds, end)
        for files in _in_parts(tests):
            failure = copy.first_failure([*selection, *files], limit - time.monotonic())
            outcome.files += len(files)
            if failure is not None:
                outcome.test, outcome.message = failure[0], _first_line(failure[1])
                outcome.outcome = "caught" if "::" in outcome.test else "does not import"
                outcome.set = name
                return


def _fails_without_fault(copy: Copy, outcome: Outcome, seconds: float) -> bool:
    if outcome.test == NO_TEST:
        return False
    try:
        failure = copy.first_failure([*SETS[outcome.set], outcome.test], seconds)
    except subprocess.TimeoutExpired:
        return True
    return failure is not None


def _in_parts(tests: list[str]) -> Iterator[list[str]]:
    """A few files first: pytest imports all that it is given before it runs the first test."""
    begin, count = 0, FIRST_FILES
    while begin < len(tests):
        yield tests[begin : begin + count]
        begin, count = begin + count, count * GROWTH


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:200]


@dataclass
class _Record:
    """The results in a JSON-lines file; of a fault tried twice, the later one counts."""

    path: Path
    lock: threading.Lock = field(default_factory=threading.Lock)

    def outcomes(self) -> dict[str, Outcome]:
        """The whole lines by name; one that a killed process left half written is passed over."""
        found = {}
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(json.JSONDecodeError):
                    outcome = Outcome(**json.loads(line))
                    found[outcome.name] = outcome
        return found

    def add(self, outcome: Outcome) -> None:
        with self.lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            half = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" if half else "")
                file.write(json.dumps(asdict(outcome), ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())


def run_faults(
    root: Path,
    faults: list[Fault],
    record: Path,
    *,
    jobs: int = 2,
    seconds: float = 600.0,
    minutes: float = 60.0,
    nanobind: str | None = None,
) -> list[Fault]:
    """Try the faults that the record does not have, and write down what came of each.

    Returns:
        the faults for which there was no time.

    Raises:
        FaultError: a fault's text is not where it should be; then none is tried.
    """
    if wrong := check_faults(faults, root):
        raise FaultError("\n".join(wrong))
    kept = _Record(record)
    known = {outcome.key for outcome in kept.outcomes().values()}
    keys = {fault.name: fault.key(root) for fault in faults}
    missing = [fault for fault in faults if keys[fault.name] not in known]
    if not missing:
        return []
    graph = ImportGraph(root)
    start = time.monotonic()
    end = start + 60 * minutes
    done: list[str] = []
    copies: SimpleQueue[Copy] = SimpleQueue()
    made = [Copy(root, graph, nanobind) for _ in range(min(jobs, len(missing)))]
    for copy in made:
        copies.put(copy)

    def work(fault: Fault) -> None:
        copy = copies.get()
        try:
            if time.monotonic() >= end:
                return
            tests = graph.tests_reached_by([fault.file])
            outcome = try_fault(copy, fault, tests, keys[fault.name], seconds, end)
            kept.add(outcome)
            done.append(fault.name)
            left = (time.monotonic() - start) / len(done) * (len(missing) - len(done)) / 60
            print(
                f"[{len(done)}/{len(missing)}] {fault.name}: {_in_words(outcome)}; "
                f"about {left:.0f} min left",
                flush=True,
            )
        except _StoppedError:
            return
        finally:
            copies.put(copy)

    try:
        with ThreadPoolExecutor(len(made)) as pool:
            list(pool.map(work, missing))
    finally:
        for copy in made:
            shutil.rmtree(copy.folder, ignore_errors=True)
    return [fault for fault in missing if fault.name not in done]


def _in_words(outcome: Outcome) -> str:
    if outcome.outcome == "caught":
        return f"caught by {outcome.test} ({outcome.set}) after {outcome.seconds:.0f} s"
    return f"{outcome.outcome} after {outcome.seconds:.0f} s ({outcome.files} test files)"


def page(outcomes: list[Outcome], source: str, environment: dict[str, str]) -> str:
    """The table of docs/mutations.md."""
    valid = [o for o in outcomes if o.outcome in ("caught", "survived", "timed out")]
    caught = [o for o in valid if o.outcome == "caught"]
    fast = [o for o in caught if o.set == "fast"]
    left_out = sorted({f"`{test}`" for o in outcomes for test in o.left_out})
    share = 100 * len(fast) / len(valid) if valid else 0
    lines = [
        "# Do the tests notice a fault?",
        "",
        "`scripts/mutate.py` puts one fault at a time into a copy of the tree and runs the tests "
        "that it can reach, the nearest first. "
        f"The tests catch {len(caught)} of {len(valid)} faults; `pytest` alone catches {len(fast)} "
        f"({share:.0f} %), `pytest -m slow` the others.",
        "",
        "The test is the first that failed, not the only one. Each passes without the fault. The "
        "seconds run from the start of the first pytest, or of the compiler, to that failure.",
        "",
        *(
            [f"Left out, because they fail without a fault, too: {', '.join(left_out)}.", ""]
            if left_out
            else []
        ),
        "| fault | file | first test that fails | set | s |",
        "|---|---|---|---|---:|",
    ]
    for o in outcomes:
        test = f"`{o.test.replace('|', chr(92) + '|')}`" if o.outcome == "caught" else o.outcome
        shown = o.set if o.outcome == "caught" else ""
        lines.append(f"| {o.name} | `{o.file}` | {test} | {shown} | {o.seconds:.0f} |")
    machine = ", ".join(f"{key} {value}" for key, value in environment.items())
    lines += ["", f"Source: [{source}](../{source}); {machine}.", ""]
    return "\n".join(lines)


def page_of(root: Path, faults: list[Fault], record: Path) -> str:
    """The page made from a record: the faults that are in it, in their file's order."""
    outcomes = _Record(record).outcomes()
    environment = json.loads(record.with_name("env.json").read_text(encoding="utf-8"))
    shown = {key: environment[key] for key in ("cpu", "python", "torch")}
    source = record.parent.relative_to(root).as_posix()
    rows = [outcomes[fault.name] for fault in faults if fault.name in outcomes]
    return page(rows, source, shown)


def default_record(root: Path, cpu: str) -> Path:
    """`results/mutations-<cpu>-<date>`: the newest of this machine, or today's."""
    found = re.search(r"xeon|epyc|ryzen|core|apple m\d", cpu.lower())
    start = f"mutations-{found[0].replace(' ', '-') if found else 'cpu'}"
    there = sorted((root / "results").glob(f"{start}-*/faults.jsonl"))
    return there[-1] if there else root / "results" / f"{start}-{date.today()}" / "faults.jsonl"


def main() -> None:
    """Try the faults, write the record and the page."""
    parser = argparse.ArgumentParser(description="Break the code on purpose; see who notices.")
    parser.add_argument("--check", action="store_true", help="only look for the faults' texts")
    parser.add_argument("--table", action="store_true", help="only write the page")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="faults with it in name or file")
    parser.add_argument("--jobs", type=int, default=2, help="faults at a time")
    parser.add_argument(
        "--seconds", type=float, default=600, help="for each set of a fault's tests"
    )
    parser.add_argument("--minutes", type=float, default=60, help="for all")
    parser.add_argument("--out", type=Path, help="folder of the record (default: in results/)")
    parser.add_argument("--nanobind-dir", help="nanobind's folder for cmake")
    arguments = parser.parse_args()
    faults = read_faults(FAULTS)
    if wrong := check_faults(faults, ROOT):
        raise SystemExit("\n".join(wrong))
    if arguments.check:
        print(f"{len(faults)} faults, each in one place")
        return
    from groupnorm.environment import environment  # imports torch, which --check does not need

    machine = environment()
    out = arguments.out
    record = out.resolve() / "faults.jsonl" if out else default_record(ROOT, machine["cpu"])
    if not arguments.table:
        record.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(machine, indent=1, ensure_ascii=False) + "\n"
        record.with_name("env.json").write_text(text, encoding="utf-8")
        wanted = arguments.only or [""]
        chosen = [f for f in faults if any(text in f.name or text in f.file for text in wanted)]
        left = run_faults(
            ROOT,
            chosen,
            record,
            jobs=arguments.jobs,
            seconds=arguments.seconds,
            minutes=arguments.minutes,
            nanobind=arguments.nanobind_dir,
        )
        if left:
            raise SystemExit(f"no time for {len(left)} faults; start again to go on")
    if arguments.table or not arguments.only:
        (ROOT / PAGE).write_text(page_of(ROOT, faults, record), encoding="utf-8")


if __name__ == "__main__":
    main()
