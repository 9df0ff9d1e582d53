"""Every test draws the same numbers every time; all pairs of parameters; CPU time."""

import os
from itertools import product

import pytest
import torch

from tests.child import in_child
from tests.pairwise import all_pairs

if not torch.cuda.is_available():
    # Read when Triton is imported: its kernels then run on the CPU, for the tests of `triton`.
    os.environ.setdefault("TRITON_INTERPRET", "1")

pytest_plugins = ["tests.cpu_time", "pytester"]


@pytest.fixture(autouse=True)
def _same_draws():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def _fork_server():
    """For modules with child processes: the server's start is no test's CPU time."""
    in_child(_nothing)


@pytest.fixture(scope="session")
def scenes_on_disk():
    """For tests of detectors: that the scenes are made is no test's CPU time."""
    from tests.data.detection.tiny_garments import tiny_garments

    return tiny_garments()


@pytest.fixture(scope="session")
def detectors_on_disk():
    """For tests of trained detectors: their training is no test's CPU time."""
    from tests.study.tiny_detectors import tiny_detector

    return [tiny_detector(), tiny_detector(norm="bn", model="retinanet_narrow")]


def _nothing(note):
    pass


def pytest_addoption(parser):
    parser.addoption(
        "--thorough",
        action="store_true",
        help="every combination of the parameters of which all pairs run otherwise",
    )


def pytest_generate_tests(metafunc):
    """`@pytest.mark.pairs(a=[...], b=[...])`: any two values of two parameters meet in a test.

    A value may be a `pytest.param` with marks; a test has the marks of all its values.
    """
    for mark in metafunc.definition.iter_markers("pairs"):
        factors = [
            [v if hasattr(v, "marks") else pytest.param(v) for v in values]
            for values in mark.kwargs.values()
        ]
        rows = product(*factors) if metafunc.config.getoption("thorough") else all_pairs(factors)
        metafunc.parametrize(
            list(mark.kwargs),
            [
                pytest.param(
                    *(p.values[0] for p in row),
                    marks=[mark for p in row for mark in p.marks],
                    id="-".join(str(p.values[0]) for p in row),
                )
                for row in rows
            ],
        )
