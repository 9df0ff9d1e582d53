"""Every test draws the same numbers every time."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    # Read when Triton is imported: its kernels then run on the CPU, for the tests of `triton`.
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def _same_draws():
    torch.manual_seed(0)
