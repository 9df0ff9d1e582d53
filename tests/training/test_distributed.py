"""What processes tell each other, in one and in three of them."""

import pytest
import torch

from groupnorm.training.distributed import ALONE, Processes
from tests.child import needs_processes
from tests.processes import in_processes

pytestmark = needs_processes


def test_alone_nothing_changes(tmp_path):
    assert ALONE.first
    assert ALONE.backend is None
    assert ALONE.shard(6) == slice(0, 6)
    assert ALONE.all_reduce_sum([1.5, 2], "cpu") == [1.5, 2]
    assert ALONE.all_gather_union({"a": {"x"}}) == {"a": {"x"}}
    assert ALONE.broadcast_from_rank0({"a": 1}) == {"a": 1}
    tensor = torch.tensor([1.0, 2.0])
    ALONE.all_reduce_mean([tensor])
    assert tensor.tolist() == [1, 2]
    with ALONE.rank0_first():
        ALONE.barrier()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_shares_cover_everything_once(count):
    parts = [list(range(8))[Processes(rank, count).shard(8)] for rank in range(count)]
    assert [i for part in parts for i in part] == list(range(8))
    assert {len(part) for part in parts} == {8 // count}


def work(rank, count, folder):
    me = Processes(rank, count)
    tensors = [torch.tensor([rank, 2.0]), torch.full((2, 2), 3.0 * rank, dtype=torch.float32)]
    kept = tensors[1]
    me.all_reduce_mean(tensors)
    me.all_reduce_mean([])
    with me.rank0_first():
        found = (folder / "made").exists()
        if me.first:
            (folder / "made").write_text("made")
    return {
        "sums": me.all_reduce_sum([rank, 0.1], "cpu"),
        "union": me.all_gather_union({"a": {f"only {rank}", "all"}, "b": set()}),
        "averages": [tensor.tolist() for tensor in tensors],
        "in place": kept.tolist() == tensors[1].tolist(),
        "told": [
            me.broadcast_from_rank0(rank + 10),
            me.broadcast_from_rank0(None if me.first else b"x"),
        ],
        "backend": me.backend,
        "found": found,
        "first": me.first,
    }


def test_three_processes(tmp_path):
    results = in_processes(3, work, tmp_path)
    for rank, result in enumerate(results):
        assert result["sums"] == pytest.approx([3, 0.3])
        assert result["union"] == {"a": {"only 0", "only 1", "only 2", "all"}, "b": set()}
        assert result["averages"] == [[1, 2], [[3, 3], [3, 3]]]
        assert result["in place"]
        assert result["told"] == [10, None]
        assert result["backend"] == "gloo"
        assert result["found"] == (rank > 0)
        assert result["first"] == (rank == 0)
