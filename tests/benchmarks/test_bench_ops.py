"""The benchmark of the operators: what its kernels compute, and its summaries."""

import bench_ops
import pytest
import torch
from bench_ops import Run, medians, summarize
from workloads import DTYPES, SHAPES, Workload, make_inputs

from groupnorm.ops.group_norm.native import launch

SMALL = Workload("small", (2, 8, 5, 3), 4, 1e-5, "relu", ("float32",))
needs_kernels = pytest.mark.skipif(launch._kernels is None, reason=launch.why_off)


@needs_kernels
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_the_kernel_alone_computes_what_the_call_does(activation, dtype, layout):
    work = SMALL._replace(activation=activation)
    data = make_inputs(work, layout, DTYPES[dtype])
    errors = bench_ops.check(work, data, layout)  # raises where they differ
    assert set(errors) == {"groupnorm", "eager"}


@needs_kernels
def test_a_kernel_that_computes_something_else_is_found(monkeypatch):
    data = make_inputs(SMALL, "contiguous", torch.float32)
    planted = lambda work, data, direction, out: out.zero_  # noqa: E731
    monkeypatch.setattr(bench_ops, "kernel_alone", planted)
    with pytest.raises(AssertionError, match="kernel and call differ"):
        bench_ops.check(SMALL, data, "contiguous")


@needs_kernels
def test_what_is_written_in_place_stays_normalized():
    work = SMALL._replace(activation=None)
    data = make_inputs(work, "contiguous", torch.float32)
    before = data.x.clone()
    variants = bench_ops.kernels(work, data, "forward")
    for _ in range(50):
        variants["in_place"]()
    assert torch.equal(data.x, before)
    assert set(variants) == {"kernel", "in_place"}


@needs_kernels
def test_a_cell_has_a_row_for_each_direction():
    run = Run("cpu", torch.get_num_threads(), "", (), kept=True, first=True)
    rows = list(bench_ops.measure_cell(run, SMALL, "channels_last", "float32"))
    assert [row["direction"] for row in rows] == ["forward", "backward", "forward+backward"]
    assert ["kernel" in row["seconds"] for row in rows] == [True, True, False]
    assert all(row["cpu"] and row["seconds"]["copy"]["median"] > 0 for row in rows)


def row(workload, activation, ours, eager, kernel=2.0, direction="forward", among=None):
    seconds = {"kernel": kernel, "groupnorm": ours, "eager": eager, "copy": 1.0}
    found = {name: {"median": value} for name, value in seconds.items()}
    return {
        "workload": workload, "activation": activation, "direction": direction,
        "among": among or (bench_ops.RELU if activation else bench_ops.PLAIN),
        "dtype": "float32", "layout": "contiguous", "seconds": found, "default": found,
    }  # fmt: skip


def test_summaries_have_means_worst_cells_and_targets():
    rows = [row("a", None, 3.0, 6.0, kernel=1.0), row("b", None, 3.0, 3.0, kernel=4.0),
            row("a, ReLU", "relu", 1.0, 8.0), row("b, ReLU", "relu", 2.0, 4.0)]  # fmt: skip
    found = summarize(rows)
    (copies,) = found["copies"]
    assert copies["kernel"] == pytest.approx(2.0)
    assert (copies["worst"], copies["worst_workload"], copies["target"]) == (4.0, "b", 1.5)
    plain, relu = found["speed"]
    assert (plain["worst"], plain["target_worst"], plain["target"]) == (1.0, 0.9, None)
    assert relu["geometric_mean"] == pytest.approx(4.0)
    assert (relu["worst_workload"], relu["target_worst"], relu["target"]) == ("b, ReLU", 1.0, 2.2)


def test_the_worst_cell_is_the_one_farthest_below_its_own_target():
    rows = [row("with", "relu", 1.0, 0.98, among="workloads"),
            row("without", None, 1.0, 0.95, among="workloads")]  # fmt: skip
    (line,) = summarize(rows)["speed"]
    assert (line["worst_workload"], line["target_worst"]) == ("with", 1.0)


def test_runs_are_put_together_by_their_medians():
    runs = [{"eager": {"median": value}} for value in (3.0, 1.0, 2.0)]
    runs[0]["compile"] = {"median": 5.0}
    assert medians(runs) == {
        "eager": {"median": 2.0, "low": 1.0, "high": 3.0},
        "compile": {"median": 5.0, "low": 5.0, "high": 5.0},
    }


def test_the_seven_shapes_come_with_and_without_an_activation():
    assert len(SHAPES) == 14
    assert len({work.name for work in SHAPES}) == 14
    assert {work.activation for work in SHAPES} == {None, "relu"}
