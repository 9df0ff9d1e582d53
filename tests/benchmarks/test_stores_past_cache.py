"""Whether writing past the cache pays: sizes, summary, and every measurement on small tensors."""

import pytest
import stores_past_cache as benchmark
import torch
from stores_past_cache import DTYPES, SHARES

from groupnorm.ops.group_norm.native import launch

pytestmark = pytest.mark.skipif(bool(launch.why_off), reason="the kernels are not installed")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", SHARES)
def test_tensors_have_their_share_of_the_cache_and_groups_of_whole_vectors(share, dtype):
    n, c, height, width = benchmark.shape_of(share, dtype, 2**25)
    size = n * c * height * width * DTYPES[dtype].itemsize
    assert share * 2**25 <= size < 1.2 * share * 2**25
    assert c // benchmark.GROUPS * height * width * DTYPES[dtype].itemsize % 64 == 0


def test_every_case_is_measured_and_what_was_set_is_put_back(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "SHARES", (0.2, 1.0))
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})  # threads wait for one another
    before, threads = benchmark.set_cache_bytes(300_000), torch.get_num_threads()
    try:
        record = benchmark.measure_all(rounds=2)
        assert torch.get_num_threads() == threads
    finally:
        left = benchmark.set_cache_bytes(before)
    assert left == 300_000
    assert {row["threads"] for row in record["rows"]} == {1}
    assert len(record["rows"]) == 2 * 2 * 2 * 2 * 2 * 3
    assert len(record["summary"]) == len(record["rows"]) // 3
    for row in record["rows"]:
        times = row["past_cache_seconds"], row["cached_seconds"]
        assert row["times_faster"] == times[1] / times[0] > 0
    benchmark.draw(record, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_the_summary_is_of_readers():
    case = {"direction": "forward", "activation": None, "dtype": "float32", "layout": "contiguous",
            "threads": 1}  # fmt: skip
    rows = [
        case | {"bytes": size, "times_faster": times}
        for size, times in ((100, 1.0), (100, 4.0), (200, 3.0))
    ]
    found = benchmark.summary(rows)
    assert [line["bytes"] for line in found] == [100, 200]
    names = ("geometric_mean", "least", "greatest")
    assert [found[0][name] for name in names] == pytest.approx([2, 1, 4])
