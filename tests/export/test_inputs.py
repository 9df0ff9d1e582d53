"""What an export is run on."""

import pytest
import torch

from groupnorm.export.errors import ExportError
from groupnorm.export.inputs import check_dynamic, example_of, inputs_to_run
from tests.tolerances import ONE_PERCENT


def test_noise_lies_around_multiples_of_the_spread():
    example = torch.randn(2, 3, 32, 32) * 5 + 7
    found = {one.name: one.tensors[0] for one in inputs_to_run((example,), ())}
    assert list(found) == ["example", "offset 0", "offset 10", "offset 100", "offset 1,000"]
    assert torch.equal(found["example"], example)
    far = found["offset 1,000"]
    assert float(far.mean() / far.std()) == pytest.approx(1000, rel=2 * ONE_PERCENT)
    assert float(far.std()) == pytest.approx(float(example.std()), rel=2 * ONE_PERCENT)


def test_sizes_that_may_change_do():
    example = torch.randn(1, 3, 8, 6), torch.tensor([4])
    *_, last = inputs_to_run(example, (0, 2, 3))
    assert [tuple(t.shape) for t in last.tensors] == [(2, 3, 16, 12), (2,)]
    assert last.tensors[1].tolist() == [4, 4]
    assert last.name == "shape 2 x 3 x 16 x 12"


def test_the_same_noise_each_time():
    example = (torch.randn(1, 3, 4, 4),)
    first, second = (inputs_to_run(example, ())[2].tensors[0] for _ in range(2))
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
