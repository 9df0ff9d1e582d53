"""What an export is run on."""

import pytest
import torch

from groupnorm.export.errors import ExportError
from groupnorm.export.gate.inputs import axes_of, check_dynamic, example_of, inputs_to_run
from tests.tolerances import ONE_PERCENT


def test_noise_lies_around_multiples_of_the_spread():
    example = torch.randn(2, 3, 32, 32) * 5 + 7
    every = inputs_to_run((example,), (), torch.float32)
    found = {one.name: one.tensors[0] for one in every}
    assert [one.optional for one in every] == [False, True, True, True, True]
    assert list(found) == ["example", "offset 0", "offset 10", "offset 100", "offset 1,000"]
    assert torch.equal(found["example"], example)
    far = found["offset 1,000"]
    assert float(far.mean() / far.std()) == pytest.approx(1000, rel=2 * ONE_PERCENT)
    assert float(far.std()) == pytest.approx(float(example.std()), rel=2 * ONE_PERCENT)


def test_sizes_that_may_change_do():
    example = torch.randn(1, 3, 8, 6), torch.tensor([4])
    _, other, *_ = inputs_to_run(example, (0, 2, 3), torch.float32)
    assert [tuple(t.shape) for t in other.tensors] == [(2, 3, 16, 12), (2,)]
    assert other.tensors[1].tolist() == [4, 4]
    assert other.name == "shape 2 x 3 x 16 x 12"
    odd = inputs_to_run(example, (0, 2, 3), torch.float32)[2]
    assert [tuple(t.shape) for t in odd.tensors] == [(2, 3, 9, 9), (2,)]
    assert odd.optional
    assert not other.optional


def test_sizes_that_are_no_squares_or_multiples():
    """A network whose code asks for either may have a file that is right for one answer."""
    square = torch.randn(1, 3, 16, 16)
    odd = inputs_to_run((square,), (2, 3), torch.float32)[2].tensors[0]
    assert tuple(odd.shape) == (1, 3, 17, 19)
    assert len(inputs_to_run((square,), (0,), torch.float32)) == 6


def test_there_is_no_noise_of_whole_numbers():
    found = inputs_to_run((torch.arange(6).reshape(1, 6),), (), torch.float32)
    assert [one.name for one in found] == ["example"]


def test_what_another_size_holds_is_what_the_example_may_hold():
    example = torch.rand(1, 3, 8, 6) + 2, torch.arange(5), torch.rand(4) > 1
    _, other, *_ = inputs_to_run(example, (0,), torch.float32)
    for drawn, given in zip(other.tensors, example, strict=True):
        assert drawn.dtype == given.dtype
        assert set(drawn.flatten().tolist()) <= set(given.flatten().tolist())
    assert len(set(other.tensors[0].flatten().tolist())) > 50  # not one value again and again


def test_half_types_have_no_numbers_for_some_noise():
    """As around 1,000 spreads of pixels from 0 to 255."""
    pixels = torch.arange(256.0).reshape(1, 1, 16, 16)
    every = inputs_to_run((pixels,), (), torch.float16)
    finite = {one.name: bool(one.tensors[0].isfinite().all()) for one in every}
    assert finite == {
        "example": True,
        "offset 0": True, "offset 10": True, "offset 100": True, "offset 1,000": False,
    }  # fmt: skip


def test_each_input_may_change_along_the_axes_that_it_has():
    tensors = torch.zeros(1, 3, 4, 4), torch.zeros(1)
    assert axes_of(tensors, (0, 2)) == ((0, 2), (0,))
    assert axes_of(tensors, ()) == ()


def test_the_same_noise_each_time():
    example = (torch.randn(1, 3, 4, 4),)
    first, second = (inputs_to_run(example, (), torch.float32)[3].tensors[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("dynamic", "allowed", "message"),
    [
        ((1,), "any", "axis 1 is that of the channels"),
        ((4,), "any", "axes 0 to 3, got 4"),
        ((-1,), "any", "axes 0 to 3, got -1"),
        ((0,), "positions", "a network of this runtime has a fixed axis 0"),
        ((2,), "nothing", "a network of this runtime has fixed sizes"),
    ],
)
def test_axes_that_cannot_change(dynamic, allowed, message):
    with pytest.raises(ExportError, match=message):
        check_dynamic((torch.zeros(1, 3, 4, 4),), dynamic, allowed)


def test_examples():
    strided = torch.zeros(1, 3, 4, 4).to(memory_format=torch.channels_last)
    assert example_of(strided)[0].is_contiguous()
    with pytest.raises(ExportError, match="got list"):
        example_of([[1.0]])
    with pytest.raises(ExportError, match=r"holds nothing: shape \(0, 3\)"):
        example_of(torch.zeros(0, 3))
