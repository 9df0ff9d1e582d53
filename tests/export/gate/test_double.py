"""Networks computed in float64."""

import pytest
import torch
from torch import Tensor

from groupnorm.export.gate.double import in_double

CASTS = {
    "float()": lambda x: x.float(),
    "half()": lambda x: x.half(),
    "to(dtype)": lambda x: x.to(torch.float32),
    "to(dtype=)": lambda x: x.to(dtype=torch.bfloat16),
    "type": lambda x: x.type(torch.float16),
    "softmax": lambda x: torch.softmax(x, 0, dtype=torch.float32),
    "zeros": lambda x: x + torch.zeros(3, dtype=torch.float32),
    "default": lambda x: x * torch.ones(3),
    "number": lambda x: x * torch.tensor(1.0),
    "as": lambda x: x.to(torch.zeros(1)),
}


@pytest.mark.parametrize("name", CASTS)
def test_nothing_is_rounded_to_a_narrower_type(name):
    x = torch.full((3,), 1 / 3, dtype=torch.float64)
    with in_double():
        y = CASTS[name](x)
    assert y.dtype == torch.float64
    assert bool((y == 1 / 3).all())
    assert torch.get_default_dtype() == torch.float32


def test_complex_numbers_too():
    with in_double():
        assert torch.ones(2).to(torch.complex64).dtype == torch.complex128
        assert torch.fft.rfft(torch.ones(4)).dtype == torch.complex128


def test_bits_are_read_as_before():
    x = torch.tensor([1], dtype=torch.int32)
    with in_double():
        assert x.view(torch.float32).dtype == torch.float32
        assert x.to(torch.int64).dtype == torch.int64


def test_the_default_dtype_comes_back_after_an_error():
    with pytest.raises(ValueError, match="no"), in_double():
        raise ValueError("no")
    assert torch.get_default_dtype() == torch.float32
    assert Tensor.float(torch.zeros(1, dtype=torch.float64)).dtype == torch.float32
