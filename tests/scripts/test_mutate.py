"""scripts/mutate.py: on a small project with a test, a slow one, and code that none reaches."""

import json

import mutate
import pytest
from faults import FAULTS as PROJECT_FAULTS
from faults import Fault, FaultError, check_faults, read_faults
from mutate import page_of, run_faults

FILES = {
    "pyproject.toml": "[tool.pytest.ini_options]\naddopts = \"-m 'not slow'\"\n"
    'markers = ["slow: long"]\n',
    "box/__init__.py": "",
    "box/sums.py": "def add(a, b):\n    return a + b\n\n\ndef twice(a):\n    return 2 * a\n\n\n"
    "def half(a):\n    return a / 2\n\n\nSCALE = 1\n",
    "tests/__init__.py": "",
    "tests/test_sums.py": "import pytest\nfrom box import sums\n\n\n"
    "def test_add():\n    assert sums.add(2, 3) == 5\n\n\n"
    "@pytest.mark.slow\ndef test_twice():\n    assert sums.twice(3) == 6\n",
}

CAUGHT = Fault("a difference for a sum", "box/sums.py", "a + b", "a - b")
SLOW = Fault("thrice", "box/sums.py", "2 * a", "3 * a")
SURVIVOR = Fault("not halved", "box/sums.py", "a / 2", "a / 1")
BROKEN = Fault("a missing bracket", "box/sums.py", "SCALE = 1", "SCALE = (1")
CRASH = Fault("ends the process", "box/sums.py", "return a + b", "import os\n    os.abort()")
FAULTS = [CAUGHT, SLOW, SURVIVOR]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def tried(root, faults, path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # a second for each process
        patch.setitem(mutate.SETS, "fast", ["-p", "xdist"])
        patch.setitem(mutate.SETS, "slow", ["-p", "xdist", "-m", "slow"])
        assert run_faults(root, faults, path, jobs=2) == []
    return {outcome["name"]: outcome for outcome in map(json.loads, path.read_text().splitlines())}


@pytest.fixture(scope="module")
def record(root):
    return root / "results" / "mutations" / "faults.jsonl"


@pytest.fixture(scope="module")
def outcomes(root, record):
    return tried(root, FAULTS, record)


def test_a_fault_that_a_test_notices(outcomes):
    outcome = outcomes[CAUGHT.name]
    assert (outcome["outcome"], outcome["set"]) == ("caught", "fast")
    assert outcome["test"] == "tests/test_sums.py::test_add"
    assert "assert -1 == 5" in outcome["message"]


def test_a_fault_that_only_the_slow_tests_notice(outcomes):
    outcome = outcomes[SLOW.name]
    assert (outcome["outcome"], outcome["set"]) == ("caught", "slow")
    assert outcome["test"] == "tests/test_sums.py::test_twice"


def test_a_fault_that_no_test_notices(outcomes):
    assert outcomes[SURVIVOR.name]["outcome"] == "survived"


def test_faults_that_break_the_import_do_not_count_and_those_that_end_the_process_do(
    root, tmp_path
):
    outcomes = tried(root, [BROKEN, CRASH], tmp_path / "faults.jsonl")
    assert outcomes[BROKEN.name]["outcome"] == "does not import"
    crash = outcomes[CRASH.name]
    assert (crash["outcome"], crash["test"]) == ("caught", "tests/test_sums.py::test_add")
    assert crash["message"] == "the process ended with -6"


def test_the_tree_is_only_read(root, outcomes):
    assert (root / "box" / "sums.py").read_text() == FILES["box/sums.py"]


def test_starting_again_tries_none_twice(root, record, outcomes, monkeypatch):
    before = record.read_text()
    monkeypatch.setattr(mutate, "try_fault", None)
    assert run_faults(root, FAULTS, record) == []
    assert record.read_text() == before


def test_a_half_written_line_is_passed_over_and_a_changed_file_is_tried_again(
    root, record, outcomes, tmp_path, monkeypatch
):
    copy = tmp_path / "faults.jsonl"
    copy.write_text(record.read_text() + '{"name": "thr')
    assert run_faults(root, FAULTS, copy, minutes=0) == []
    changed = Fault(CAUGHT.name, CAUGHT.file, CAUGHT.old, "b - a")
    assert run_faults(root, [changed, SLOW], copy, minutes=0) == [changed]
    monkeypatch.setattr(mutate.Copy, "first_failure", lambda *_: None)
    assert run_faults(root, [changed, SLOW], copy) == []
    assert json.loads(copy.read_text().splitlines()[-1])["outcome"] == "survived"


def test_a_test_that_fails_without_the_fault_too_is_left_out(root, tmp_path, monkeypatch):
    failures = iter([("tests/test_sums.py::test_add", "a")] * 2 + [None] * 2)
    monkeypatch.setattr(mutate.Copy, "first_failure", lambda *_: next(failures))
    path = tmp_path / "faults.jsonl"
    run_faults(root, [CAUGHT], path)
    outcome = json.loads(path.read_text())
    assert outcome["outcome"] == "survived"
    assert outcome["left_out"] == ["tests/test_sums.py::test_add"]


def test_a_tree_whose_tests_fail_is_refused(root, tmp_path, monkeypatch):
    monkeypatch.setattr(
        mutate.Copy, "first_failure", lambda *_: ("tests/test_sums.py::test_add", "")
    )
    with pytest.raises(FaultError, match="too many tests fail without a fault"):
        run_faults(root, [CAUGHT], tmp_path / "faults.jsonl")


def test_a_search_without_end_is_reported_as_such(root, tmp_path):
    path = tmp_path / "faults.jsonl"
    run_faults(root, [CAUGHT], path, seconds=0)
    assert json.loads(path.read_text())["outcome"] == "timed out"


@pytest.mark.parametrize("old", ["a * b", "a"])
def test_a_text_that_is_missing_or_not_unique_is_an_error_with_the_faults_name(root, tmp_path, old):
    fault = Fault("which text", "box/sums.py", old, "0")
    with pytest.raises(FaultError, match="which text: its text is"):
        run_faults(root, [CAUGHT, fault], tmp_path / "faults.jsonl")
    assert not (tmp_path / "faults.jsonl").exists()


def test_two_faults_with_one_name(tmp_path):
    path = tmp_path / "faults.toml"
    path.write_text('[[fault]]\nname = "n"\nfile = "f"\nold = "a"\nnew = "b"\n' * 2)
    with pytest.raises(FaultError, match="two faults with one name: n"):
        read_faults(path)


def test_the_page(root, record, outcomes):
    machine = {"cpu": "abacus", "python": "3", "torch": "2", "threads": 2}
    record.with_name("env.json").write_text(json.dumps(machine))
    text = page_of(root, FAULTS, record)
    assert "catch 2 of 3 faults; `pytest` alone catches 1 (33 %)" in text
    assert "| thrice | `box/sums.py` | `tests/test_sums.py::test_twice` | slow |" in text
    assert "| not halved | `box/sums.py` | survived |" in text
    assert "[results/mutations](../results/mutations); cpu abacus" in text


def test_the_faults_of_this_project_are_all_in_their_places():
    faults = read_faults(PROJECT_FAULTS)
    assert len(faults) >= 40
    assert check_faults(faults, mutate.ROOT) == []


@pytest.mark.parametrize("record", sorted((mutate.ROOT / "results").glob("mutations-*"))[-1:])
def test_the_page_of_this_project_is_that_of_its_record(record):
    text = page_of(mutate.ROOT, read_faults(PROJECT_FAULTS), record / "faults.jsonl")
    assert (mutate.ROOT / mutate.PAGE).read_text(encoding="utf-8") == text
