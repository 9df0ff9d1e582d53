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
    assert n * c * height * width * DTYPES[dtype].itemsize == pytest.approx(share * 2**25, rel=0.1)
    assert c // benchmark.GROUPS * height * width * DTYPES[dtype].itemsize % 64 == 0


def test_every_case_is_measured_and_the_size_of_the_cache_is_put_back():
    before, threads = benchmark.set_cache_bytes(300_000), torch.get_num_threads()
    try:
        record = benchmark.measure_all(rounds=1)
        assert benchmark.set_cache_bytes(before) == 300_000
    finally:
        benchmark.set_cache_bytes(before)
        torch.set_num_threads(threads)
    threads = {row["threads"] for row in record["rows"]}
    assert len(record["rows"]) == len(threads) * 2 * 2 * len(SHARES) * 2 * 3
    assert len(record["summary"]) == len(threads) * 2 * len(SHARES) * 2
    for row in record["rows"]:
        times = row["past_cache_seconds"], row["cached_seconds"]
        assert row["times_faster"] == times[1] / times[0] > 0


def test_the_summary_is_of_types_and_readers():
    rows = [
        {"direction": "forward", "layout": "contiguous", "threads": 1, "share": share,
         "times_faster": times}
        for share, times in ((0.2, 1.0), (0.2, 4.0), (0.5, 3.0))
    ]  # fmt: skip
    found = benchmark.summary(rows)
    assert [line["share"] for line in found] == [0.2, 0.5]
    assert [found[0][name] for name in ("mean", "least", "greatest")] == pytest.approx([2, 1, 4])
