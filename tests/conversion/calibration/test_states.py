"""Values that wait: in memory, in float16, in files; what comes back is what went in."""

import resource
from pathlib import Path

import pytest
import torch

from groupnorm.conversion.calibration.states import States, bytes_of

VALUE = {"a": torch.randn(100, 10), "b": [3, None, (torch.arange(5), "name")]}


def same(one, other):
    flat = [torch.utils._pytree.tree_flatten(value)[0] for value in (one, other)]
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(*flat, strict=True)
    )


@pytest.mark.parametrize("memory", [10**6, 0])
def test_what_comes_back_is_what_went_in(memory):
    with States(memory) as states:
        states.put("x", VALUE)
        states.put(("y", 1), [VALUE, VALUE])
        assert same(states.get("x"), VALUE)
        assert same(states.take("x"), VALUE)
        assert same(states.take(("y", 1)), [VALUE, VALUE])
        assert not states.halved
        assert (states.on_disk > 0) == (memory == 0)


def test_memory_holds_so_much_and_files_the_rest():
    size = bytes_of(VALUE)
    with States(2 * size + 10) as states:
        for i in range(4):
            states.put(i, VALUE)
        folder = Path(states._folder.name)
        assert len(list(folder.iterdir())) == 2
        assert states.on_disk == 2 * size
        states.take(0)
        states.take(3)
        states.put(4, VALUE)
        assert len(list(folder.iterdir())) == 1
        assert all(same(states.take(i), VALUE) for i in (1, 2, 4))
        assert list(folder.iterdir()) == []
    assert not folder.exists()


def test_what_is_cleared_is_held_nowhere():
    size = bytes_of(VALUE)
    with States(size) as states:
        states.put(0, VALUE)
        states.put(1, VALUE)
        folder = Path(states._folder.name)
        states.clear()
        assert not folder.exists()
        states.put(0, VALUE)  # there is room for one again, and a new folder for the next
        states.put(1, VALUE)
        assert same(states.take(1), VALUE)
        assert states.on_disk == size


def test_a_full_disk_is_named():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with States(0) as states:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            with pytest.raises(RuntimeError, match=r"cannot be written to /.*\. Set TMPDIR"):
                states.put(0, VALUE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_view_is_written_without_its_base():
    with States(0) as states:
        states.put("x", torch.zeros(1000, 1000)[:1])
        (file,) = Path(states._folder.name).iterdir()
        assert file.stat().st_size < 20_000


@pytest.mark.parametrize(
    ("value", "halved"),
    [
        (torch.tensor([1.0, 0.1234567]), True),
        (torch.tensor([1e5, 1.0]), False),
        (torch.tensor([1e-5, 1e-6]), False),
        (torch.tensor([float("inf"), 1.0]), False),
        (torch.tensor([float("nan"), 1.0]), False),
        (torch.zeros(3), True),
        (torch.ones(3, dtype=torch.float64), False),
        (torch.arange(3), False),
    ],
)
def test_half_precision_where_it_is_precise(value, halved):
    with States() as states:
        states.put("x", value, half=True)
        assert states.halved == halved
        back = states.get("x")
        assert back.dtype == value.dtype
        expected = value.half().float() if halved else value
        assert torch.equal(back.nan_to_num(7), expected.nan_to_num(7))
