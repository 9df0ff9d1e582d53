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
whose file are unchanged is not tried twice, unless its time was over.

A fault in C++ is compiled in the copy, which needs cmake and a compiler.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from queue import SimpleQueue

from affected_tests import ImportGraph
from faults import FAULTS, Fault, FaultError, check_faults, read_faults
from mutated_copy import NO_TEST, Copy

ROOT = Path(__file__).resolve().parent.parent
PAGE = Path("docs", "mutations.md")
FIRST_FILES, GROWTH = 6, 4  # test files of the first pytest; of each further one, times as many

# Tests that look for the faults' texts: they would notice any fault, and prove nothing.
READ_FAULTS = ("tests/scripts/test_mutate.py",)
MOST_LEFT_OUT = 5
TIMED_OUT = "timed out"
SETS = {"fast": [], "slow": ["-m", "slow"]}


class _StoppedError(Exception):
    """The time for all is over."""


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

    Raises:
        FaultError: too many tests fail without any fault.
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
            if len(copy.left_out) > MOST_LEFT_OUT:
                raise FaultError("too many tests fail without a fault; mend, or build, the tree")
    except subprocess.CalledProcessError as error:
        outcome.outcome, outcome.message = "does not compile", _first_line(error.stdout or "")
    except subprocess.TimeoutExpired:
        if time.monotonic() >= end:
            raise _StoppedError from None
        outcome.outcome = TIMED_OUT
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
) -> list[Fault]:
    """Try the faults that the record does not have, and write down what came of each.

    Returns:
        the faults for which there was no time.

    Raises:
        FaultError: a fault's text is not where it should be; then none is tried. Or too many tests
            fail without any fault.
    """
    if wrong := check_faults(faults, root):
        raise FaultError("\n".join(wrong))
    kept = _Record(record)
    known = {o.key for o in kept.outcomes().values() if o.outcome != TIMED_OUT}
    keys = {fault.name: fault.key(root) for fault in faults}
    missing = [fault for fault in faults if keys[fault.name] not in known]
    if not missing:
        return []
    graph = ImportGraph(root)
    start = time.monotonic()
    end = start + 60 * minutes
    done: list[str] = []
    copies: SimpleQueue[Copy] = SimpleQueue()
    made = [Copy(root, graph) for _ in range(min(jobs, len(missing)))]
    for copy in made:
        copies.put(copy)

    def work(fault: Fault) -> None:
        copy = copies.get()
        try:
            if time.monotonic() >= end:
                return
            tests = [t for t in graph.tests_reached_by([fault.file]) if t not in READ_FAULTS]
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


def page(
    outcomes: list[Outcome], source: str, environment: dict[str, str], untried: list[str]
) -> str:
    """The table of docs/mutations.md, and the names of the faults that no run has tried yet."""
    valid = [o for o in outcomes if o.outcome in ("caught", "survived", TIMED_OUT)]
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
        f"({share:.0f} %), `pytest -m slow` {len(caught) - len(fast)} more.",
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
    if untried:
        lines += [
            "",
            f"{len(untried)} faults of the list have not been tried: {'; '.join(untried)}.",
        ]
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
    return page(rows, source, shown, [f.name for f in faults if f.name not in outcomes])


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
        )
        if left:
            raise SystemExit(f"no time for {len(left)} faults; start again to go on")
    if arguments.table or not arguments.only:
        (ROOT / PAGE).write_text(page_of(ROOT, faults, record), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except FaultError as error:
        raise SystemExit(str(error)) from None
